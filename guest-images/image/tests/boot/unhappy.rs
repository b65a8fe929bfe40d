//! Wrong requests, noise, death and panics.

use tdxlab_protocol::addr::{Gpa, GpaRange, PageLevel};
use tdxlab_protocol::layout::{IMAGE_BYTES, IMAGE_COPY, WINDOW_BYTES};
use tdxlab_protocol::mailbox::{ANSWER_DEAD, ANSWER_VE};
use tdxlab_protocol::message::*;
use tdxlab_protocol::tdcall::{reg, status};

use crate::host::{Answer, Ask, Lab, maps_on_fault, tdcalls};
use crate::{on, page, pages};

fn refusal(lab: &mut Lab, request: &Request) -> Refusal {
    lab.send(request);
    match lab.reply() {
        Reply::Refused { reason } => reason,
        other => panic!("{other:?} is no refusal"),
    }
}

fn run(tasks: &[Task]) -> Request {
    Request::Run {
        id: 3,
        tasks: tasks.iter().copied().collect(),
    }
}

fn verify(range: GpaRange) -> Command {
    Command::Verify {
        range,
        side: Side::Private,
    }
}

#[test]
fn each_wrong_request_is_refused_with_its_reason_and_the_guest_lives_on() {
    let mut lab = Lab::start(2, maps_on_fault());
    lab.hello();
    let good = verify(pages(0, 1));

    assert_eq!(
        refusal(&mut lab, &run(&[on(0, good)])),
        Refusal::NotConfigured
    );
    let other = Request::Configure {
        version: VERSION + 1,
        windows: Windows::HostOwned,
    };
    let reason = Refusal::Version {
        guest: VERSION,
        lab: VERSION + 1,
    };
    assert_eq!(refusal(&mut lab, &other), reason);

    lab.configure(Windows::HostOwned);
    assert_eq!(lab.reply(), Reply::Ready { vcpus: 2 });
    let reason = refusal(&mut lab, &run(&[on(0, good), on(2, good)]));
    assert_eq!(reason, Refusal::NoSuchVcpu(VcpuId(2)));
    let reason = refusal(&mut lab, &run(&[on(1, good), on(0, good), on(1, good)]));
    assert_eq!(reason, Refusal::VcpuTwice(VcpuId(1)));

    let range = |start, end| GpaRange::new(Gpa::new(start), Gpa::new(end)).unwrap();
    for bad in [
        verify(range(0x800, 0x1800)),
        verify(range(0, 0x1800)),
        verify(range(WINDOW_BYTES - 4096, WINDOW_BYTES + 4096)),
        verify(range(!0xfff, !0xfff)),
        Command::Accept {
            range: range(0, 0x1000),
            size: AcceptSize::Exactly(PageLevel::Size2M),
        },
        Command::Probe {
            range: range(0, 0x10_0000),
            stride: PageLevel::Size2M,
        },
    ] {
        let reason = refusal(&mut lab, &run(&[on(0, bad)]));
        assert!(
            matches!(reason, Refusal::BadRange(_)),
            "{bad:?} gave {reason:?}"
        );
    }

    assert_eq!(lab.run(&[on(1, good)])[0].1.counts.faults, 1);
    lab.send(&run(&[]));
    assert_eq!(lab.reply(), Reply::Idle { id: 3 });
    lab.send(&run(&[on(0, verify(pages(5, 0)))]));
    assert!(matches!(lab.reply(), Reply::Finished { .. }));
}

#[test]
fn noise_on_the_line_does_not_reach_the_inbox() {
    let mut lab = Lab::ready(1, maps_on_fault());
    let lengths = [1, 13, 14, 15, 700];
    let mut refused = 0;
    for length in lengths {
        lab.qemu.send(&vec![0x5a; length]);
        lab.send(&run(&[on(0, verify(pages(0, 1)))]));
        loop {
            match lab.reply() {
                Reply::Refused {
                    reason: Refusal::Garbled,
                } => refused += 1,
                Reply::Idle { .. } => break,
                Reply::Part { .. } | Reply::Finished { .. } => {}
                other => panic!("{other:?}"),
            }
        }
    }
    // Once before the frame, and once with the delimiter that wakes the guest.
    assert!(refused <= 2 * lengths.len(), "{refused} refused");
}

#[test]
fn noise_on_the_line_is_said_and_costs_nothing_else() {
    let mut lab = Lab::ready(1, maps_on_fault());
    lab.uses_inbox = false;
    let noise: Vec<u8> = (0..5000_u32)
        .map(|number| (number % 255) as u8 + 1)
        .collect();
    lab.qemu.send(&noise);
    // The next frame starts with a delimiter, which ends the noise.
    lab.send(&run(&[on(0, verify(pages(0, 1)))]));
    assert_eq!(
        lab.reply(),
        Reply::Refused {
            reason: Refusal::Garbled
        }
    );
    assert!(matches!(lab.reply(), Reply::Part { .. }));
    assert!(matches!(lab.reply(), Reply::Finished { .. }));
    assert!(matches!(lab.reply(), Reply::Idle { .. }));

    // A frame of the other direction is whole, but no request.
    let mut buffer = tdxlab_protocol::frame::EMPTY_FRAME;
    let reply = Reply::Ready { vcpus: 700 };
    let frame = tdxlab_protocol::frame::encode(&reply, &mut buffer).unwrap();
    lab.qemu.send(frame);
    assert_eq!(
        lab.reply(),
        Reply::Refused {
            reason: Refusal::Garbled
        }
    );
    assert_eq!(lab.one(verify(pages(0, 1))).counts.faults, 0);
}

#[test]
fn a_panic_reaches_the_host_with_file_and_line() {
    for vcpu in [0, 1] {
        let mut lab = Lab::ready(2, Box::new(|_, _, _| Answer::Fault(77)));
        lab.send(&run(&[on(vcpu, verify(pages(4, 1)))]));
        let Reply::Panic {
            vcpu: by,
            file,
            line,
            message,
        } = lab.reply()
        else {
            panic!("no panic");
        };
        assert_eq!(by, VcpuId(vcpu));
        assert!(file.ends_with("src/mailbox.rs"), "{file}");
        assert_ne!(line, 0);
        let gpa = page(4);
        assert_eq!(
            message,
            format!("the soft host answered a fault at {gpa} with 77").as_str()
        );
    }
}

#[test]
fn a_host_without_ve_information_is_blamed() {
    let mut lab = Lab::ready(
        1,
        Box::new(|_, _, ask| match ask {
            Ask::Fault { .. } => Answer::Fault(ANSWER_VE),
            Ask::Tdcall(mut registers) => {
                registers[reg::RAX] = status::NO_VALID_VE_INFO;
                Answer::Registers(registers)
            }
        }),
    );
    lab.send(&run(&[on(0, verify(pages(0, 1)))]));
    let Reply::Panic { message, .. } = lab.reply() else {
        panic!("no panic");
    };
    assert_eq!(message, "TDG.VP.VEINFO.GET: status 0xc000070400000000");
}

#[test]
fn a_fatal_exception_reaches_the_host_with_its_place() {
    let mut lab = Lab::start(1, tdcalls(|_| {}));
    lab.hello();
    // TDCALL has not run yet; make its first byte a breakpoint.
    let memory = lab.memory.as_ref().unwrap();
    let place = (IMAGE_COPY..IMAGE_COPY + IMAGE_BYTES)
        .find(|&at| memory.bytes(at) == [0x66, 0x0f, 0x01, 0xcc])
        .expect("the image has a TDCALL");
    memory.store_byte(place, 0xcc);
    lab.configure(Windows::HostOwned);
    let Reply::Panic {
        vcpu,
        file,
        message,
        ..
    } = lab.reply()
    else {
        panic!("no panic");
    };
    assert_eq!(vcpu, VcpuId(0));
    assert!(file.ends_with("src/fatal.rs"), "{file}");
    let expected = format!("#BP (3) at RIP {:#x}, error code 0x0", place + 1);
    assert!(message.starts_with(&expected), "{message}");
}

#[test]
fn a_dead_vcpu_stops_and_the_others_go_on() {
    let mut lab = Lab::ready(
        2,
        Box::new(|memory, vcpu, ask| match vcpu {
            1 => Answer::Fault(ANSWER_DEAD),
            _ => maps_on_fault()(memory, vcpu, ask),
        }),
    );
    lab.send(&run(&[
        on(0, verify(pages(0, 2))),
        on(1, verify(pages(2, 2))),
    ]));
    lab.finishes(0);
    // The request is never over, but the machine can still be ended.
    lab.send(&Request::PowerOff { code: 3 });
    assert_eq!(lab.qemu.end().code(), Some(7));
}

#[test]
fn wild_topologies_are_named() {
    // Three cores in each of two sockets: APIC ids are 0, 1, 2, 4, 5, 6.
    let mut lab = Lab::with_topology("6,sockets=2,cores=3", maps_on_fault());
    lab.hello();
    lab.configure(Windows::HostOwned);
    let Reply::Panic { message, .. } = lab.reply() else {
        panic!("no panic");
    };
    assert!(message.starts_with("APIC ids do not go from 0 to 5: put all vCPUs into one socket"));
}
