//! Scenarios: YAML files that become [`Plan`]s, or diagnostics that show the line.
//!
//! A file is read in four passes, each of which reports all it finds:
//!
//! 1. `yaml` reads it, bounded, and keeps the place of every key and value;
//! 2. `shape` holds it against the schema of its own types (`model`, `scalar`): unknown, missing
//!    and doubled keys;
//! 3. `expand` gives every variable its value (`variant`, `expr`) and every range its address
//!    (`guest`, `operation`);
//! 4. [`check()`] asks the predictor whether what the author expects can be.

mod check;
mod error;
mod expand;
mod expr;
mod files;
mod guest;
mod model;
mod operation;
mod read;
mod scalar;
mod schema;
mod shape;
#[cfg(test)]
mod tests;
mod variant;
mod vars;
mod yaml;

use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};

use tdxlab_plan::Plan;

pub use error::{Problem, ScenarioError, Wrong};
pub use files::{embedded, find};
pub use schema::schema;

/// A scenario file, read and found well formed.
#[derive(Clone, Debug)]
pub struct Scenario {
    path: PathBuf,
    text: Arc<str>,
    root: yaml::Node,
    file: model::File,
}

impl Scenario {
    /// Its name, such as `punch/head-and-tail`.
    pub fn name(&self) -> &str {
        self.file.scenario.text()
    }

    /// What it shows.
    pub fn about(&self) -> &str {
        self.file.about.trim()
    }

    /// The file it came from, as given by the user.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The text of the file.
    pub fn text(&self) -> &str {
        &self.text
    }

    fn wrong(&self, problems: Vec<Problem>) -> ScenarioError {
        ScenarioError::wrong(&self.path, &self.text, problems)
    }
}

/// Made once: every file is held against it.
static SCHEMA: LazyLock<serde_json::Value> = LazyLock::new(schema);

/// Reads one file and validates all that does not depend on a design.
pub fn load(path: &Path) -> Result<Scenario, ScenarioError> {
    parse(path, &files::text(path)?)
}

/// Like [`load`], for text that is already in memory; `path` is what diagnostics show.
pub fn parse(path: &Path, text: &str) -> Result<Scenario, ScenarioError> {
    let mut problems = Vec::new();
    let read = (|problems: &mut Vec<Problem>| {
        if text.len() > yaml::MAX_BYTES {
            let message = format!("the file has {} bytes", text.len());
            return Err(Problem::new(0..0, message, "").help("at most 1 MiB"));
        }
        let root = yaml::tree(text, problems)?;
        shape::check(&root, &SCHEMA, problems);
        match problems.is_empty() {
            true => Ok(Some((root, yaml::typed(text)?))),
            false => Ok(None),
        }
    })(&mut problems);
    match read {
        Ok(Some((root, file))) => {
            let scenario = Scenario {
                path: path.to_owned(),
                text: text.into(),
                root,
                file,
            };
            expand(&scenario, None)?;
            Ok(scenario)
        }
        Ok(None) => Err(ScenarioError::wrong(path, text, problems)),
        Err(problem) => {
            problems.push(problem);
            Err(ScenarioError::wrong(path, text, problems))
        }
    }
}

/// All plans of a scenario: one for each case and matrix point. `seed` overrides that of the file.
pub fn expand(scenario: &Scenario, seed: Option<u64>) -> Result<Vec<Plan>, ScenarioError> {
    expand::plans(scenario, seed).map_err(|problems| scenario.wrong(problems))
}

/// Whether every step of a plan can be judged, and what its author expects agrees with the
/// predictor, for every design that meets the plan's needs. `source` is what it was expanded from.
pub fn check(plan: &Plan, source: &Scenario) -> Result<(), ScenarioError> {
    match check::plan(plan, &source.root) {
        none if none.is_empty() => Ok(()),
        problems => Err(source.wrong(problems)),
    }
}
