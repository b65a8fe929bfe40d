//! The map of memory for reports: one run per state, cut by the window and the limit.

use super::*;

/// Two accepted leaves with a gap between them, and one region for each other state.
fn pictured() -> Predictor {
    let operations = [
        accept_2m(0, LEAF),
        touch(LEAF, LEAF + PAGE),
        accept_4k(4 * M, 4 * M + PAGE),
        touch(4 * M + PAGE, 4 * M + 2 * PAGE),
        share(6 * M, 8 * M),
        fill(6 * M, 6 * M + PAGE, 1, Side::Shared),
        fill(6 * M + PAGE, 6 * M + 2 * PAGE, 2, Side::Shared),
        accept_2m(8 * M, 10 * M),
        accept_2m(12 * M, 14 * M),
    ];
    let mut predictor = after("headtail", &guest(16 * M), &operations);
    let race = parallel(&[&[accept_4k(14 * M, 16 * M)], &[punch(14 * M, 16 * M)]]);
    predictor.step(&race).unwrap();
    predictor
}

fn picture() -> Vec<(GpaRange, RegionState)> {
    vec![
        (range(0, 2 * M), RegionState::LeafAccepted),
        (range(2 * M, 4 * M), RegionState::LeafPending),
        (range(4 * M, 4 * M + PAGE), RegionState::PageAccepted),
        (
            range(4 * M + PAGE, 4 * M + 2 * PAGE),
            RegionState::PagePending,
        ),
        (range(4 * M + 2 * PAGE, 6 * M), RegionState::TableFree),
        (range(6 * M, 6 * M + 2 * PAGE), RegionState::SharedMapped),
        (range(6 * M + 2 * PAGE, 8 * M), RegionState::Shared),
        (range(8 * M, 10 * M), RegionState::LeafAccepted),
        (range(12 * M, 14 * M), RegionState::LeafAccepted),
        (range(14 * M, 16 * M), RegionState::Unknown),
    ]
}

#[test]
fn every_state_is_a_run_of_its_own() {
    assert_eq!(pictured().state_map(range(0, 16 * M), 100), picture());
}

#[rstest]
#[case::none(0)]
#[case::one(1)]
#[case::some(4)]
#[case::all_of_them(10)]
fn no_more_runs_than_wanted(#[case] most: usize) {
    let found = pictured().state_map(range(0, 16 * M), most);
    assert_eq!(found, picture()[..most]);
}

#[test]
fn the_window_cuts_the_runs_at_its_ends() {
    let found = pictured().state_map(range(M, 3 * M), 100);
    let wanted = [
        (range(M, 2 * M), RegionState::LeafAccepted),
        (range(2 * M, 3 * M), RegionState::LeafPending),
    ];
    assert_eq!(found, wanted);
}

#[rstest]
#[case::a_leaf(0, 2 * M, Some(RegionState::LeafAccepted))]
#[case::a_part_of_one(PAGE, M, Some(RegionState::LeafAccepted))]
#[case::two_kinds_of_leaf(0, 4 * M, None)]
#[case::pages_of_three_kinds(4 * M, 6 * M, None)]
#[case::a_leaf_and_nothing(8 * M, 12 * M, None)]
#[case::nothing(10 * M, 12 * M, Some(RegionState::Empty))]
#[case::no_memory(M, M, Some(RegionState::Empty))]
#[case::uncertain(14 * M, 16 * M, Some(RegionState::Unknown))]
fn what_is_the_same_all_over(
    #[case] start: u64,
    #[case] end: u64,
    #[case] state: Option<RegionState>,
) {
    assert_eq!(pictured().state_all_over(range(start, end)), state);
}

/// Shared mappings are 4K leaves and count in the same counters as private ones.
#[test]
fn the_counters_count_shared_pages_with_private_ones() {
    let operations = [
        accept_4k(0, 3 * PAGE),
        accept_2m(2 * M, 4 * M),
        share(4 * M, 6 * M),
        fill(4 * M, 4 * M + 2 * PAGE, 1, Side::Shared),
    ];
    let baseline = after("headtail", &guest(8 * M), &operations).baseline();
    assert_eq!((baseline.pages_4k, baseline.pages_2m), (3 + 2, 1));
}
