//! The operations table: each operation in each state, row by row.

use rstest::rstest;
use tdxlab_protocol::message::{Access, Content, Run};

use super::*;

const SUCCESS: u64 = 0;
const ALREADY_ACCEPTED_4K: u64 = 0x0000_0b0a_0000_0000;
const ALREADY_ACCEPTED_2M: u64 = 0x0000_0b0a_0000_0001;
const SIZE_MISMATCH: u64 = 0xc000_0b0b_0000_0001;
const OPERAND_INVALID: u64 = 0xc000_0100_0000_0001;

/// A row: exits, splits, change of pages_2m and pages_4k.
fn row(exits: u64, splits: usize, pages_2m: i64, pages_4k: i64) -> (u64, usize, i64, i64) {
    (exits, splits, pages_2m, pages_4k)
}

fn check(bench: &mut Bench, op: &Op, row: (u64, usize, i64, i64)) -> Observed {
    let (observed, change) = bench.observe(op);
    assert_eq!(
        (
            change.exits,
            change.splits,
            change.pages_2m,
            change.pages_4k
        ),
        row,
        "{op:?}"
    );
    observed
}

const HUGE: [&str; 3] = ["v3", "v5", "headtail"];

#[rstest]
#[case::accept_2m_on_empty(vec![], accept(0, 2 * M, Size::Size2M), row(1, 0, 1, 0), &[(1, SUCCESS)])]
#[case::accept_4k_on_empty(vec![], accept(0, 4 * K, Size::Size4K), row(1, 0, 0, 1), &[(1, SUCCESS)])]
#[case::accept_512_times_4k_on_empty(
    vec![], accept(0, 2 * M, Size::Size4K), row(512, 0, 0, 512), &[(512, SUCCESS)])]
#[case::accept_4k_on_2m_pending(
    vec![prefault(0, 2 * M)],
    accept(4 * K, 8 * K, Size::Size4K), row(1, 1, -1, 512), &[(1, SUCCESS)])]
#[case::the_other_511(
    vec![prefault(0, 2 * M), accept(0, 4 * K, Size::Size4K)],
    accept(4 * K, 2 * M, Size::Size4K), row(0, 0, 0, 0), &[(511, SUCCESS)])]
#[case::accept_4k_on_2m_accepted(
    vec![accept(0, 2 * M, Size::Size2M)],
    accept(0, 8 * K, Size::Size4K), row(0, 0, 0, 0), &[(2, ALREADY_ACCEPTED_2M)])]
#[case::accept_4k_on_4k_accepted(
    vec![accept(0, 4 * K, Size::Size4K)],
    accept(0, 4 * K, Size::Size4K), row(0, 0, 0, 0), &[(1, ALREADY_ACCEPTED_4K)])]
#[case::accept_2m_on_a_table(
    vec![accept(0, 4 * K, Size::Size4K)],
    accept(0, 2 * M, Size::Size2M), row(0, 0, 0, 0), &[(1, SIZE_MISMATCH)])]
#[case::accept_2m_on_2m_accepted(
    vec![accept(0, 2 * M, Size::Size2M)],
    accept(0, 2 * M, Size::Size2M), row(0, 0, 0, 0), &[(1, ALREADY_ACCEPTED_2M)])]
#[case::accept_2m_on_2m_pending(
    vec![prefault(0, 2 * M)],
    accept(0, 2 * M, Size::Size2M), row(0, 0, 0, 0), &[(1, SUCCESS)])]
#[case::accept_after_back_to_private_4k(
    vec![
        accept(0, 2 * M, Size::Size2M),
        convert(0, 4 * K, Side::Shared),
        convert(0, 4 * K, Side::Private),
    ],
    accept(0, 4 * K, Size::Size4K), row(1, 0, 0, 1), &[(1, SUCCESS)])]
#[case::accept_after_back_to_private_2m(
    vec![
        accept(0, 2 * M, Size::Size2M),
        convert(0, 2 * M, Side::Shared),
        convert(0, 2 * M, Side::Private),
    ],
    accept(0, 2 * M, Size::Size2M), row(1, 0, 1, 0), &[(1, SUCCESS)])]
#[case::accept_2m_after_a_split_and_back(
    vec![
        accept(0, 2 * M, Size::Size2M),
        convert(0, 4 * K, Side::Shared),
        convert(0, 2 * M, Side::Shared),
        convert(0, 2 * M, Side::Private),
    ],
    accept(0, 2 * M, Size::Size2M), row(0, 0, 0, 0), &[(1, SIZE_MISMATCH)])]
#[case::accept_4k_after_a_split_and_back(
    vec![
        accept(0, 2 * M, Size::Size2M),
        convert(0, 4 * K, Side::Shared),
        convert(0, 2 * M, Side::Shared),
        convert(0, 2 * M, Side::Private),
    ],
    accept(0, 2 * M, Size::Size4K), row(512, 0, 0, 512), &[(512, SUCCESS)])]
fn accepting(
    #[values("v3", "v5", "headtail")] design: &str,
    #[case] given: Vec<Op>,
    #[case] op: Op,
    #[case] expected: (u64, usize, i64, i64),
    #[case] codes: &[(u32, u64)],
) {
    let mut bench = given.into_iter().fold(Bench::new(design), Bench::given);
    let observed = check(&mut bench, &op, expected);
    assert_eq!(statuses(&observed), codes);
}

#[rstest]
fn a_1g_accept_is_an_invalid_operand(#[values("stock", "v5")] design: &str) {
    let mut bench = Bench::with(&guest(1 << 30), design);
    let observed = check(
        &mut bench,
        &accept(0, 1 << 30, Size::Size1G),
        row(0, 0, 0, 0),
    );
    assert_eq!(statuses(&observed), [(1, OPERAND_INVALID)]);
}

#[test]
fn stock_answers_a_2m_accept_with_a_4k_page_and_a_mismatch() {
    let mut bench = Bench::new("stock");
    let observed = check(&mut bench, &accept(0, 4 * M, Size::Size2M), row(2, 0, 0, 2));
    assert_eq!(statuses(&observed), [(2, SIZE_MISMATCH)]);
    let observed = check(
        &mut bench,
        &accept(0, 2 * M, Size::Size4K),
        row(511, 0, 0, 511),
    );
    assert_eq!(statuses(&observed), [(512, SUCCESS)]);
}

#[test]
fn linux_falls_back_from_1g_to_2m_to_4k() {
    let mut bench = Bench::with(&guest(1 << 30), "v5").given(accept(0, 4 * K, Size::Size4K));
    let (observed, _) = bench.observe(&accept(0, 1 << 30, Size::Linux));
    let levels: Vec<_> = observed
        .runs
        .iter()
        .take(4)
        .map(|run| match run {
            Run::Accept {
                level,
                count,
                status,
                ..
            } => (*level, *count, *status),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(
        levels,
        [
            (PageLevel::Size1G, 1, OPERAND_INVALID),
            (PageLevel::Size2M, 1, SIZE_MISMATCH),
            // Linux takes any non-zero code of the smallest size for the end.
            (PageLevel::Size4K, 1, ALREADY_ACCEPTED_4K),
        ]
    );
    assert_eq!(observed.runs.len(), 3);
}

#[rstest]
fn an_access_to_empty_memory_raises_ve_and_leaves_a_pending_2m_page(
    #[values("v3", "v5", "headtail")] design: &str,
) {
    let mut bench = Bench::new(design);
    let op = touch(0, 2 * M, Side::Private, OnVe::Skip);
    let observed = check(&mut bench, &op, row(1, 0, 1, 0));
    assert_eq!(
        observed.runs,
        [Run::Access {
            start: gpa(0),
            count: 512,
            outcome: Access::Ve
        }],
        "each 4K page of the pending leaf raises its own"
    );
    assert_eq!(observed.counts.ve, 512);
}

#[test]
fn a_ve_handler_that_accepts_splits_the_page_it_caused() {
    let mut bench = Bench::new("v5");
    let op = touch(0, 2 * M, Side::Private, OnVe::Accept);
    let observed = check(&mut bench, &op, row(2, 1, 0, 512));
    assert_eq!(
        observed.runs,
        [Run::Access {
            start: gpa(0),
            count: 512,
            outcome: Access::Accepted
        }]
    );
}

#[rstest]
fn an_access_before_accept_kills_where_ve_is_disabled(
    #[values("stock", "v3", "v5", "headtail")] design: &str,
) {
    let mut bench = Bench::with(
        &Guest {
            sept_ve_disable: true,
            ..guest(64 * M)
        },
        design,
    );
    let op = touch(0, 4 * K, Side::Private, OnVe::Skip);
    let mapped = if design == "stock" { (0, 1) } else { (1, 0) };
    let observed = check(&mut bench, &op, row(1, 0, mapped.0, mapped.1));
    let death = observed.death.expect("death");
    assert_eq!(death.by, tdxlab_journal::Killer::AccessBeforeAccept);
    assert_eq!(
        death.text,
        "kvm_intel: Guest access before accepting 0x40000000 on vCPU 0"
    );
    assert_eq!(
        bench.before.kernel_log.value().map(Vec::as_slice),
        Some(&[death.text][..])
    );
    let after = bench.perform(&accept(0, 2 * M, Size::Size2M));
    assert!(after.death.is_some() && after.runs.is_empty());
}

#[rstest]
fn a_probe_of_missing_memory_maps_it_pending(#[values("v3", "v5", "headtail")] design: &str) {
    let mut bench = Bench::new(design);
    let observed = check(&mut bench, &probe(0, 2 * M), row(1, 0, 1, 0));
    assert!(
        matches!(
            observed.runs[..],
            [Run::Probe {
                count: 512,
                status: 0,
                level: 1,
                pending: true,
                ..
            }]
        ),
        "{:?}",
        observed.runs
    );
}

/// Four accepted and filled leaves.
fn four_leaves(design: &str) -> Bench {
    Bench::new(design)
        .given(accept(0, 8 * M, Size::Size2M))
        .given(fill(0, 8 * M, 7))
}

#[rstest]
#[case::one_page(0, 4 * K, 1, -1, 511)]
#[case::k_pages_in_the_middle(M, M + 40 * K, 1, -1, 502)]
#[case::the_whole_leaf(0, 2 * M, 0, -1, 0)]
#[case::head_whole_and_tail(M, 5 * M, 3, -3, 1536 - 1024)]
#[case::two_whole_leaves(2 * M, 6 * M, 0, -2, 0)]
#[case::aligned_start_unaligned_end(2 * M, 5 * M, 1, -2, 256)]
#[case::nothing_mapped(16 * M, 24 * M, 0, 0, 0)]
fn converting_to_shared(
    #[values("v3", "v5", "headtail")] design: &str,
    #[case] start: u64,
    #[case] end: u64,
    #[case] splits: usize,
    #[case] pages_2m: i64,
    #[case] pages_4k: i64,
) {
    let mut bench = four_leaves(design);
    let op = convert(start, end, Side::Shared);
    let observed = check(&mut bench, &op, row(0, splits, pages_2m, pages_4k));
    assert!(
        matches!(observed.runs[..], [Run::MapGpa { status: 0, stopped_at, .. }] if stopped_at == gpa(end)),
        "{:?}",
        observed.runs
    );
    let intact = |start, end| {
        (start < end).then_some(Run::Content {
            start: gpa(start),
            count: ((end - start) >> 12) as u32,
            content: Content::Own(Generation::new(7).unwrap()),
        })
    };
    let mut outside = bench.verify(0, start.min(8 * M));
    outside.extend(bench.verify(end.min(8 * M), 8 * M));
    let expected: Vec<Run> = [intact(0, start.min(8 * M)), intact(end.min(8 * M), 8 * M)]
        .into_iter()
        .flatten()
        .collect();
    assert_eq!(outside, expected, "what was not converted is intact");
}

#[test]
fn an_unaligned_conversion_splits_every_leaf_it_touches() {
    for design in HUGE {
        let mut bench = Bench::new(design).given(accept(0, 10 * M, Size::Size2M));
        let op = convert(M, 9 * M, Side::Shared);
        let (_, change) = bench.observe(&op);
        assert_eq!(change.splits, 5, "{design}");
        assert_eq!((change.pages_2m, change.pages_4k), (-5, 5 * 512 - 2048));
    }
}

#[test]
fn converting_more_of_a_split_leaf_only_takes_pages() {
    for design in HUGE {
        let mut bench = four_leaves(design).given(convert(0, 4 * K, Side::Shared));
        check(
            &mut bench,
            &convert(0, 32 * K, Side::Shared),
            row(0, 0, 0, -7),
        );
        check(
            &mut bench,
            &convert(0, 32 * K, Side::Shared),
            row(0, 0, 0, 0),
        );
    }
}

#[test]
fn an_implicit_conversion_counts_as_one() {
    for design in HUGE {
        let mut bench = four_leaves(design);
        let op = touch(M, M + 4 * K, Side::Shared, OnVe::Skip);
        // The split, one private page less, one shared page more.
        check(&mut bench, &op, row(0, 1, -1, 512));
        let op = accept(M, M + 4 * K, Size::Size4K);
        let observed = check(&mut bench, &op, row(1, 0, 0, 0));
        assert_eq!(statuses(&observed), [(1, SUCCESS)]);
        assert_eq!(bench.change().populated, 0);
    }
}

#[rstest]
#[case::aligned(2 * M, 6 * M, 0, -2, 0, -1024)]
#[case::unmapped(16 * M, 24 * M, 0, 0, 0, 0)]
#[case::past_the_end(62 * M, 80 * M, 0, 0, 0, 0)]
#[case::wholly_past_the_end(64 * M, 66 * M, 0, 0, 0, 0)]
fn aligned_holes(
    #[values("v3", "v5", "headtail")] design: &str,
    #[case] start: u64,
    #[case] end: u64,
    #[case] splits: usize,
    #[case] pages_2m: i64,
    #[case] pages_4k: i64,
    #[case] populated: i64,
) {
    let mut bench = four_leaves(design);
    let (observed, change) = bench.observe(&punch(start, end));
    assert_eq!(observed.errno, Some(0));
    assert_eq!(
        (
            change.splits,
            change.pages_2m,
            change.pages_4k,
            change.populated
        ),
        (splits, pages_2m, pages_4k, populated)
    );
}

#[rstest]
#[case::head_and_tail(M, 7 * M, 2, -4, 512, -1536)]
#[case::inside_one_leaf(M, M + 8 * K, 1, -1, 510, -2)]
#[case::first_page_of_a_leaf(2 * M, 2 * M + 4 * K, 1, -1, 511, -1)]
#[case::last_page_of_a_leaf(4 * M - 4 * K, 4 * M, 1, -1, 511, -1)]
#[case::head_only(3 * M, 6 * M, 1, -2, 256, -768)]
#[case::tail_only(2 * M, 5 * M, 1, -2, 256, -768)]
fn unaligned_holes(
    #[case] start: u64,
    #[case] end: u64,
    #[case] splits: usize,
    #[case] pages_2m: i64,
    #[case] pages_4k: i64,
    #[case] populated: i64,
) {
    let mut bench = four_leaves("headtail");
    let (observed, change) = bench.observe(&punch(start, end));
    assert_eq!(observed.errno, Some(0));
    assert_eq!(
        (
            change.splits,
            change.pages_2m,
            change.pages_4k,
            change.populated
        ),
        (splits, pages_2m, pages_4k, populated)
    );
    let own = Content::Own(Generation::new(7).unwrap());
    let content = |start: u64, end: u64, content| Run::Content {
        start: gpa(start),
        count: ((end - start) >> 12) as u32,
        content,
    };
    assert_eq!(
        bench.verify(0, 8 * M),
        [
            content(0, start, own.clone()),
            content(start, end, Content::NotAccepted),
            content(end, 8 * M, own)
        ]
    );

    for design in ["v3", "v5"] {
        let mut bench = four_leaves(design);
        let (observed, change) = bench.observe(&punch(start, end));
        assert_eq!(observed.errno, Some(libc::EINVAL), "{design}");
        assert_eq!(change, Change::default(), "nothing changes");
    }
}

#[rstest]
fn a_hole_that_is_not_made_of_pages_is_refused(
    #[values("stock", "v3", "v5", "headtail")] design: &str,
) {
    let mut bench = Bench::new(design).given(accept(0, 4 * K, Size::Size4K));
    let (observed, change) = bench.observe(&punch(512, 4 * K));
    assert_eq!(observed.errno, Some(libc::EINVAL));
    assert_eq!(change, Change::default());
}

#[test]
fn a_hole_over_split_memory_takes_its_pages() {
    for design in HUGE {
        let mut bench = Bench::new(design).given(accept(0, 40 * K, Size::Size4K));
        let (_, change) = bench.observe(&punch(0, 2 * M));
        assert_eq!((change.pages_2m, change.pages_4k), (0, -10));
        assert_eq!(change.populated, -512);
    }
}

#[test]
fn a_hole_leaves_a_pending_leaf_pending_around_it() {
    let mut bench = Bench::new("headtail").given(prefault(0, 2 * M));
    check(&mut bench, &punch(M, M + 4 * K), row(0, 1, -1, 511));
    let observed = check(
        &mut bench,
        &touch(0, M, Side::Private, OnVe::Skip),
        row(0, 0, 0, 0),
    );
    assert!(matches!(
        observed.runs[..],
        [Run::Access {
            count: 256,
            outcome: Access::Ve,
            ..
        }]
    ));
}

#[rstest]
fn prefault_maps_pending_memory_without_an_exit(#[values("v3", "v5", "headtail")] design: &str) {
    let mut bench = Bench::new(design);
    check(&mut bench, &prefault(0, 3 * M), row(0, 0, 2, 0));
    check(&mut bench, &prefault(0, 3 * M), row(0, 0, 0, 0));
}

#[test]
fn stock_converts_by_punching() {
    let mut bench = Bench::new("stock").given(accept(0, 32 * K, Size::Size4K));
    let (observed, change) = bench.observe(&convert(0, 16 * K, Side::Shared));
    assert_eq!(observed.leaves_zapped, Some(4));
    assert_eq!(
        (change.splits, change.pages_4k, change.populated),
        (0, -4, -4)
    );
    let op = touch(0, 16 * K, Side::Shared, OnVe::Skip);
    let (_, change) = bench.observe(&op);
    assert_eq!((change.pages_4k, change.populated), (4, 0));
    let (_, change) = bench.observe(&convert(0, 16 * K, Side::Private));
    assert_eq!((change.pages_4k, change.populated), (-4, 0));
}

#[rstest]
#[case::walk("v3", &[(0, 64 * M, 32), (M, 7 * M, 0)])]
#[case::arithmetic("v5", &[(0, 64 * M, 0)])]
#[case::arithmetic_unaligned("headtail", &[(0, 64 * M, 0), (M, 7 * M, 2), (M, M + 4 * K, 1)])]
fn entries_looked_at(#[case] design: &str, #[case] holes: &[(u64, u64, u64)]) {
    for &(start, end, looked) in holes {
        let mut bench = four_leaves(design);
        let (observed, _) = bench.observe(&punch(start, end));
        assert_eq!(observed.entries_looked_at, Some(looked), "{start}..{end}");
    }
}

#[test]
fn a_conversion_is_looked_at_chunk_by_chunk() {
    for (design, looked) in [("v3", 8), ("v5", 8), ("headtail", 8)] {
        let mut bench = four_leaves(design);
        let (observed, _) = bench.observe(&convert(M, 9 * M, Side::Shared));
        assert_eq!(observed.entries_looked_at, Some(looked), "{design}");
    }
    for (design, looked) in [("v3", 4), ("v5", 0), ("headtail", 0)] {
        let mut bench = four_leaves(design);
        let (observed, _) = bench.observe(&convert(0, 8 * M, Side::Shared));
        assert_eq!(observed.entries_looked_at, Some(looked), "{design}");
    }
}
