//! What others do: conversions that stop, pages that are held, slots that go, and the end of memory.

use tdxlab_plan::{SlotChange, VmmAnswer};

use super::*;

const RETRY: u64 = 1;
const REFUSED: u64 = 1 << 63;
const ALIGN: u64 = (1 << 63) + 2;

fn pin(start: u64, end: u64) -> Op {
    Op::Pin {
        range: range(start, end),
    }
}

fn unpin(start: u64, end: u64) -> Op {
    Op::Unpin {
        range: range(start, end),
    }
}

fn refuse(start: u64, end: u64) -> Op {
    Op::Conversions {
        range: range(start, end),
        answer: VmmAnswer::Refuse,
    }
}

fn change(start: u64, end: u64, change: SlotChange) -> Op {
    Op::Slot {
        range: range(start, end),
        change,
    }
}

/// Where a MapGPA stops: at the start of the chunk, counted from the start of the request.
#[rstest]
#[case::past_memory(&[], convert(5 * M, 9 * M, Side::Shared), REFUSED, 7 * M)]
#[case::at_the_first_chunk(&[], convert(7 * M, 9 * M, Side::Shared), REFUSED, 7 * M)]
#[case::off_a_page(&[], convert(M + 512, 2 * M, Side::Shared), ALIGN, M + 512)]
#[case::ends_off_a_page(&[], convert(M, 2 * M + 1, Side::Private), ALIGN, M)]
#[case::refused(&[refuse(4 * M, 4 * M + PAGE)], convert(M, 7 * M, Side::Shared), REFUSED, 3 * M)]
#[case::held(&[share(0, 6 * M), pin(3 * M, 3 * M + PAGE)], unshare(0, 6 * M), RETRY, 2 * M)]
#[case::refused_before_held(
    &[share(0, 6 * M), pin(3 * M, 4 * M), refuse(2 * M, 3 * M)], unshare(0, 6 * M), REFUSED, 2 * M
)]
fn conversions_stop(#[case] before: &[Op], #[case] op: Op, #[case] status: u64, #[case] at: u64) {
    let mut predictor = after("headtail", &guest(8 * M), before);
    let expected = one(&mut predictor, op);
    assert_eq!(expected.map_gpa, Some(status));
    let stopped = Gpa::new(LOW_BASE.as_u64() + at);
    assert_eq!(expected.map_gpa_stopped_at, Some(stopped));
}

/// Chunks before the one that stops are converted, and split what sticks out of them.
#[test]
fn what_lies_before_is_converted() {
    let mut predictor = after("v5", &guest(8 * M), &[accept_2m(0, 8 * M)]);
    let expected = one(&mut predictor, share(3 * M, 9 * M));
    let (leaves, pages) = (expected.pages.pages_2m, expected.pages.pages_4k);
    assert_eq!(expected.splits.single(), Some(3), "off a boundary all are");
    // The chunks from 3M and 5M are done; the one from 7M leaves memory.
    assert_eq!(leaves.single(), Some(-3));
    assert_eq!(pages.single(), Some(3 * 512 - 1024));
}

#[test]
fn a_page_is_held_where_memory_converts_in_place_only() {
    let shared = [share(0, M), fill(0, M, 1, Side::Shared), pin(0, PAGE)];
    let mut in_place = after("v5", &guest(8 * M), &shared);
    assert_eq!(one(&mut in_place, unshare(0, M)).map_gpa, Some(RETRY));
    one(&mut in_place, unpin(0, PAGE));
    assert_eq!(one(&mut in_place, unshare(0, M)).map_gpa, Some(SUCCESS));
    let mut elsewhere = after("stock", &guest(8 * M), &shared);
    assert_eq!(one(&mut elsewhere, unshare(0, M)).map_gpa, Some(SUCCESS));
}

#[test]
fn user_space_has_no_mapping_of_private_pages() {
    let mut predictor = after("v5", &guest(8 * M), &[accept_4k(0, M)]);
    assert_eq!(one(&mut predictor, pin(0, PAGE)).errnos, [14]);
}

/// A hole beside a held page, an access that converts one, and a race are not foreseen.
#[rstest]
#[case::hole(punch(0, LEAF))]
#[case::access(touch(M, M + PAGE))]
#[case::twice(pin(M, M + PAGE))]
#[case::not_pinned(unpin(0, 2 * M))]
fn held_pages_are_left_alone(#[case] op: Op) {
    let before = [share(0, LEAF), pin(M, M + PAGE)];
    let mut predictor = after("headtail", &guest(8 * M), &before);
    assert!(predictor.step(&Action::One(op)).is_err());
}

fn set(start: u64, end: u64, to: Side) -> Op {
    Op::SetAttributes {
        range: range(start, end),
        to,
    }
}

/// One call is one range: MapGPA would cut it into chunks, and split what each cuts.
#[test]
fn attributes_are_set_by_one_call() {
    let mut predictor = after("headtail", &guest(8 * M), &[accept_2m(0, 8 * M)]);
    let expected = one(&mut predictor, set(M, 7 * M, Side::Shared));
    assert_eq!(expected.errnos, [0]);
    assert_eq!(expected.splits.single(), Some(2));
    assert_eq!(expected.pages.pages_2m.single(), Some(-4));
    assert_eq!(expected.pages.pages_4k.single(), Some(512));
    let again = one(&mut predictor, set(M, 7 * M, Side::Shared));
    assert_eq!((again.errnos, again.entries_at_most), (vec![0], Some(0)));
}

/// Refused as a whole, at the first page of the range that is held.
#[rstest]
#[case::held(set(0, 6 * M, Side::Private), 11, Some(3 * M))]
#[case::held_at_its_start(set(3 * M, 4 * M, Side::Private), 11, Some(3 * M))]
#[case::beside_it(set(4 * M, 6 * M, Side::Private), 0, None)]
#[case::to_what_it_is(set(0, 6 * M, Side::Shared), 0, None)]
#[case::off_a_page(set(512, M, Side::Private), 22, None)]
#[case::past_memory(set(7 * M, 9 * M, Side::Private), 22, None)]
fn a_held_page_refuses_a_call(#[case] op: Op, #[case] errno: i32, #[case] at: Option<u64>) {
    let before = [share(0, 6 * M), pin(3 * M, 3 * M + PAGE)];
    let mut predictor = after("headtail", &guest(8 * M), &before);
    let expected = one(&mut predictor, op);
    assert_eq!(expected.errnos, [errno]);
    let at = at.map(|at| Gpa::new(LOW_BASE.as_u64() + at));
    assert_eq!(expected.error_at, at);
}

#[test]
fn a_guest_memfd_has_no_attributes_where_the_vm_has() {
    let mut predictor = after("stock", &guest(8 * M), &[accept_4k(0, M)]);
    assert_eq!(one(&mut predictor, set(0, M, Side::Shared)).errnos, [25]);
}

#[test]
fn a_slot_takes_its_leaves_with_it() {
    let slots = [slot(0, 4 * M, 0), slot(4 * M, 8 * M, 4 * M)];
    let before = [
        accept_2m(0, 8 * M),
        fill(0, 8 * M, 1, Side::Private),
        share(4 * M, 4 * M + PAGE),
        fill(4 * M, 4 * M + PAGE, 2, Side::Shared),
    ];
    let mut predictor = after("v5", &slotted(8 * M, &slots), &before);
    let gone = one(&mut predictor, change(4 * M, 8 * M, SlotChange::Delete));
    assert_eq!(gone.errnos, [0]);
    assert_eq!(gone.pages.pages_2m.single(), Some(-1));
    assert_eq!(gone.pages.pages_4k.single(), Some(-512));
    assert_eq!(gone.splits.single(), Some(0));
    let populated = gone.populated.single();
    let again = one(&mut predictor, change(4 * M, 8 * M, SlotChange::Delete));
    assert_eq!(again.errnos, [22]);
    let without = Action::One(accept_2m(4 * M, 6 * M));
    assert!(predictor.step(&without).is_err(), "an access ends the VM");
    let back = one(&mut predictor, change(4 * M, 8 * M, SlotChange::Add));
    assert_eq!(
        back.populated.single(),
        populated,
        "the file knows no slots"
    );
    let shared = one(&mut predictor, verify_shared(4 * M, 4 * M + PAGE));
    assert_eq!(shared.reads.len(), 1);
    assert_eq!(shared.pages.pages_4k.single(), Some(1), "mapped anew");
}

/// A slot may go while others work in other 2M regions.
#[rstest]
#[case::elsewhere(0, true)]
#[case::in_it(4 * M, false)]
fn a_slot_may_race(#[case] at: u64, #[case] foreseen: bool) {
    let slots = [slot(0, 4 * M, 0), slot(4 * M, 8 * M, 4 * M)];
    let mut predictor = after("v5", &slotted(8 * M, &slots), &[]);
    let race = parallel(&[
        &[accept_2m(at, at + LEAF)],
        &[change(4 * M, 8 * M, SlotChange::Delete)],
    ]);
    assert_eq!(predictor.step(&race).is_ok(), foreseen);
}

#[rstest]
#[case::pages(7 * M, 9 * M, Size::Size4K, true, 257)]
#[case::leaves(6 * M, 10 * M, Size::Size2M, true, 2)]
#[case::half_a_leaf(6 * M, 8 * M, Size::Size2M, false, 1)]
fn accepts_past_the_end(
    #[case] start: u64,
    #[case] end: u64,
    #[case] size: Size,
    #[case] dies: bool,
    #[case] exits: i64,
) {
    let memory = if dies { 8 * M } else { 7 * M };
    let mut predictor = after("v5", &guest(memory), &[]);
    let expected = one(&mut predictor, accept(start, end, size));
    assert_eq!((!expected.td_alive, expected.ended_by_vmm), (dies, dies));
    assert_eq!(expected.accept_exits.single(), Some(exits));
}
