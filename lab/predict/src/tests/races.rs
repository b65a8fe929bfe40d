//! Where branches meet, and the knowledge left afterwards: docs/semantics.md, section 9.

use tdxlab_plan::{Content, Interval};

use super::*;

fn raced(name: &str, guest: &Guest) -> Predictor {
    let mut predictor = after(name, guest, &[]);
    predictor.step(&accepts_race()).unwrap();
    predictor
}

/// Two branches of one operation, in either order.
fn two(first: Op, second: Op, swapped: bool) -> Action {
    match swapped {
        false => parallel(&[&[first], &[second]]),
        true => parallel(&[&[second], &[first]]),
    }
}

const fn between(min: i64, max: i64) -> Interval {
    Interval { min, max }
}

/// A read and the conversion of one page: the other 511 stay accepted and filled in every order. A VMM
/// that has KVM map what was converted may get a leaf of it, and what is left is bounded then.
#[rstest]
#[case::exact(false, Interval::exactly(511), Interval::exactly(-1))]
#[case::mapped(true, between(0, 512), between(-1, 0))]
fn what_no_branch_changes_is_kept(
    #[case] maps: bool,
    #[case] pages_4k: Interval,
    #[case] pages_2m: Interval,
    #[values(false, true)] swapped: bool,
) {
    let before = [accept_2m(0, LEAF), fill(0, LEAF, 1, Side::Private)];
    let mut predictor = after("headtail", &guest(8 * M), &before).whose_vmm_maps_conversions(maps);
    let race = two(touch(0, 64 * K), share(M, M + PAGE), swapped);
    let expected = predictor.step(&race).unwrap();
    assert_eq!(expected.pages.pages_4k, pages_4k);
    assert_eq!(expected.pages.pages_2m, pages_2m);
    let read = one(&mut predictor, verify(0, LEAF, Gone::Skip)).reads;
    let filled: u64 = read
        .iter()
        .filter(|read| matches!(read.content, Content::Filled(_)))
        .map(|read| read.range.bytes())
        .sum();
    assert_eq!(filled, LEAF - PAGE);
}

/// At most one leaf or 512 pages; what is accepted stays as it is, and `stock` maps no leaf.
#[rstest]
#[case::nothing_before("headtail", &[], between(0, 512), between(0, 1), between(0, 1))]
#[case::table_before("headtail", &[accept_4k(0, LEAF)], between(0, 0), between(0, 0), between(0, 0))]
#[case::leaf_before("headtail", &[accept_2m(0, LEAF)], between(0, 512), between(-1, 0), between(0, 1))]
#[case::no_leaves("stock", &[], between(0, 512), between(0, 0), between(0, 0))]
fn bounds_of_a_race(
    #[case] name: &str,
    #[case] before: &[Op],
    #[case] pages_4k: Interval,
    #[case] pages_2m: Interval,
    #[case] splits: Interval,
) {
    let mut predictor = after(name, &guest(8 * M), before);
    let expected = predictor.step(&accepts_race()).unwrap();
    assert_eq!(expected.pages.pages_4k, pages_4k);
    assert_eq!(expected.pages.pages_2m, pages_2m);
    assert_eq!(expected.splits, splits);
}

/// Afterwards: a range over all of the region leaves no private mapping, and splits its leaf only
/// where the chunks of MapGPA start off a boundary.
#[rstest]
#[case::hole("headtail", punch(0, LEAF), between(-512, 0))]
#[case::hole_keeps_shared_memory_that_lies_elsewhere("stock", punch(0, LEAF), between(-512, 512))]
#[case::conversion("headtail", share(0, LEAF), between(-512, 512))]
fn nothing_private_is_left(#[case] name: &str, #[case] op: Op, #[case] pages_4k: Interval) {
    let mut predictor = raced(name, &guest(8 * M));
    let expected = one(&mut predictor, op);
    assert_eq!(expected.pages.pages_4k, pages_4k);
    let leaf = i64::from(name != "stock");
    assert_eq!(expected.pages.pages_2m, between(-leaf, 0));
    // The region may have no private mapping any more, so a second hole has no effect.
    let again = one(&mut predictor, punch(0, LEAF));
    assert_eq!(again.pages.pages_2m.max, 0);
}

#[test]
fn a_conversion_off_a_boundary_may_split_what_was_raced_over() {
    let mut predictor = after("headtail", &guest(16 * M), &[]);
    let race = parallel(&[&[accept_4k(2 * M, 4 * M)], &[accept_2m(2 * M, 4 * M)]]);
    predictor.step(&race).unwrap();
    let expected = one(&mut predictor, share(M, 9 * M));
    assert_eq!(expected.splits, between(0, 1));
}

/// Readable pages are mapped, and mapped pages are populated.
#[test]
fn a_region_that_was_read_as_a_whole_is_populated() {
    let mut predictor = raced("headtail", &guest(8 * M));
    let expected = one(&mut predictor, verify(0, LEAF, Gone::Every));
    assert_eq!(expected.populated.single(), Some(512));
    assert_eq!(expected.reads[0].content, Content::Raced);
}

/// Statuses are known within bounds, where the step makes ACCEPTs or its handler may.
#[rstest]
#[case::accept(accept(0, LEAF, Size::Linux), true)]
#[case::handler_skips(touch(0, LEAF), false)]
#[case::handler_accepts(handled(), true)]
#[case::hole(punch(0, M), false)]
fn statuses_after_a_race(#[case] op: Op, #[case] any: bool) {
    let mut predictor = raced("headtail", &guest(8 * M));
    let expected = one(&mut predictor, op);
    assert_eq!(expected.statuses, None);
    assert_eq!(expected.accesses, None);
    let busy = 0x8000_0200_0000_0001;
    for status in [SUCCESS, ALREADY_4K, ALREADY_2M, MISMATCH, INVALID, busy] {
        assert_eq!(
            expected.legal_statuses.contains(&status),
            any,
            "{status:#x}"
        );
    }
}

fn handled() -> Op {
    Op::Touch {
        range: range(0, LEAF),
        stride: PageLevel::Size4K,
        access: AccessKind::Read,
        side: Side::Private,
        on_ve: OnVe::Accept,
        same_rip: false,
        vcpu: VcpuId(0),
    }
}

/// Only an access before ACCEPT can kill the TD.
#[rstest]
#[case::touch(touch(0, PAGE), false)]
#[case::verify(verify(0, PAGE, Gone::Every), false)]
#[case::accept(accept_4k(0, PAGE), true)]
#[case::hole(punch(0, LEAF), true)]
#[case::shared(fill(0, PAGE, 1, Side::Shared), true)]
#[case::elsewhere(accept_2m(LEAF, 2 * LEAF), true)]
fn with_sept_ve_disable_a_race_decides_over_life(#[case] op: Op, #[case] judged: bool) {
    let guest = Guest {
        sept_ve_disable: true,
        ..guest(8 * M)
    };
    let mut predictor = raced("headtail", &guest);
    assert_eq!(predictor.step(&Action::One(op)).is_ok(), judged);
}

/// After a race even the shared attribute is in doubt.
#[test]
fn shared_content_does_not_outlive_a_race() {
    let before = [share(0, LEAF), fill(0, LEAF, 1, Side::Shared)];
    let mut predictor = after("headtail", &guest(8 * M), &before);
    let race = parallel(&[&[unshare(0, LEAF)], &[punch(0, LEAF)]]);
    predictor.step(&race).unwrap();
    let op = verify_shared(0, LEAF);
    assert!(predictor.step(&Action::One(op)).is_err());
}

/// The operations of one branch are in order: they do not race with each other.
#[test]
fn a_branch_does_not_meet_itself() {
    let mut predictor = after("headtail", &guest(8 * M), &[]);
    let step = parallel(&[
        &[accept_2m(0, LEAF), verify(0, LEAF, Gone::Every)],
        &[accept_4k(2 * LEAF, 2 * LEAF + PAGE)],
    ]);
    let expected = predictor.step(&step).unwrap();
    assert_eq!(expected.pages.pages_2m.single(), Some(1));
    assert_eq!(expected.pages.pages_4k.single(), Some(1));
    assert!(expected.statuses.is_some());
    // Reads of a branch are planned before the step, when the others have not started.
    assert!(expected.reads.is_empty());
    assert_eq!(expected.entries_at_most, None);
}

/// Slots in the file in reverse order and off its 2M grid. Only pages of one folio are neighbours.
#[rstest]
#[case::folios_apart(12 * M, true)]
#[case::next_folio(14 * M, true)]
#[case::same_folio(16 * M, false)]
fn far_apart_in_the_guest(
    #[case] second: u64,
    #[case] exact: bool,
    #[values(false, true)] swapped: bool,
) {
    let end = 16 * M + PAGE;
    let guest = slotted(end, &[slot(0, 8 * M, 8 * M + PAGE), slot(8 * M, end, 0)]);
    let step = two(
        accept_4k(0, PAGE),
        accept_4k(second, second + PAGE),
        swapped,
    );
    let expected = after("headtail", &guest, &[]).step(&step).unwrap();
    // Two whole folios, all of whose pages are in a slot.
    let populated = exact.then_some(2 * 512);
    assert_eq!(expected.populated.single(), populated);
}

/// Races over more than 128G are refused.
#[rstest]
#[case::as_much(128 * G, true)]
#[case::a_leaf_more(128 * G + LEAF, false)]
fn races_over_much_memory(#[case] end: u64, #[case] judged: bool) {
    let mut predictor = after("headtail", &guest(256 * G), &[]);
    let step = parallel(&[&[punch(0, end)], &[punch(0, end)]]);
    assert_eq!(predictor.step(&step).is_ok(), judged);
}

/// The same for slots far apart in the guest that meet in the file.
#[rstest]
#[case::as_much(128 * G, true)]
#[case::a_leaf_more(128 * G + LEAF, false)]
fn races_over_much_memory_that_meet_in_the_file(
    #[case] end: u64,
    #[case] judged: bool,
    #[values(false, true)] swapped: bool,
) {
    let memory = 400 * G + PAGE;
    let guest = slotted(
        memory,
        &[slot(0, 200 * G, 200 * G + PAGE), slot(200 * G, memory, 0)],
    );
    let step = two(punch(0, end), punch(400 * G, memory), swapped);
    assert_eq!(after("headtail", &guest, &[]).step(&step).is_ok(), judged);
}

/// Probes of two branches are merged into one run only where they are contiguous: a page, and
/// leaves that start at the next leaf, are not.
#[rstest]
#[case::page_then_leaf((0, PAGE, PageLevel::Size4K), (LEAF, 2 * LEAF, PageLevel::Size2M), &[
    (0, PageLevel::Size4K, 1),
    (LEAF, PageLevel::Size2M, 1),
])]
#[case::leaf_then_page((0, LEAF, PageLevel::Size2M), (LEAF, LEAF + PAGE, PageLevel::Size4K), &[
    (0, PageLevel::Size2M, 1),
    (LEAF, PageLevel::Size4K, 1),
])]
#[case::a_leaf_between((0, LEAF, PageLevel::Size2M), (2 * LEAF, 3 * LEAF, PageLevel::Size2M), &[
    (0, PageLevel::Size2M, 1),
    (2 * LEAF, PageLevel::Size2M, 1),
])]
#[case::leaves((0, LEAF, PageLevel::Size2M), (LEAF, 3 * LEAF, PageLevel::Size2M), &[
    (0, PageLevel::Size2M, 3),
])]
fn probes_at_two_distances(
    #[case] first: (u64, u64, PageLevel),
    #[case] second: (u64, u64, PageLevel),
    #[case] wanted: &[(u64, PageLevel, u64)],
) {
    let of = |(start, end, stride)| probe(start, end, stride);
    let step = parallel(&[&[of(first)], &[of(second)]]);
    let expected = after("headtail", &guest(8 * M), &[]).step(&step).unwrap();
    let runs = expected.probes.unwrap().into_iter();
    let found: Vec<_> = runs.map(|run| (run.start, run.stride, run.count)).collect();
    let wanted: Vec<_> = wanted
        .iter()
        .map(|&(offset, stride, count)| (range(offset, offset).start(), stride, count))
        .collect();
    assert_eq!(found, wanted);
}
