//! Runs with seeded faults, to test reports of failures.

use std::path::Path;

use tdxlab::host_soft::SoftwareHost;
use tdxlab::host_soft::sim::SimHost;
use tdxlab::plan::Design;
use tdxlab::run::{NoProgress, TestCase};
use tdxlab::scenario;
use tdxlab::softkvm::Policy;
use tdxlab::spec::{FinishedRun, RunSpec};

/// DEMOTE loses the content of one 4K page in the middle of the leaf.
struct LosesContent;

impl Policy for LosesContent {
    fn demote_keeps_content(&mut self, index: u64) -> bool {
        index != 100
    }
}

/// The plans of a scenario.
pub fn plans(path: &Path) -> Vec<TestCase> {
    let scenario = scenario::load(path).expect("the scenario is right");
    scenario::expand(&scenario, None)
        .expect("the scenario expands")
        .into_iter()
        .map(|plan| TestCase {
            plan,
            scenario: Some(path.to_owned()),
        })
        .collect()
}

/// Runs a scenario on `sim`, under `headtail`, where a split loses a page.
pub fn run_with_lost_page(path: &Path, reports: &Path) -> FinishedRun {
    let host = SimHost::new().with_policy(|| Box::new(LosesContent));
    let design = Design::named("headtail").expect("a known design");
    RunSpec::new(&plans(path), &host, design, &NoProgress)
        .run(reports)
        .expect("reports can be written")
}
