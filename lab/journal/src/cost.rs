//! The cost of an operation, as counted where the work was done.

use serde::{Deserialize, Serialize};

/// Counts of one operation; `None` for what the host cannot see, which is never 0. Where operations
/// race and a host can count them together only, the first one carries the sum.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Cost {
    /// VM exits of any kind.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exits: Option<u64>,
    /// Hypercalls of the guest among them (TDG.VP.VMCALL).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vmcalls: Option<u64>,
    /// Private pages added, of 4K (TDH.MEM.PAGE.AUG).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub auged_4k: Option<u64>,
    /// The same, of 2M.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub auged_2m: Option<u64>,
    /// The same, of 1G.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub auged_1g: Option<u64>,
    /// TLB flushes of all vCPUs (TDH.MEM.TRACK; in a plain VM, remote TLB flushes).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kicks: Option<u64>,
    /// 4K pages of shared memory outside the guest_memfd after the operation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shared_apart: Option<u64>,
}

impl Cost {
    /// Whether nothing of it was seen.
    pub fn is_unseen(&self) -> bool {
        *self == Cost::default()
    }
}
