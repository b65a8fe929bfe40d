//! Errors of a command, and their exit codes.

use miette::Diagnostic;
use tdxlab_fuzz::FuzzError;
use tdxlab_fuzz::qualify::QualifyError;
use tdxlab_host::HostError;
use tdxlab_journal::replay::ReplayError;
use tdxlab_journal::{FolderError, JournalError};
use tdxlab_judge::RejudgeError;
use tdxlab_l1::L1Error;
use tdxlab_l1::rehearse::RehearsalError;
use tdxlab_report::merge::MergeError;
use tdxlab_run::ResumeError;
use tdxlab_scenario::ScenarioError;
use thiserror::Error;

use super::exit;
use tdxlab_launch::spec::RunError;

/// Why a command could not do its work.
#[derive(Debug, Error, Diagnostic)]
pub(super) enum CliError {
    /// The command line asks for what makes no sense.
    #[error("{message}")]
    Usage {
        /// The error.
        message: String,
        /// What would be right.
        #[help]
        help: Option<String>,
    },
    /// Errors in scenarios, each displayed separately.
    #[error("{} wrong", count(.0.len()))]
    Scenarios(#[related] Vec<ScenarioError>),
    /// The host is not usable, or the guest could not be run on it.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Host(#[from] HostError),
    /// There is no answer from an L1.
    #[error(transparent)]
    #[diagnostic(transparent)]
    L1(#[from] L1Error),
    /// A rehearsal cannot be prepared.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Rehearsal(#[from] RehearsalError),
    /// Results cannot be kept.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Folder(#[from] FolderError),
    /// A run did not come to its end.
    #[error(transparent)]
    #[diagnostic(transparent)]
    RunSpec(#[from] RunError),
    /// Results cannot be written or read.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Journal(#[from] JournalError),
    /// The run cannot go on.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Resume(#[from] ResumeError),
    /// Faults cannot be tried.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Qualify(#[from] QualifyError),
    /// Runs cannot be made one.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Merge(#[from] MergeError),
    /// The replay file is unusable.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Replay(#[from] ReplayError),
    /// The recorded run is unusable.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Rejudge(#[from] RejudgeError),
    /// No random scenario could be run.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Fuzz(#[from] FuzzError),
    /// Something the lab needs from the system is not to be had.
    #[error("{doing}: {source}")]
    System {
        /// The operation that failed.
        doing: String,
        /// The error of the system call.
        source: std::io::Error,
    },
}

fn count(number: usize) -> String {
    match number {
        1 => "1 scenario is".to_owned(),
        _ => format!("{number} scenarios are"),
    }
}

impl CliError {
    /// A wrong command line.
    pub(super) fn usage(message: impl Into<String>, help: impl Into<String>) -> CliError {
        CliError::Usage {
            message: message.into(),
            help: Some(help.into()),
        }
    }

    /// The exit code of the error.
    pub(super) fn exit_code(&self) -> u8 {
        match self {
            CliError::Usage { .. } => exit::USAGE,
            CliError::Resume(ResumeError::Changed { .. }) => exit::SCENARIO,
            CliError::Merge(MergeError::Nothing) => exit::USAGE,
            CliError::Scenarios(_) => exit::SCENARIO,
            CliError::Replay(ReplayError::NoSuchScenario { .. }) => exit::USAGE,
            CliError::Replay(ReplayError::Read { .. } | ReplayError::Journal(_)) => exit::LAB,
            CliError::Replay(_) => exit::SCENARIO,
            CliError::Rejudge(RejudgeError::Design { .. }) => exit::USAGE,
            CliError::Rejudge(RejudgeError::Plan { .. }) => exit::SCENARIO,
            CliError::Rejudge(_) => exit::LAB,
            CliError::Fuzz(FuzzError::Host(HostError::NotUsable { .. })) => exit::HOST,
            CliError::Fuzz(FuzzError::Host(HostError::Interrupted)) => exit::INTERRUPTED,
            CliError::Fuzz(_) => exit::LAB,
            CliError::Host(HostError::NotUsable { .. })
            | CliError::Qualify(QualifyError::Host(HostError::NotUsable { .. })) => exit::HOST,
            CliError::L1(error) => error.exit_code(),
            CliError::Rehearsal(_) => exit::HOST,
            CliError::Host(HostError::Interrupted) => exit::INTERRUPTED,
            CliError::Host(_)
            | CliError::Folder(_)
            | CliError::RunSpec(_)
            | CliError::Journal(_)
            | CliError::Resume(_)
            | CliError::Merge(_)
            | CliError::Qualify(_)
            | CliError::System { .. } => exit::LAB,
        }
    }
}
