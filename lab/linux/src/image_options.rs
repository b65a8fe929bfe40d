//! What an image of a Linux guest is made of.

use std::path::PathBuf;

use tdxlab_l1::KernelChoice;

/// The default kernel package of guests.
pub const PACKAGE: &str = "linux-image-cloud-amd64";

/// What the first process of an image does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum First {
    /// It is the agent.
    Agent,
    /// It starts Debian's qemu-ga, and no other program.
    QemuGa,
    /// It goes over to the root file system on a disk.
    Root,
}

/// Parameters of an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageOptions {
    /// The kernel.
    pub kernel: KernelChoice,
    /// Folder of its modules, if not beside it.
    pub modules: Option<PathBuf>,
    /// Folder of its headers, for the lab's own module; where `None`, the usual places.
    pub headers: Option<PathBuf>,
    /// The lab's own module, if it is built already.
    pub pages_module: Option<PathBuf>,
    /// Further modules to load, where the kernel has them.
    pub extra: Vec<String>,
    /// What its first process does.
    pub first: First,
    /// Whether it must support kexec into itself.
    pub kexec: bool,
    /// Whether it must run as a TD.
    pub td: bool,
    /// Whether memory is plugged into it.
    pub plug: bool,
    /// Whether the driver for TDREPORTs and quotes is loaded by the first request, and not at boot.
    pub reports: bool,
}

impl Default for ImageOptions {
    fn default() -> ImageOptions {
        ImageOptions {
            kernel: KernelChoice::Package {
                name: PACKAGE.to_owned(),
                suite: None,
            },
            modules: None,
            headers: None,
            pages_module: None,
            extra: Vec::new(),
            first: First::Agent,
            kexec: false,
            td: false,
            plug: false,
            reports: false,
        }
    }
}
