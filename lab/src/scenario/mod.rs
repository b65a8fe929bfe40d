//! Scenarios: YAML files that become [`Plan`]s, or diagnostics that show the line.
//!
//! A file is read in four passes, each of which reports all it finds:
//!
//! 1. [`load`] reads the YAML: bounded, with the place of every key and value kept;
//! 2. the file is held against the schema of its own types: unknown, missing and doubled keys;
//! 3. [`expand`] gives every variable its value and every range its address;
//! 4. [`check`] asks the predictor whether what the author expects can be.

mod error;

use std::path::{Path, PathBuf};

use crate::plan::Plan;

pub use error::{Problem, ScenarioError};

/// A scenario file, read and found well formed.
#[derive(Clone, Debug)]
pub struct Scenario {
    name: String,
    about: String,
    path: PathBuf,
}

impl Scenario {
    /// Its name, such as `punch/head-and-tail`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What it shows.
    pub fn about(&self) -> &str {
        &self.about
    }

    /// The file it came from, as given by the user.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// Reads one file and validates all that does not depend on a design.
pub fn load(path: &Path) -> Result<Scenario, ScenarioError> {
    let _ = path;
    todo!("scenario files are read next")
}

/// Like [`load`], for text that is already in memory; `path` is what diagnostics show.
pub fn parse(path: &Path, text: &str) -> Result<Scenario, ScenarioError> {
    let _ = (path, text);
    todo!("scenario files are read next")
}

/// All plans of a scenario: one for each case and matrix point. `seed` overrides that of the file.
pub fn expand(scenario: &Scenario, seed: Option<u64>) -> Result<Vec<Plan>, ScenarioError> {
    let _ = (scenario, seed);
    todo!("scenario files are read next")
}

/// Whether what the author of the plan expects agrees with the predictor, for every design that
/// meets the plan's needs.
pub fn check(plan: &Plan, source: &Scenario) -> Result<(), ScenarioError> {
    let _ = (plan, source);
    todo!("waits for the predictor")
}

/// The scenario files behind `paths`: a file stands for itself, a folder for all `*.yaml` below
/// it. Sorted; two files with one name are an error.
pub fn find(paths: &[PathBuf]) -> Result<Vec<PathBuf>, ScenarioError> {
    let _ = paths;
    todo!("scenario files are read next")
}

/// The default set, compiled in: what runs where no path is given. Sorted by name.
pub fn embedded() -> Result<Vec<Scenario>, ScenarioError> {
    todo!("scenario files are read next")
}

/// The JSON Schema of a scenario file, for editors and for [`load`] itself.
pub fn schema() -> serde_json::Value {
    todo!("scenario files are read next")
}
