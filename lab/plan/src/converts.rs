//! How memory converts between private and shared.

use serde::{Deserialize, Serialize};

/// How a range changes sides between private and shared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Converts {
    /// The VMM sets the VM's memory attributes and punches the private pages out of the guest_memfd;
    /// shared memory lies elsewhere. Source: QEMU's `kvm_convert_memory()`.
    #[serde(rename = "attributes")]
    AttributesAndHole,
    /// In the guest_memfd, whose pages are shared and private memory alike.
    InPlace,
}

impl Converts {
    /// The name used in scenarios.
    pub const fn name(self) -> &'static str {
        match self {
            Converts::AttributesAndHole => "attributes",
            Converts::InPlace => "in_place",
        }
    }

    /// The way, in words that follow "converts".
    pub const fn described(self) -> &'static str {
        match self {
            Converts::AttributesAndHole => "by memory attributes and a hole",
            Converts::InPlace => "in place",
        }
    }
}
