//! Errors of QEMU, each with a remedy.

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
        /// Its output in place of a version.
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
        /// The error of the start.
        source: io::Error,
    },
    /// QEMU ended when it should not have.
    #[error("ended ({status}) while {doing}; its last line: {last_line}")]
    Ended {
        /// The step of the lab that was waiting.
        doing: String,
        /// Exit status.
        status: ExitStatus,
        /// The last line on stderr.
        last_line: String,
    },
    /// QEMU lives, but its monitor does not answer.
    #[error("hangs: its monitor did not answer within {waited:?} while {doing}{said}")]
    Hangs {
        /// The step of the lab that was waiting.
        doing: String,
        /// How long was waited for the monitor.
        waited: Duration,
        /// `; its last line: ...`, or empty without output.
        said: String,
    },
    /// QEMU stopped the guest on its own account.
    #[error("stopped the guest (run state {state}) while {doing}{said}")]
    Stopped {
        /// The step of the lab that was waiting.
        doing: String,
        /// QMP's word for it, such as `internal-error`.
        state: String,
        /// `; its last line: ...`, or empty without output.
        said: String,
    },
    /// The monitor sent an invalid message.
    #[error("spoke nonsense on its monitor: {0}")]
    Qmp(#[from] QmpError),
    /// None of QEMU's open files is the one looked for.
    #[error("has no open file of the kind `{wanted}` (it has {found})")]
    NoSuchFile {
        /// The file the lab looked for.
        wanted: String,
        /// The files that were found.
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
        /// The operation that failed.
        doing: String,
        /// The cause.
        source: io::Error,
    },
}

impl QemuError {
    /// For `map_err`: adds the purpose to a failed system call.
    pub fn system<E: Into<io::Error>>(doing: impl Into<String>) -> impl FnOnce(E) -> QemuError {
        let doing = doing.into();
        move |source| QemuError::System {
            doing,
            source: source.into(),
        }
    }
}
