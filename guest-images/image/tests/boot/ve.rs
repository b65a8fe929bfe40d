//! #VE: the guest's handling of pending pages.

use std::cell::RefCell;
use std::collections::HashSet;
use std::rc::Rc;

use tdxlab_protocol::addr::{Gpa, PageLevel};
use tdxlab_protocol::mailbox::{ANSWER_RETRY, ANSWER_VE};
use tdxlab_protocol::message::*;
use tdxlab_protocol::tdcall::{leaf, reg, status};

use crate::host::{Answer, Ask, Lab, Policy};
use crate::{BASE, accesses, contents, generation, pages};

/// A host on which pages are pending until they are accepted, and then zero. Some cannot be.
fn pending(refused: &'static [u64]) -> Policy {
    let accepted = RefCell::new(HashSet::new());
    let mut last = Gpa::new(0);
    Box::new(move |memory, _, ask| match ask {
        Ask::Fault { gpa, .. } if accepted.borrow().contains(&gpa.gfn()) => {
            panic!("{gpa} is mapped and faults");
        }
        Ask::Fault { gpa, .. } => {
            last = gpa;
            Answer::Fault(ANSWER_VE)
        }
        Ask::Tdcall(mut registers) => {
            match registers[reg::RAX] {
                leaf::VP_VEINFO_GET => {
                    registers[reg::RCX] = 48;
                    registers[reg::R9] = last.as_u64();
                    registers[reg::RAX] = 0;
                }
                leaf::MEM_PAGE_ACCEPT
                    if refused.contains(&((registers[reg::RCX] - BASE) >> 12)) =>
                {
                    registers[reg::RAX] = status::OPERAND_BUSY;
                }
                leaf::MEM_PAGE_ACCEPT => {
                    let page = Gpa::new(registers[reg::RCX]);
                    let frame = memory.new_frame();
                    memory.map(page, Side::Private, frame);
                    accepted.borrow_mut().insert(page.gfn());
                    registers[reg::RAX] = 0;
                }
                other => panic!("leaf {other}"),
            }
            Answer::Registers(registers)
        }
    })
}

#[test]
fn a_ve_is_noted_and_left_alone() {
    let mut lab = Lab::ready(1, pending(&[]));
    let touch = |access| Command::Touch {
        range: pages(0, 4),
        stride: PageLevel::Size4K,
        access,
        side: Side::Private,
        on_ve: OnVe::Skip,
        same_rip: false,
    };
    for access in [AccessKind::Read, AccessKind::Write] {
        let outcome = lab.one(touch(access));
        assert_eq!(outcome.runs, [accesses(0, 4, Access::Ve)]);
        assert_eq!(
            outcome.counts,
            Counts {
                tdcalls: 4,
                ve: 4,
                faults: 4
            }
        );
    }
}

#[test]
fn a_ve_is_answered_by_accept_where_that_is_asked_for() {
    let mut lab = Lab::ready(1, pending(&[2]));
    let outcome = lab.one(Command::Touch {
        range: pages(0, 4),
        stride: PageLevel::Size4K,
        access: AccessKind::Write,
        side: Side::Private,
        on_ve: OnVe::Accept,
        same_rip: false,
    });
    let busy = Access::AcceptFailed {
        status: status::OPERAND_BUSY,
    };
    assert_eq!(
        outcome.runs,
        [
            accesses(0, 2, Access::Accepted),
            accesses(2, 1, busy),
            accesses(3, 1, Access::Accepted),
        ]
    );
    assert_eq!(
        outcome.counts,
        Counts {
            tdcalls: 8,
            ve: 4,
            faults: 4
        }
    );
}

#[test]
fn fill_and_verify_step_over_pending_pages() {
    let mut lab = Lab::ready(1, pending(&[]));
    let range = pages(0, 3);
    let size = AcceptSize::Exactly(PageLevel::Size4K);
    for range in [pages(0, 1), pages(2, 1)] {
        lab.one(Command::Accept { range, size });
    }
    let side = Side::Private;
    let outcome = lab.one(Command::Fill {
        range,
        generation: generation(9),
        side,
    });
    assert_eq!(
        outcome.runs,
        [
            accesses(0, 1, Access::Done),
            accesses(1, 1, Access::Ve),
            accesses(2, 1, Access::Done),
        ]
    );
    let outcome = lab.one(Command::Verify { range, side });
    assert_eq!(
        outcome.runs,
        [
            contents(0, 1, Content::Own(generation(9))),
            contents(1, 1, Content::NotAccepted),
            contents(2, 1, Content::Own(generation(9))),
        ]
    );
}

#[test]
fn a_ve_that_does_not_fit_the_access_is_told() {
    let taken = Rc::new(RefCell::new(false));
    let take = taken.clone();
    let mut lab = Lab::ready(
        1,
        Box::new(move |memory, _, ask| match ask {
            Ask::Fault { gpa, side, .. } if !*take.borrow() => {
                let frame = memory.new_frame();
                memory.map(gpa.align_down(PageLevel::Size4K), side, frame);
                Answer::Fault(ANSWER_RETRY)
            }
            Ask::Fault { .. } => Answer::Fault(ANSWER_VE),
            Ask::Tdcall(mut registers) => {
                assert_eq!(registers[reg::RAX], leaf::VP_VEINFO_GET);
                registers[reg::RAX] = 0;
                registers[reg::RCX] = 1234;
                registers[reg::R9] = 0x5000;
                Answer::Registers(registers)
            }
        }),
    );
    let side = Side::Private;
    let fill = |first| Command::Fill {
        range: pages(first, 1),
        generation: generation(1),
        side,
    };
    assert_eq!(lab.one(fill(0)).runs, [accesses(0, 1, Access::Done)]);
    *taken.borrow_mut() = true;
    let strange = Access::StrangeVe {
        reason: 1234,
        gpa: Gpa::new(0x5000),
    };
    assert_eq!(lab.one(fill(1)).runs, [accesses(1, 1, strange)]);
}
