//! What can go wrong with QEMU, and what to do about it.

use std::io;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::time::Duration;

use super::qmp::QmpError;
use super::version::Version;

/// QEMU is missing, misbehaved or ended.
#[derive(Debug, thiserror::Error)]
pub enum QemuError {
    /// No QEMU was found.
    #[error("no QEMU found (looked for {})", tried.join(", "))]
    Missing {
        /// The names and paths tried.
        tried: Vec<String>,
    },
    /// The program is there but does not answer like QEMU.
    #[error("{} --version {said}", program.display())]
    NotQemu {
        /// The program.
        program: PathBuf,
        /// What it did instead of telling its version.
        said: String,
    },
    /// QEMU is older than the lab can use.
    #[error("{} is QEMU {found}, older than {needed}", program.display())]
    TooOld {
        /// The program.
        program: PathBuf,
        /// Its version.
        found: Version,
        /// The first version that will do.
        needed: Version,
    },
    /// The program could not be started at all.
    #[error("{} could not be started: {source}", program.display())]
    CouldNotStart {
        /// The program.
        program: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// QEMU ended when it should not have.
    #[error("ended ({status}) while {doing}; its last line: {last_line}")]
    Ended {
        /// What was going on.
        doing: String,
        /// How it ended.
        status: ExitStatus,
        /// The last thing it said on stderr.
        last_line: String,
    },
    /// QEMU lives, but its monitor does not answer.
    #[error("hangs: its monitor did not answer within {waited:?} while {doing}{said}")]
    Hangs {
        /// What was going on.
        doing: String,
        /// How long was waited for the monitor.
        waited: Duration,
        /// `; its last line: ...`, or nothing where it never said anything.
        said: String,
    },
    /// QEMU stopped the guest on its own account.
    #[error("stopped the guest (run state {state}) while {doing}{said}")]
    Stopped {
        /// What was going on.
        doing: String,
        /// QMP's word for it, such as `internal-error`.
        state: String,
        /// `; its last line: ...`, or nothing where it never said anything.
        said: String,
    },
    /// The monitor said what a monitor cannot say.
    #[error("spoke nonsense on its monitor: {0}")]
    Qmp(#[from] QmpError),
    /// None of QEMU's open files is the one looked for.
    #[error("has no open file of the kind `{wanted}` (it has {found})")]
    NoSuchFile {
        /// What was looked for.
        wanted: String,
        /// What there is.
        found: String,
    },
    /// The kernel does not hand one of QEMU's files over.
    #[error("file {number} of QEMU may not be taken by this user (pidfd_getfd: EPERM)")]
    NotAllowed {
        /// Its number in QEMU.
        number: i32,
    },
    /// The run was interrupted.
    #[error("interrupted")]
    Interrupted,
    /// A system call of the lab failed.
    #[error("{doing}: {source}")]
    System {
        /// What was tried.
        doing: String,
        /// The error.
        source: io::Error,
    },
}

impl QemuError {
    /// For `map_err`: a failed system call and what it was for.
    pub fn system<E: Into<io::Error>>(doing: impl Into<String>) -> impl FnOnce(E) -> QemuError {
        let doing = doing.into();
        move |source| QemuError::System {
            doing,
            source: source.into(),
        }
    }
}
