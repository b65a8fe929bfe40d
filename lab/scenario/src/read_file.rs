//! From a file to plans: read, validate, expand, check.

use std::path::Path;
use std::sync::LazyLock;

use tdxlab_plan::Plan;

use crate::error::{Problem, ScenarioError};
use crate::model::File;
use crate::source::Scenario;
use crate::{linux, shape, text, type_schema, yaml};

/// Made once: every file is held against it.
static SCHEMA: LazyLock<serde_json::Value> = LazyLock::new(type_schema::of::<File>);

/// Reads one file and validates all that does not depend on a design.
pub fn load(path: &Path) -> Result<Scenario, ScenarioError> {
    parse(path, &text::of(path)?)
}

/// Like [`load`], for text that is already in memory; `path` is what diagnostics show.
pub fn parse(path: &Path, text: &str) -> Result<Scenario, ScenarioError> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut problems = Vec::new();
    let read = (|problems: &mut Vec<Problem>| {
        yaml::check_size(text)?;
        let root = yaml::tree(text, problems)?;
        if linux::is_linux(&root) {
            let message = "this is a scenario of a Linux guest";
            let problem = Problem::new(root.place_of("guest"), message, "a Linux guest");
            return Err(
                problem.help("run it with `tdxlab linux`, or as a TD with `tdxlab rehearse`")
            );
        }
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
            crate::expand::check(&scenario).map_err(|problems| scenario.wrong(problems))?;
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
    crate::expand::plans(scenario, seed).map_err(|problems| scenario.wrong(problems))
}

/// Whether every step of a plan can be judged, and its `expect` agrees with the predictor, for
/// every design that meets the plan's needs. `source` is the scenario it was expanded from.
pub fn check(plan: &Plan, source: &Scenario) -> Result<(), ScenarioError> {
    match crate::check::plan(plan, source) {
        none if none.is_empty() => Ok(()),
        problems => Err(source.wrong(problems)),
    }
}
