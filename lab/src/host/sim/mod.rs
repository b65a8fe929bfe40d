//! The host `sim`: an in-process guest over the software KVM and TDX module, without QEMU.

use super::{BootOptions, Host, HostError, Session};
use crate::plan::{Guest, HostKind};

/// The host `sim`.
#[derive(Clone, Debug, Default)]
pub struct SimHost {
    in_memory: bool,
}

impl SimHost {
    /// Keeps its witness files below the folder of each scenario.
    pub fn new() -> SimHost {
        SimHost { in_memory: false }
    }

    /// Keeps its witness files in memory: for runs of hundreds of thousands of steps.
    pub fn in_memory() -> SimHost {
        SimHost { in_memory: true }
    }
}

impl Host for SimHost {
    fn kind(&self) -> HostKind {
        HostKind::Sim
    }

    fn facts(&self) -> Vec<(String, String)> {
        vec![("in_memory".to_owned(), self.in_memory.to_string())]
    }

    fn boot(&self, _guest: &Guest, _options: &BootOptions) -> Result<Box<dyn Session>, HostError> {
        todo!()
    }
}
