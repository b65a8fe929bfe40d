//! Scenarios of a Linux guest: `guest: { linux: ... }`, with operations of their own.
//!
//! They go the way of all others: `model` gives the schema, the file is held against it, and `expand`
//! gives every variable its value.

mod expand;
mod file;
mod machine;
mod model;
#[cfg(test)]
mod tests;
mod walk;

use std::path::Path;
use std::sync::LazyLock;

use tdxlab_plan::linux::LinuxPlan;

use self::model::LinuxFile;
use super::error::{Problem, ScenarioError};
use super::yaml::{self, Node};
use super::{shape, type_schema};

/// Made once: every file is held against it.
static SCHEMA: LazyLock<serde_json::Value> = LazyLock::new(type_schema::of::<LinuxFile>);

/// The JSON Schema of these files alone.
pub(super) fn schema() -> &'static serde_json::Value {
    &SCHEMA
}

/// Whether the file is a scenario of a Linux guest.
pub(super) fn is_linux(root: &Node) -> bool {
    root.key("guest").entry("linux").is_some()
}

/// The plans in a scenario of a Linux guest: one for each case and matrix point. `seed` overrides
/// that of the file.
///
/// # Errors
///
/// Everything that is wrong with it, underlined.
pub fn parse_linux(
    path: &Path,
    text: &str,
    seed: Option<u64>,
) -> Result<Vec<LinuxPlan>, ScenarioError> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut problems = Vec::new();
    match read(text, seed, &mut problems) {
        Ok(Some(plans)) if problems.is_empty() => return Ok(plans),
        Ok(_) => {}
        Err(problem) => problems.push(problem),
    }
    Err(ScenarioError::wrong(path, text, problems))
}

fn read(
    text: &str,
    seed: Option<u64>,
    problems: &mut Vec<Problem>,
) -> Result<Option<Vec<LinuxPlan>>, Problem> {
    yaml::check_size(text)?;
    let root = yaml::tree(text, problems)?;
    shape::check(&root, &SCHEMA, problems);
    if !problems.is_empty() {
        return Ok(None);
    }
    let file: LinuxFile = yaml::typed(text)?;
    match expand::plans(&file, &root, text, seed) {
        Ok(plans) => Ok(Some(plans)),
        Err(more) => {
            problems.extend(more);
            Ok(None)
        }
    }
}
