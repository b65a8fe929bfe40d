//! Scenario files to plans, with everything that is wrong in any of them.

use std::path::PathBuf;

use tdxlab_plan::HostKind;
use tdxlab_run::TestCase;
use tdxlab_scenario as scenario;
use tdxlab_scenario::{Scenario, ScenarioError};

use super::error::CliError;
use super::options::Scenarios;

/// A scenario and its plans.
pub(super) struct Loaded {
    /// The scenario.
    pub scenario: Scenario,
    /// One plan for each case and point of its matrix.
    pub items: Vec<TestCase>,
}

/// Reads, expands and checks all scenarios. Nothing may start before all of them are right.
pub(super) fn load(which: &Scenarios) -> Result<Vec<Loaded>, CliError> {
    let mut loaded = Vec::new();
    let mut wrong = Vec::new();
    for scenario in read(&which.paths, &mut wrong) {
        match prepare(scenario, which.seed) {
            Ok(one) => loaded.push(one),
            Err(error) => wrong.push(error),
        }
    }
    if wrong.is_empty() {
        Ok(loaded)
    } else {
        Err(CliError::Scenarios(wrong))
    }
}

fn read(paths: &[PathBuf], wrong: &mut Vec<ScenarioError>) -> Vec<Scenario> {
    if paths.is_empty() {
        return scenario::embedded().unwrap_or_else(|error| {
            wrong.push(error);
            Vec::new()
        });
    }
    let files = scenario::find(paths).unwrap_or_else(|error| {
        wrong.push(error);
        Vec::new()
    });
    files
        .iter()
        .filter_map(|path| scenario::load(path).map_err(|error| wrong.push(error)).ok())
        .collect()
}

fn prepare(scenario: Scenario, seed: Option<u64>) -> Result<Loaded, ScenarioError> {
    let plans = scenario::expand(&scenario, seed)?;
    for plan in &plans {
        scenario::check(plan, &scenario)?;
    }
    let items = plans
        .into_iter()
        .map(|plan| TestCase {
            plan,
            scenario: Some(scenario.path().to_owned()),
        })
        .collect();
    Ok(Loaded { scenario, items })
}

/// All plans for a host of this kind, in order. The default set has plans of TDs and of plain VMs,
/// and a host runs the ones or the others; what is asked for by path is taken as it is.
pub(super) fn items_for(which: &Scenarios, host: HostKind) -> Result<Vec<TestCase>, CliError> {
    let mut items = items(load(which)?);
    if which.paths.is_empty() {
        let plain = host == HostKind::Kvm;
        items.retain(|item| item.plan.guest.backing.is_some() == plain);
    }
    Ok(items)
}

/// All plans, in order.
pub(super) fn items(loaded: Vec<Loaded>) -> Vec<TestCase> {
    loaded.into_iter().flat_map(|one| one.items).collect()
}
