//! Each command makes the right calls to the host and reports the results.

use std::cell::RefCell;
use std::rc::Rc;

use tdxlab_protocol::addr::{Gpa, GpaRange, PageLevel};
use tdxlab_protocol::message::*;
use tdxlab_protocol::tdcall::{ATTR_RD_PENDING, leaf, reg, status, vmcall};

use crate::host::{Ask, Lab, maps_on_fault, tdcalls};
use crate::{BASE, accesses, contents, generation, on, page, pages};

#[test]
fn says_hello_fills_verifies_and_powers_off() {
    let mut lab = Lab::start(1, maps_on_fault());
    let hello = Hello {
        version: VERSION,
        td: false,
        vcpus: 1,
        gpa_width: 48,
        attributes: 0,
        pending_ve_disabled: None,
    };
    assert_eq!(lab.hello(), hello);
    lab.configure(Windows::HostOwned);
    assert_eq!(lab.reply(), Reply::Ready { vcpus: 1 });

    for side in [Side::Private, Side::Shared] {
        let range = pages(0, 64);
        let outcome = lab.one(Command::Fill {
            range,
            generation: generation(3),
            side,
        });
        assert_eq!(outcome.runs, [accesses(0, 64, Access::Done)]);
        assert_eq!(outcome.counts.faults, 64);

        let outcome = lab.one(Command::Verify { range, side });
        let content = Content::Own(generation(3));
        assert_eq!(outcome.runs, [contents(0, 64, content)]);
        assert_eq!(outcome.counts, Counts::default());
    }

    lab.send(&Request::PowerOff { code: 21 });
    assert_eq!(lab.qemu.end().code(), Some(21 << 1 | 1));
}

#[test]
fn accept_passes_address_and_level_and_codes_equal_statuses_once() {
    let seen = Rc::new(RefCell::new(Vec::new()));
    let noted = seen.clone();
    let already = status::PAGE_ALREADY_ACCEPTED;
    let mut lab = Lab::ready(
        1,
        tdcalls(move |registers| {
            assert_eq!(registers[reg::RAX], leaf::MEM_PAGE_ACCEPT);
            noted.borrow_mut().push(registers[reg::RCX]);
            let fifth = registers[reg::RCX] == page(5).as_u64();
            // The guest must cope with any register contents.
            *registers = [0xdead_beef; 16];
            registers[reg::RAX] = if fifth { already } else { 0 };
        }),
    );
    let size = AcceptSize::Exactly(PageLevel::Size4K);
    let range = pages(0, 512);
    let outcome = lab.one(Command::Accept { range, size });
    assert_eq!(
        outcome.runs,
        [
            accepts(0, PageLevel::Size4K, 5, 0),
            accepts(5, PageLevel::Size4K, 1, already),
            accepts(6, PageLevel::Size4K, 506, 0),
        ]
    );
    assert_eq!((outcome.counts.tdcalls, outcome.parts), (512, 1));
    assert!(
        seen.borrow()
            .iter()
            .copied()
            .eq((0..512).map(|number| page(number).as_u64()))
    );

    seen.borrow_mut().clear();
    for (level, range) in [
        (PageLevel::Size2M, pages(512, 512)),
        (PageLevel::Size1G, pages(0, 1 << 18)),
    ] {
        let size = AcceptSize::Exactly(level);
        lab.one(Command::Accept { range, size });
    }
    assert_eq!(*seen.borrow(), [page(512).as_u64() | 1, BASE | 2]);
}

#[test]
fn accept_as_linux_does_it_goes_down_where_a_size_is_refused() {
    let mismatch = status::PAGE_SIZE_MISMATCH | 1;
    let mut lab = Lab::ready(
        1,
        tdcalls(move |registers| {
            let (gpa, level) = (registers[reg::RCX] & !7, registers[reg::RCX] & 7);
            registers[reg::RAX] = match level {
                2 => status::OPERAND_INVALID | 1,
                1 if gpa == BASE => mismatch,
                _ if gpa == page(1024 + 3).as_u64() => status::PAGE_ALREADY_ACCEPTED,
                _ => 0,
            };
        }),
    );
    let size = AcceptSize::Linux;
    let range = GpaRange::with_len(Gpa::new(BASE), 1 << 30).unwrap();
    // 1G is refused, then 2M, then come 512 small pages, then the rest in 2M pages.
    let outcome = lab.one(Command::Accept { range, size });
    assert_eq!(
        outcome.runs,
        [
            accepts(0, PageLevel::Size1G, 1, status::OPERAND_INVALID | 1),
            accepts(0, PageLevel::Size2M, 1, mismatch),
            accepts(0, PageLevel::Size4K, 512, 0),
            accepts(512, PageLevel::Size2M, 511, 0),
        ]
    );
    // Too short for a 2M page, and a small page that is refused ends the command.
    let range = pages(1024, 511);
    let outcome = lab.one(Command::Accept { range, size });
    assert_eq!(
        outcome.runs,
        [
            accepts(1024, PageLevel::Size4K, 3, 0),
            accepts(1027, PageLevel::Size4K, 1, status::PAGE_ALREADY_ACCEPTED),
        ]
    );
}

#[test]
fn results_that_differ_come_in_several_parts() {
    let mut lab = Lab::ready(
        1,
        tdcalls(|registers| registers[reg::RAX] = registers[reg::RCX] >> 12 & 1),
    );
    let size = AcceptSize::Exactly(PageLevel::Size4K);
    let range = pages(0, 100);
    let outcome = lab.one(Command::Accept { range, size });
    let each = |number| accepts(number, PageLevel::Size4K, 1, number & 1);
    assert!(outcome.runs.into_iter().eq((0..100).map(each)));
    assert_eq!(outcome.parts, 100_usize.div_ceil(MAX_RUNS));
}

#[test]
fn convert_goes_on_where_the_vmm_stopped() {
    const SHARED: u64 = 1 << 47;
    let seen = Rc::new(RefCell::new(Vec::new()));
    let noted = seen.clone();
    let mut lab = Lab::ready(
        1,
        tdcalls(move |registers| {
            assert_eq!(registers[reg::RAX], leaf::VP_VMCALL);
            assert_eq!(registers[reg::RCX], 0xfc00);
            assert_eq!(
                (registers[reg::R10], registers[reg::R11]),
                (0, vmcall::MAP_GPA)
            );
            let (start, bytes) = (registers[reg::R12], registers[reg::R13]);
            noted.borrow_mut().push((start, bytes));
            registers[reg::RAX] = 0;
            (registers[reg::R10], registers[reg::R11]) = match bytes {
                0x3000 => (vmcall::INVALID_OPERAND, start),
                0..=0x20_0000 => (vmcall::SUCCESS, 0),
                _ => (vmcall::RETRY, start + 0x20_0000),
            };
        }),
    );
    let range = pages(1, 1025);
    let outcome = lab.one(Command::Convert {
        range,
        to: Side::Shared,
    });
    let calls = 3;
    assert_eq!(
        outcome.runs,
        [Run::MapGpa {
            status: vmcall::SUCCESS,
            stopped_at: range.end(),
            calls
        }]
    );
    let start = page(1).as_u64() | SHARED;
    assert_eq!(
        *seen.borrow(),
        [
            (start, 0x40_1000),
            (start + 0x20_0000, 0x20_1000),
            (start + 0x40_0000, 0x1000),
        ]
    );

    seen.borrow_mut().clear();
    let outcome = lab.one(Command::Convert {
        range: pages(0, 3),
        to: Side::Private,
    });
    assert_eq!(
        outcome.runs,
        [Run::MapGpa {
            status: vmcall::INVALID_OPERAND,
            stopped_at: page(0),
            calls: 1
        }]
    );
    assert_eq!(*seen.borrow(), [(BASE, 0x3000)]);
}

#[test]
fn convert_gives_up_on_a_vmm_that_never_gets_ahead_or_goes_astray() {
    let answers = Rc::new(RefCell::new((vmcall::RETRY, BASE)));
    let answer = answers.clone();
    let mut lab = Lab::ready(
        1,
        tdcalls(move |registers| {
            registers[reg::RAX] = 0;
            (registers[reg::R10], registers[reg::R11]) = *answer.borrow();
        }),
    );
    let command = Command::Convert {
        range: pages(0, 3),
        to: Side::Private,
    };
    let Run::MapGpa { status, calls, .. } = lab.one(command).runs[0] else {
        panic!("not MapGpa");
    };
    assert_eq!(status, vmcall::RETRY);
    assert!(calls > 100);
    for astray in [page(7), Gpa::new(BASE + 1), Gpa::new(0)] {
        *answers.borrow_mut() = (vmcall::RETRY, astray.as_u64());
        let stopped = Run::MapGpa {
            status: vmcall::RETRY,
            stopped_at: astray,
            calls: 1,
        };
        assert_eq!(lab.one(command).runs, [stopped]);
    }
}

#[test]
fn probe_reports_level_pending_bit_and_attributes() {
    let mut lab = Lab::ready(
        1,
        tdcalls(|registers| {
            assert_eq!(registers[reg::RAX], leaf::MEM_PAGE_ATTR_RD);
            let gpa = registers[reg::RCX];
            registers[reg::RAX] = 0;
            registers[reg::RCX] = if gpa < page(1024).as_u64() {
                gpa | 1
            } else {
                gpa | ATTR_RD_PENDING
            };
            registers[reg::RDX] = 0x8003;
        }),
    );
    let outcome = lab.one(Command::Probe {
        range: pages(0, 1536),
        stride: PageLevel::Size2M,
    });
    let probes = |start, count, level, pending| Run::Probe {
        start: page(start),
        count,
        status: 0,
        level,
        pending,
        attributes: 0x8003,
    };
    assert_eq!(
        outcome.runs,
        [probes(0, 2, 1, false), probes(1024, 1, 0, true)]
    );
}

#[test]
fn touch_goes_by_strides_and_says_whether_it_writes() {
    let seen = Rc::new(RefCell::new(Vec::new()));
    let noted = seen.clone();
    let mut map = maps_on_fault();
    // With a single vCPU, TCG does without atomic operations and reads before it writes.
    let mut lab = Lab::ready(
        2,
        Box::new(move |memory, vcpu, ask| {
            noted.borrow_mut().push(ask.clone());
            map(memory, vcpu, ask)
        }),
    );
    for (access, write) in [(AccessKind::Read, false), (AccessKind::Write, true)] {
        for (side, first) in [(Side::Private, 1), (Side::Shared, 1025)] {
            let first = first + 2048 * u64::from(write);
            let outcome = lab.one(Command::Touch {
                range: pages(first, 1024),
                stride: PageLevel::Size2M,
                access,
                side,
                on_ve: OnVe::Skip,
                same_rip: false,
            });
            assert_eq!(outcome.runs, [accesses(first, 2, Access::Done)]);
            let fault = |gpa| Ask::Fault { gpa, side, write };
            assert_eq!(
                *seen.borrow(),
                [fault(page(first)), fault(page(first + 512))]
            );
            seen.borrow_mut().clear();
        }
    }
}

/// The zero-step filter of the TDX module counts faults that follow each other at one instruction. No
/// fault may be at that of the one before, not even with a page between them that is there.
#[test]
fn accesses_that_fault_one_after_the_other_are_made_by_different_instructions() {
    let rips = Rc::new(RefCell::new(Vec::new()));
    let noted = rips.clone();
    let mut map = maps_on_fault();
    let mut lab = Lab::ready(
        1,
        Box::new(move |memory, vcpu, ask| {
            noted.borrow_mut().push(memory.rip(vcpu));
            map(memory, vcpu, ask)
        }),
    );
    let touch = |first, count, stride, access, same_rip| Command::Touch {
        range: pages(first, count),
        stride,
        access,
        side: Side::Private,
        on_ve: OnVe::Skip,
        same_rip,
    };
    let fill = |first, count| Command::Fill {
        range: pages(first, count),
        generation: generation(3),
        side: Side::Private,
    };
    let faults = |lab: &mut Lab, command| {
        lab.one(command);
        rips.take()
    };
    let small = PageLevel::Size4K;
    for (first, access) in [(0, AccessKind::Read), (64, AccessKind::Write)] {
        // One page of two is there.
        for page in (first..first + 64).step_by(2) {
            faults(&mut lab, touch(page, 1, small, access, false));
        }
        let found = faults(&mut lab, touch(first, 64, small, access, false));
        assert_eq!(found.len(), 32);
        assert!(found.windows(2).all(|two| two[0] != two[1]), "{found:x?}");
    }
    for page in (128..192).step_by(2) {
        faults(&mut lab, fill(page, 1));
    }
    let mut found = faults(&mut lab, fill(128, 64));
    let verify = Command::Verify {
        range: pages(192, 64),
        side: Side::Private,
    };
    found.extend(faults(&mut lab, verify));
    assert_eq!(found.len(), 32 + 64);
    assert!(found.windows(2).all(|two| two[0] != two[1]), "{found:x?}");

    for (first, access) in [(256, AccessKind::Read), (320, AccessKind::Write)] {
        let found = faults(&mut lab, touch(first, 64, small, access, true));
        assert_eq!(found.len(), 64);
        assert!(found.windows(2).all(|two| two[0] == two[1]), "{found:x?}");
        let other = faults(
            &mut lab,
            touch(first + 512, 31 * 512, PageLevel::Size2M, access, false),
        );
        assert!(
            !other.contains(&found[0]),
            "one that is used for nothing else"
        );
    }
}

#[test]
fn windows_onto_the_machine_itself_need_no_host() {
    let mut lab = Lab::start(1, tdcalls(|_| panic!("TDCALL")));
    lab.hello();
    let limit = Gpa::new(crate::qemu::MEMORY_BYTES as u64);
    lab.configure(Windows::Direct { limit });
    assert_eq!(lab.reply(), Reply::Ready { vcpus: 1 });
    let start = Gpa::new(64 << 20);
    let range = GpaRange::with_len(start, 16 << 12).unwrap();
    for side in [Side::Private, Side::Shared] {
        let generation = generation(2);
        lab.one(Command::Fill {
            range,
            generation,
            side,
        });
        let content = Content::Own(generation);
        let expected = Run::Content {
            start,
            count: 16,
            content,
        };
        assert_eq!(lab.one(Command::Verify { range, side }).runs, [expected]);
    }
    let memory = lab.memory.as_ref().unwrap();
    let word = tdxlab_protocol::pattern::word(start, 7, generation(2));
    assert_eq!(memory.load(start.as_u64() + 56), word);

    let refused = |lab: &mut Lab, command| {
        lab.send(&Request::Run {
            id: 1,
            tasks: [on(0, command)].into_iter().collect(),
        });
        match lab.reply() {
            Reply::Refused { reason } => reason,
            other => panic!("{other:?}"),
        }
    };
    let beyond = GpaRange::with_len(limit, 4096).unwrap();
    let verify = Command::Verify {
        range: beyond,
        side: Side::Private,
    };
    assert_eq!(refused(&mut lab, verify), Refusal::BadRange(beyond));
    let accept = Command::Accept {
        range,
        size: AcceptSize::Linux,
    };
    assert_eq!(refused(&mut lab, accept), Refusal::NoTdcall(VcpuId(0)));
}

fn accepts(first: u64, level: PageLevel, count: u32, status: u64) -> Run {
    Run::Accept {
        start: page(first),
        level,
        count,
        status,
    }
}
