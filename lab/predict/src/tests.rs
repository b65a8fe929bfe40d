//! The tables of the semantics, row by row. Each case is named after its row; the numbers are typed
//! in from the table, not computed.

use tdxlab_plan::Content;

mod ends;
mod guest;
mod others;
mod picture;
mod races;
mod refused;
mod verify;
mod words;
mod zero_step;

use rstest::rstest;
use tdxlab_plan::addr::{Gpa, PageLevel};
use tdxlab_plan::{AccessKind, Branch, Generation, Gone, LOW_BASE, Needs, Size, Slot, VcpuId};

use self::words::*;
use super::*;

const K: u64 = 1 << 10;
const M: u64 = 1 << 20;
const G: u64 = 1 << 30;
const PAGE: u64 = 4 * K;
const LEAF: u64 = 2 * M;

const SUCCESS: u64 = 0;
const ALREADY_4K: u64 = 0x0000_0B0A_0000_0000;
const ALREADY_2M: u64 = 0x0000_0B0A_0000_0001;
const MISMATCH: u64 = 0xC000_0B0B_0000_0001;
const INVALID: u64 = 0xC000_0100_0000_0001;

/// Contents of the S-EPT in the first region.
#[derive(Clone, Copy, Debug)]
enum Before {
    Nothing,
    TableEntryFree,
    PagePending,
    PageMapped,
    LeafPending,
    LeafMapped,
}

impl Before {
    fn operations(self) -> Vec<Op> {
        match self {
            Before::Nothing => vec![],
            Before::TableEntryFree => vec![accept_4k(PAGE, 2 * PAGE)],
            Before::PagePending => vec![touch(0, PAGE), accept_4k(PAGE, 2 * PAGE)],
            Before::PageMapped => vec![accept_4k(0, PAGE)],
            Before::LeafPending => vec![touch(0, PAGE)],
            Before::LeafMapped => vec![accept_2m(0, LEAF)],
        }
    }
}

/// The ACCEPT matrix (docs/semantics.md, section 2), every cell that a host at rest can show. (Blocked entries are never at rest.)
#[rstest]
#[case::nothing_at_level_2_accept_4k_exits(Before::Nothing, Size::Size4K, 1, SUCCESS)]
#[case::nothing_at_level_2_accept_2m_exits(Before::Nothing, Size::Size2M, 1, SUCCESS)]
#[case::table_entry_free_accept_4k_exits(Before::TableEntryFree, Size::Size4K, 1, SUCCESS)]
#[case::table_entry_free_accept_2m_mismatches_without_exit(
    Before::TableEntryFree,
    Size::Size2M,
    0,
    MISMATCH
)]
#[case::page_pending_accept_4k_succeeds_without_exit(Before::PagePending, Size::Size4K, 0, SUCCESS)]
#[case::page_pending_accept_2m_mismatches_without_exit(
    Before::PagePending,
    Size::Size2M,
    0,
    MISMATCH
)]
#[case::page_mapped_accept_4k_is_already_accepted_at_level_0(
    Before::PageMapped,
    Size::Size4K,
    0,
    ALREADY_4K
)]
#[case::page_mapped_accept_2m_mismatches_without_exit(
    Before::PageMapped,
    Size::Size2M,
    0,
    MISMATCH
)]
#[case::leaf_pending_accept_4k_exits_and_kvm_must_split(
    Before::LeafPending,
    Size::Size4K,
    1,
    SUCCESS
)]
#[case::leaf_pending_accept_2m_succeeds_without_exit(Before::LeafPending, Size::Size2M, 0, SUCCESS)]
#[case::leaf_mapped_accept_4k_is_already_accepted_at_level_1(
    Before::LeafMapped,
    Size::Size4K,
    0,
    ALREADY_2M
)]
#[case::leaf_mapped_accept_2m_is_already_accepted_at_level_1(
    Before::LeafMapped,
    Size::Size2M,
    0,
    ALREADY_2M
)]
fn accept_matrix(
    #[case] before: Before,
    #[case] size: Size,
    #[case] exits: i64,
    #[case] status: u64,
    #[values("v3", "v5", "headtail")] name: &str,
) {
    let mut predictor = after(name, &guest(8 * M), &before.operations());
    let bytes = if size == Size::Size2M { LEAF } else { PAGE };
    let expected = one(&mut predictor, accept(0, bytes, size));
    assert_eq!(expected.accept_exits.single(), Some(exits));
    let statuses = expected.statuses.unwrap();
    assert_eq!(statuses.len(), 1);
    assert_eq!(statuses[0].status, status);
}

#[rstest]
fn any_state_accept_1g_is_an_invalid_operand_without_exit(
    #[values(
        Before::Nothing,
        Before::PageMapped,
        Before::LeafPending,
        Before::LeafMapped
    )]
    before: Before,
    #[values("stock", "v3", "v5", "headtail")] name: &str,
) {
    let mut predictor = after(name, &guest(G), &before.operations());
    let expected = one(&mut predictor, accept(0, G, Size::Size1G));
    assert_eq!(expected.accept_exits.single(), Some(0));
    assert_eq!(expected.statuses.unwrap()[0].status, INVALID);
}

/// Expected sums of a row of the operations table (docs/semantics.md, section 8).
struct Row {
    exits: i64,
    splits: i64,
    pages_2m: i64,
    pages_4k: i64,
}

const fn row(exits: i64, splits: i64, pages_2m: i64, pages_4k: i64) -> Row {
    Row {
        exits,
        splits,
        pages_2m,
        pages_4k,
    }
}

/// The operations table. `k` is 3 pages, `n` is 2 leaves, `m` is 512 pages.
#[rstest]
#[case::accept_2m_of_empty(&[], accept_2m(0, LEAF), row(1, 0, 1, 0))]
#[case::accept_4k_of_empty(&[], accept_4k(0, PAGE), row(1, 0, 0, 1))]
#[case::accept_512_times_4k_of_empty(&[], accept_4k(0, LEAF), row(512, 0, 0, 512))]
#[case::access_of_empty(&[], touch(0, PAGE), row(1, 0, 1, 0))]
#[case::accept_4k_of_2m_pending(&[touch(0, PAGE)], accept_4k(0, PAGE), row(1, 1, -1, 512))]
#[case::the_other_511_accepts_of_512_pending(
    &[touch(0, PAGE), accept_4k(0, PAGE)], accept_4k(PAGE, LEAF), row(0, 0, 0, 0))]
#[case::accept_4k_of_2m_accepted(&[accept_2m(0, LEAF)], accept_4k(0, PAGE), row(0, 0, 0, 0))]
#[case::accept_2m_over_any_4k_table(&[accept_4k(0, PAGE)], accept_2m(0, LEAF), row(0, 0, 0, 0))]
#[case::accept_2m_of_2m_accepted(&[accept_2m(0, LEAF)], accept_2m(0, LEAF), row(0, 0, 0, 0))]
#[case::convert_k_pages_of_one_leaf(
    &[accept_2m(0, LEAF)], share(PAGE, 4 * PAGE), row(0, 1, -1, 512 - 3))]
#[case::convert_k_more_of_the_same_leaf(
    &[accept_2m(0, LEAF), share(PAGE, 4 * PAGE)], share(8 * PAGE, 11 * PAGE), row(0, 0, 0, -3))]
#[case::convert_the_whole_leaf_in_one_call(&[accept_2m(0, LEAF)], share(0, LEAF), row(0, 0, -1, 0))]
#[case::convert_a_range_with_nothing_mapped(&[], share(PAGE, LEAF + PAGE), row(0, 0, 0, 0))]
#[case::back_to_private_4k_then_accept_4k(
    &[accept_2m(0, LEAF), share(0, PAGE), unshare(0, PAGE)], accept_4k(0, PAGE), row(1, 0, 0, 1))]
#[case::back_to_private_whole_leaf_then_accept_2m(
    &[accept_2m(0, LEAF), share(0, LEAF), unshare(0, LEAF)], accept_2m(0, LEAF), row(1, 0, 1, 0))]
#[case::the_same_but_the_range_was_ever_split(
    &[accept_2m(0, LEAF), share(0, PAGE), share(0, LEAF), unshare(0, LEAF)],
    accept_4k(0, LEAF), row(512, 0, 0, 512))]
#[case::punch_a_hole_aligned_to_2m(&[accept_2m(0, 3 * LEAF)], punch(0, 2 * LEAF), row(0, 0, -2, 0))]
#[case::punch_a_hole_over_4k_pages(&[accept_4k(0, LEAF)], punch(0, LEAF), row(0, 0, 0, -512))]
#[case::punch_a_hole_in_an_unmapped_range(&[], punch(0, LEAF), row(0, 0, 0, 0))]
#[case::prefault_of_empty(&[], Op::Prefault { range: range(0, PAGE) }, row(0, 0, 1, 0))]
fn operations(
    #[case] before: &[Op],
    #[case] op: Op,
    #[case] row: Row,
    #[values("v3", "v5", "headtail")] name: &str,
) {
    let mut predictor = after(name, &guest(8 * M), before);
    let expected = one(&mut predictor, op);
    let exits = expected.accept_exits + expected.access_exits;
    assert_eq!(exits.single(), Some(row.exits), "exits");
    assert_eq!(expected.splits.single(), Some(row.splits), "splits");
    assert_eq!(expected.pages.pages_2m.single(), Some(row.pages_2m), "2M");
    assert_eq!(expected.pages.pages_4k.single(), Some(row.pages_4k), "4K");
}

/// The operations table: n whole leaves, a partial head of 5 pages and a partial tail of 7.
#[test]
fn convert_whole_leaves_with_partial_head_and_tail_in_one_hole() {
    let mut predictor = after("headtail", &guest(16 * M), &[accept_2m(0, 16 * M)]);
    let expected = one(&mut predictor, punch(LEAF - 5 * PAGE, 3 * LEAF + 7 * PAGE));
    assert_eq!(expected.splits.single(), Some(2));
    assert_eq!(expected.pages.pages_2m.single(), Some(-(2 + 2)));
    assert_eq!(expected.pages.pages_4k.single(), Some(1024 - 5 - 7));
}

#[rstest]
fn punch_a_hole_not_aligned_v3_stack_is_einval(#[values("v3", "v5")] name: &str) {
    let mut predictor = after(name, &guest(8 * M), &[accept_2m(0, 8 * M)]);
    let before = predictor.baseline();
    let expected = one(&mut predictor, punch(PAGE, LEAF));
    assert_eq!(expected.errnos, [22]);
    assert_eq!(predictor.baseline(), before);
}

/// One call per part of the file: the parts before the failing call are punched.
#[test]
fn punch_a_hole_whose_last_part_ends_inside_a_page() {
    let guest = slotted(8 * M, &[slot(0, 4 * M, 4 * M), slot(4 * M, 8 * M, 0)]);
    let mut predictor = after("headtail", &guest, &[accept_2m(0, 8 * M)]);
    let expected = one(&mut predictor, punch(2 * M, 6 * M + 1));
    assert_eq!(expected.errnos, [22]);
    assert_eq!(expected.pages.pages_2m.single(), Some(-1));
    assert_eq!(expected.populated.single(), Some(3 * 512));
    let expected = one(&mut predictor, punch(1, 8 * M));
    assert_eq!(expected.errnos, [22]);
    assert_eq!(expected.pages.pages_2m.single(), Some(0));
}

#[test]
fn punch_a_hole_not_aligned_january_design() {
    let mut predictor = after("headtail", &guest(8 * M), &[accept_2m(0, 8 * M)]);
    let expected = one(&mut predictor, punch(M, 5 * M));
    assert_eq!(expected.splits.single(), Some(2));
    assert_eq!(expected.pages.pages_2m.single(), Some(-3));
    assert_eq!(expected.pages.pages_4k.single(), Some(512));
    assert_eq!(expected.populated.single(), Some(2048 - 1024));
}

/// MapGPA chunks (docs/semantics.md, section 6), and the example: [1M, 9M) gives 5 splits, not 2.
#[rstest]
#[case::start_and_end_aligned(2 * M, 8 * M, 0)]
#[case::start_aligned_end_not(2 * M, 9 * M, 1)]
#[case::start_not_aligned_splits_every_leaf_touched(M, 9 * M, 5)]
#[case::start_not_aligned_end_aligned(M, 8 * M, 4)]
fn map_gpa_chunks(
    #[case] start: u64,
    #[case] end: u64,
    #[case] splits: i64,
    #[values("v3", "v5", "headtail")] name: &str,
) {
    let mut predictor = after(name, &guest(16 * M), &[accept_2m(0, 16 * M)]);
    let expected = one(&mut predictor, share(start, end));
    assert_eq!(expected.splits.single(), Some(splits));
    assert_eq!(expected.map_gpa, Some(0));
}

/// The truth table of section 5, on one chunk: how many of head and tail split.
#[rstest]
#[case::start_and_end_aligned_calls_none(2 * M, 4 * M, &[])]
#[case::only_end_aligned_calls_head(3 * M, 4 * M, &[2 * M])]
#[case::only_start_aligned_calls_tail(2 * M, 3 * M, &[2 * M])]
#[case::none_aligned_two_pages_calls_both(3 * M, 5 * M, &[2 * M, 4 * M])]
#[case::none_aligned_same_page_calls_head_only(2 * M + PAGE, 3 * M, &[2 * M])]
fn head_and_tail(#[case] start: u64, #[case] end: u64, #[case] leaves: &[u64]) {
    let mut predictor = after("v5", &guest(8 * M), &[accept_2m(0, 8 * M)]);
    let expected = one(&mut predictor, share(start, end));
    let split: Vec<u64> = expected
        .split_leaves
        .iter()
        .map(|leaf| leaf.gpa.as_u64() - LOW_BASE.as_u64())
        .collect();
    assert_eq!(split, leaves);
}

/// Linux takes any non-zero status as "try the next smaller".
#[test]
fn linux_falls_back_from_2m_to_4k_where_a_table_is() {
    let mut predictor = after("v3", &guest(8 * M), &[share(0, PAGE), unshare(0, PAGE)]);
    one(&mut predictor, accept_4k(LEAF, LEAF + PAGE));
    one(&mut predictor, punch(LEAF, 2 * LEAF));
    let expected = one(&mut predictor, accept(0, 3 * LEAF, Size::Linux));
    let statuses: Vec<_> = expected
        .statuses
        .unwrap()
        .iter()
        .map(|run| (run.level, run.count, run.status))
        .collect();
    assert_eq!(
        statuses,
        [
            (PageLevel::Size2M, 1, SUCCESS),
            (PageLevel::Size2M, 1, MISMATCH),
            (PageLevel::Size4K, 512, SUCCESS),
            (PageLevel::Size2M, 1, SUCCESS),
        ]
    );
}

#[test]
fn linux_gives_up_at_a_page_that_is_already_accepted() {
    let mut predictor = after("headtail", &guest(8 * M), &[accept_4k(PAGE, 2 * PAGE)]);
    let expected = one(&mut predictor, accept(0, LEAF, Size::Linux));
    let last = *expected.statuses.unwrap().last().unwrap();
    assert_eq!((last.status, last.count), (ALREADY_4K, 1));
    assert_eq!(expected.accept_exits.single(), Some(1));
}

/// A mainline kernel ignores the size the guest asks for.
#[test]
fn stock_maps_one_page_for_a_2m_accept() {
    let mut predictor = after("stock", &guest(8 * M), &[]);
    let expected = one(&mut predictor, accept_2m(0, 8 * M));
    assert_eq!(expected.accept_exits.single(), Some(4));
    assert_eq!(expected.pages.pages_4k.single(), Some(4));
    assert_eq!(expected.statuses.unwrap()[0].status, MISMATCH);
    assert_eq!(expected.populated.single(), Some(4));
}

/// The second violation finds the page pending and the VM is dead.
#[test]
fn sept_ve_disable_access_before_accept_kills_and_keeps_the_mapping() {
    let guest = Guest {
        sept_ve_disable: true,
        ..guest(8 * M)
    };
    let mut predictor = after("v3", &guest, &[]);
    let expected = one(&mut predictor, touch(0, 8 * M));
    assert!(!expected.td_alive);
    assert_eq!(expected.pages.pages_2m.single(), Some(1));
    let error = predictor.step(&Action::One(touch(0, PAGE))).unwrap_err();
    assert!(error.why.contains("dead"));
}

#[test]
fn the_inhibit_bit_survives_a_hole() {
    let before = [accept_4k(0, PAGE), punch(0, LEAF)];
    let mut predictor = after("headtail", &guest(8 * M), &before);
    let expected = one(&mut predictor, touch(0, PAGE));
    assert_eq!(expected.pages.pages_2m.single(), Some(0));
    assert_eq!(expected.pages.pages_4k.single(), Some(1));
}

#[test]
fn verify_knows_filled_zero_and_gone() {
    let before = [
        accept_2m(0, 2 * LEAF),
        fill(0, LEAF, 1, Side::Private),
        fill(PAGE, 2 * PAGE, 2, Side::Private),
        punch(LEAF + M, 2 * LEAF),
    ];
    let mut predictor = after("headtail", &guest(8 * M), &before);
    let expected = one(&mut predictor, verify(0, 8 * M, Gone::Ends));
    let generation = |number| Content::Filled(Generation::new(number).unwrap());
    let reads: Vec<_> = expected
        .reads
        .iter()
        .map(|read| (read.range, read.content))
        .collect();
    assert_eq!(
        reads,
        [
            (range(0, PAGE), generation(1)),
            (range(PAGE, 2 * PAGE), generation(2)),
            (range(2 * PAGE, LEAF), generation(1)),
            (range(LEAF, LEAF + M), Content::Zero),
            (range(LEAF + M, LEAF + M + PAGE), Content::Gone),
            (range(8 * M - PAGE, 8 * M), Content::Gone),
        ]
    );
    // One page behind the hole is mapped at 4K again, and one leaf in the unmapped region.
    assert_eq!(expected.pages.pages_4k.single(), Some(1));
    assert_eq!(expected.pages.pages_2m.single(), Some(1));
}

#[test]
fn shared_memory_that_was_never_filled_cannot_be_verified() {
    let mut predictor = after("v3", &guest(8 * M), &[share(0, LEAF)]);
    let op = verify_shared(0, LEAF);
    assert!(predictor.step(&Action::One(op)).is_err());
    let expected = one(&mut predictor, fill(0, LEAF, 1, Side::Shared));
    assert_eq!(expected.pages.pages_4k.single(), Some(512));
}

#[test]
fn a_slot_off_the_2m_grid_of_the_file_maps_4k() {
    let mut guest = guest(8 * M);
    guest.slots[0].gmem_offset = PAGE;
    let mut predictor = after("v3", &guest, &[]);
    let expected = one(&mut predictor, accept_2m(0, LEAF));
    assert_eq!(expected.pages.pages_4k.single(), Some(1));
    assert_eq!(expected.statuses.unwrap()[0].status, MISMATCH);
    // The folio behind that page is whole all the same; its first page lies before the slot.
    assert_eq!(expected.populated.single(), Some(511));
}

#[test]
fn the_initial_image_is_4k_for_ever() {
    let image = Guest {
        image: vec![range(0, 16 * PAGE)],
        ..guest(8 * M)
    };
    let mut predictor = after("v5", &image, &[]);
    let baseline = predictor.baseline();
    assert_eq!((baseline.pages_4k, baseline.pages_2m), (16, 0));
    assert_eq!(baseline.populated, 512);
    let expected = one(&mut predictor, accept_2m(0, 2 * LEAF));
    let statuses: Vec<u64> = expected
        .statuses
        .unwrap()
        .iter()
        .map(|run| run.status)
        .collect();
    assert_eq!(statuses, [MISMATCH, SUCCESS]);
}

#[test]
fn racing_accepts_are_bounded_and_neighbours_stay_exact() {
    let mut predictor = after("v3", &guest(8 * M), &[accept_2m(LEAF, 2 * LEAF)]);
    let race = Action::Parallel(vec![
        Branch(vec![accept_4k(0, LEAF)]),
        Branch(vec![accept_2m(0, LEAF)]),
    ]);
    let expected = predictor.step(&race).unwrap();
    assert!(expected.pages.pages_2m.contains(0) && expected.pages.pages_2m.contains(1));
    assert!(expected.pages.pages_4k.contains(512));
    assert_eq!(expected.statuses, None);
    assert!(expected.legal_statuses.contains(&MISMATCH));
    let outside = one(&mut predictor, verify(LEAF, 2 * LEAF, Gone::Every));
    assert_eq!(outside.reads[0].content, Content::Zero);
    // A hole over all of it leaves no page.
    let hole = one(&mut predictor, punch(0, 8 * M));
    assert_eq!(hole.populated.single(), Some(0));
}

#[test]
fn branches_that_do_not_meet_are_exact() {
    let mut predictor = after("v3", &guest(8 * M), &[]);
    let race = Action::Parallel(vec![
        Branch(vec![accept_4k(0, LEAF)]),
        Branch(vec![accept_2m(LEAF, 2 * LEAF)]),
    ]);
    let expected = predictor.step(&race).unwrap();
    assert_eq!(expected.pages.pages_2m.single(), Some(1));
    assert_eq!(expected.pages.pages_4k.single(), Some(512));
    assert!(expected.statuses.is_some());
}

#[test]
fn a_12_tib_hole_costs_what_is_mapped_not_what_it_spans() {
    let t = 1 << 40;
    let memory = GpaRange::with_len(tdxlab_plan::HIGH_BASE, 16 * t).unwrap();
    let guest = Guest {
        memory,
        slots: vec![Slot {
            range: memory,
            gmem_offset: 0,
        }],
        ..guest(8 * M)
    };
    let at = |offset: u64| Gpa::new(memory.start().as_u64() + offset);
    let part = |start, end| GpaRange::new(at(start), at(end)).unwrap();
    let mut predictor = Predictor::new(design("headtail"), &guest);
    for offset in [2 * t - LEAF, 2 * t, 14 * t - LEAF, 14 * t] {
        one(
            &mut predictor,
            Op::Accept {
                range: part(offset, offset + LEAF),
                size: Size::Size2M,
                vcpu: VcpuId(0),
            },
        );
    }
    let hole = part(2 * t - M, 14 * t + M);
    let expected = one(&mut predictor, Op::Punch { range: hole });
    assert_eq!(expected.splits.single(), Some(2));
    assert_eq!(expected.pages.pages_2m.single(), Some(-4));
    assert_eq!(expected.pages.pages_4k.single(), Some(512));
    assert_eq!(expected.entries_at_most, Some(2));
    // And all of it can be accepted in one step: one run, not eight million leaves.
    let rest = Op::Accept {
        range: part(4 * t, 12 * t),
        size: Size::Size2M,
        vcpu: VcpuId(0),
    };
    let expected = one(&mut predictor, rest);
    assert_eq!(expected.statuses.unwrap().len(), 1);
}

#[rstest]
#[case::leaf("stock", Needs { private_leaf: Some(PageLevel::Size2M), ..Needs::default() }, false)]
#[case::leaf("v3", Needs { private_leaf: Some(PageLevel::Size2M), ..Needs::default() }, true)]
#[case::hole("v5", Needs { hole_alignment: Some(PageLevel::Size4K), ..Needs::default() }, false)]
#[case::hole("headtail", Needs { hole_alignment: Some(PageLevel::Size4K), ..Needs::default() }, true)]
fn designs_meet(#[case] name: &str, #[case] needs: Needs, #[case] met: bool) {
    assert_eq!(design(name).meets(&needs).is_ok(), met);
}
