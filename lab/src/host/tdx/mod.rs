//! The host `tdx`: a guest that is a TD.
//!
//! ```text
//! boot        QEMU with tdx-guest, stopped before the first instruction
//!   gmem      its guest_memfds, found from outside               layout, mtree
//!   tdvf      what must be populated by then, and nothing else
//!   cont      the guest says hello
//! session     operations; holes punched into QEMU's guest_memfd from outside
//!   death     what a dead TD looks like, and who killed it
//! ```
//!
//! Under `tdxlab rehearse` all of this runs unchanged, with a fixture in place of the TDX module.
//! The guest says so of itself, and so does the report.

mod boot;
pub mod death;
pub mod detect;
pub mod gmem;
pub mod layout;
pub mod mtree;
pub mod refusal;
mod seamcalls;
mod session;
pub mod tdvf;

use std::path::PathBuf;
use std::sync::OnceLock;
use std::time::Duration;

use detect::Detected;
use tdxlab_protocol::message::Hello;

use super::interrupt::Interrupt;
use super::{BootOptions, Host, HostError, REHEARSAL, REHEARSAL_FACT, Session};
use crate::plan::{Guest, HostKind};
use crate::predict::Design;
use crate::qemu::Installed;
use crate::witness::{debugfs, kmsg, tracefs};

/// Names the library that QEMU loads first in a rehearsal; set by `tdxlab rehearse` only.
pub const PRELOAD_VARIABLE: &str = "TDXLAB_QEMU_PRELOAD";

/// Longest an operation of a probe may take.
const PROBE_PATIENCE: Duration = Duration::from_secs(60);

/// A TDX host.
#[derive(Debug)]
pub struct TdxHost {
    pub(crate) qemu: Installed,
    pub(crate) interrupt: &'static Interrupt,
    pub(crate) places: Places,
    pub(crate) rehearsal: bool,
    probed: OnceLock<Result<Detected, String>>,
}

/// Where the kernel shows itself.
#[derive(Clone, Debug)]
pub(crate) struct Places {
    pub(crate) debugfs: PathBuf,
    pub(crate) tracefs: PathBuf,
    pub(crate) kmsg: PathBuf,
}

impl TdxHost {
    /// The host that runs TDs with this QEMU.
    pub fn new(qemu: Installed, interrupt: &'static Interrupt) -> TdxHost {
        TdxHost {
            qemu,
            interrupt,
            places: Places {
                debugfs: debugfs::ROOT.into(),
                tracefs: tracefs::ROOT.into(),
                kmsg: kmsg::DEVICE.into(),
            },
            rehearsal: is_rehearsal(),
            probed: OnceLock::new(),
        }
    }
}

impl TdxHost {
    /// Boots the TD of a probe, in a folder of its own; with what it says of itself.
    ///
    /// # Errors
    ///
    /// As for [`Host::boot`].
    pub fn boot_probe(&self) -> Result<(Box<dyn Session>, Hello), HostError> {
        let folder = tempfile::tempdir().map_err(|source| HostError::System {
            doing: "making a folder for a probe".into(),
            source,
        })?;
        let options = BootOptions {
            design: "stock".to_owned(),
            seed: 1,
            folder: folder.path().to_owned(),
            patience: PROBE_PATIENCE,
        };
        let (session, hello) = boot::boot(self, &detect::guest(), &options)?;
        Ok((Box::new(session), hello))
    }

    /// What its KVM was found to do in a TD of the lab's own, once in the life of this host; or why
    /// that could not be found out.
    pub fn probed(&self) -> &Result<Detected, String> {
        self.probed.get_or_init(|| {
            let probe = || {
                let (mut session, _) = self.boot_probe()?;
                let found = detect::probe(session.as_mut());
                session.end()?;
                found
            };
            probe().map_err(|error: HostError| error.to_string())
        })
    }
}

/// Whether `tdxlab rehearse` has started this.
pub fn is_rehearsal() -> bool {
    std::env::var_os(PRELOAD_VARIABLE).is_some_and(|library| !library.is_empty())
}

impl Host for TdxHost {
    fn kind(&self) -> HostKind {
        HostKind::Tdx
    }

    fn facts(&self) -> Vec<(String, String)> {
        let mut facts = Vec::new();
        let mut fact = |name: &str, value: String| facts.push((name.to_owned(), value));
        if self.rehearsal {
            fact(REHEARSAL_FACT, REHEARSAL.to_owned());
        }
        if let Ok(release) = std::fs::read_to_string("/proc/sys/kernel/osrelease") {
            fact("kernel", release.trim().to_owned());
        }
        fact("QEMU", self.qemu.described());
        let promised = detect::from_parameters(&detect::Parameters::of_machine());
        fact("design by module parameters", promised.to_string());
        match self.probed.get() {
            Some(Ok(found)) if promised.agrees_with(*found) => {
                fact("design by probe", found.to_string());
            }
            Some(Ok(found)) => fact(
                "design by probe",
                format!("{found}, WHICH IS NOT WHAT THE PARAMETERS PROMISE"),
            ),
            Some(Err(reason)) => fact("design by probe", format!("not found out: {reason}")),
            None => {}
        }
        facts
    }

    fn maps_conversions(&self) -> bool {
        true
    }

    fn boot(&self, guest: &Guest, options: &BootOptions) -> Result<Box<dyn Session>, HostError> {
        let (session, _) = boot::boot(self, guest, options)?;
        Ok(Box::new(session))
    }

    /// What a TD of the lab's own shows; where that fails, what the module parameters promise.
    fn design(&self) -> Option<&'static Design> {
        let found = self.probed().as_ref().copied();
        found
            .unwrap_or_else(|_| detect::from_parameters(&detect::Parameters::of_machine()))
            .design()
    }
}
