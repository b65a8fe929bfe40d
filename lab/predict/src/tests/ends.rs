//! Where ranges end: entries visited (docs/semantics.md, sections 5 and 6), holes past the end of
//! the file (section 7), slots that end inside a range.

use super::*;

/// Per chunk of 2M from the start on, one entry for a head and one for a tail.
#[rstest]
#[case::aligned(2 * M, 8 * M, 0)]
#[case::end_not_aligned(2 * M, 9 * M, 1)]
#[case::four_chunks_of_two(M, 9 * M, 8)]
#[case::three_chunks_of_two_and_a_head(M, 8 * M, 3 * 2 + 1)]
#[case::one_page(M, M + PAGE, 1)]
#[case::a_page_of_either_leaf(2 * M - PAGE, 2 * M + PAGE, 2)]
#[case::only_tail(2 * M, 2 * M + PAGE, 1)]
fn entries_of_a_conversion(
    #[case] start: u64,
    #[case] end: u64,
    #[case] entries: u64,
    #[values("v5", "headtail")] name: &str,
) {
    let mut predictor = after(name, &guest(16 * M), &[accept_2m(0, 16 * M)]);
    let shared = one(&mut predictor, share(start, end));
    assert_eq!(shared.entries_at_most, Some(entries));
    let private = one(&mut predictor, unshare(start, end));
    assert_eq!(private.entries_at_most, Some(0));
}

#[rstest]
#[case::nothing_to_split("stock", Some(0))]
#[case::walks("v3", None)]
fn designs_without_arithmetic(#[case] name: &str, #[case] entries: Option<u64>) {
    let mut predictor = after(name, &guest(8 * M), &[]);
    let expected = one(&mut predictor, share(M, 3 * M));
    assert_eq!(expected.entries_at_most, entries);
}

/// A chunk in which a slot ends is two ranges: one with a tail and one with a head.
#[rstest]
#[case::a_slot_ends_in_a_chunk(2 * M, 8 * M, 2)]
#[case::the_range_ends_with_the_slot(3 * M, 5 * M, 2)]
fn entries_where_a_slot_ends(#[case] start: u64, #[case] end: u64, #[case] entries: u64) {
    let guest = slotted(8 * M, &[slot(0, 5 * M, 0), slot(5 * M, 8 * M, 5 * M)]);
    let mut predictor = after("headtail", &guest, &[]);
    let expected = one(&mut predictor, share(start, end));
    assert_eq!(expected.entries_at_most, Some(entries));
}

#[rstest]
#[case::aligned(2 * M, 6 * M, 0)]
#[case::head_and_tail(M, 5 * M, 2)]
#[case::head(M, 6 * M, 1)]
#[case::same_leaf(M, M + PAGE, 1)]
fn entries_of_a_hole(#[case] start: u64, #[case] end: u64, #[case] entries: u64) {
    let mut predictor = after("headtail", &guest(8 * M), &[]);
    let expected = one(&mut predictor, punch(start, end));
    assert_eq!(expected.entries_at_most, Some(entries));
}

/// Holes must be aligned to 2M in the file, past its end too; they change nothing there.
#[rstest]
#[case::inside(8 * M, 6 * M, 8 * M, 0, 512)]
#[case::over_the_end(8 * M, 6 * M, 10 * M, 0, 512)]
#[case::over_the_end_not_aligned(8 * M, 6 * M, 9 * M, 22, 0)]
#[case::past_the_end(8 * M, 8 * M, 10 * M, 0, 0)]
#[case::past_the_end_not_aligned(8 * M, 8 * M, 9 * M, 22, 0)]
#[case::past_the_end_start_not_aligned(8 * M, 9 * M, 10 * M, 22, 0)]
#[case::more_than_the_file(8 * M, 8 * M, 80 * M, 0, 0)]
#[case::the_file_ends_off_the_grid(7 * M + 512 * K, 6 * M, 10 * M, 0, 384)]
#[case::from_the_end_off_the_grid(7 * M + 512 * K, 7 * M + 512 * K, 10 * M, 22, 0)]
#[case::past_an_end_off_the_grid(7 * M + 512 * K, 8 * M, 10 * M, 0, 0)]
fn holes_past_the_end_of_the_file(
    #[case] memory: u64,
    #[case] start: u64,
    #[case] end: u64,
    #[case] errno: i32,
    #[case] freed: i64,
    #[values("v3", "v5")] name: &str,
) {
    let allocate = Op::Allocate {
        range: range(0, memory),
    };
    let mut predictor = after(name, &guest(memory), &[allocate]);
    let expected = one(&mut predictor, punch(start, end));
    assert_eq!(expected.errnos, [errno]);
    let populated = (memory / PAGE) as i64 - freed;
    assert_eq!(expected.populated.single(), Some(populated));
}

/// The last slot is at the start of the file, the first at its end: addresses past memory are past
/// the file, away from the last slot.
#[rstest]
#[case::up_to_the_end(3 * M, 7 * M, &[0])]
#[case::past_the_end(3 * M, 9 * M, &[22])]
fn holes_past_the_end_of_slots_the_other_way_round(
    #[case] start: u64,
    #[case] end: u64,
    #[case] errnos: &[i32],
) {
    let guest = slotted(7 * M, &[slot(0, 3 * M, 4 * M), slot(3 * M, 7 * M, 0)]);
    let allocate = Op::Allocate {
        range: range(0, 7 * M),
    };
    let mut predictor = after("v3", &guest, &[allocate]);
    let expected = one(&mut predictor, punch(start, end));
    assert_eq!(expected.errnos, errnos);
    assert_eq!(expected.populated.single(), Some(768));
}

/// It changes nothing, not even next to a last region that is uncertain.
#[test]
fn a_hole_past_the_end_does_not_reach_into_memory() {
    let memory = 7 * M + 512 * K;
    let mut predictor = after("headtail", &guest(memory), &[]);
    let race = parallel(&[&[accept_4k(6 * M, 7 * M)], &[punch(6 * M, 7 * M)]]);
    predictor.step(&race).unwrap();
    let expected = one(&mut predictor, punch(8 * M, 10 * M));
    assert_eq!(expected.errnos, [0]);
    assert_eq!(expected.accept_exits.single(), Some(0));
    assert_eq!(expected.pages.pages_4k.single(), Some(0));
}

/// The regions of a slot are alike no further than the slot reaches.
#[test]
fn a_slot_off_the_2m_grid_of_the_file_maps_4k_behind_one_that_is_on_it() {
    let guest = slotted(
        8 * M,
        &[slot(0, 4 * M, 0), slot(4 * M, 8 * M, 4 * M + PAGE)],
    );
    let mut predictor = after("v3", &guest, &[]);
    let expected = one(&mut predictor, accept_2m(0, 8 * M));
    assert_eq!(expected.pages.pages_2m.single(), Some(2));
    assert_eq!(expected.pages.pages_4k.single(), Some(2));
}

#[rstest]
#[case::plain("plain", true)]
#[case::plain_zap("plain-zap", true)]
#[case::stock("stock", false)]
#[case::headtail("headtail", false)]
fn designs_for_plain_vms(#[case] name: &str, #[case] plain: bool) {
    assert_eq!(design(name).is_plain(), plain);
}

/// Split leaves are listed up to a limit, over all stretches together; the count continues.
#[test]
fn the_list_of_split_leaves_is_limited() {
    let before = [accept_2m(0, 8 * G), touch(8 * G, 16 * G)];
    let mut predictor = after("v3", &guest(16 * G), &before);
    let expected = one(&mut predictor, share(M, 16 * G - M));
    assert_eq!(expected.splits.single(), Some(8192));
    assert_eq!(expected.split_leaves.len(), Expectation::MAX_SPLIT_LEAVES);
}
