//! The guest's side: ACCEPT, ATTR.RD, accesses, and hypercalls.

use rstest::rstest;
use tdxlab_protocol::addr::Gpa;
use tdxlab_protocol::addr::PageLevel::{Size1G, Size2M, Size4K};
use tdxlab_protocol::tdcall::{leaf, reg};

use super::super::exit::Eeq;
use super::super::{Exit, Outcome, SHARED_BIT, Status};
use super::bench::Do::{self, *};
use super::bench::*;
use crate::entry::{Level, State};
use crate::policy::Policy;

/// Expected result of an ACCEPT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answer {
    Rax(u64),
    /// EPT violation with this extended exit qualification.
    Exit(u64),
}

const ALREADY_4K: Answer = Answer::Rax(0x0000_0b0a_0000_0000);
const ALREADY_2M: Answer = Answer::Rax(0x0000_0b0a_0000_0001);
const MISMATCH: Answer = Answer::Rax(0xc000_0b0b_0000_0001);
const SUCCESS: Answer = Answer::Rax(0);

#[rstest]
#[case::free(&[], Answer::Exit(0x0000_0008_0000_0001), Answer::Exit(0x0000_0009_0000_0001))]
#[case::table_with_a_free_entry(
    &[SeptAdd(REGION, Level::Pmd)], Answer::Exit(0x0000_0000_0000_0001), MISMATCH)]
#[case::pending_4k(&[SeptAdd(REGION, Level::Pmd), Aug(PAGE, Size4K)], SUCCESS, MISMATCH)]
#[case::mapped_4k(
    &[SeptAdd(REGION, Level::Pmd), Aug(PAGE, Size4K), Accept(PAGE, Size4K)], ALREADY_4K, MISMATCH)]
#[case::pending_2m(&[Aug(REGION, Size2M)], Answer::Exit(0x0000_4088_0000_0001), SUCCESS)]
#[case::mapped_2m(&[Aug(REGION, Size2M), Accept(REGION, Size2M)], ALREADY_2M, ALREADY_2M)]
#[case::blocked_4k(
    &[SeptAdd(REGION, Level::Pmd), Aug(PAGE, Size4K), Accept(PAGE, Size4K), Block(PAGE, Size4K)],
    Answer::Exit(0x0000_4040_0000_0001), MISMATCH)]
#[case::pending_blocked_4k(
    &[SeptAdd(REGION, Level::Pmd), Aug(PAGE, Size4K), Block(PAGE, Size4K)],
    Answer::Exit(0x0000_40c0_0000_0001), MISMATCH)]
#[case::blocked_2m(
    &[Aug(REGION, Size2M), Accept(REGION, Size2M), Block(REGION, Size2M)],
    Answer::Exit(0x0000_4048_0000_0001), Answer::Exit(0x0000_4049_0000_0001))]
#[case::pending_blocked_2m(
    &[Aug(REGION, Size2M), Block(REGION, Size2M)],
    Answer::Exit(0x0000_40c8_0000_0001), Answer::Exit(0x0000_40c9_0000_0001))]
fn accept_matrix(#[case] given: &[Do], #[case] small: Answer, #[case] large: Answer) {
    for (gpa, level, expected) in [(PAGE, Size4K, small), (REGION, Size2M, large)] {
        let mut bench = Bench::running().after(given);
        let answer = match accept(&mut bench.hardware, gpa, level) {
            Outcome::Complete(status) => Answer::Rax(status.0),
            Outcome::Exit(Exit::EptViolation { gpa: at, eeq, .. }) => {
                assert_eq!(at, gpa);
                assert_eq!(eeq.accept_level(), Some(level));
                Answer::Exit(eeq.0)
            }
            other => panic!("{other:?}"),
        };
        assert_eq!(answer, expected, "ACCEPT {level}");
        // A 1G ACCEPT is refused whatever is there.
        assert_eq!(
            accept(&mut bench.hardware, REGION, Size1G),
            Outcome::Complete(Status(OPERAND_INVALID_RCX))
        );
    }
}

#[rstest]
#[case::unaligned(0x4000_1001)]
#[case::reserved_low_bit(0x4000_0008)]
#[case::reserved_high_bit(1 << 52)]
#[case::shared(SHARED_BIT)]
#[case::level_7(0x4000_0007)]
fn accept_refuses_a_bad_operand(#[case] rcx: u64) {
    let mut bench = Bench::running();
    let mut gprs = [0; 16];
    gprs[reg::RAX] = leaf::MEM_PAGE_ACCEPT;
    gprs[reg::RCX] = rcx;
    assert_eq!(
        bench.hardware.tdcall(0, &mut gprs),
        Outcome::Complete(Status(OPERAND_INVALID_RCX))
    );
}

#[rstest]
#[case::pending(&[], State::Pending)]
#[case::accepted(&[Accept(REGION, Size2M)], State::Mapped)]
fn demote_keeps_state_frames_and_content(#[case] given: &[Do], #[case] state: State) {
    let mut bench = Bench::running()
        .after(&[Aug(REGION, Size2M)])
        .after(given)
        .after(&[Block(REGION, Size2M), Track, Kick]);
    let generation = tdxlab_protocol::pattern::Generation::new(9).unwrap();
    bench.hardware.machine.fill(FOLIO, 512, REGION, generation);
    assert!(bench.call(Demote(REGION, Size2M)).is_success());
    for index in [0, 1, 255, 511] {
        let gpa = Gpa::from_gfn(REGION.gfn() + index);
        let found = bench.hardware.walk(gpa, Level::Pte);
        assert_eq!(
            (found.level, found.state(), found.entry.frame()),
            (Level::Pte, state, FOLIO.add(index))
        );
    }
    let mut intact = 0;
    bench
        .hardware
        .machine
        .read(FOLIO, 512, REGION, &mut |count, content| {
            assert_eq!(content, tdxlab_protocol::message::Content::Own(generation));
            intact += count;
        });
    assert_eq!(intact, 512);
}

#[test]
fn an_accept_zeroes_what_the_frames_held() {
    let mut bench = Bench::running().after(&[Aug(REGION, Size2M)]);
    let generation = tdxlab_protocol::pattern::Generation::new(9).unwrap();
    bench.hardware.machine.fill(FOLIO, 512, REGION, generation);
    assert!(bench.call(Accept(REGION, Size2M)).is_success());
    bench
        .hardware
        .machine
        .read(FOLIO, 512, REGION, &mut |_, content| {
            assert_eq!(content, tdxlab_protocol::message::Content::Zero);
        });
}

#[test]
fn an_interrupted_accept_goes_on_where_it_was() {
    struct Interrupted;
    impl Policy for Interrupted {
        fn accept_burst(&mut self) -> u64 {
            200
        }
    }
    let mut bench = Bench::running().after(&[Aug(REGION, Size2M)]);
    bench.hardware.policy = Box::new(Interrupted);
    for progress in [200, 400] {
        assert_eq!(
            accept(&mut bench.hardware, REGION, Size2M),
            Outcome::Restart
        );
        let entry = bench.hardware.walk(REGION, Level::Pmd).entry;
        assert_eq!(entry.progress(), progress);
        assert_eq!(entry.state(Level::Pmd), State::Pending);
    }
    assert_eq!(
        accept(&mut bench.hardware, REGION, Size2M),
        Outcome::Complete(Status::SUCCESS)
    );
    assert_eq!(bench.hardware.state(REGION), State::Mapped);
}

#[test]
fn only_accepted_pages_are_present_to_the_mmu() {
    let side = tdxlab_protocol::addr::Side::Private;
    let mut bench = Bench::running().after(&[Aug(REGION, Size2M)]);
    assert_eq!(bench.hardware.machine.translate(side, PAGE), None);
    bench.call(Accept(REGION, Size2M));
    let found = bench.hardware.machine.translate(side, PAGE).unwrap();
    assert_eq!((found.frame, found.level), (FOLIO, Size2M));
    bench.call(Block(REGION, Size2M));
    assert_eq!(bench.hardware.machine.translate(side, PAGE), None);
}

#[test]
fn the_exit_qualification_of_a_pending_access_is_type_6() {
    let mut bench = Bench::with(true).after(&[
        SeptAdd(Level::Pgd.base(REGION), Level::Pgd),
        SeptAdd(REGION, Level::Pud),
        Finalize,
        Aug(REGION, Size2M),
    ]);
    let Outcome::Exit(Exit::EptViolation { eeq, .. }) = bench.hardware.access(0, PAGE, false)
    else {
        panic!("no exit");
    };
    assert_eq!(eeq, Eeq(6));
}

#[test]
fn ve_information_is_fetched_once_and_a_second_ve_before_that_is_fatal() {
    let mut bench = Bench::running().after(&[Aug(REGION, Size2M)]);
    assert_eq!(bench.hardware.access(1, PAGE, true), Outcome::Ve);
    let mut fetch = |vcpu| {
        let mut gprs = [0; 16];
        gprs[reg::RAX] = leaf::VP_VEINFO_GET;
        bench.hardware.tdcall(vcpu, &mut gprs);
        gprs
    };
    assert_eq!(
        fetch(0)[reg::RAX],
        0xc000_0704_0000_0000,
        "another vCPU has none"
    );
    let gprs = fetch(1);
    assert_eq!(
        (gprs[reg::RAX], gprs[reg::RCX], gprs[reg::R9]),
        (0, 48, PAGE.as_u64())
    );
    assert_eq!(gprs[reg::RDX] & 0b11, 0b10, "a write");
    assert_eq!(
        gprs[reg::R8],
        tdxlab_protocol::layout::PRIVATE_WINDOW + PAGE.as_u64()
    );
    assert_eq!(fetch(1)[reg::RAX], 0xc000_0704_0000_0000);
    assert_eq!(bench.hardware.access(1, PAGE, true), Outcome::Ve);
    assert_eq!(bench.hardware.access(1, PAGE, true), Outcome::DoubleFault);
}

#[rstest]
#[case::a_missing_page(&[], None)]
#[case::pending_2m(&[Aug(REGION, Size2M)], Some((REGION, 1, true)))]
#[case::accepted_2m(&[Aug(REGION, Size2M), Accept(REGION, Size2M)], Some((REGION, 1, false)))]
#[case::pending_4k(
    &[SeptAdd(REGION, Level::Pmd), Aug(PAGE, Size4K)], Some((PAGE, 0, true)))]
#[case::blocked(&[Aug(REGION, Size2M), Block(REGION, Size2M)], None)]
fn attributes_say_what_is_there(#[case] given: &[Do], #[case] expected: Option<(Gpa, u64, bool)>) {
    let mut bench = Bench::running().after(given);
    let mut gprs = [0; 16];
    gprs[reg::RAX] = leaf::MEM_PAGE_ATTR_RD;
    gprs[reg::RCX] = PAGE.as_u64();
    let outcome = bench.hardware.tdcall(0, &mut gprs);
    match expected {
        None => assert!(
            matches!(outcome, Outcome::Exit(Exit::EptViolation { eeq, .. }) if eeq == Eeq::NONE)
        ),
        Some((base, level, pending)) => {
            let bit = u64::from(pending) << 62;
            assert_eq!(gprs[reg::RAX], 0);
            assert_eq!(gprs[reg::RCX], base.as_u64() | level | bit);
        }
    }
}

#[test]
fn information_and_controls_can_be_read() {
    let mut hardware = platform(3, true);
    let mut call = |leaf, rdx| {
        let mut gprs = [0; 16];
        gprs[reg::RAX] = leaf;
        gprs[reg::RDX] = rdx;
        hardware.tdcall(2, &mut gprs);
        gprs
    };
    let info = call(leaf::VP_INFO, 0);
    assert_eq!(
        (info[reg::RCX], info[reg::RDX], info[reg::R8], info[reg::R9]),
        (48, 1 << 28, 3 | 3 << 32, 2)
    );
    let controls = call(leaf::VM_RD, 0x1110_0003_0000_0017);
    assert_eq!((controls[reg::RAX], controls[reg::R8]), (0, 1));
    assert_eq!(call(leaf::VM_RD, 0x99)[reg::RAX], 0xc000_0c00_0000_0000);
    assert_eq!(
        call(8, 0x1110_0003_0000_0017)[reg::RAX],
        0xc000_0c03_0000_0000
    );
    assert_eq!(call(99, 0)[reg::RAX], 0xc000_0100_0000_0000);
}
