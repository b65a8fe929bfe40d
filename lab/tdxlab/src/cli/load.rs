//! Loads scenario files into plans, and reports the errors of all.

use std::path::{Path, PathBuf};

use tdxlab_linux_run::LinuxCase;
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

/// Reads, expands and checks all scenarios. No guest may start before all are valid.
pub(super) fn load(which: &Scenarios) -> Result<Vec<Loaded>, CliError> {
    let mut loaded = Vec::new();
    let mut wrong = Vec::new();
    for scenario in read(&which.paths, &mut wrong) {
        match prepare(scenario, which.seed).and_then(|one| asked_for(one, &which.paths)) {
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

/// All scenarios, of the micro guest and of Linux guests.
pub(super) fn load_all(which: &Scenarios) -> Result<(Vec<Loaded>, Vec<LinuxCase>), CliError> {
    let there = |path: &&PathBuf| path.symlink_metadata().is_ok();
    let files: Vec<PathBuf> = which.paths.iter().filter(there).cloned().collect();
    let (micro, linux) =
        scenario::find_all(&files).map_err(|error| CliError::Scenarios(vec![error]))?;
    let names = which.paths.iter().filter(|path| !there(path)).cloned();
    let which = Scenarios {
        paths: names.chain(micro).collect(),
        seed: which.seed,
    };
    // No path at all is the default set.
    let none = which.paths.is_empty() && !linux.is_empty();
    let loaded = if none { Ok(Vec::new()) } else { load(&which) };
    both(loaded, linux_cases(linux, which.seed))
}

/// All of two kinds, or all that is wrong with any.
fn both<A, B>(one: Result<A, CliError>, other: Result<B, CliError>) -> Result<(A, B), CliError> {
    match (one, other) {
        (Ok(one), Ok(other)) => Ok((one, other)),
        (Err(CliError::Scenarios(mut wrong)), Err(CliError::Scenarios(more))) => {
            wrong.extend(more);
            Err(CliError::Scenarios(wrong))
        }
        (Err(error), _) | (_, Err(error)) => Err(error),
    }
}

/// Plans of Linux guests behind these paths, or all that is wrong with any of them.
pub(super) fn linux(which: &Scenarios) -> Result<Vec<LinuxCase>, CliError> {
    let files =
        scenario::find_linux(&which.paths).map_err(|error| CliError::Scenarios(vec![error]))?;
    linux_cases(files, which.seed)
}

fn linux_cases(files: Vec<PathBuf>, seed: Option<u64>) -> Result<Vec<LinuxCase>, CliError> {
    let mut cases = Vec::new();
    let mut wrong = Vec::new();
    for path in files {
        match scenario::load_linux(&path, seed) {
            Ok(plans) => cases.extend(plans.into_iter().map(|plan| LinuxCase {
                plan,
                scenario: path.clone(),
            })),
            Err(error) => wrong.push(error),
        }
    }
    match wrong.is_empty() {
        true => Ok(cases),
        false => Err(CliError::Scenarios(wrong)),
    }
}

fn read(paths: &[PathBuf], wrong: &mut Vec<ScenarioError>) -> Vec<Scenario> {
    if paths.is_empty() {
        return scenario::embedded().unwrap_or_else(|error| {
            wrong.push(error);
            Vec::new()
        });
    }
    // Existing files are paths; the rest may be names of the default set.
    let (mut files, mut scenarios) = (Vec::new(), Vec::new());
    for path in paths {
        let there = path.symlink_metadata().is_ok();
        match path.to_str().filter(|_| !there).map(scenario::named) {
            Some(Ok(named)) if !named.is_empty() => scenarios.extend(named),
            Some(Err(error)) => wrong.push(error),
            _ => files.push(path.clone()),
        }
    }
    scenarios.sort_by(|one, other| one.name().cmp(other.name()));
    scenarios.dedup_by(|one, other| one.name() == other.name());
    let files = scenario::find(&files).unwrap_or_else(|error| {
        wrong.push(error);
        Vec::new()
    });
    for path in files {
        match scenario::load(&path) {
            Ok(scenario) => match scenarios
                .iter()
                .find(|known| known.name() == scenario.name())
            {
                Some(known) => wrong.push(ScenarioError::Twice {
                    name: scenario.name().to_owned(),
                    first: known.path().to_owned(),
                    second: path,
                }),
                None => scenarios.push(scenario),
            },
            Err(error) => wrong.push(error),
        }
    }
    scenarios
}

/// Keeps only the matrix points named, as `punch/edges[head]`, unless a path or name covers the
/// whole scenario.
fn asked_for(mut one: Loaded, paths: &[PathBuf]) -> Result<Loaded, ScenarioError> {
    let name = one.scenario.name();
    let of_this = |path: &&Path| {
        let rest = path.to_str().and_then(|path| path.strip_prefix(name));
        rest.is_some_and(|rest| rest.starts_with('[')) && path.symlink_metadata().is_err()
    };
    let points: Vec<&Path> = paths.iter().map(PathBuf::as_path).filter(of_this).collect();
    let whole = |path: &PathBuf| name.starts_with(path.to_string_lossy().trim_end_matches('/'));
    if points.is_empty() || paths.iter().any(whole) {
        return Ok(one);
    }
    let named = |point: &Path, item: &TestCase| point.to_str() == Some(item.plan.name.as_str());
    if let Some(point) = points
        .iter()
        .find(|point| !one.items.iter().any(|item| named(point, item)))
    {
        return Err(ScenarioError::NoSuch {
            path: (*point).to_owned(),
            help: format!("`tdxlab list --plans {name}` shows its points"),
        });
    }
    one.items
        .retain(|item| points.iter().any(|point| named(point, item)));
    Ok(one)
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

/// All plans for a host of this kind, in order. From the default set, a host runs either the plans
/// of TDs or those of plain VMs; scenarios given by path are not filtered.
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
