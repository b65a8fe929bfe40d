//! How a plan ended.

use std::time::Duration;

use tdxlab_journal::verdict::Verdict;

/// Longest a single operation may take, unless said otherwise.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// How a plan ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// What is said of it.
    pub verdict: Verdict,
    /// Why it was skipped or not judged to the end.
    pub reason: Option<String>,
    /// How long it took.
    pub took: Duration,
    /// Whether the run was interrupted before the plan was judged: it has no result.
    pub interrupted: bool,
    /// Whether a seeded fault has made the host do anything otherwise; `None` where none was seeded,
    /// or nothing ran.
    pub fault_reached: Option<bool>,
}
