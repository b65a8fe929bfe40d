//! Operations in sequence.

use tdxlab::host_soft::SoftwareHost;
use tdxlab::journal::Killer;
use tdxlab::plan::{AccessKind, OnVe, TdxModule};
use tdxlab_protocol::message::{Access, Content, Run};
use tdxlab_protocol::pattern::Generation;
use tdxlab_protocol::tdcall::status;

use super::booted::*;

fn accepted(start: u64, level: PageLevel, count: u32, status: u64) -> Run {
    Run::Accept {
        start: Gpa::new(BASE + start),
        level,
        count,
        status,
    }
}

fn content(start: u64, count: u32, content: Content) -> Run {
    Run::Content {
        start: Gpa::new(BASE + start),
        count,
        content,
    }
}

fn own(generation: u16) -> Content {
    Content::Own(Generation::new(generation).unwrap())
}

/// The seed of the project: head and tail of a hole split, everything outside survives.
#[test]
fn a_hole_splits_head_and_tail_and_nothing_else() {
    let mut booted = Booted::new(&guest(16 * MIB, 1), "headtail");
    let before = booted.counters();
    let observed = booted.perform(&accept(0, 16 * MIB, Size::Size2M));
    assert_eq!(observed.runs, [accepted(0, PageLevel::Size2M, 8, 0)]);
    assert_eq!(observed.counts.tdcalls, 8);
    let sample = booted.sample();
    assert_eq!(
        sample.debugfs.value().unwrap().pages_2m,
        before.pages_2m + 8
    );
    assert_eq!(sample.populated.value(), Some(&4096));
    assert_eq!(sample.exits.value().unwrap().accept, 8);

    let filled = booted.perform(&fill(0, 0, 16 * MIB, 1));
    assert_eq!(
        filled.runs,
        [Run::Access {
            start: Gpa::new(BASE),
            count: 4096,
            outcome: Access::Done
        }]
    );

    let punched = booted.perform(&punch(MIB, 11 * MIB));
    assert_eq!(punched.errno, Some(0));
    assert!(punched.entries_looked_at.unwrap() <= 4);
    let sample = booted.sample();
    let counters = sample.debugfs.value().unwrap();
    assert_eq!(counters.pages_2m, before.pages_2m + 2);
    assert_eq!(counters.pages_4k, before.pages_4k + 512);
    let splits: Vec<u64> = sample
        .splits
        .value()
        .unwrap()
        .iter()
        .map(|event| event.gpa.as_u64() - BASE)
        .collect();
    assert_eq!(splits, [0, 10 * MIB]);

    let read = booted.perform(&verify(0, 16 * MIB));
    assert_eq!(
        read.runs,
        [
            content(0, 256, own(1)),
            content(MIB, 2560, Content::NotAccepted),
            content(11 * MIB, 1280, own(1)),
        ]
    );
    booted.session.end().unwrap();
}

/// Memory mapped again after a hole is zero, whatever the frame held before.
#[test]
fn memory_that_comes_back_is_zero() {
    let mut booted = Booted::new(&guest(8 * MIB, 1), "headtail");
    for (generation, size) in [(1, Size::Size2M), (2, Size::Linux), (3, Size::Size4K)] {
        booted.perform(&accept(0, 8 * MIB, size));
        let read = booted.perform(&verify(0, 8 * MIB));
        assert_eq!(read.runs, [content(0, 2048, Content::Zero)], "{size:?}");
        booted.perform(&fill(0, 0, 8 * MIB, generation));
        let read = booted.perform(&verify(0, 8 * MIB));
        assert_eq!(read.runs, [content(0, 2048, own(generation))], "{size:?}");
        booted.perform(&punch(0, 8 * MIB));
    }
}

/// The oldest module keeps a vCPU out that stays at one instruction; copies by turns are let on, even
/// where every other page is there.
#[test]
fn the_oldest_module_lets_the_guest_on_that_takes_another_instruction_each_time() {
    let host = SoftHost::find().unwrap().with_module(TdxModule::V1_5_01);
    let mut booted = Booted::on(&host, &guest(4 * MIB, 1), "stock");
    let touch = |start, end, same_rip| Op::Touch {
        range: range(start, end),
        stride: SMALL,
        access: AccessKind::Write,
        side: Side::Private,
        on_ve: OnVe::Skip,
        same_rip,
        vcpu: VcpuId(0),
    };
    for page in (0..64).step_by(2) {
        booted.perform(&touch(page << 12, (page + 1) << 12, false));
    }
    assert_eq!(booted.perform(&touch(0, 64 << 12, false)).death, None);
    booted.perform(&fill(0, MIB, 2 * MIB, 1));
    assert_eq!(booted.counters().pages_4k, 64 + 256);
    let death = booted.perform(&touch(2 * MIB, 3 * MIB, true)).death;
    let death = death.expect("it exits for ever");
    assert_eq!(death.by, Killer::ExitsForEver, "{}", death.text);
}

#[test]
fn a_small_accept_in_a_pending_large_page_splits_it() {
    let mut booted = Booted::new(&guest(4 * MIB, 1), "v5");
    let touched = booted.perform(&Op::Touch {
        range: range(0, 4096),
        stride: SMALL,
        access: AccessKind::Write,
        side: Side::Private,
        on_ve: OnVe::Skip,
        same_rip: false,
        vcpu: VcpuId(0),
    });
    assert!(matches!(
        touched.runs[0],
        Run::Access {
            outcome: Access::Ve,
            ..
        }
    ));
    assert_eq!(touched.counts.ve, 1);
    let observed = booted.perform(&accept(0, 2 * MIB, Size::Size4K));
    assert_eq!(observed.runs, [accepted(0, SMALL, 512, 0)]);
    let sample = booted.sample();
    assert_eq!(sample.splits.value().unwrap().len(), 1);
    assert_eq!(sample.exits.value().unwrap().accept, 1);
    let again = booted.perform(&accept(0, 2 * MIB, Size::Size2M));
    let mismatch = status::PAGE_SIZE_MISMATCH | 1;
    assert_eq!(again.runs, [accepted(0, PageLevel::Size2M, 1, mismatch)]);
}

#[test]
fn a_conversion_takes_one_page_out_of_a_leaf() {
    let mut booted = Booted::new(&guest(4 * MIB, 1), "v5");
    booted.perform(&accept(0, 4 * MIB, Size::Size2M));
    booted.perform(&fill(0, 0, 4 * MIB, 1));
    let to = |to| Op::Convert {
        range: range(4096, 8192),
        to,
        vcpu: VcpuId(0),
    };
    let converted = booted.perform(&to(Side::Shared));
    assert!(matches!(
        converted.runs[0],
        Run::MapGpa {
            status: 0,
            calls: 1,
            ..
        }
    ));
    let shared = Op::Fill {
        range: range(4096, 8192),
        generation: Generation::new(2).unwrap(),
        side: Side::Shared,
        vcpu: VcpuId(0),
    };
    booted.perform(&shared);
    booted.perform(&to(Side::Private));
    booted.perform(&accept(4096, 8192, Size::Size4K));
    let read = booted.perform(&verify(0, 4 * MIB));
    assert_eq!(
        read.runs,
        [
            content(0, 1, own(1)),
            content(4096, 1, Content::Zero),
            content(8192, 1022, own(1)),
        ]
    );
}

#[test]
fn touching_a_hole_kills_a_td_that_wants_no_ve() {
    let guest = Guest {
        sept_ve_disable: true,
        ..guest(4 * MIB, 1)
    };
    let mut booted = Booted::new(&guest, "stock");
    let observed = booted.perform(&fill(0, 0, 4096, 1));
    let death = observed.death.expect("the TD is dead");
    assert_eq!(death.by, Killer::AccessBeforeAccept);
    let sample = booted.sample();
    let log = sample.kernel_log.value().unwrap();
    assert!(
        log.iter().any(|line| line.contains("before accepting")),
        "{log:?}"
    );
    let after = booted.session.perform(&punch(0, 4096), &[]);
    assert!(after.unwrap_err().to_string().contains("the TD is dead"));
    booted.session.end().unwrap();
}

/// 16 TiB of guest: leaves far apart, a hole of 12 TiB, at constant cost.
#[test]
fn a_guest_of_sixteen_tebibytes_fits_on_a_laptop() {
    const TIB: u64 = 1 << 40;
    let start = Gpa::new(4 << 30);
    let memory = GpaRange::with_len(start, 16 * TIB).unwrap();
    let guest = Guest {
        memory,
        slots: vec![Slot {
            range: memory,
            gmem_offset: 0,
        }],
        ..guest(MIB, 1)
    };
    let at = |offset: u64, bytes: u64| {
        GpaRange::with_len(start.checked_add(offset).unwrap(), bytes).unwrap()
    };
    let mut booted = Booted::new(&guest, "headtail");
    let before = booted.counters();
    let places = [0, 2 * TIB - 2 * MIB, 7 * TIB, 14 * TIB, 16 * TIB - 2 * MIB];
    for place in places {
        booted.perform(&Op::Accept {
            range: at(place, 2 * MIB),
            size: Size::Size2M,
            vcpu: VcpuId(0),
        });
    }
    assert_eq!(booted.counters().pages_2m, before.pages_2m + 5);
    let observed = booted.perform(&Op::Punch {
        range: at(2 * TIB - MIB, 12 * TIB + MIB),
    });
    assert_eq!(observed.errno, Some(0));
    assert!(observed.entries_looked_at.unwrap() <= 8);
    let sample = booted.sample();
    assert_eq!(sample.splits.value().unwrap().len(), 1);
    assert_eq!(
        sample.debugfs.value().unwrap().pages_2m,
        before.pages_2m + 3
    );
    assert_eq!(
        sample.debugfs.value().unwrap().pages_4k,
        before.pages_4k + 256
    );
}
