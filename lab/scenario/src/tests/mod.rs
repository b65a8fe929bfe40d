//! Tests through the public interface: plans of valid files, diagnostics of invalid ones.

mod default_set;
mod diagnostics;
mod docs;
mod expansion;
mod files;
mod hostile;
mod refused;

use std::path::Path;

use miette::{GraphicalReportHandler, GraphicalTheme};
use tdxlab_plan::Plan;

use super::{Scenario, ScenarioError, expand, parse};

/// Parses `text` as a file `test.yaml`.
fn scenario(text: &str) -> Result<Scenario, ScenarioError> {
    parse(Path::new("test.yaml"), text)
}

/// The plans of `text`, which must be right.
fn plans(text: &str) -> Vec<Plan> {
    let scenario = scenario(text).unwrap_or_else(|error| panic!("{}", render(&error)));
    expand(&scenario, None).unwrap_or_else(|error| panic!("{}", render(&error)))
}

/// Asserts that the scenario at `path` fits the schema.
pub(super) fn assert_fits(validator: &jsonschema::Validator, path: &Path) {
    let text = std::fs::read_to_string(path).expect("it can be read");
    let value: serde_json::Value = serde_yaml::from_str(&text).expect("it is YAML");
    let errors: Vec<String> = validator
        .iter_errors(&value)
        .map(|error| format!("{}: {error}", error.instance_path()))
        .collect();
    assert!(errors.is_empty(), "{}: {errors:#?}", path.display());
}

/// `error` as rendered without colours.
pub(super) fn render(error: &ScenarioError) -> String {
    let mut text = String::new();
    GraphicalReportHandler::new_themed(GraphicalTheme::unicode_nocolor())
        .with_width(100)
        .render_report(&mut text, error)
        .expect("strings grow");
    text
}
