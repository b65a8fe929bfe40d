//! A parsed scenario file.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::error::{Problem, ScenarioError};
use crate::{model, yaml};

/// A scenario file, read and found well formed.
#[derive(Clone, Debug)]
pub struct Scenario {
    pub(super) path: PathBuf,
    pub(super) text: Arc<str>,
    pub(super) root: yaml::Node,
    pub(super) file: model::File,
}

impl Scenario {
    /// Its name, such as `punch/head-and-tail`.
    pub fn name(&self) -> &str {
        &self.file.scenario
    }

    /// The scenario's description.
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

    pub(super) fn wrong(&self, problems: Vec<Problem>) -> ScenarioError {
        ScenarioError::wrong(&self.path, &self.text, problems)
    }
}
