//! A TDX host: its QEMU, and its kernel's interface files.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use tdxlab_journal::{MODULE_FACT, Reading};
use tdxlab_kernel::tdx_module::Sources;
use tdxlab_kernel::{debugfs, kmsg, tracefs};
use tdxlab_plan::Converts;
use tdxlab_qemu::Installed;
use tdxlab_qemu::interrupt::Interrupt;

use super::detect::{Detected, Parameters};

/// A TDX host.
#[derive(Debug)]
pub struct TdxHost {
    pub(crate) qemu: Installed,
    pub(crate) interrupt: &'static Interrupt,
    pub(crate) places: Places,
    pub(crate) rehearsal: bool,
    pub(super) probed: OnceLock<Result<Detected, String>>,
    /// How memory converts, by KVM's parameters.
    pub(super) converts: Converts,
    /// SEAMCALL probes that the first TD could attach, or why none.
    pub(super) seamcalls: OnceLock<Result<String, String>>,
    pub(super) attachable: bool,
    /// What knows the version of its TDX module.
    pub(super) module: Sources,
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
            converts: Parameters::of_machine().converts(),
            seamcalls: OnceLock::new(),
            attachable: false,
            module: Sources::default(),
        }
    }

    /// The same host, with QEMUs that can be attached to: see [`tdxlab_host::Session::attach`].
    #[must_use]
    pub fn attachable(self) -> TdxHost {
        TdxHost {
            attachable: true,
            ..self
        }
    }
}

impl TdxHost {
    /// Version of its TDX module now.
    pub(super) fn module_fact(&self) -> (String, String) {
        let value = match self.module.version() {
            Reading::Read(version) => version.to_string(),
            Reading::Missing { reason } | Reading::Incomplete { reason, .. } => {
                format!("unknown: {reason}")
            }
        };
        (MODULE_FACT.to_owned(), value)
    }

    /// Notes what SEAMCALLs can be watched by, for the report.
    pub(super) fn heard_of_seamcalls(&self, watched: Result<String, String>) {
        let _ = self.seamcalls.set(watched);
    }
}

/// A parameter that KVM has over the software TDX module.
const PLAYED: &str = "/sys/module/kvm/parameters/softtdx_design";

/// Whether the TDX module of this host is software, according to KVM.
pub fn is_rehearsal() -> bool {
    Path::new(PLAYED).exists()
}
