//! What KVM's memory attributes of a TD take of this machine's memory.

use tdxlab_plan::addr::PageLevel;
use tdxlab_plan::text;

/// KVM keeps attributes in an xarray with an entry for each page: 64 of them in a node of 576 bytes.
/// QEMU sets them for all memory of a TD. Source: `kvm_vm_set_mem_attributes()`.
const BYTES_A_PAGE: u64 = 576 / 64;

/// Why this machine cannot make a TD of `memory` bytes, where so many are `available`.
pub(super) fn unmet(memory: u64, available: u64) -> Option<String> {
    let takes = memory / PageLevel::Size4K.bytes() * BYTES_A_PAGE;
    (takes > available).then(|| {
        format!(
            "needs {} GiB for KVM's memory attributes of a TD of {}; {} GiB are available",
            takes.div_ceil(1 << 30),
            text::size(memory),
            available >> 30
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn terabytes_take_gigabytes() {
        assert_eq!(unmet(1 << 40, 6 << 30), None);
        let why = unmet(16 << 40, 6 << 30).unwrap();
        let wanted = "needs 36 GiB for KVM's memory attributes of a TD of 16T; 6 GiB are available";
        assert_eq!(why, wanted);
    }
}
