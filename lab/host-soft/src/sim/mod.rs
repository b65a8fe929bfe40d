//! The host `sim`: an in-process guest over the software KVM and TDX module, without QEMU.
//!
//! | part | what it is |
//! |---|---|
//! | `machine` | machine memory, and the MMU that walks the tables in it |
//! | `tlb` | translations cached by a vCPU |
//! | `program` | the micro guest's commands |
//! | `guest` | a command on a vCPU, step by step |
//! | `session` | operations, in sequence or interleaved |
//! | `witness` | the kernel's interface files, on disk or in memory |

mod guest;
mod program;
mod session;
mod tlb;
mod witness;

#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::Arc;

use tdxlab_host::{BootOptions, Host, HostError, Session};
use tdxlab_journal::MODULE_FACT;
use tdxlab_journal::journal::SeededFault;
use tdxlab_plan::{Guest, HostKind, HostProfile};
use tdxlab_softkvm::SoftKvm;
use tdxlab_softkvm::memory::SimMachine;

use self::session::SimSession;
use self::witness::Witnesses;
use crate::software;
use crate::software_host::{Software, SoftwareHost};

/// The host `sim`.
#[derive(Clone)]
pub struct SimHost {
    in_memory: bool,
    /// Machine memory of a session in bytes; `None` for as much as its guest can need.
    machine_bytes: Option<u64>,
    software: Software,
}

impl Default for SimHost {
    fn default() -> Self {
        SimHost::new()
    }
}

impl fmt::Debug for SimHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SimHost")
            .field("in_memory", &self.in_memory)
            .field("machine_bytes", &self.machine_bytes)
            .finish_non_exhaustive()
    }
}

impl SimHost {
    /// Keeps its witness files below the folder of each scenario.
    pub fn new() -> SimHost {
        SimHost {
            in_memory: false,
            machine_bytes: None,
            software: Software::default(),
        }
    }

    /// Keeps its witness files in memory. Their texts are read by the same parsers, and are left as
    /// evidence by the same names.
    pub fn in_memory() -> SimHost {
        SimHost {
            in_memory: true,
            ..SimHost::new()
        }
    }

    /// The same host with so much machine memory for tables and pages.
    #[must_use]
    pub fn with_machine_bytes(self, machine_bytes: u64) -> SimHost {
        SimHost {
            machine_bytes: Some(machine_bytes),
            ..self
        }
    }
}

impl SoftwareHost for SimHost {
    fn software(&mut self) -> &mut Software {
        &mut self.software
    }
}

impl Host for SimHost {
    fn kind(&self) -> HostKind {
        HostKind::Sim
    }

    fn profile(&self) -> HostProfile {
        HostProfile {
            module: Some(software::module_named(self.software.module)),
            ..HostProfile::of(self.kind())
        }
    }

    fn facts(&self) -> Vec<(String, String)> {
        let fact = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        vec![
            fact("kernel", "software KVM"),
            fact(
                MODULE_FACT,
                &format!("software, rules of {}", self.software.module),
            ),
            fact("QEMU", "none, the guest runs in process"),
        ]
    }

    fn keeps_files(&self) -> bool {
        !self.in_memory
    }

    fn fault(&self) -> Option<SeededFault> {
        self.software.fault.clone()
    }

    fn boot(&self, guest: &Guest, options: &BootOptions) -> Result<Box<dyn Session>, HostError> {
        let config = software::config(HostKind::Sim, guest, options, self.software.module)?;
        // It takes no room until it is used.
        let needed = || software::machine_bytes(guest.memory);
        let machine = SimMachine::new(self.machine_bytes.unwrap_or_else(needed));
        let core = SoftKvm::new(machine, config, (self.software.policy)())
            .map_err(|error| software::refused(HostKind::Sim, &error))?;
        let folder = (!self.in_memory).then_some(options.folder.as_path());
        let witness = Witnesses::new(folder).map_err(|source| HostError::System {
            doing: format!("laying out witness files in {}", options.folder.display()),
            source,
        })?;
        Ok(Box::new(SimSession::new(
            core,
            guest.vcpus,
            guest.memory,
            witness,
            Arc::clone(&self.software.policy),
        )))
    }
}
