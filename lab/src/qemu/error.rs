//! What can go wrong with QEMU, and what to do about it.

use std::io;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::time::Duration;

use super::qmp::QmpError;
use super::version::Version;
use crate::host::HostError;
use crate::plan::HostKind;

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

    /// The same as the error of `host`, with advice for the person who must act.
    pub fn on(self, host: HostKind) -> HostError {
        let what = self.to_string();
        match self {
            QemuError::Missing { .. } | QemuError::CouldNotStart { .. } => HostError::NotUsable {
                host,
                reason: what,
                advice: INSTALL.into(),
            },
            QemuError::TooOld { needed, .. } => HostError::NotUsable {
                host,
                reason: what,
                advice: format!(
                    "install QEMU {needed} or newer, or name another one in {}",
                    super::version::PROGRAM_VARIABLE
                ),
            },
            QemuError::NotQemu { .. } => HostError::NotUsable {
                host,
                reason: what,
                advice: format!(
                    "name a qemu-system-x86_64 in {}",
                    super::version::PROGRAM_VARIABLE
                ),
            },
            QemuError::Ended { ref last_line, .. } if last_line.contains(NO_MEMFD) => {
                HostError::NotUsable {
                    host,
                    reason: what,
                    advice: format!(
                        "this QEMU was built without memfd, through which the lab reaches guest \
                         memory; name another one in {}",
                        super::version::PROGRAM_VARIABLE
                    ),
                }
            }
            QemuError::Ended { status, .. } if status.signal() == Some(libc::SIGBUS) => {
                HostError::Qemu {
                    what,
                    advice: NO_PAGE_LEFT.into(),
                }
            }
            QemuError::Stopped { ref said, .. } if said.contains("Bad address") => {
                HostError::Qemu {
                    what,
                    advice: NO_PAGE_LEFT.into(),
                }
            }
            QemuError::NotAllowed { .. } => HostError::NotUsable {
                host,
                reason: what,
                advice: "it takes the rights of ptrace: sysctl kernel.yama.ptrace_scope=1, or run \
                         as root; QEMU must run as this user, and without file capabilities"
                    .into(),
            },
            QemuError::Interrupted => HostError::Interrupted,
            QemuError::System { doing, source } => HostError::System { doing, source },
            QemuError::Ended { .. }
            | QemuError::Hangs { .. }
            | QemuError::Stopped { .. }
            | QemuError::Qmp(_)
            | QemuError::NoSuchFile { .. } => HostError::Qemu {
                what,
                advice: "the command line to start it by hand is in the scenario's folder, beside \
                         its stderr and the QMP trace"
                    .into(),
            },
        }
    }
}

/// Why a touch of the guest's memory can be the end of QEMU.
const NO_PAGE_LEFT: &str = "the kernel had no page for the guest's memory: if it is of huge pages, \
                            somebody else took those of the pool (see HugePages_Free in \
                            /proc/meminfo; echo a larger number to nr_hugepages), else the machine \
                            or the limit of its cgroup ran out of memory";

/// What a QEMU says that was configured without memfd.
const NO_MEMFD: &str = "invalid object type: memory-backend-memfd";

/// How to get QEMU.
const INSTALL: &str = "install it: `apt-get install qemu-system-x86` (Debian, Ubuntu), `dnf \
                       install qemu-system-x86-core` (Fedora), `pacman -S qemu-system-x86` \
                       (Arch), `zypper install qemu-x86` (SUSE)";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_qemu_that_got_no_page_is_explained() {
        let ended = QemuError::Ended {
            doing: "filling".into(),
            status: ExitStatus::from_raw(libc::SIGBUS),
            last_line: "nothing".into(),
        };
        let stopped = QemuError::Stopped {
            doing: "filling".into(),
            state: "internal-error".into(),
            said: "; its last line: error: kvm run failed Bad address".into(),
        };
        for error in [ended, stopped] {
            let HostError::Qemu { what, advice } = error.on(HostKind::Kvm) else {
                panic!("another kind of error");
            };
            assert!(what.contains("filling"), "{what}");
            assert!(advice.contains("nr_hugepages"), "{advice}");
        }
    }
}
