//! The predictor against the software host: random plans, judged step by step.
//!
//! Neither can name the other: a difference is a bug in one of them. `TDXLAB_DIFFERENTIAL_PLANS`
//! sets how many plans each design gets, `TDXLAB_DIFFERENTIAL_SEED` repeats those of an earlier
//! run.

use std::path::Path;

use rstest::rstest;
use tdxlab::fuzz::{self, Budget, CANDIDATES, Fuzz, FuzzProgress};
use tdxlab::host_soft::sim::SimHost;
use tdxlab::plan::Design;
use tdxlab::qemu::interrupt::Interrupt;

/// Default number of plans per design.
const PLANS: u64 = 20_000;

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(
        text.parse()
            .unwrap_or_else(|_| panic!("{variable}={text} is no number")),
    )
}

#[rstest]
fn predictor_and_software_host_agree(#[values("stock", "v3", "v5", "headtail")] design: &str) {
    let plans = number("TDXLAB_DIFFERENTIAL_PLANS").unwrap_or(PLANS);
    let seed = number("TDXLAB_DIFFERENTIAL_SEED").unwrap_or_else(rand::random);
    println!("TDXLAB_DIFFERENTIAL_SEED={seed}");
    let design = Design::named(design).expect("a known design");
    let hunt = Fuzz {
        host: &SimHost::in_memory(),
        design,
        seed,
        budget: Budget::Plans(plans),
        jobs: 1,
        candidates: CANDIDATES,
        interrupt: Interrupt::of_process(),
        folder: Path::new("."),
        progress: &FuzzProgress::default(),
    };
    let outcome = hunt.run().expect("sim boots");
    if let Some(found) = outcome.found {
        let shrunk = fuzz::scenario(&found.shrunk.plan, design, "fuzz/found", "found");
        panic!("{}\n{shrunk}", found.shrunk.failure);
    }
    assert_eq!(outcome.plans, plans);
}
