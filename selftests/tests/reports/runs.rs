//! Runs to make reports of, and the programs that check these.

use std::path::Path;

use tdxlab::host_soft::SoftwareHost;
use tdxlab::host_soft::sim::SimHost;
use tdxlab::plan::Design;
use tdxlab::run::{NoProgress, TestCase};
use tdxlab::spec::{FinishedRun, RunSpec};
use tdxlab::{faults, scenario};
use tdxlab_selftests::command::root;
use tdxlab_selftests::failing::plans;

/// Runs a scenario, or a folder of them, on `sim` with a seeded fault, or without one. Without a name,
/// that is the default set, to which the scenarios that measure do not belong.
pub(super) fn run(below: &str, fault: Option<&str>, reports: &Path) -> FinishedRun {
    let host = match fault {
        None => SimHost::new(),
        Some(name) => {
            let fault = faults::named(name).expect("a known fault");
            SimHost::new().with_policy(move || (fault.make)())
        }
    };
    let design = Design::named("headtail").expect("a known design");
    let files = scenario::find(&[root().join("scenarios").join(below)]).expect("scenarios");
    let measures = |file: &Path| file.parent().is_some_and(|folder| folder.ends_with("cost"));
    let items: Vec<_> = files
        .iter()
        .filter(|file| !below.is_empty() || !measures(file))
        .flat_map(|file| plans(file))
        .map(relative)
        .collect();
    RunSpec::new(&items, &host, design, &NoProgress)
        .run(reports)
        .expect("reports can be written")
}

/// With a file name relative to the root of the repository.
fn relative(item: TestCase) -> TestCase {
    let scenario = item.scenario.map(|file| {
        file.strip_prefix(root())
            .map(Path::to_owned)
            .unwrap_or(file)
    });
    TestCase { scenario, ..item }
}
