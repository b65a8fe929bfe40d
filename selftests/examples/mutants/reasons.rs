//! Why mutants may survive: `selftests/mutants.yaml`, one entry per reason.

use std::fmt;

use serde::Deserialize;
use tdxlab_selftests::command::root;

use super::places::Mutant;

/// Mutants of a file that survive for one reason.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Reason {
    /// The file, below `lab`.
    file: String,
    /// Only in these functions; all of them where there is none.
    #[serde(default)]
    functions: Vec<String>,
    /// Only changes of this kind.
    what: Option<String>,
    /// Applies only to changes that contain one of these.
    #[serde(default)]
    code: Vec<String>,
    /// The reason.
    why: String,
}

impl Reason {
    fn is_for(&self, mutant: &Mutant) -> bool {
        mutant.file.to_str() == Some(&self.file)
            && (self.functions.is_empty() || self.functions.contains(&mutant.function))
            && self.what.as_ref().is_none_or(|what| what == mutant.what)
            && (self.code.is_empty() || self.code.iter().any(|code| mutant.code.contains(code)))
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let functions = self.functions.join(", ");
        write!(f, "{} {functions} {:?}: {}", self.file, self.code, self.why)
    }
}

/// All reasons.
pub(super) struct Reasons(Vec<Reason>);

impl Reasons {
    /// Reads the file.
    pub(super) fn read() -> Reasons {
        let path = root().join("selftests/mutants.yaml");
        let text = std::fs::read_to_string(&path).expect("the reasons");
        Reasons(serde_yaml::from_str(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display())))
    }

    /// Why this one may survive.
    pub(super) fn of(&self, mutant: &Mutant) -> Option<&str> {
        let reason = self.0.iter().find(|reason| reason.is_for(mutant))?;
        Some(&reason.why)
    }

    /// Reasons that fit no mutant: the code they were for has changed.
    pub(super) fn for_nothing<'a>(
        &self,
        mutants: impl Iterator<Item = &'a Mutant> + Clone,
    ) -> Vec<&Reason> {
        self.0
            .iter()
            .filter(|reason| !mutants.clone().any(|mutant| reason.is_for(mutant)))
            .collect()
    }
}
