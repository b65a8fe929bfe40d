//! The host `soft`: a guest in QEMU over the software KVM and TDX module.
//!
//! QEMU provides the processor, the software KVM everything that makes it a TD. The guest's page
//! tables under its two windows are the S-EPT and the shared EPT themselves, edited in QEMU's RAM
//! while the guest runs: unmapped memory faults in the MMU, and a wrong mapping shows another
//! page's data.
//!
//! | part | what it is |
//! |---|---|
//! | [`ram`] | QEMU's RAM, mapped into the lab |
//! | [`mailbox`] | requests of vCPUs, stale translations, messages |
//! | [`machine`] | both together, as the software KVM needs them |
//! | [`qemu`] | starts a QEMU |
//! | [`kept`] | QEMUs whose guest has ended, for the next guest |
//! | [`boot`] | boots a session for a plan's guest |
//! | [`core`] | the software KVM, and its channel to vCPUs |
//! | [`session`] | operations in sequence |
//! | [`race`] | parallel operations, in an order drawn from a seed |

mod boot;
mod core;
mod kept;
mod machine;
mod mailbox;
mod qemu;
mod race;
mod ram;
mod schedule;
mod session;

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use tdxlab_host::{BootOptions, Host, HostError, OnHost, Session};
use tdxlab_journal::MODULE_FACT;
use tdxlab_journal::journal::SeededFault;
use tdxlab_plan::{Guest, HostKind, HostProfile};
use tdxlab_protocol::message::VERSION;
use tdxlab_qemu::interrupt::Interrupt;
use tdxlab_qemu::{Installed, version};

use self::kept::Kept;
use crate::software;
use crate::software_host::{Software, SoftwareHost};

/// The host `soft`.
#[derive(Clone)]
pub struct SoftHost {
    qemu: Installed,
    interrupt: &'static Interrupt,
    software: Software,
    attachable: bool,
    nice: Option<i32>,
    /// QEMUs made with these options, between two guests.
    kept: Arc<Kept>,
}

impl fmt::Debug for SoftHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SoftHost")
            .field("qemu", &self.qemu)
            .finish_non_exhaustive()
    }
}

impl SoftHost {
    /// On the QEMU of this machine: the one that `TDXLAB_QEMU` names, else the one in PATH.
    ///
    /// # Errors
    ///
    /// Not usable: there is none, it is too old, or it is none; with what to do about it.
    pub fn find() -> Result<SoftHost, HostError> {
        Installed::find(version::OLDEST)
            .map(SoftHost::on)
            .map_err(|error| error.on(HostKind::Soft))
    }

    /// On the QEMU at a path.
    ///
    /// # Errors
    ///
    /// As for [`SoftHost::find`].
    pub fn at(program: &Path) -> Result<SoftHost, HostError> {
        Installed::at(program, version::OLDEST)
            .map(SoftHost::on)
            .map_err(|error| error.on(HostKind::Soft))
    }

    fn on(qemu: Installed) -> SoftHost {
        SoftHost {
            qemu,
            interrupt: Interrupt::of_process(),
            software: Software::default(),
            attachable: false,
            nice: None,
            kept: Arc::default(),
        }
    }

    /// The same host, with QEMUs that can be attached to: see [`Session::attach`].
    #[must_use]
    pub fn attachable(self) -> SoftHost {
        SoftHost {
            attachable: true,
            kept: Arc::default(),
            ..self
        }
    }

    /// The same host with its own interrupt in place of the process's.
    #[must_use]
    pub fn with_interrupt(self, interrupt: &'static Interrupt) -> SoftHost {
        SoftHost {
            interrupt,
            kept: Arc::default(),
            ..self
        }
    }

    /// The same host, with QEMUs of lower CPU priority.
    #[must_use]
    pub fn with_nice(self, nice: i32) -> SoftHost {
        SoftHost {
            nice: Some(nice),
            kept: Arc::default(),
            ..self
        }
    }

    /// The QEMU it runs on.
    pub fn qemu(&self) -> &Installed {
        &self.qemu
    }
}

impl SoftwareHost for SoftHost {
    fn software(&mut self) -> &mut Software {
        &mut self.software
    }
}

impl Host for SoftHost {
    fn kind(&self) -> HostKind {
        HostKind::Soft
    }

    fn profile(&self) -> HostProfile {
        HostProfile {
            module: Some(software::module_named(self.software.module)),
            ..HostProfile::of(self.kind())
        }
    }

    fn facts(&self) -> Vec<(String, String)> {
        let fact = |name: &str, value: String| (name.to_owned(), value);
        vec![
            fact("kernel", "software KVM".into()),
            fact(
                MODULE_FACT,
                format!("software, rules of {}", self.software.module),
            ),
            fact("QEMU", self.qemu.described()),
            fact("accelerator", "TCG".into()),
            fact("guest", format!("micro guest, protocol version {VERSION}")),
        ]
    }

    fn fault(&self) -> Option<SeededFault> {
        self.software.fault.clone()
    }

    fn boot(&self, guest: &Guest, options: &BootOptions) -> Result<Box<dyn Session>, HostError> {
        Ok(Box::new(boot::boot(self, guest, options)?))
    }
}
