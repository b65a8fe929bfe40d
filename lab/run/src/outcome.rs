//! How a plan ended.

use std::time::Duration;

use miette::Diagnostic;
use tdxlab_journal::verdict::Verdict;

/// Default timeout of a single operation.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// The reason given for a plan at which the lab itself panicked.
pub const PANICKED: &str = "tdxlab panicked, which is a defect of it";

/// How a plan ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// The verdict.
    pub verdict: Verdict,
    /// Why it was skipped or not judged to the end.
    pub reason: Option<String>,
    /// How long it took.
    pub took: Duration,
    /// Whether the run was interrupted before the plan was judged: it has no result.
    pub interrupted: bool,
    /// Whether a seeded fault changed the host's behaviour; `None` without a fault, or if the guest
    /// did not run.
    pub fault_reached: Option<bool>,
}

/// Whole microseconds, as the journal has them.
pub fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// An error and its remedy, as a reason.
pub fn with_help(error: &dyn Diagnostic) -> String {
    match error.help() {
        Some(help) => format!("{error}; {help}"),
        None => error.to_string(),
    }
}
