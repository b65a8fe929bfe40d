//! The reads of a `verify`, and their order: docs/semantics.md, section 8.

use tdxlab_plan::Content;

use super::*;

/// The reads in order.
fn reads(expected: &Expectation) -> Vec<(GpaRange, Content)> {
    let reads = expected.reads.iter();
    reads.map(|read| (read.range, read.content)).collect()
}

/// Missing pages are planned after the others, but read in address order.
#[test]
fn reads_are_in_order() {
    let mut predictor = after("headtail", &guest(8 * M), &[accept_2m(LEAF, 2 * LEAF)]);
    let expected = one(&mut predictor, verify(0, 2 * LEAF, Gone::Every));
    assert_eq!(
        reads(&expected),
        [
            (range(0, LEAF), Content::Gone),
            (range(LEAF, 2 * LEAF), Content::Zero),
        ]
    );
}

/// However it was mapped.
#[test]
fn what_holds_the_same_is_one_read() {
    let before = [accept_2m(0, LEAF), accept_4k(LEAF, LEAF + M)];
    let mut predictor = after("headtail", &guest(8 * M), &before);
    let expected = one(&mut predictor, verify(0, LEAF + M, Gone::Skip));
    assert_eq!(reads(&expected), [(range(0, LEAF + M), Content::Zero)]);
}

/// The first and the last page of a missing extent may be the same.
#[rstest]
#[case::one_page(PAGE, &[(0, PAGE)])]
#[case::two_pages(2 * PAGE, &[(0, PAGE), (PAGE, 2 * PAGE)])]
fn ends_are_read_once(#[case] end: u64, #[case] wanted: &[(u64, u64)]) {
    let mut predictor = after("headtail", &guest(8 * M), &[]);
    let expected = one(&mut predictor, verify(0, end, Gone::Ends));
    let wanted: Vec<_> = wanted
        .iter()
        .map(|&(start, end)| (range(start, end), Content::Gone))
        .collect();
    assert_eq!(reads(&expected), wanted);
}

/// Reading them would convert them.
#[test]
fn shared_pages_are_not_read_as_private_ones() {
    let before = [share(0, LEAF), accept_2m(LEAF, 2 * LEAF)];
    let mut predictor = after("headtail", &guest(8 * M), &before);
    let expected = one(&mut predictor, verify(0, 2 * LEAF, Gone::Every));
    assert_eq!(reads(&expected), [(range(LEAF, 2 * LEAF), Content::Zero)]);
    assert_eq!(expected.pages.pages_4k.single(), Some(0));
    assert_eq!(expected.pages.pages_2m.single(), Some(0));
}

/// Nor private pages as shared ones.
#[test]
fn private_pages_are_not_read_as_shared_ones() {
    let mut predictor = after("stock", &guest(8 * M), &[share(LEAF, 2 * LEAF)]);
    let expected = one(&mut predictor, verify_shared(0, 2 * LEAF));
    assert_eq!(reads(&expected), [(range(LEAF, 2 * LEAF), Content::Zero)]);
    assert_eq!(expected.pages.pages_4k.single(), Some(512));
}

/// With in-place conversion, private content may become visible.
#[test]
fn half_of_shared_memory_that_was_filled_cannot_be_verified() {
    let before = [share(0, LEAF), fill(0, M, 1, Side::Shared)];
    let mut predictor = after("v3", &guest(8 * M), &before);
    let whole = Action::One(verify_shared(0, LEAF));
    assert!(predictor.step(&whole).is_err());
}

/// After a race, memory is read only if missing pages are read, too.
#[rstest]
#[case::left_alone(Gone::Skip, false)]
#[case::read(Gone::Every, true)]
fn raced_memory(#[case] gone: Gone, #[case] read: bool) {
    let mut predictor = after("headtail", &guest(8 * M), &[accept_2m(LEAF, 2 * LEAF)]);
    predictor.step(&accepts_race()).unwrap();
    let expected = one(&mut predictor, verify(0, 2 * LEAF, gone));
    let mut wanted = vec![(range(LEAF, 2 * LEAF), Content::Zero)];
    if read {
        wanted.insert(0, (range(0, LEAF), Content::Raced));
    }
    assert_eq!(reads(&expected), wanted);
}
