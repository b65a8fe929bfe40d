//! Errors of the lab and of hosts, each with a remedy.

use std::os::unix::process::ExitStatusExt;
use std::time::Duration;

use tdxlab_plan::HostKind;
use tdxlab_qemu::QemuError;
use tdxlab_qemu::agent::AgentError;
use tdxlab_qemu::conversation::LineError;
use tdxlab_qemu::installed::PROGRAM_VARIABLE;

/// The lab or the host could not do its part. Always a verdict `error`, never pass or fail.
#[derive(Debug, thiserror::Error, miette::Diagnostic)]
pub enum HostError {
    /// The host is not usable on this machine.
    #[error("host {} is not usable: {reason}", host.name())]
    NotUsable {
        /// The host that cannot run the plan.
        host: HostKind,
        /// What is missing.
        reason: String,
        /// What to do about it.
        #[help]
        advice: String,
    },
    /// The guest panicked: file, line and message are its own.
    #[error("guest panicked on vCPU {vcpu} at {file}:{line}: {message}")]
    GuestPanic {
        /// vCPU index.
        vcpu: u16,
        /// Guest source file.
        file: String,
        /// Guest source line.
        line: u32,
        /// Guest message.
        message: String,
    },
    /// The guest did not answer in time.
    #[error("guest did not answer within {waited:?} while {doing}")]
    GuestSilent {
        /// The step of the lab that was waiting.
        doing: String,
        /// How long was waited.
        waited: Duration,
    },
    /// The guest's answer cannot be right.
    #[error("guest sent what cannot be: {what}")]
    GuestLies {
        /// Description of the error, with the bytes.
        what: String,
    },
    /// The guest speaks another version of the protocol.
    #[error("guest speaks protocol version {guest}, the lab speaks {lab}")]
    #[diagnostic(help("build the guest image and the lab from the same source"))]
    GuestVersion {
        /// Protocol version of the guest.
        guest: u16,
        /// Protocol version of the lab.
        lab: u16,
    },
    /// The guest refused a request.
    #[error("guest refused: {reason}")]
    GuestRefused {
        /// The guest's reason.
        reason: String,
    },
    /// QEMU ended or misbehaved.
    #[error("QEMU {what}")]
    Qemu {
        /// What QEMU did, with the last line of its stderr.
        what: String,
        /// What to do about it.
        #[help]
        advice: String,
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
        source: std::io::Error,
    },
}

impl HostError {
    /// The error for a TD given an operation of plain VMs.
    pub fn for_plain_vms_only() -> HostError {
        HostError::GuestRefused {
            reason: "dirty logging, stop and cont are done to plain VMs only".to_owned(),
        }
    }
}

/// An error of QEMU, as the error of a kind of host.
pub trait OnHost {
    /// Converts the error of `host`, and adds the remedy.
    fn on(self, host: HostKind) -> HostError;
}

impl OnHost for QemuError {
    fn on(self, host: HostKind) -> HostError {
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
                    PROGRAM_VARIABLE
                ),
            },
            QemuError::NotQemu { .. } => HostError::NotUsable {
                host,
                reason: what,
                advice: format!("name a qemu-system-x86_64 in {}", PROGRAM_VARIABLE),
            },
            QemuError::Ended { ref last_line, .. } if last_line.contains(NO_MEMFD) => {
                HostError::NotUsable {
                    host,
                    reason: what,
                    advice: format!(
                        "this QEMU was built without memfd, through which the lab reaches guest \
                         memory; name another one in {}",
                        PROGRAM_VARIABLE
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

impl From<AgentError> for HostError {
    fn from(error: AgentError) -> HostError {
        match error {
            AgentError::Panic {
                vcpu,
                file,
                line,
                message,
            } => HostError::GuestPanic {
                vcpu,
                file,
                line,
                message,
            },
            AgentError::Version { guest, lab } => HostError::GuestVersion { guest, lab },
            AgentError::Refused(reason) => HostError::GuestRefused { reason },
        }
    }
}

impl From<LineError> for HostError {
    fn from(error: LineError) -> HostError {
        match error {
            LineError::Lies(what) => HostError::GuestLies { what },
            LineError::Closed | LineError::Full => HostError::Qemu {
                what: format!("lost the guest: {error}"),
                advice: "the serial log in the scenario's folder shows what came before".into(),
            },
            LineError::Io(source) => HostError::System {
                doing: "talking to the guest on its serial line".into(),
                source,
            },
        }
    }
}

/// Why a touch of the guest's memory can be the end of QEMU.
const NO_PAGE_LEFT: &str = "the kernel had no page for the guest's memory: if it is of huge pages, \
                            somebody else took those of the pool (see HugePages_Free in \
                            /proc/meminfo; echo a larger number to nr_hugepages), else the machine \
                            or the limit of its cgroup ran out of memory";

/// QEMU's error when it was configured without memfd.
const NO_MEMFD: &str = "invalid object type: memory-backend-memfd";

/// How to get QEMU.
const INSTALL: &str = "install it: `apt-get install qemu-system-x86` (Debian, Ubuntu), `dnf \
                       install qemu-system-x86-core` (Fedora), `pacman -S qemu-system-x86` \
                       (Arch), `zypper install qemu-x86` (SUSE)";

#[cfg(test)]
mod tests {
    use std::process::ExitStatus;

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

    #[test]
    fn a_user_who_may_not_take_files_of_qemu_is_told_what_to_do() {
        let error = QemuError::NotAllowed { number: 7 }.on(HostKind::Tdx);
        let HostError::NotUsable { reason, advice, .. } = error else {
            panic!("{error:?}");
        };
        assert!(reason.contains("file 7"), "{reason}");
        assert!(advice.contains("ptrace_scope"), "{advice}");
    }
}
