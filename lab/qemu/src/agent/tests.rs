//! The agent against a scripted guest on the other end of a socket pair.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

use proptest::prelude::*;
use rstest::rstest;
use tdxlab_protocol::addr::{Gpa, GpaRange, PageLevel};
use tdxlab_protocol::frame;
use tdxlab_protocol::message::{
    AcceptSize, Access, AccessKind, Command, Content, Counts, Hello, OnVe, Run, Side, Task, VcpuId,
};
use tdxlab_protocol::pattern::Generation;
use tdxlab_protocol::tdcall::status;

use super::collect::Collector;
use super::*;

const HELLO: Hello = Hello {
    version: VERSION,
    td: false,
    vcpus: 1,
    gpa_width: 48,
    attributes: 0,
    pending_ve_disabled: None,
};

/// An agent, and the guest's end of its line.
fn line() -> (Agent, UnixStream) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    (Agent::new(ours).unwrap(), theirs)
}

fn say(guest: &mut UnixStream, reply: &Reply) {
    let mut buffer = frame::EMPTY_FRAME;
    guest
        .write_all(frame::encode(reply, &mut buffer).unwrap())
        .unwrap();
}

fn panic_reply() -> Reply {
    Reply::Panic {
        vcpu: VcpuId(3),
        file: "src/window.rs".try_into().unwrap(),
        line: 77,
        message: "no such page".try_into().unwrap(),
    }
}

#[test]
fn replies_come_out_as_they_went_in() {
    let (mut agent, mut guest) = line();
    for reply in [Reply::Hello(HELLO), Reply::Ready { vcpus: 1 }] {
        say(&mut guest, &reply);
        agent.receive().unwrap();
        assert_eq!(agent.next_reply().unwrap(), Some(reply));
    }
    assert_eq!(agent.next_reply().unwrap(), None);
}

#[test]
fn frames_that_come_beside_the_line_are_replies() {
    let (mut agent, mut guest) = line();
    let mut buffer = frame::EMPTY_FRAME;
    // A panic is on the line meanwhile, and not whole.
    let panic = frame::encode(&panic_reply(), &mut buffer).unwrap().to_vec();
    let (first, rest) = panic.split_at(9);
    guest.write_all(first).unwrap();
    agent.receive().unwrap();
    let ready = Reply::Ready { vcpus: 1 };
    agent
        .receive_frame(frame::encode(&ready, &mut buffer).unwrap())
        .unwrap();
    assert_eq!(agent.next_reply().unwrap(), Some(ready));
    guest.write_all(rest).unwrap();
    agent.receive().unwrap();
    assert!(agent.next_reply().is_err(), "it was not torn");
    let said = agent.transcript();
    assert!(
        said.contains("Ready") && said.contains("no such page"),
        "{said}"
    );
}

#[rstest]
#[case::nothing(&[])]
#[case::empty(&[0, 0])]
#[case::half(&[0, 3, 1])]
#[case::garbage(&[0, 1, 2, 3, 0])]
fn what_is_not_a_frame_is_refused(#[case] bytes: &[u8]) {
    let (mut agent, _guest) = line();
    let error = agent.receive_frame(bytes).unwrap_err().to_string();
    assert!(error.contains("not one whole frame"), "{error}");
    assert!(!agent.is_waiting());
}

#[test]
fn two_frames_are_not_one() {
    let (mut agent, _guest) = line();
    let mut buffer = frame::EMPTY_FRAME;
    let frame = frame::encode(&Reply::Idle { id: 1 }, &mut buffer).unwrap();
    let error = agent.receive_frame(&frame.repeat(2)).unwrap_err();
    assert!(error.to_string().contains("not one whole frame"), "{error}");
}

#[test]
fn a_request_beside_the_line_wakes_the_guest() {
    let (mut agent, mut guest) = line();
    let request = Request::PowerOff { code: 3 };
    let mut put = Vec::new();
    agent
        .send_beside(&request, |frame| {
            put.extend_from_slice(frame);
            Ok(())
        })
        .unwrap();
    let mut decoder = frame::Decoder::<Request>::new();
    assert_eq!(decoder.feed(&mut put.as_slice()), Some(Ok(request)));
    let mut line = [7; 16];
    assert_eq!(guest.read(&mut line).unwrap(), 1, "one byte");
    let mut decoder = frame::Decoder::<Request>::new();
    assert_eq!(decoder.push(line[0]), None, "an empty frame");

    let full = agent.send_beside(&Request::PowerOff { code: 3 }, |_| Err(LineError::Full));
    assert!(matches!(full, Err(LineError::Full)));
    guest.set_nonblocking(true).unwrap();
    assert!(guest.read(&mut line).is_err(), "nothing to wake it for");
}

#[test]
fn noise_before_the_first_word_is_let_be() {
    let (mut agent, mut guest) = line();
    guest
        .write_all(b"SeaBIOS (version 1.16)\r\n\0\x01\x02\0")
        .unwrap();
    say(&mut guest, &Reply::Hello(HELLO));
    agent.receive().unwrap();
    assert_eq!(agent.next_reply().unwrap(), Some(Reply::Hello(HELLO)));
}

#[test]
fn noise_without_end_is_an_error() {
    let (mut agent, mut guest) = line();
    let writer = std::thread::spawn(move || while guest.write_all(&[0x55; 4096]).is_ok() {});
    let error = loop {
        if let Err(error) = agent.receive() {
            break error;
        }
    };
    assert!(matches!(error, LineError::Lies(_)), "{error}");
    assert!(error.to_string().contains("55 55 55"), "{error}");
    drop(agent);
    writer.join().unwrap();
}

#[test]
fn damage_after_the_first_word_is_an_error_with_the_bytes() {
    let (mut agent, mut guest) = line();
    say(&mut guest, &Reply::Hello(HELLO));
    guest.write_all(b"\x11\x22\x33\0").unwrap();
    let error = agent.receive().unwrap_err().to_string();
    assert!(error.contains("11 22 33"), "{error}");
    assert!(
        agent.next_reply().unwrap().is_some(),
        "what came whole is kept"
    );
    let transcript = agent.transcript();
    assert!(transcript.contains("Hello"), "{transcript}");
    assert!(transcript.contains("11 22 33"), "{transcript}");
}

#[test]
fn a_panic_says_where() {
    let (mut agent, mut guest) = line();
    say(&mut guest, &Reply::Hello(HELLO));
    say(&mut guest, &panic_reply());
    agent.receive().unwrap();
    agent.next_reply().unwrap();
    let error = agent.next_reply().unwrap_err();
    assert_eq!(
        error.to_string(),
        "guest panicked on vCPU 3 at src/window.rs:77: no such page"
    );
}

#[test]
fn another_version_is_a_clear_error() {
    let (mut agent, mut guest) = line();
    let other = Hello {
        version: VERSION + 1,
        ..HELLO
    };
    say(&mut guest, &Reply::Hello(other));
    agent.receive().unwrap();
    let error = agent.next_reply().unwrap_err();
    assert!(matches!(error, AgentError::Version { .. }), "{error}");
}

#[test]
fn a_closed_line_is_noticed_after_what_came_before() {
    let (mut agent, mut guest) = line();
    say(&mut guest, &Reply::Hello(HELLO));
    drop(guest);
    assert!(matches!(agent.receive(), Err(LineError::Closed)));
    assert!(agent.next_reply().unwrap().is_some());
}

#[test]
fn a_guest_that_does_not_read_is_no_hang() {
    let (mut agent, _guest) = line();
    let request = Request::PowerOff { code: 0 };
    let error = (0..1_000_000).find_map(|_| agent.send(&request).err());
    assert!(matches!(error, Some(LineError::Full)), "{error:?}");
}

const BASE: u64 = 1 << 30;

fn gpa(offset: u64) -> Gpa {
    Gpa::new(BASE + offset)
}

fn range(start: u64, end: u64) -> GpaRange {
    GpaRange::new(gpa(start), gpa(end)).unwrap()
}

fn on_vcpu_0(command: Command) -> Task {
    Task {
        vcpu: VcpuId(0),
        command,
    }
}

fn accept_4k(end: u64) -> Command {
    Command::Accept {
        range: range(0, end),
        size: AcceptSize::Exactly(PageLevel::Size4K),
    }
}

fn accepted(start: u64, level: PageLevel, count: u32, status: u64) -> Run {
    Run::Accept {
        start: gpa(start),
        level,
        count,
        status,
    }
}

/// Has a collector take parts, the end of the task and the end of the request.
fn collect(command: Command, parts: &[&[Run]]) -> Result<Vec<Run>, String> {
    let task = on_vcpu_0(command);
    let mut collector = Collector::new(5, &[task]);
    for runs in parts {
        collector.take(Reply::Part {
            id: 5,
            vcpu: VcpuId(0),
            runs: runs.iter().cloned().collect(),
        })?;
    }
    let counts = Counts {
        tdcalls: 1 << 20,
        ..Counts::default()
    };
    collector.take(Reply::Finished {
        id: 5,
        vcpu: VcpuId(0),
        counts,
    })?;
    collector.take(Reply::Idle { id: 5 })?;
    assert!(collector.is_over());
    Ok(collector.into_answers().remove(0).runs)
}

const SMALL: PageLevel = PageLevel::Size4K;
const LARGE: PageLevel = PageLevel::Size2M;
const MISMATCH: u64 = status::PAGE_SIZE_MISMATCH | 1;

#[test]
fn parts_are_joined_where_they_continue_each_other() {
    let runs = collect(
        accept_4k(0x20_0000),
        &[
            &[accepted(0, SMALL, 100, 0)],
            &[accepted(100 << 12, SMALL, 412, 0)],
        ],
    );
    assert_eq!(runs.unwrap(), [accepted(0, SMALL, 512, 0)]);
}

#[test]
fn linux_goes_from_large_to_small() {
    let linux = Command::Accept {
        range: range(0, 0x60_1000),
        size: AcceptSize::Linux,
    };
    let honest: &[Run] = &[
        accepted(0, PageLevel::Size2M, 1, MISMATCH),
        accepted(0, SMALL, 512, 0),
        accepted(0x20_0000, LARGE, 2, 0),
        accepted(0x60_0000, SMALL, 1, 0),
    ];
    assert_eq!(collect(linux, &[honest]).unwrap(), honest);
    let gives_up: &[Run] = &[
        accepted(0, LARGE, 1, MISMATCH),
        accepted(0, SMALL, 1, status::PAGE_ALREADY_ACCEPTED),
    ];
    assert_eq!(collect(linux, &[gives_up]).unwrap(), gives_up);
}

#[rstest]
#[case::out_of_order(&[accepted(0x1000, SMALL, 2, 0)], "0x40000000 is next")]
#[case::beyond_the_range(&[accepted(0, SMALL, 513, 0)], "pass 0x40200000")]
#[case::huge_count(&[accepted(0, SMALL, u32::MAX, 0)], "pass 0x40200000")]
#[case::nothing(&[accepted(0, SMALL, 0, 0)], "about nothing")]
#[case::another_level(&[accepted(0, LARGE, 1, 0)], "where 4K was asked for")]
#[case::reserved_bits(&[accepted(0, SMALL, 512, 0x0123_0000_0000_0000)], "does not exist")]
#[case::success_with_detail(&[accepted(0, SMALL, 512, 7)], "does not exist")]
#[case::level_of_nothing(&[accepted(0, SMALL, 512, status::PAGE_SIZE_MISMATCH | 3)], "does not exist")]
#[case::half_the_range(&[accepted(0, SMALL, 256, 0)], "nothing about 0x40100000")]
#[case::another_command(&[Run::Access { start: Gpa::new(BASE), count: 512, outcome: Access::Done }], "another command")]
#[case::twice(&[accepted(0, SMALL, 512, 0), accepted(0, SMALL, 512, 0)], "0x40200000 is next")]
fn accepts_that_cannot_be(#[case] runs: &[Run], #[case] why: &str) {
    let error = collect(accept_4k(0x20_0000), &[runs]).unwrap_err();
    assert!(error.contains(why), "{error}");
}

#[rstest]
#[case::small_before_large(&[accepted(0, SMALL, 1, 0)], "another size is next")]
#[case::over_a_boundary(&[accepted(0, LARGE, 1, MISMATCH), accepted(0, SMALL, 513, 0)], "2M is tried first")]
#[case::same_size_again(&[accepted(0, LARGE, 1, MISMATCH), accepted(0, LARGE, 1, 0)], "another size is next")]
#[case::goes_on_after_the_end(&[
    accepted(0, LARGE, 1, MISMATCH),
    accepted(0, SMALL, 1, status::PAGE_ALREADY_ACCEPTED),
    accepted(0x1000, SMALL, 1, 0),
], "after the last one")]
#[case::many_refusals(&[accepted(0, LARGE, 2, MISMATCH)], "2 refused ACCEPTs")]
fn accepts_that_linux_does_not_make(#[case] runs: &[Run], #[case] why: &str) {
    let linux = Command::Accept {
        range: range(0, 0x60_0000),
        size: AcceptSize::Linux,
    };
    let error = collect(linux, &[runs]).unwrap_err();
    assert!(error.contains(why), "{error}");
}

fn touch(side: Side, on_ve: OnVe) -> Command {
    Command::Touch {
        range: range(0, 0x2000),
        stride: SMALL,
        access: AccessKind::Read,
        side,
        on_ve,
        same_rip: false,
    }
}

#[rstest]
#[case::shared_ve(touch(Side::Shared, OnVe::Skip), Access::Ve)]
#[case::uninvited_accept(touch(Side::Private, OnVe::Skip), Access::Accepted)]
#[case::failed_with_success(touch(Side::Private, OnVe::Accept), Access::AcceptFailed { status: 0 })]
fn accesses_that_cannot_be(#[case] command: Command, #[case] outcome: Access) {
    let run = Run::Access {
        start: gpa(0),
        count: 2,
        outcome,
    };
    assert!(collect(command, &[&[run]]).is_err());
}

#[rstest]
#[case::foreign_to_itself(Content::Foreign { generation: Generation::MAX, distance: 0 }, 2)]
#[case::alike_torn_pages(torn(&[(0, 1), (5, 2)]), 2)]
#[case::word_outside(torn(&[(0, 1), (512, 2)]), 1)]
#[case::words_backwards(torn(&[(5, 1), (0, 2)]), 1)]
#[case::no_words(torn(&[]), 1)]
fn contents_that_cannot_be(#[case] content: Content, #[case] count: u32) {
    let verify = Command::Verify {
        range: range(0, u64::from(count) << 12),
        side: Side::Private,
    };
    let run = Run::Content {
        start: gpa(0),
        count,
        content,
    };
    assert!(collect(verify, &[&[run]]).is_err());
}

fn torn(words: &[(u16, u64)]) -> Content {
    Content::Torn {
        like_first: 3,
        words: words.iter().copied().collect(),
    }
}

#[test]
fn replies_to_nobody_are_refused() {
    let task = on_vcpu_0(accept_4k(0x1000));
    let part = |id, vcpu| Reply::Part {
        id,
        vcpu: VcpuId(vcpu),
        runs: [accepted(0, SMALL, 1, 0)].into_iter().collect(),
    };
    for reply in [
        part(4, 0),
        part(5, 1),
        Reply::Idle { id: 4 },
        Reply::Idle { id: 5 },
        Reply::Ready { vcpus: 1 },
        Reply::Hello(HELLO),
    ] {
        let mut collector = Collector::new(5, &[task]);
        assert!(collector.take(reply.clone()).is_err(), "{reply:?}");
    }
}

#[test]
fn a_count_of_fewer_calls_than_results_is_refused() {
    let mut collector = Collector::new(5, &[on_vcpu_0(accept_4k(0x2000))]);
    let runs = [accepted(0, SMALL, 2, 0)].into_iter().collect();
    let vcpu = VcpuId(0);
    collector.take(Reply::Part { id: 5, vcpu, runs }).unwrap();
    let counts = Counts {
        tdcalls: 1,
        ..Counts::default()
    };
    let error = collector.take(Reply::Finished {
        id: 5,
        vcpu,
        counts,
    });
    assert!(error.unwrap_err().contains("1 TDCALLs counted, 2 reported"));
}

#[test]
fn results_without_end_are_refused() {
    let command = Command::Touch {
        range: GpaRange::with_len(Gpa::new(BASE), 1 << 43).unwrap(),
        stride: SMALL,
        access: AccessKind::Read,
        side: Side::Private,
        on_ve: OnVe::Skip,
        same_rip: false,
    };
    let mut collector = Collector::new(5, &[on_vcpu_0(command)]);
    let error = (0..u64::MAX).find_map(|number| {
        let outcome = [Access::Done, Access::Ve][number as usize % 2];
        let run = Run::Access {
            start: gpa(number << 12),
            count: 1,
            outcome,
        };
        collector
            .take(Reply::Part {
                id: 5,
                vcpu: VcpuId(0),
                runs: [run].into_iter().collect(),
            })
            .err()
    });
    assert!(error.unwrap().contains("more than"));
}

proptest! {
    #[test]
    fn no_bytes_make_the_line_panic(chunks in proptest::collection::vec(
        proptest::collection::vec(0u8.., 0..64), 0..32,
    )) {
        let (mut agent, mut guest) = line();
        for chunk in chunks {
            guest.write_all(&chunk).unwrap();
            let _ = agent.receive();
            let _ = agent.receive_frame(&chunk);
            while let Ok(Some(_)) = agent.next_reply() {}
        }
        let _ = agent.transcript();
    }

    /// Any answer an honest guest can give is accepted: arbitrary statuses, in runs of arbitrary
    /// length.
    #[test]
    fn honest_answers_are_believed(lengths in proptest::collection::vec(1u32..40, 1..30)) {
        let statuses = [0, MISMATCH, status::PAGE_ALREADY_ACCEPTED, status::OPERAND_BUSY | 1];
        let mut at = 0;
        let mut runs = Vec::new();
        for (number, &count) in lengths.iter().enumerate() {
            runs.push(accepted(at, SMALL, count, statuses[number % statuses.len()]));
            at += u64::from(count) << 12;
        }
        let parts: Vec<&[Run]> = runs.chunks(7).collect();
        prop_assert_eq!(collect(accept_4k(at), &parts).unwrap(), runs);
    }
}
