//! The host's side: preconditions of calls, and calls that may not be repeated.

use rstest::rstest;
use tdxlab_protocol::addr::Gpa;
use tdxlab_protocol::addr::PageLevel::{Size1G, Size2M, Size4K};

use super::super::exit::Eeq;
use super::super::{Exit, Outcome, SHARED_BIT, Status};
use super::bench::Do::{self, *};
use super::bench::*;
use crate::entry::{Level, State};

const UNALIGNED: Gpa = Gpa::new(0x4000_1000);
const SHARED: Gpa = Gpa::new(SHARED_BIT);
const FAR: Gpa = Gpa::new(0x8000_0000);

#[rstest]
#[case::sept_add_twice(&[], SeptAdd(REGION, Level::Pud), STATE_INCORRECT)]
#[case::sept_add_over_a_leaf(&[Aug(REGION, Size2M)], SeptAdd(REGION, Level::Pmd), STATE_INCORRECT)]
#[case::sept_add_at_4k(&[], SeptAdd(REGION, Level::Pte), OPERAND_INVALID_RCX)]
#[case::sept_add_unaligned(&[], SeptAdd(UNALIGNED, Level::Pmd), OPERAND_INVALID_RCX)]
#[case::sept_add_without_the_table_above(&[], SeptAdd(FAR, Level::Pmd), WALK_FAILED)]
#[case::add_while_running(&[SeptAdd(REGION, Level::Pmd)], Add(PAGE), RUNNABLE)]
#[case::aug_2m(&[], Aug(REGION, Size2M), 0)]
#[case::aug_4k(&[SeptAdd(REGION, Level::Pmd)], Aug(PAGE, Size4K), 0)]
#[case::aug_1g(&[], Aug(REGION, Size1G), OPERAND_INVALID_RCX)]
#[case::aug_unaligned(&[], Aug(UNALIGNED, Size2M), OPERAND_INVALID_RCX)]
#[case::aug_shared(&[], Aug(SHARED, Size4K), OPERAND_INVALID_RCX)]
#[case::aug_without_a_table(&[], Aug(PAGE, Size4K), WALK_FAILED)]
#[case::aug_4k_under_a_2m_leaf(&[Aug(REGION, Size2M)], Aug(PAGE, Size4K), WALK_FAILED)]
#[case::aug_2m_over_a_table(&[SeptAdd(REGION, Level::Pmd)], Aug(REGION, Size2M), STATE_INCORRECT)]
#[case::aug_twice(&[Aug(REGION, Size2M)], Aug(REGION, Size2M), STATE_INCORRECT)]
#[case::block_free(&[], Block(REGION, Size2M), STATE_INCORRECT)]
#[case::block_4k_of_a_2m_leaf(&[Aug(REGION, Size2M)], Block(PAGE, Size4K), WALK_FAILED)]
#[case::block_a_table(&[SeptAdd(REGION, Level::Pmd)], Block(REGION, Size2M), 0)]
#[case::block_a_table_twice(
    &[SeptAdd(REGION, Level::Pmd), Block(REGION, Size2M)], Block(REGION, Size2M), ALREADY_BLOCKED)]
#[case::aug_below_a_blocked_table(
    &[SeptAdd(REGION, Level::Pmd), Block(REGION, Size2M)], Aug(PAGE, Size4K), WALK_FAILED)]
#[case::block_twice(&[Aug(REGION, Size2M), Block(REGION, Size2M)], Block(REGION, Size2M), ALREADY_BLOCKED)]
#[case::remove_unblocked(&[Aug(REGION, Size2M)], Remove(REGION, Size2M), NOT_BLOCKED)]
#[case::remove_unblocked_accepted(
    &[Aug(REGION, Size2M), Accept(REGION, Size2M)], Remove(REGION, Size2M), NOT_BLOCKED)]
#[case::remove_free(&[], Remove(REGION, Size2M), STATE_INCORRECT)]
#[case::remove_untracked(
    &[Aug(REGION, Size2M), Block(REGION, Size2M)], Remove(REGION, Size2M), TRACKING_NOT_DONE)]
#[case::remove_unkicked(
    &[Aug(REGION, Size2M), Block(REGION, Size2M), Track], Remove(REGION, Size2M), TRACKING_NOT_DONE)]
#[case::remove_kicked_before_track(
    &[Aug(REGION, Size2M), Block(REGION, Size2M), Kick, Track], Remove(REGION, Size2M), TRACKING_NOT_DONE)]
#[case::remove_tracked_before_block(
    &[Aug(REGION, Size2M), Track, Kick, Block(REGION, Size2M)], Remove(REGION, Size2M), TRACKING_NOT_DONE)]
#[case::remove(
    &[Aug(REGION, Size2M), Block(REGION, Size2M), Track, Kick], Remove(REGION, Size2M), 0)]
#[case::remove_untracked_what_was_blocked_before(
    &[Aug(REGION, Size2M), Block(REGION, Size2M), Track, Kick, Remove(REGION, Size2M),
      Aug(REGION, Size2M), Block(REGION, Size2M)],
    Remove(REGION, Size2M), TRACKING_NOT_DONE)]
#[case::remove_4k(
    &[SeptAdd(REGION, Level::Pmd), Aug(PAGE, Size4K), Block(PAGE, Size4K), Track, Kick],
    Remove(PAGE, Size4K), 0)]
#[case::remove_a_leaf_that_was_split(
    &[Aug(REGION, Size2M), Block(REGION, Size2M), Track, Kick, Demote(REGION, Size2M)],
    Remove(REGION, Size2M), STATE_INCORRECT)]
#[case::remove_a_page_of_a_blocked_leaf(
    &[Aug(REGION, Size2M), Block(REGION, Size2M), Track, Kick], Remove(PAGE, Size4K), WALK_FAILED)]
#[case::demote_unblocked(&[Aug(REGION, Size2M)], Demote(REGION, Size2M), NOT_BLOCKED)]
#[case::demote_untracked(
    &[Aug(REGION, Size2M), Block(REGION, Size2M)], Demote(REGION, Size2M), TRACKING_NOT_DONE)]
#[case::demote(
    &[Aug(REGION, Size2M), Block(REGION, Size2M), Track, Kick], Demote(REGION, Size2M), 0)]
#[case::demote_4k(
    &[SeptAdd(REGION, Level::Pmd), Aug(PAGE, Size4K), Block(PAGE, Size4K), Track, Kick],
    Demote(PAGE, Size4K), OPERAND_INVALID_RCX)]
#[case::demote_a_table(&[SeptAdd(REGION, Level::Pmd)], Demote(REGION, Size2M), STATE_INCORRECT)]
#[case::children_need_no_unblocking(
    &[Aug(REGION, Size2M), Block(REGION, Size2M), Track, Kick, Demote(REGION, Size2M)],
    Block(PAGE, Size4K), 0)]
#[case::track_twice_without_a_kick(&[Track], Track, EPOCH_BUSY)]
#[case::track_twice_with_a_kick(&[Track, Kick], Track, 0)]
fn order_rules(#[case] given: &[Do], #[case] step: Do, #[case] status: u64) {
    let mut bench = Bench::running().after(given);
    assert_eq!(bench.call(step), Status(status));
}

#[test]
fn before_the_td_runs_nothing_needs_to_be_blocked() {
    let mut bench = Bench::new().after(&[
        SeptAdd(Level::Pgd.base(REGION), Level::Pgd),
        SeptAdd(REGION, Level::Pud),
        SeptAdd(REGION, Level::Pmd),
        Add(PAGE),
    ]);
    assert_eq!(bench.hardware.state(PAGE), State::Mapped);
    assert!(bench.call(Remove(PAGE, Size4K)).is_success());
    assert!(bench.call(Aug(PAGE, Size4K)).is_success());
    assert_eq!(bench.hardware.state(PAGE), State::Pending);
}

#[test]
fn a_blocked_table_ends_every_walk_below_it() {
    let mut bench = Bench::running().after(&[
        SeptAdd(REGION, Level::Pmd),
        Aug(PAGE, Size4K),
        Accept(PAGE, Size4K),
    ]);
    assert_eq!(
        bench.hardware.access(0, PAGE, true),
        Outcome::Complete(Status::SUCCESS)
    );
    bench.call(Block(REGION, Size2M));
    assert!(matches!(
        bench.hardware.access(0, PAGE, true),
        Outcome::Exit(Exit::EptViolation { eeq: Eeq::NONE, .. })
    ));
    let Outcome::Exit(Exit::EptViolation { eeq, .. }) = accept(&mut bench.hardware, PAGE, Size4K)
    else {
        panic!("no exit");
    };
    assert_eq!(eeq, Eeq(0x0000_2048_0000_0001));
    assert_eq!(
        accept(&mut bench.hardware, REGION, Size2M),
        Outcome::Complete(Status(0xc000_0b0b_0000_0001))
    );
}

#[test]
fn a_frame_in_use_is_not_taken_twice() {
    const IN_USE: u64 = 0xc000_0300_0000_0008;
    let mut bench = Bench::running().after(&[Aug(REGION, Size2M)]);
    let other = Gpa::new(0x4020_0000);
    let status = bench.hardware.page_aug(other, Size2M, FOLIO);
    assert_eq!(status, Status(IN_USE), "as 2M");
    let status = bench.hardware.sept_add(other, Level::Pmd, FOLIO.add(7));
    assert_eq!(status, Status(IN_USE), "as a table");
    let mut bench = bench.after(&[Block(REGION, Size2M), Track, Kick, Remove(REGION, Size2M)]);
    assert!(bench.hardware.page_aug(other, Size2M, FOLIO).is_success());
}
