//! Errors of a replay.

use std::path::PathBuf;

use miette::Diagnostic;
use tdxlab_plan::WrongPlan;
use thiserror::Error;

use super::model::{MAX_BYTES, VERSION};
use crate::JournalError;

/// Why something cannot be replayed.
#[derive(Debug, Error, Diagnostic)]
pub enum ReplayError {
    /// It could not be read.
    #[error("cannot read {}: {source}", path.display())]
    #[diagnostic(
        code(replay::read),
        help("give a replay.json, a report folder, or the folder of one scenario in it")
    )]
    Read {
        /// The file.
        path: PathBuf,
        /// The error of the system call.
        source: std::io::Error,
    },
    /// It is larger than any replay file.
    #[error("{} is {bytes} bytes long; replay files have at most {MAX_BYTES}", path.display())]
    #[diagnostic(code(replay::size), help("is it a replay file at all?"))]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Its length in bytes.
        bytes: u64,
    },
    /// It is no replay file.
    #[error("{} is no replay file: {reason}", path.display())]
    #[diagnostic(
        code(replay::garbled),
        help("replay files are written by tdxlab; scenario files are run by `tdxlab run`")
    )]
    Garbled {
        /// The file.
        path: PathBuf,
        /// The error in it.
        reason: String,
    },
    /// Another version of tdxlab wrote it.
    #[error("{} is a replay file of version {found}; this tdxlab reads versions 1 to {VERSION}", path.display())]
    #[diagnostic(
        code(replay::version),
        help("use the tdxlab that wrote it, or a newer one")
    )]
    Version {
        /// The file.
        path: PathBuf,
        /// Its format version.
        found: u64,
    },
    /// No scenario could have made this plan.
    #[error("{}: the plan cannot be run: {wrong}", path.display())]
    #[diagnostic(
        code(replay::plan),
        help("it was changed since tdxlab wrote it: take the original, or put this right")
    )]
    Plan {
        /// The file.
        path: PathBuf,
        /// The error in the plan.
        wrong: WrongPlan,
    },
    /// The journal of the run cannot be read.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Journal(#[from] JournalError),
    /// The run has no plan of that name.
    #[error("{} has run no scenario `{name}`", path.display())]
    #[diagnostic(code(replay::scenario), help("{help}"))]
    NoSuchScenario {
        /// The journal.
        path: PathBuf,
        /// The name given by the user.
        name: String,
        /// The names that exist.
        help: String,
    },
    /// The run has started no plan.
    #[error("{} holds no plan that was started", path.display())]
    #[diagnostic(
        code(replay::nothing),
        help("every scenario of it was skipped, or it was stopped before")
    )]
    Nothing {
        /// The journal.
        path: PathBuf,
    },
}
