//! Accesses by one instruction, which the module's zero-step filter counts, and by copies in turn.

use tdxlab_journal::Killer;
use tdxlab_plan::TdxModule;

use super::*;
use crate::SoftwareHost;

fn bench(module: TdxModule) -> Bench {
    let host = SimHost::in_memory().with_module(module);
    Bench::on(&host, &guest(64 * M), "stock")
}

fn touch_by(end: u64, access: AccessKind, same_rip: bool) -> Op {
    Op::Touch {
        range: range(0, end),
        stride: PageLevel::Size4K,
        access,
        side: Side::Private,
        on_ve: OnVe::Skip,
        same_rip,
        vcpu: VcpuId(0),
    }
}

#[test]
fn the_oldest_module_lets_a_guest_on_that_does_not_stay_at_one_instruction() {
    for access in [AccessKind::Read, AccessKind::Write] {
        let mut bench = bench(TdxModule::V1_5_01);
        for page in (0..M / K / 4).step_by(2) {
            bench.perform(&touch(
                page * 4 * K,
                (page + 1) * 4 * K,
                Side::Private,
                OnVe::Skip,
            ));
        }
        bench.change();
        let (observed, change) = bench.observe(&touch_by(M, access, false));
        assert_eq!(observed.death, None);
        assert_eq!((change.exits, change.pages_4k), (128, 128));
    }
}

#[test]
fn one_instruction_over_seven_pages_never_ends_on_the_oldest_module() {
    for access in [AccessKind::Read, AccessKind::Write] {
        let mut bench = bench(TdxModule::V1_5_01);
        let (_, change) = bench.observe(&touch_by(6 * 4 * K, access, true));
        assert_eq!((change.exits, change.pages_4k), (6, 6));
        let death = bench.perform(&touch_by(7 * 4 * K, access, true)).death;
        let death = death.expect("it exits for ever");
        assert_eq!(death.by, Killer::ExitsForEver);
        let page = gpa(6 * 4 * K).to_string();
        assert!(death.text.contains(&page), "{}", death.text);
    }
}

#[test]
fn later_modules_let_it_on() {
    for module in TdxModule::ALL.into_iter().skip(1) {
        let (observed, change) = bench(module).observe(&touch_by(M, AccessKind::Write, true));
        assert_eq!(observed.death, None, "{module}");
        assert_eq!((change.exits, change.pages_4k), (256, 256), "{module}");
    }
}
