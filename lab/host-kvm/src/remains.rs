//! What is left of a guest on a real host when its QEMU has gone.

use std::time::Duration;

use tdxlab_journal::{Reading, Taken};
use tdxlab_kernel::debugfs::VmFolder;

/// Longest that KVM's own threads may hold a VM whose process has ended.
const PATIENCE: Duration = Duration::from_secs(2);

/// Whether the VM itself is left: one to which the kernel keeps a reference holds all it ever had, its
/// memory, its tables, its key id.
pub(crate) fn vm_left(folder: &Result<VmFolder, String>) -> Taken {
    Taken {
        what: "VMs of its QEMU".to_owned(),
        before: 0,
        after: match folder {
            Ok(folder) => folder.left(PATIENCE),
            Err(reason) => Reading::missing(reason.clone()),
        },
    }
}
