//! Versions of the TDX module, and the few answers in which they differ.

use std::fmt;
use std::str::FromStr;

/// A version of Intel's TDX module.
///
/// 1.5.01 and 1.5.25 are known by execution of their public source (`vectors/README.md`), 1.5.34 and
/// 2.0.18 by reading the source of TDH.MEM.PAGE.DEMOTE, TDH.MEM.PAGE.AUG and TDG.MEM.PAGE.ACCEPT;
/// where those two were not read they answer as 1.5.25 does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ModuleVersion {
    /// 1.5.01 of 2023: no Dynamic PAMT, DEMOTE gives way to any interrupt.
    V1_5_01,
    /// 1.5.25: Dynamic PAMT, DEMOTE gives way to any interrupt.
    V1_5_25,
    /// 1.5.34 of 2026: DEMOTE is interrupted only where the TD has L2 VMs.
    #[default]
    V1_5_34,
    /// 2.0.18 of 2026: the same, and an ACCEPT of a removed entry is a TD exit.
    V2_0_18,
}

impl ModuleVersion {
    /// All of them, oldest first.
    pub const ALL: [ModuleVersion; 4] = [
        ModuleVersion::V1_5_01,
        ModuleVersion::V1_5_25,
        ModuleVersion::V1_5_34,
        ModuleVersion::V2_0_18,
    ];

    /// As in the module's own version fields: `1.5.01`.
    pub const fn name(self) -> &'static str {
        match self {
            ModuleVersion::V1_5_01 => "1.5.01",
            ModuleVersion::V1_5_25 => "1.5.25",
            ModuleVersion::V1_5_34 => "1.5.34",
            ModuleVersion::V2_0_18 => "2.0.18",
        }
    }

    const fn is_first(self) -> bool {
        matches!(self, ModuleVersion::V1_5_01)
    }

    /// Whether TDX_OP_STATE_INCORRECT has the operation state in its low word.
    pub(super) const fn tells_op_state(self) -> bool {
        !self.is_first()
    }

    /// Whether RANGE.UNBLOCK reports missing TLB tracking of the S-EPT tree instead of RCX.
    pub(super) const fn unblock_blames_tree(self) -> bool {
        self.is_first()
    }

    /// Whether the lock of the S-EPT tree has a flag that a host with priority sets. Without one, what
    /// would be the flag is a reader.
    pub(super) const fn tree_lock_has_host_priority(self) -> bool {
        !self.is_first()
    }

    /// Whether PAGE.PROMOTE locks each entry of the table.
    pub(super) const fn promote_locks_entries(self) -> bool {
        self.is_first()
    }

    /// Whether PAGE.PROMOTE wants the S-EPT tree to itself.
    pub(super) const fn promote_locks_tree(self) -> bool {
        !self.is_first()
    }

    /// Whether the zero-step filter wants the S-EPT tree to itself.
    pub(super) const fn stepping_locks_tree(self) -> bool {
        self.is_first()
    }

    /// Whether the zero-step filter lets a vCPU in whose next fault is a #VE on a pending page.
    pub(super) const fn stepping_admits_pending(self) -> bool {
        !self.is_first()
    }

    /// Whether DEMOTE looks for a pending interrupt in a TD without L2 VMs. KVM takes modules that do
    /// not by their feature bit 51 (ENHANCED_DEMOTE_INTERRUPTIBILITY).
    pub const fn demote_is_interruptible(self) -> bool {
        matches!(self, ModuleVersion::V1_5_01 | ModuleVersion::V1_5_25)
    }

    /// Whether a call that may be interrupted also gives way to one with priority on the S-EPT tree.
    pub(super) const fn yields_to_host_priority(self) -> bool {
        !self.is_first()
    }

    /// Whether ACCEPT of a removed entry is a TD exit rather than TDX_PAGE_SIZE_MISMATCH.
    pub(super) const fn accept_exits_on_removed(self) -> bool {
        matches!(self, ModuleVersion::V2_0_18)
    }

    /// Whether it knows Dynamic PAMT.
    pub const fn has_dynamic_pamt(self) -> bool {
        !self.is_first()
    }
}

impl fmt::Display for ModuleVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A module version that is not played.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no TDX module `{0}`: 1.5.01, 1.5.25, 1.5.34 and 2.0.18 are known")]
pub struct NoSuchModule(pub String);

impl FromStr for ModuleVersion {
    type Err = NoSuchModule;

    fn from_str(text: &str) -> Result<Self, NoSuchModule> {
        ModuleVersion::ALL
            .into_iter()
            .find(|version| version.name() == text)
            .ok_or_else(|| NoSuchModule(text.to_owned()))
    }
}
