//! Plain VMs: each number derived by hand from the kernel's behaviour, not from the code.

use tdxlab_plan::{AccessKind, Gone, OnVe, VcpuId};

use super::*;
use crate::Predictor;

const M: u64 = 1 << 20;
const BASE: u64 = 1 << 30;

fn range(from: u64, to: u64) -> GpaRange {
    GpaRange::new(Gpa::new(BASE + from), Gpa::new(BASE + to)).unwrap()
}

fn guest(backing: Backing, bytes: u64) -> Guest {
    Guest {
        memory: range(0, bytes),
        vcpus: 1,
        sept_ve_disable: false,
        slots: Vec::new(),
        image: Vec::new(),
        backing: Some(backing),
    }
}

struct Vm(Predictor);

impl Vm {
    fn of(backing: Backing) -> Vm {
        Vm::under("plain", backing)
    }

    fn under(design: &str, backing: Backing) -> Vm {
        let bytes = match backing {
            Backing::Hugetlb1G => 1 << 30,
            _ => 64 * M,
        };
        Vm(Predictor::new(
            Design::named(design).unwrap(),
            &guest(backing, bytes),
        ))
    }

    fn op(&mut self, op: Op) -> Expectation {
        self.0.step(&Action::One(op)).unwrap()
    }

    fn touch(&mut self, from: u64, to: u64, stride: PageLevel) -> Expectation {
        self.op(Op::Touch {
            range: range(from, to),
            stride,
            access: AccessKind::Write,
            side: Side::Private,
            on_ve: OnVe::Skip,
            same_rip: false,
            vcpu: VcpuId(0),
        })
    }

    fn fill(&mut self, generation: u16, from: u64, to: u64) -> Expectation {
        self.op(Op::Fill {
            range: range(from, to),
            generation: Generation::new(generation).unwrap(),
            side: Side::Private,
            vcpu: VcpuId(0),
        })
    }

    fn verify(&mut self, from: u64, to: u64) -> Expectation {
        self.op(Op::Verify {
            range: range(from, to),
            gone: Gone::Skip,
            side: Side::Private,
            vcpu: VcpuId(0),
        })
    }

    fn punch(&mut self, from: u64, to: u64) -> Expectation {
        self.op(Op::Punch {
            range: range(from, to),
        })
    }

    fn log(&mut self, on: bool) -> Expectation {
        self.op(Op::DirtyLog { on })
    }
}

/// Changes of the counters (4K, 2M, 1G), split events, and populated pages afterwards.
#[track_caller]
fn shows(expected: &Expectation, pages: [i64; 3], splits: i64, populated: i64) {
    let PageDelta {
        pages_4k,
        pages_2m,
        pages_1g,
    } = expected.pages;
    let found = [pages_4k, pages_2m, pages_1g].map(|interval| interval.single().unwrap());
    assert_eq!(found, pages);
    assert_eq!(expected.splits, Interval::exactly(splits));
    assert_eq!(expected.populated, Interval::exactly(populated));
}

#[test]
fn ordinary_pages_come_and_go_one_by_one() {
    let mut vm = Vm::of(Backing::Small);
    shows(&vm.touch(0, 2 * M, PageLevel::Size4K), [512, 0, 0], 0, 512);
    shows(&vm.touch(0, 8 * M, PageLevel::Size2M), [3, 0, 0], 0, 515);
    shows(&vm.punch(M, M + 4096), [-1, 0, 0], 0, 514);
    shows(&vm.punch(0, 64 * M), [-514, 0, 0], 0, 0);
}

#[test]
fn a_huge_page_comes_and_goes_as_a_whole() {
    let mut vm = Vm::of(Backing::Hugetlb2M);
    shows(
        &vm.touch(3 * M, 3 * M + 4096, PageLevel::Size4K),
        [0, 1, 0],
        0,
        512,
    );
    shows(
        &vm.touch(2 * M, 6 * M, PageLevel::Size4K),
        [0, 1, 0],
        0,
        1024,
    );
    // Only 4M..6M lies in the hole as a whole.
    shows(&vm.punch(3 * M, 7 * M), [0, -1, 0], 0, 512);
    shows(&vm.punch(2 * M, 3 * M), [0, 0, 0], 0, 512);
}

#[test]
fn a_gigabyte_page_splits_at_both_levels() {
    let mut vm = Vm::of(Backing::Hugetlb1G);
    shows(&vm.touch(0, 4096, PageLevel::Size4K), [0, 0, 1], 0, 262_144);
    let log = vm.log(true);
    shows(&log, [262_144, 0, -1], 513, 262_144);
    assert_eq!(log.split_leaves.len(), 513);
    // Of the leaves at the base both have split, the larger and the one below it.
    let levels: Vec<_> = log
        .split_leaves
        .iter()
        .take(2)
        .map(|leaf| leaf.level)
        .collect();
    assert_eq!(levels, [PageLevel::Size2M, PageLevel::Size1G]);
}

#[test]
fn logging_splits_what_is_mapped_once_and_faults_map_small() {
    let mut vm = Vm::of(Backing::Hugetlb2M);
    vm.touch(0, 8 * M, PageLevel::Size2M);
    shows(&vm.log(true), [2048, -4, 0], 4, 2048);
    shows(&vm.log(true), [0, 0, 0], 0, 2048);
    shows(
        &vm.touch(8 * M, 10 * M, PageLevel::Size2M),
        [1, 0, 0],
        0,
        2560,
    );
    shows(&vm.log(false), [-2049, 5, 0], 0, 2560);
    shows(&vm.touch(0, 10 * M, PageLevel::Size4K), [0, 0, 0], 0, 2560);
}

/// What the log must and may name.
fn names(expected: &Expectation) -> Option<(Vec<GpaRange>, Vec<GpaRange>)> {
    let logged = expected.logged.clone()?;
    Some((logged.must, logged.may))
}

#[test]
fn the_log_names_what_is_written_and_what_a_fault_may_map_writable() {
    let mut vm = Vm::of(Backing::Hugetlb2M);
    assert_eq!(names(&vm.fill(1, 0, 4 * M)), None, "nothing is logged yet");
    assert_eq!(names(&vm.log(true)), Some((vec![], vec![])));
    let first = range(0, M);
    assert_eq!(names(&vm.fill(2, 0, M)), Some((vec![first], vec![])));
    // Half of it again: QEMU may have collected the log meanwhile.
    let again = (vec![range(M, 3 * M / 2)], vec![range(M / 2, M)]);
    assert_eq!(names(&vm.fill(3, M / 2, 3 * M / 2)), Some(again));
    assert_eq!(
        names(&vm.verify(0, 4 * M)),
        Some((vec![], vec![])),
        "all of it is mapped"
    );
    // One page of every 2M, of which the first two are mapped.
    let pages = [0, 2 * M, 4 * M, 6 * M].map(|at| range(at, at + 0x1000));
    let touched = vm.touch(0, 8 * M, PageLevel::Size2M);
    assert_eq!(names(&touched), Some((pages[1..].to_vec(), vec![pages[0]])));
    // Where nothing is mapped, reading may log; after that, writing may.
    let absent = range(10 * M, 10 * M + 0x2000);
    let read = vm.verify(10 * M, 10 * M + 0x2000);
    assert_eq!(names(&read), Some((vec![], vec![absent])));
    let written = vm.fill(4, 10 * M, 10 * M + 0x3000);
    let last = range(10 * M + 0x2000, 10 * M + 0x3000);
    assert_eq!(names(&written), Some((vec![last], vec![absent])));
    // A hole takes it from the page table, so that a fault logs it anew.
    vm.punch(0, 2 * M);
    assert_eq!(names(&vm.fill(5, 0, M)), Some((vec![first], vec![])));
    assert_eq!(names(&vm.log(false)), None);
    vm.log(true);
    assert_eq!(
        names(&vm.fill(6, 0, M)),
        Some((vec![first], vec![])),
        "protected anew"
    );
}

#[test]
fn older_kernels_zap_what_logging_has_split() {
    let mut vm = Vm::under("plain-zap", Backing::Hugetlb2M);
    vm.touch(0, 4 * M, PageLevel::Size2M);
    shows(&vm.log(true), [1024, -2, 0], 2, 1024);
    shows(&vm.log(false), [-1024, 0, 0], 0, 1024);
    shows(&vm.touch(0, 4 * M, PageLevel::Size4K), [0, 2, 0], 0, 1024);
}

#[test]
fn logging_that_ends_in_a_stopped_vm_ends_when_it_goes_on() {
    let mut vm = Vm::of(Backing::Hugetlb2M);
    vm.touch(0, 4 * M, PageLevel::Size2M);
    vm.op(Op::Stop);
    shows(&vm.log(true), [1024, -2, 0], 2, 1024);
    shows(&vm.log(false), [0, 0, 0], 0, 1024);
    // Started again before it ended: no effect.
    shows(&vm.log(true), [0, 0, 0], 0, 1024);
    shows(&vm.op(Op::Cont), [0, 0, 0], 0, 1024);
    vm.op(Op::Stop);
    shows(&vm.log(false), [0, 0, 0], 0, 1024);
    // Stopping has no effect on mappings.
    shows(&vm.op(Op::Stop), [0, 0, 0], 0, 1024);
    shows(&vm.op(Op::Cont), [-1024, 2, 0], 0, 1024);
}

#[test]
fn logging_ordinary_memory_changes_nothing() {
    let mut vm = Vm::of(Backing::Small);
    vm.touch(0, 2 * M, PageLevel::Size4K);
    shows(&vm.log(true), [0, 0, 0], 0, 512);
    shows(&vm.log(false), [0, 0, 0], 0, 512);
}

#[test]
fn a_transparent_page_with_a_hole_stays_in_pieces_until_it_is_gone() {
    let mut vm = Vm::of(Backing::Transparent);
    shows(&vm.touch(0, 4 * M, PageLevel::Size2M), [0, 2, 0], 0, 1024);
    shows(&vm.punch(M, M + 4096), [0, -1, 0], 0, 1023);
    shows(&vm.touch(0, 2 * M, PageLevel::Size4K), [512, 0, 0], 0, 1024);
    shows(&vm.punch(0, M), [-256, 0, 0], 0, 768);
    shows(&vm.punch(M, 2 * M), [-256, 0, 0], 0, 512);
    shows(&vm.touch(0, 4096, PageLevel::Size4K), [0, 1, 0], 0, 1024);
}

#[test]
fn a_hole_is_zero_and_its_neighbours_are_not() {
    let mut vm = Vm::of(Backing::Hugetlb2M);
    vm.fill(1, 0, 8 * M);
    vm.punch(3 * M, 5 * M);
    let reads: Vec<_> = vm
        .verify(0, 8 * M)
        .reads
        .iter()
        .map(|read| (read.range, read.content))
        .collect();
    let filled = Content::Filled(Generation::new(1).unwrap());
    assert_eq!(
        reads,
        [
            (range(0, 3 * M), filled),
            (range(3 * M, 5 * M), Content::Zero),
            (range(5 * M, 8 * M), filled),
        ]
    );
}

#[test]
fn past_the_end_there_is_nothing() {
    let mut vm = Vm::of(Backing::Hugetlb2M);
    vm.touch(62 * M, 64 * M, PageLevel::Size2M);
    shows(&vm.punch(62 * M, 80 * M), [0, -1, 0], 0, 0);
    shows(&vm.punch(64 * M, 80 * M), [0, 0, 0], 0, 0);
}

#[test]
fn what_is_allocated_is_not_mapped() {
    let mut vm = Vm::of(Backing::Hugetlb2M);
    let allocated = vm.op(Op::Allocate {
        range: range(M, 3 * M),
    });
    shows(&allocated, [0, 0, 0], 0, 1024);
    shows(&vm.touch(0, 4 * M, PageLevel::Size2M), [0, 2, 0], 0, 1024);
}

#[test]
fn what_nobody_can_judge_is_refused() {
    let refused = |vm: &mut Vm, op| vm.0.step(&Action::One(op)).unwrap_err().why;
    let mut vm = Vm::of(Backing::Transparent);
    assert!(refused(&mut vm, Op::Allocate { range: range(0, M) }).contains("folios"));
    assert!(refused(&mut vm, Op::Prefault { range: range(0, M) }).contains("private"));
    vm.op(Op::Stop);
    let touch = Op::Touch {
        range: range(0, M),
        stride: PageLevel::Size4K,
        access: AccessKind::Read,
        side: Side::Private,
        on_ve: OnVe::Skip,
        same_rip: false,
        vcpu: VcpuId(0),
    };
    assert!(refused(&mut vm, touch).contains("stopped"));
    vm.op(Op::Cont);
    vm.touch(0, M, PageLevel::Size4K);
    let mut td = Predictor::new(
        Design::named("headtail").unwrap(),
        &Guest {
            backing: None,
            slots: vec![tdxlab_plan::Slot {
                range: range(0, 64 * M),
                gmem_offset: 0,
            }],
            ..guest(Backing::Small, 64 * M)
        },
    );
    assert!(td.step(&Action::One(Op::Stop)).is_err());
}

#[test]
fn every_access_of_a_plain_vm_completes() {
    let mut vm = Vm::of(Backing::Small);
    let done = Some(vec![(range(0, M), AccessOutcome::Done)]);
    assert_eq!(vm.touch(0, M, PageLevel::Size4K).accesses, done);
    assert_eq!(vm.fill(1, 0, M).accesses, done);
    assert_eq!(vm.punch(0, M).accesses, None);
}

#[test]
fn every_host_call_ends_well_once() {
    let mut vm = Vm::of(Backing::Hugetlb2M);
    assert!(vm.touch(0, M, PageLevel::Size4K).errnos.is_empty());
    assert_eq!(vm.punch(0, M).errnos, [0]);
    assert_eq!(vm.log(true).errnos, [0]);
    assert_eq!(vm.log(false).errnos, [0]);
    assert_eq!(vm.op(Op::Stop).errnos, [0]);
    assert_eq!(vm.op(Op::Cont).errnos, [0]);
    let range = range(0, 2 * M);
    assert_eq!(vm.op(Op::Allocate { range }).errnos, [0]);
}

/// A leaf of 2M has no leaf of 1G above it to split.
#[test]
fn logging_lists_each_leaf_once() {
    let mut vm = Vm::of(Backing::Hugetlb2M);
    vm.touch(2 * M, 6 * M, PageLevel::Size2M);
    let listed = vm.log(true).split_leaves;
    let found: Vec<_> = listed.iter().map(|leaf| (leaf.gpa, leaf.level)).collect();
    let at = |offset| Gpa::new(BASE + offset);
    let level = PageLevel::Size2M;
    assert_eq!(found, [(at(2 * M), level), (at(4 * M), level)]);
}

/// The list has an end, whatever the level.
#[test]
fn the_list_of_leaves_logging_splits_is_limited() {
    let guest = guest(Backing::Hugetlb1G, 16 << 30);
    let mut vm = Vm(Predictor::new(Design::named("plain").unwrap(), &guest));
    vm.touch(0, 16 << 30, PageLevel::Size1G);
    let log = vm.log(true);
    assert_eq!(log.splits, Interval::exactly(16 * 513));
    assert_eq!(log.split_leaves.len(), Expectation::MAX_SPLIT_LEAVES);
}

/// Pieces are no huge page that could get its leaf back.
#[test]
fn pieces_stay_pages_when_logging_ends() {
    let mut vm = Vm::of(Backing::Transparent);
    vm.touch(0, 4 * M, PageLevel::Size2M);
    vm.punch(M, M + 4096);
    vm.touch(0, M, PageLevel::Size4K);
    shows(&vm.log(true), [512, -1, 0], 1, 1023);
    shows(&vm.log(false), [-512, 1, 0], 0, 1023);
}

#[test]
fn the_picture_of_a_plain_vm() {
    let page = RegionState::PageAccepted;
    let leaf = RegionState::LeafAccepted;
    let mut vm = Vm::of(Backing::Transparent);
    vm.touch(0, 4 * M, PageLevel::Size2M);
    vm.touch(8 * M, 8 * M + 4096, PageLevel::Size4K);
    vm.punch(M, M + 4096);
    vm.touch(0, M, PageLevel::Size4K);
    let all = [
        (range(0, M), page),
        (range(2 * M, 4 * M), leaf),
        (range(8 * M, 10 * M), leaf),
    ];
    assert_eq!(vm.0.state_map(range(0, 64 * M), 100), all);
    assert_eq!(vm.0.state_map(range(0, 64 * M), 2), all[..2]);
    let all_over = |from, to| vm.0.state_all_over(range(from, to));
    assert_eq!(all_over(0, M), Some(page));
    assert_eq!(all_over(2 * M, 4 * M), Some(leaf));
    assert_eq!(all_over(4 * M, 8 * M), Some(RegionState::Empty));
    assert_eq!(all_over(0, 2 * M), None);
    let cut = [(range(3 * M, 4 * M), leaf)];
    assert_eq!(vm.0.state_map(range(3 * M, 8 * M), 100), cut);
    let mut small = Vm::of(Backing::Small);
    small.touch(0, 2 * M, PageLevel::Size4K);
    let pages = [(range(0, 2 * M), page)];
    assert_eq!(small.0.state_map(range(0, 64 * M), 100), pages);
}
