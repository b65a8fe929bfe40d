//! What a Linux guest has done to its memory by the time its agent is ready.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A boot of a Linux guest. What could not be read is `null`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct BootAccount {
    /// The kernel's release.
    pub kernel: String,
    /// From the start of QEMU, or of a kexec, until the kernel's clock started, in microseconds of
    /// the host's clock: firmware and decompression.
    pub firmware_micros: u64,
    /// From there until the agent was ready.
    pub kernel_micros: u64,
    /// Bytes of RAM in /proc/iomem.
    pub ram: u64,
    /// Bytes that Linux has not accepted yet.
    pub unaccepted: Option<u64>,
    /// VM exits.
    pub exits: Option<u64>,
    /// KVM's 4K leaves, private and shared.
    pub pages_4k: Option<u64>,
    /// KVM's 2M leaves.
    pub pages_2m: Option<u64>,
    /// What the TDX module did, where a rehearsal shows it.
    pub module: Option<ModuleAccount>,
    /// Leaves that were split; `null` where events could not be read.
    pub splits: Option<Vec<SplitPlace>>,
    /// Memory by 2M, in the order of addresses. What lies between is no memory.
    pub memory: Vec<MemoryRun>,
}

/// A count of a boot; `None` where it could not be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Count {
    /// Its name.
    pub what: &'static str,
    /// The count.
    pub value: Option<u64>,
}

impl BootAccount {
    /// What is compared between boots of one configuration, always in this order. Times and exits,
    /// which vary with the machine's load, are not among it.
    pub fn counts(&self) -> [Count; 9] {
        let module = |read: fn(&ModuleAccount) -> u64| self.module.as_ref().map(read);
        let splits = self.splits.as_ref().map(|splits| splits.len() as u64);
        [
            ("pages_4k", self.pages_4k),
            ("pages_2m", self.pages_2m),
            ("splits", splits),
            ("ACCEPTs of 4K", module(|module| module.accepted_4k)),
            ("ACCEPTs of 2M", module(|module| module.accepted_2m)),
            (
                "refused ACCEPTs of 2M",
                module(|module| module.size_mismatch),
            ),
            ("AUG", module(|module| module.augmented)),
            ("REMOVE", module(|module| module.removed)),
            ("DEMOTE", module(|module| module.demoted)),
        ]
        .map(|(what, value)| Count { what, value })
    }
}

/// What the TDX module did for a TD.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ModuleAccount {
    /// Pages of 4K accepted.
    pub accepted_4k: u64,
    /// Pages of 2M accepted.
    pub accepted_2m: u64,
    /// ACCEPTs of 2M refused for their size.
    pub size_mismatch: u64,
    /// Exits of ACCEPTs at 4K.
    pub exits_accept_4k: u64,
    /// Exits of ACCEPTs at 2M.
    pub exits_accept_2m: u64,
    /// Leaves added by AUG.
    pub augmented: u64,
    /// Leaves removed, by conversions to shared.
    pub removed: u64,
    /// Leaves demoted.
    pub demoted: u64,
}

/// A leaf that was split.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SplitPlace {
    /// First GPA of the leaf.
    pub gpa: String,
    /// What Linux has there, by /proc/iomem; empty where it has nothing.
    pub what: String,
}

/// What 2M of memory are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum MemoryUse {
    /// Mapped, and no RAM of Linux: firmware and its tables.
    Firmware,
    /// One leaf of 2M.
    Leaf,
    /// 512 pages of 4K.
    Pages,
    /// Pages of 4K, and some that are not private.
    PagesInPart,
    /// RAM that is not private: shared.
    Shared,
    /// The host holds all of it. Only of plain guests.
    Held,
    /// The host holds some of it. Only of plain guests.
    HeldInPart,
    /// Not touched, or not accepted yet.
    Untouched,
}

impl MemoryUse {
    /// All of them, as legends show them.
    pub const ALL: [MemoryUse; 8] = [
        MemoryUse::Firmware,
        MemoryUse::Leaf,
        MemoryUse::Pages,
        MemoryUse::PagesInPart,
        MemoryUse::Shared,
        MemoryUse::Held,
        MemoryUse::HeldInPart,
        MemoryUse::Untouched,
    ];

    /// In words.
    pub const fn words(self) -> &'static str {
        match self {
            MemoryUse::Firmware => "firmware",
            MemoryUse::Leaf => "accepted, 2M",
            MemoryUse::Pages => "accepted, 4K",
            MemoryUse::PagesInPart => "accepted in part, 4K",
            MemoryUse::Shared => "shared",
            MemoryUse::Held => "held by the host",
            MemoryUse::HeldInPart => "held in part",
            MemoryUse::Untouched => "untouched",
        }
    }

    /// A sign for pictures made of text.
    pub const fn sign(self) -> char {
        match self {
            MemoryUse::Firmware => 'F',
            MemoryUse::Leaf => '#',
            MemoryUse::Pages => '4',
            MemoryUse::PagesInPart => '+',
            MemoryUse::Shared => 's',
            MemoryUse::Held => '#',
            MemoryUse::HeldInPart => '+',
            MemoryUse::Untouched => '.',
        }
    }
}

/// Blocks of 2M that follow each other and are alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct MemoryRun {
    /// The first block: its GPA divided by 2M.
    pub first: u64,
    /// Number of blocks.
    pub count: u64,
    /// What they are.
    pub how: MemoryUse,
}
