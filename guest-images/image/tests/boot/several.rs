//! Several vCPUs, and no stale translations.

use std::cell::RefCell;
use std::collections::HashSet;
use std::rc::Rc;
use std::time::Instant;

use tdxlab_protocol::addr::PageLevel;
use tdxlab_protocol::mailbox::ANSWER_RETRY;
use tdxlab_protocol::message::*;
use tdxlab_protocol::pattern::word;
use tdxlab_protocol::tdcall::reg;

use crate::host::{Answer, Ask, Lab, maps_on_fault};
use crate::qemu::PATIENCE;
use crate::{generation, on, page, pages};

const SIDE: Side = Side::Private;

/// Every vCPU fills four pages, and another one reads them.
fn all_work(vcpus: u16) {
    let mut lab = Lab::ready(vcpus, maps_on_fault());
    let range = |vcpu| pages(u64::from(vcpu) * 4, 4);
    let all: Vec<u16> = (0..vcpus).collect();
    for some in all.chunks(MAX_TASKS) {
        let fill = |vcpu| Command::Fill {
            range: range(vcpu),
            generation: generation(vcpu + 1),
            side: SIDE,
        };
        let tasks: Vec<Task> = some.iter().map(|vcpu| on(*vcpu, fill(*vcpu))).collect();
        for (task, outcome) in lab.run(&tasks) {
            assert_eq!(outcome.counts.faults, 4, "{task:?}");
        }
    }
    for some in all.chunks(MAX_TASKS) {
        let other = |vcpu| (vcpu + 1) % vcpus;
        let verify = |vcpu| Command::Verify {
            range: range(other(vcpu)),
            side: SIDE,
        };
        let tasks: Vec<Task> = some.iter().map(|vcpu| on(*vcpu, verify(*vcpu))).collect();
        for (task, outcome) in lab.run(&tasks) {
            let other = other(task.vcpu.0);
            let expected = Run::Content {
                start: range(other).start(),
                count: 4,
                content: Content::Own(generation(other + 1)),
            };
            assert_eq!(outcome.runs, [expected]);
        }
    }
    lab.send(&Request::PowerOff { code: 0 });
    assert_eq!(lab.qemu.end().code(), Some(1));
}

#[test]
fn two_vcpus_work() {
    all_work(2);
}

#[test]
fn eight_vcpus_work() {
    all_work(8);
}

#[test]
fn sixty_four_vcpus_work() {
    all_work(64);
}

#[test]
fn tasks_of_a_request_run_side_by_side() {
    // No vCPU is answered before all have made a request: tasks in sequence would hang.
    const VCPUS: u16 = 4;
    let waiting = Rc::new(RefCell::new(Vec::new()));
    let noted = waiting.clone();
    let mut lab = Lab::ready(
        VCPUS,
        Box::new(move |memory, vcpu, ask| {
            let Ask::Tdcall(mut registers) = ask else {
                panic!("{ask:?}");
            };
            registers[reg::RAX] = 0;
            noted.borrow_mut().push((vcpu, registers));
            if noted.borrow().len() == usize::from(VCPUS) {
                for (vcpu, registers) in noted.borrow_mut().drain(..) {
                    memory.answer(vcpu, &Answer::Registers(registers));
                }
            }
            Answer::Later
        }),
    );
    let accept = |vcpu| Command::Accept {
        range: pages(u64::from(vcpu) * 16, 16),
        size: AcceptSize::Exactly(PageLevel::Size4K),
    };
    let tasks: Vec<Task> = (0..VCPUS).map(|vcpu| on(vcpu, accept(vcpu))).collect();
    for (task, outcome) in lab.run(&tasks) {
        let expected = Run::Accept {
            start: page(u64::from(task.vcpu.0) * 16),
            level: PageLevel::Size4K,
            count: 16,
            status: 0,
        };
        assert_eq!(outcome.runs, [expected]);
    }
}

#[test]
fn long_results_of_several_vcpus_do_not_wait_for_each_other() {
    // The boot processor's only TDCALL is answered last, when the other vCPU has long filled all
    // its buffers.
    let held = Rc::new(RefCell::new(None));
    let hold = held.clone();
    let mut lab = Lab::ready(
        2,
        Box::new(move |_, vcpu, ask| {
            let Ask::Tdcall(mut registers) = ask else {
                panic!("{ask:?}");
            };
            registers[reg::RAX] = registers[reg::RCX] >> 12 & 1;
            if vcpu == 0 {
                *hold.borrow_mut() = Some(registers);
                return Answer::Later;
            }
            Answer::Registers(registers)
        }),
    );
    let accept = |first, count| Command::Accept {
        range: pages(first, count),
        size: AcceptSize::Exactly(PageLevel::Size4K),
    };
    lab.send(&Request::Run {
        id: 1,
        tasks: [on(0, accept(0, 1)), on(1, accept(512, 200))]
            .into_iter()
            .collect(),
    });
    let mut runs = 0;
    loop {
        match lab.reply() {
            Reply::Part {
                vcpu: VcpuId(1),
                runs: part,
                ..
            } => runs += part.len(),
            Reply::Finished {
                vcpu: VcpuId(1), ..
            } => break,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(runs, 200);
    while held.borrow().is_none() {
        lab.step();
    }
    let registers = held.borrow_mut().take().unwrap();
    lab.memory
        .as_ref()
        .unwrap()
        .answer(0, &Answer::Registers(registers));
    lab.finishes(0);
    assert_eq!(lab.reply(), Reply::Idle { id: 1 });
}

#[test]
fn after_a_kick_no_vcpu_uses_an_old_translation() {
    // While four vCPUs read, the host moves pages to other frames and spoils the old ones as soon
    // as the kick is over. A stale translation would read a spoiled word.
    const VCPUS: u16 = 4;
    const PAGES: u64 = 256;
    const SPOILED: u64 = 0xbad0_bad0_bad0_bad0;
    let mut lab = Lab::ready(
        VCPUS,
        Box::new(|_, _, ask| match ask {
            // The page is on its way to another frame, or there already.
            Ask::Fault { .. } => Answer::Fault(ANSWER_RETRY),
            Ask::Tdcall(registers) => panic!("{registers:x?}"),
        }),
    );
    let memory = lab.memory.as_mut().unwrap();
    let mut spare = memory.new_frame();
    for number in 0..PAGES {
        let frame = memory.new_frame();
        write_page(memory, frame, number);
        memory.map(page(number), SIDE, frame);
    }
    let verify = Command::Verify {
        range: pages(0, PAGES),
        side: SIDE,
    };
    for round in 0..20 {
        lab.send(&Request::Run {
            id: round,
            tasks: (0..VCPUS).map(|vcpu| on(vcpu, verify)).collect(),
        });
        let memory = lab.memory.as_mut().unwrap();
        for step in 0..PAGES {
            let number = step * 37 % PAGES;
            write_page(memory, spare, number);
            let old = memory.unmap(page(number), SIDE);
            memory.kick(VCPUS as u8);
            for index in 0..512 {
                memory.store(old + index * 8, SPOILED);
            }
            memory.map(page(number), SIDE, spare);
            spare = old;
        }
        let mut finished = HashSet::new();
        loop {
            match lab.reply() {
                Reply::Part { runs, .. } => {
                    for run in runs {
                        let Run::Content { content, .. } = &run else {
                            panic!("{run:?}");
                        };
                        assert_eq!(*content, Content::Own(generation(1)), "{run:x?}");
                    }
                }
                Reply::Finished { vcpu, .. } => assert!(finished.insert(vcpu)),
                Reply::Idle { .. } => break,
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(finished.len(), usize::from(VCPUS));
    }
}

fn write_page(memory: &crate::host::Memory, frame: u64, number: u64) {
    for index in 0..512 {
        memory.store(
            frame + index as u64 * 8,
            word(page(number), index, generation(1)),
        );
    }
}

#[test]
fn a_host_that_maps_nothing_is_asked_again() {
    let asked = Rc::new(RefCell::new(0));
    let count = asked.clone();
    let mut map = maps_on_fault();
    let mut lab = Lab::ready(
        1,
        Box::new(move |memory, vcpu, ask| {
            *count.borrow_mut() += 1;
            match *count.borrow() {
                3 => map(memory, vcpu, ask),
                _ => Answer::Fault(ANSWER_RETRY),
            }
        }),
    );
    let outcome = lab.one(Command::Verify {
        range: pages(0, 1),
        side: SIDE,
    });
    assert_eq!((outcome.counts.faults, *asked.borrow()), (3, 3));
}

#[test]
fn vcpus_without_work_sleep() {
    let mut lab = Lab::ready(8, maps_on_fault());
    let verify = Command::Verify {
        range: pages(0, 1),
        side: SIDE,
    };
    let tasks: Vec<Task> = (0..8).map(|vcpu| on(vcpu, verify)).collect();
    lab.run(&tasks);
    // A vCPU that waits awake is never halted.
    let began = Instant::now();
    while lab.qemu.halted() != (8, 0) {
        assert!(
            began.elapsed() < PATIENCE,
            "{:?} halted, awake",
            lab.qemu.halted()
        );
    }
    // Each wakes up now and then for a look; most of the time none is.
    let looks = (0..50).map(|_| lab.qemu.halted());
    let asleep = looks.filter(|looked| *looked == (8, 0)).count();
    assert!(asleep >= 25, "all halted in {asleep} of 50 looks");
}
