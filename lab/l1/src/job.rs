//! The job of an L1: a file in its initramfs.

use serde::{Deserialize, Serialize};

use crate::feature::Vendor;

/// Path of the job in the initramfs.
pub(crate) const PATH: &str = "/job.json";

/// Where the modules lie in the initramfs.
pub(crate) const MODULES: &str = "/modules";

/// Tag of the 9p device that holds the host's files.
pub(crate) const HOST_TAG: &str = "tdxlab-host";

/// Name of the virtio-serial port that carries the messages.
pub(crate) const PORT: &str = "tdxlab.messages";

/// The line that carries them where the kernel has no virtio-serial: COM2.
pub(crate) const SERIAL: &str = "/dev/ttyS1";

/// A job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Job {
    /// Marks every message of this L1.
    pub(crate) id: u64,
    /// Module names in the order in which to load them; their files are in [`MODULES`].
    pub(crate) modules: Vec<String>,
    /// Vendor of the CPU's virtualisation.
    pub(crate) vendor: Vendor,
    /// Program and arguments.
    pub(crate) command: Vec<String>,
    /// Working folder.
    pub(crate) folder: String,
    /// Environment.
    pub(crate) environment: Vec<(String, String)>,
    /// Folder, absolute, whose new and changed files are sent back.
    pub(crate) report: Option<String>,
    /// Seed for the kernel's random numbers: the emulated CPU has no RDRAND, and the kernel would
    /// wait for seconds until it has gathered entropy.
    pub(crate) entropy: Vec<u8>,
}
