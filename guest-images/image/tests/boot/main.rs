//! Boots the image in QEMU with TCG and does the host's part by hand.

mod host;
mod qemu;

use host::{Answer, Ask, Lab, Policy};
use tdxlab_protocol::addr::{Gpa, GpaRange, PageLevel};
use tdxlab_protocol::message::*;
use tdxlab_protocol::pattern::Generation;

const BASE: u64 = 1 << 30;

/// The range of `pages` pages from page `first` of test memory.
fn pages(first: u64, pages: u64) -> GpaRange {
    GpaRange::with_len(Gpa::new(BASE + first * 4096), pages * 4096).unwrap()
}

fn generation(number: u16) -> Generation {
    Generation::new(number).unwrap()
}

/// Maps every page that faults, and expects no TDCALL.
fn maps_on_fault() -> Policy {
    Box::new(|memory, _, ask| match ask {
        Ask::Fault { gpa, side, .. } => {
            let frame = memory.new_frame();
            memory.map(gpa.align_down(PageLevel::Size4K), side, frame);
            Answer::Fault(tdxlab_protocol::mailbox::ANSWER_RETRY)
        }
        Ask::Tdcall(registers) => panic!("TDCALL {registers:x?}"),
    })
}

fn on(vcpu: u16, command: Command) -> Task {
    Task {
        vcpu: VcpuId(vcpu),
        command,
    }
}

#[test]
fn says_hello_fills_and_verifies() {
    let mut lab = Lab::start(1, maps_on_fault());
    let hello = lab.hello();
    assert_eq!(
        hello,
        Hello {
            version: VERSION,
            td: false,
            vcpus: 1,
            gpa_width: 48,
            attributes: 0,
            pending_ve_disabled: None,
        }
    );
    lab.configure(Windows::HostOwned);
    assert_eq!(lab.reply(), Reply::Ready { vcpus: 1 });

    let range = pages(0, 64);
    let side = Side::Private;
    let fill = Command::Fill {
        range,
        generation: generation(3),
        side,
    };
    let outcome = lab.run(&[on(0, fill)]).remove(0).1;
    assert_eq!(
        outcome.runs,
        [Run::Access {
            start: range.start(),
            count: 64,
            outcome: Access::Done
        }]
    );
    assert_eq!(
        outcome.counts,
        Counts {
            tdcalls: 0,
            ve: 0,
            faults: 64
        }
    );

    let outcome = lab
        .run(&[on(0, Command::Verify { range, side })])
        .remove(0)
        .1;
    assert_eq!(
        outcome.runs,
        [Run::Content {
            start: range.start(),
            count: 64,
            content: Content::Own(generation(3))
        }]
    );
    assert_eq!(outcome.counts, Counts::default());

    lab.send(&Request::PowerOff { code: 21 });
    assert_eq!(lab.qemu.end().code(), Some(21 << 1 | 1));
}
