//! Many plans in one guest, on `sim`, where seeds decide everything.

use std::path::Path;

use rstest::rstest;
use tdxlab_faults as faults;
use tdxlab_host_soft::SoftwareHost;
use tdxlab_host_soft::sim::SimHost;

use super::*;
use crate::attempt;

/// Guests that hold some plans each, with seeds from `first` on, until one fails.
fn hunt(host: &SimHost, design: &Design, first: u64, guests: u64) -> (u64, Option<FailingPlan>) {
    let mut coverage = Coverage::new(CoverageModel::Td);
    let (mut plans, mut seed) = (0, first);
    for _ in 0..guests {
        seed += 1;
        let mut windows = Windows::boot(host, design, seed, &[], Path::new("/tmp")).unwrap();
        while !windows.is_full() {
            let run = windows.run(seed, &mut coverage);
            seed += 1;
            plans += 1;
            if run.failed.is_some() {
                return (plans, run.failed);
            }
        }
        let failed = windows.end();
        if failed.is_some() {
            return (plans, failed);
        }
    }
    (plans, None)
}

#[rstest]
#[case::stock("stock")]
#[case::v3("v3")]
#[case::v5("v5")]
#[case::headtail("headtail")]
fn memory_is_put_back_and_deaths_end_a_guest(#[case] design: &str) {
    let design = Design::named(design).unwrap();
    let (plans, failed) = hunt(&SimHost::in_memory(), design, 1000, 12);
    if let Some(suspect) = failed {
        panic!("{}\n{:#?}", suspect.failure, suspect.plan);
    }
    assert!(plans > 200, "{plans} plans in 12 guests");
}

/// A failure reproduces at the same step with all plans before it, and with the plan alone unless
/// earlier plans contributed.
#[rstest]
#[case::hole("head-split-missing")]
#[case::content("split-loses-content")]
#[case::stale("zap-without-flush")]
#[case::race("fault-during-hole")]
fn a_suspect_can_be_run_again(#[case] fault: &str) {
    let fault = faults::named(fault).unwrap();
    let design = Design::named(fault.design).unwrap();
    let host = SimHost::in_memory().with_fault(fault.seeded());
    let again = |plan: &Plan, failure: &Failure| {
        attempt(&host, design, plan, &failure.orders, Path::new("/tmp"))
    };
    let (mut suspects, mut with_history, mut alone) = (0, 0, 0);
    for first in (0..40).map(|hunt| hunt * 10_000) {
        let Some(suspect) = hunt(&host, design, first, 20).1 else {
            continue;
        };
        suspects += 1;
        if let Some((failure, plan)) = &suspect.history {
            let found = again(plan, failure).unwrap();
            assert!(found.is_like(failure), "{found} is not like {failure}");
            assert_eq!(found.step, failure.step);
            assert_eq!(failure.step, plan.steps.len() - 1);
            with_history += 1;
        }
        let found = again(&suspect.plan, &suspect.failure);
        if found.is_some_and(|found| found.step == suspect.failure.step) {
            alone += 1;
        }
    }
    assert!(with_history >= 5, "{with_history}");
    // A race is found less often.
    assert!(suspects >= 5, "{suspects}");
    assert!(alone * 2 >= suspects, "{alone} of {suspects}");
}
