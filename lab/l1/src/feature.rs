//! Kernel features an L1 needs.

use serde::{Deserialize, Serialize};

/// Something an L1 needs of its kernel, as a module or built in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Feature {
    /// Module name, normal form.
    pub(crate) module: &'static str,
    /// The option that builds it.
    pub(crate) option: &'static str,
    /// What fails without it; `None` if the L1 has a fallback.
    pub(crate) purpose: Option<&'static str>,
}

/// The feature that is loaded as module `name`.
pub(crate) fn feature_of(name: &str) -> Option<Feature> {
    let vendors = [Vendor::Amd.feature(), Vendor::Intel.feature()];
    FEATURES
        .into_iter()
        .chain(vendors)
        .find(|feature| feature.module == name)
}

/// Required and optional features of every L1, in load order.
pub(crate) const FEATURES: [Feature; 6] = [
    feature(
        "virtio_pci",
        "CONFIG_VIRTIO_PCI",
        Some("no virtio device can be reached"),
    ),
    feature("virtio_console", "CONFIG_VIRTIO_CONSOLE", None),
    feature(
        "9pnet_virtio",
        "CONFIG_NET_9P_VIRTIO",
        Some("the host's files cannot be reached"),
    ),
    feature(
        "9p",
        "CONFIG_9P_FS",
        Some("the host's files cannot be reached"),
    ),
    feature("overlay", "CONFIG_OVERLAY_FS", None),
    feature("kvm", "CONFIG_KVM", Some("it has no KVM to test")),
];

/// Vendor of the virtualisation of an L1's CPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Vendor {
    /// SVM, which QEMU's TCG emulates.
    Amd,
    /// VMX.
    Intel,
}

impl Vendor {
    /// The module that serves it.
    pub(crate) const fn feature(self) -> Feature {
        match self {
            Vendor::Amd => feature("kvm_amd", "CONFIG_KVM_AMD", Some("its KVM cannot use SVM")),
            Vendor::Intel => feature(
                "kvm_intel",
                "CONFIG_KVM_INTEL",
                Some("its KVM cannot use VMX"),
            ),
        }
    }
}

const fn feature(
    module: &'static str,
    option: &'static str,
    purpose: Option<&'static str>,
) -> Feature {
    Feature {
        module,
        option,
        purpose,
    }
}
