//! Results visible in the guest: the sizes Linux tries, probes, shared accesses; and a step without
//! such operations expects none.

use tdxlab_plan::{AccessOutcome, PageDelta, StatusRun};

use super::*;

/// `try_accept_one()`: 1G first wherever it fits, which is an invalid operand, then 2M, then 4K.
#[rstest]
#[case::exactly_1g(0, G, &[(PageLevel::Size1G, 1, INVALID), (PageLevel::Size2M, 512, SUCCESS)])]
#[case::a_leaf_less(0, G - LEAF, &[(PageLevel::Size2M, 511, SUCCESS)])]
#[case::from_between_boundaries(2 * M, 2 * G + 2 * M + PAGE, &[
    (PageLevel::Size2M, 511, SUCCESS),
    (PageLevel::Size1G, 1, INVALID),
    (PageLevel::Size2M, 513, SUCCESS),
    (PageLevel::Size4K, 1, SUCCESS),
])]
#[case::most_of_a_leaf_at_the_end(0, 3 * M + 512 * K, &[
    (PageLevel::Size2M, 1, SUCCESS),
    (PageLevel::Size4K, 384, SUCCESS),
])]
#[case::part_of_a_leaf_at_the_start(PAGE, 2 * LEAF, &[
    (PageLevel::Size4K, 511, SUCCESS),
    (PageLevel::Size2M, 1, SUCCESS),
])]
fn linux_tries_the_largest_size_first(
    #[case] start: u64,
    #[case] end: u64,
    #[case] wanted: &[(PageLevel, u64, u64)],
    #[values("v3", "v5", "headtail")] name: &str,
) {
    let mut predictor = after(name, &guest(3 * G), &[]);
    let expected = one(&mut predictor, accept(start, end, Size::Linux));
    let runs = expected.statuses.unwrap().into_iter();
    let found: Vec<_> = runs.map(|run| (run.level, run.count, run.status)).collect();
    assert_eq!(found, wanted);
}

/// Equal results of adjacent leaves are one run.
#[test]
fn equal_statuses_are_one_run() {
    let before = [touch(0, PAGE)];
    let mut predictor = after("v3", &guest(8 * M), &before);
    let statuses = one(&mut predictor, accept_2m(0, 2 * LEAF))
        .statuses
        .unwrap();
    let run = StatusRun {
        start: range(0, PAGE).start(),
        level: PageLevel::Size2M,
        count: 2,
        status: SUCCESS,
    };
    assert_eq!(statuses, [run]);
}

/// ATTR.RD maps a missing page and then tells that it is pending, without #VE.
#[rstest]
#[case::missing(&[], PageLevel::Size4K, &[(0, 1536, PageLevel::Size2M, true)])]
#[case::missing_by_leaf(&[], PageLevel::Size2M, &[(0, 3, PageLevel::Size2M, true)])]
#[case::accepted(&[accept_2m(0, 6 * M)], PageLevel::Size2M, &[(0, 3, PageLevel::Size2M, false)])]
#[case::in_pages(&[accept_4k(0, 6 * M)], PageLevel::Size4K,
    &[(0, 1536, PageLevel::Size4K, false)])]
#[case::pages_in_the_middle(&[accept_4k(2 * M, 4 * M)], PageLevel::Size2M, &[
    (0, 1, PageLevel::Size2M, true),
    (2 * M, 1, PageLevel::Size4K, false),
    (4 * M, 1, PageLevel::Size2M, true),
])]
#[case::accepted_in_the_middle(&[accept_2m(2 * M, 4 * M)], PageLevel::Size4K, &[
    (0, 512, PageLevel::Size2M, true),
    (2 * M, 512, PageLevel::Size2M, false),
    (4 * M, 512, PageLevel::Size2M, true),
])]
fn probes(
    #[case] before: &[Op],
    #[case] stride: PageLevel,
    #[case] wanted: &[(u64, u64, PageLevel, bool)],
) {
    let mut predictor = after("headtail", &guest(8 * M), before);
    let expected = one(&mut predictor, probe(0, 6 * M, stride));
    let runs = expected.probes.unwrap().into_iter();
    let found: Vec<_> = runs
        .map(|run| (run.start, run.count, run.level, run.pending))
        .collect();
    let start = |offset| range(offset, offset).start();
    let wanted: Vec<_> = wanted
        .iter()
        .map(|&(offset, count, level, pending)| (start(offset), count, level, pending))
        .collect();
    assert_eq!(found, wanted);
}

fn touch_by(start: u64, end: u64, stride: PageLevel, side: Side, on_ve: OnVe) -> Op {
    Op::Touch {
        range: range(start, end),
        stride,
        access: AccessKind::Read,
        side,
        on_ve,
        same_rip: false,
        vcpu: VcpuId(0),
    }
}

/// Shared mappings are 4K leaves; accesses to them raise no #VE.
#[rstest]
#[case::every_page(PageLevel::Size4K, 2048)]
#[case::one_page_of_each_leaf(PageLevel::Size2M, 4)]
fn shared_accesses_map_pages(
    #[case] stride: PageLevel,
    #[case] pages: i64,
    #[values("stock", "v3", "headtail")] name: &str,
) {
    let mut predictor = after(name, &guest(8 * M), &[share(0, 8 * M)]);
    let op = touch_by(0, 8 * M, stride, Side::Shared, OnVe::Skip);
    let expected = one(&mut predictor, op);
    assert_eq!(expected.pages.pages_4k.single(), Some(pages));
    let all = vec![(range(0, 8 * M), AccessOutcome::Done)];
    assert_eq!(expected.accesses, Some(all));
}

/// Every page of a pending leaf raises its own #VE, which the handler skips or accepts.
#[rstest]
#[case::skipped(OnVe::Skip, AccessOutcome::Ve, 0)]
#[case::accepted(OnVe::Accept, AccessOutcome::Accepted, 1)]
fn private_accesses_before_accept(
    #[case] on_ve: OnVe,
    #[case] outcome: AccessOutcome,
    #[case] splits: i64,
) {
    let before = [accept_2m(LEAF, 2 * LEAF)];
    let mut predictor = after("headtail", &guest(8 * M), &before);
    let op = touch_by(0, 2 * LEAF, PageLevel::Size4K, Side::Private, on_ve);
    let expected = one(&mut predictor, op);
    assert_eq!(expected.splits.single(), Some(splits));
    let accesses = vec![
        (range(0, LEAF), outcome),
        (range(LEAF, 2 * LEAF), AccessOutcome::Done),
    ];
    assert_eq!(expected.accesses, Some(accesses));
}

/// Only results of the step's operations are expected; statuses that a race allows belong to a
/// race.
#[rstest]
#[case::accept(accept_4k(0, PAGE), [true, false, false])]
#[case::touch(touch(0, PAGE), [false, true, false])]
#[case::probe(probe(0, PAGE, PageLevel::Size4K), [false, false, true])]
#[case::hole(punch(0, LEAF), [false; 3])]
#[case::handler(
    touch_by(0, PAGE, PageLevel::Size4K, Side::Private, OnVe::Accept), [false, true, false])]
fn only_what_the_step_does(#[case] op: Op, #[case] told: [bool; 3]) {
    let expected = one(&mut after("headtail", &guest(8 * M), &[]), op);
    let found = [
        expected.statuses.is_some(),
        expected.accesses.is_some(),
        expected.probes.is_some(),
    ];
    assert_eq!(found, told);
    assert!(expected.legal_statuses.is_empty());
}

/// Allocation maps no page and causes no exit.
#[test]
fn allocation_is_seen_by_the_file_only() {
    let allocate = Op::Allocate {
        range: range(0, LEAF),
    };
    let expected = one(&mut after("headtail", &guest(8 * M), &[]), allocate);
    assert_eq!(expected.errnos, [0]);
    assert_eq!(expected.accept_exits.single(), Some(0));
    assert_eq!(expected.access_exits.single(), Some(0));
    assert_eq!(expected.pages, PageDelta::default());
    assert_eq!(expected.populated.single(), Some(512));
}

/// The vCPU that kills the TD reports no further results.
#[test]
fn a_dead_td_tells_nothing() {
    let guest = Guest {
        sept_ve_disable: true,
        ..guest(8 * M)
    };
    let expected = one(&mut after("v3", &guest, &[]), touch(0, PAGE));
    assert!(!expected.td_alive);
    assert_eq!(expected.accesses, None);
}

#[test]
fn nothing_known_cannot_be_verified() {
    let mut predictor = after("v3", &guest(8 * M), &[]);
    let op = verify(0, LEAF, Gone::Skip);
    let error = predictor.step(&Action::One(op)).unwrap_err();
    assert!(error.why.contains("known to hold"), "{error}");
}

/// No exit, no unmapping: only the next ACCEPT shows it.
#[test]
fn what_the_guest_gave_back_is_pending_and_will_be_zero() {
    let mut predictor = after(
        "headtail",
        &guest(8 * M),
        &[accept_2m(0, 2 * LEAF), fill(0, 2 * LEAF, 1, Side::Private)],
    );
    let released = one(&mut predictor, release(0, LEAF, PageLevel::Size2M));
    assert_eq!(released.accept_exits.single(), Some(0));
    assert_eq!(released.pages.pages_2m.single(), Some(0));
    let accepted = one(&mut predictor, accept_4k(PAGE, 2 * PAGE));
    assert_eq!(accepted.accept_exits.single(), Some(1));
    assert_eq!(accepted.pages.pages_2m.single(), Some(-1));
    assert_eq!(accepted.pages.pages_4k.single(), Some(512));
    let mut again = || one(&mut predictor, release(PAGE, 2 * PAGE, PageLevel::Size4K));
    assert_eq!(again().accept_exits.single(), Some(0));
}
