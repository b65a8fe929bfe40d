//! Beyond single calls: zero-stepping, and a tree of five levels.

use tdxlab_protocol::addr::Gpa;
use tdxlab_protocol::addr::PageLevel::Size2M;

use super::super::{Entry, Hold, Lock, ModuleVersion, Outcome, Platform, Status, TdParams};
use super::bench::Do::*;
use super::bench::*;
use crate::entry::Level;
use crate::memory::SimMachine;
use crate::physical_memory::Pfn;
use crate::policy::Faithful;

#[test]
fn the_seventh_violation_in_one_place_keeps_the_vcpu_out_until_it_is_mended() {
    let mut bench = Bench::running();
    bench.hardware.set_rip(0, 0x1000);
    for violation in 0..7 {
        assert_eq!(
            bench.hardware.filter_entry(0),
            Entry::Allowed,
            "{violation}"
        );
        bench.hardware.access(0, PAGE, false);
    }
    assert_eq!(bench.hardware.filter_entry(0), Entry::Refused(PAGE));
    let mut bench = bench.after(&[Aug(REGION, Size2M)]);
    assert_eq!(
        bench.hardware.filter_entry(0),
        Entry::Allowed,
        "it is a #VE now"
    );
    bench.hardware.set_rip(0, 0x1004);
    bench.hardware.access(0, Gpa::new(0x8000_0000), false);
    assert_eq!(
        bench.hardware.stepping(0),
        (1, 0),
        "the guest has got further"
    );
}

#[test]
fn the_list_of_noted_addresses_is_full_at_32() {
    let mut bench = Bench::running();
    bench.hardware.set_rip(0, 0x1000);
    for page in 0..50 {
        bench.hardware.filter_entry(0);
        bench
            .hardware
            .access(0, Gpa::from_gfn(PAGE.gfn() + page), false);
    }
    assert_eq!(bench.hardware.stepping(0), (6, 32));
}

#[test]
fn an_entry_waits_for_the_tree_only_while_something_is_noted() {
    let mut bench = Bench::running();
    bench.hardware.set_rip(0, 0x1000);
    bench.hardware.hold(Lock::Tree, Hold::Exclusive);
    for _ in 0..7 {
        assert_eq!(bench.hardware.filter_entry(0), Entry::Allowed);
        bench.hardware.access(0, PAGE, false);
    }
    assert!(matches!(bench.hardware.filter_entry(0), Entry::Busy(_)));
    bench.hardware.let_go(Lock::Tree, Hold::Exclusive);
    assert_eq!(bench.hardware.filter_entry(0), Entry::Refused(PAGE));
}

#[test]
fn a_tree_of_five_levels_has_its_shared_bit_at_51() {
    let params = TdParams {
        vcpus: 1,
        sept_ve_disable: false,
        wide: true,
    };
    let machine = SimMachine::new(64 << 20);
    let mut hardware = Platform::new(machine, Box::new(Faithful), ModuleVersion::V1_5_25, params);
    let high = Gpa::new(1 << 50);
    let walk_failed = Status(WALK_FAILED);
    assert_eq!(hardware.sept_add(high, Level::Pgd, Pfn(0x300)), walk_failed);
    for (level, table) in [
        (Level::Pml5, 0x301),
        (Level::Pgd, 0x302),
        (Level::Pud, 0x303),
    ] {
        assert!(hardware.sept_add(high, level, Pfn(table)).is_success());
    }
    hardware.finalize();
    assert!(hardware.page_aug(high, Size2M, FOLIO).is_success());
    assert_eq!(
        accept(&mut hardware, high, Size2M),
        Outcome::Complete(Status::SUCCESS)
    );
    assert_eq!(
        accept(&mut hardware, Gpa::new(1 << 51), Size2M),
        Outcome::Complete(Status(OPERAND_INVALID_RCX))
    );
}
