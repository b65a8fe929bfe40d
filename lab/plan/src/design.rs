//! The designs: how a host's KVM handles huge private pages, each as a small value.

use tdxlab_protocol::addr::PageLevel;

use crate::plan::{Guest, Needs};

/// The rules of one design.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Design {
    /// Name on the command line and in reports.
    pub name: &'static str,
    /// One-line description.
    pub about: &'static str,
    /// Largest leaf KVM maps privately.
    pub private_leaf: PageLevel,
    /// Folio the guest_memfd allocates where it can.
    pub folio: PageLevel,
    /// Offset and length of a hole must be multiples of this, else fallocate says EINVAL.
    pub hole_alignment: PageLevel,
    /// Private and shared memory are the same guest_memfd pages. Where not, a conversion to shared
    /// punches the private pages out (QEMU's `kvm_convert_memory()`).
    pub in_place: bool,
    /// How the leaves to split for a range are found.
    pub range_split: RangeSplit,
    /// Plain VMs: when dirty logging ends, tables over huge pages become leaves again at once.
    pub recovers_leaves: bool,
}

/// How the leaves to split for a range are found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RangeSplit {
    /// Never.
    Never,
    /// By looking at every entry of the range: no promise about how many that are.
    Walk,
    /// By arithmetic: one entry for a head, one for a tail.
    HeadAndTail,
}

/// Every design.
const ALL: [Design; 4] = [
    Design {
        name: "stock",
        about: "mainline today: private memory is mapped at 4K only",
        private_leaf: PageLevel::Size4K,
        folio: PageLevel::Size4K,
        hole_alignment: PageLevel::Size4K,
        in_place: false,
        range_split: RangeSplit::Never,
        recovers_leaves: false,
    },
    Design {
        name: "v3",
        about: "the series of January 2026: ranges are walked to find the leaves that stick out",
        private_leaf: PageLevel::Size2M,
        folio: PageLevel::Size2M,
        hole_alignment: PageLevel::Size2M,
        in_place: true,
        range_split: RangeSplit::Walk,
        recovers_leaves: false,
    },
    Design {
        name: "v5",
        about: "the RFC that followed: head and tail of a conversion by arithmetic",
        private_leaf: PageLevel::Size2M,
        folio: PageLevel::Size2M,
        hole_alignment: PageLevel::Size2M,
        in_place: true,
        range_split: RangeSplit::HeadAndTail,
        recovers_leaves: false,
    },
    Design {
        name: "headtail",
        about: "head and tail by arithmetic for holes too, which may start and end at 4K",
        private_leaf: PageLevel::Size2M,
        folio: PageLevel::Size2M,
        hole_alignment: PageLevel::Size4K,
        in_place: true,
        range_split: RangeSplit::HeadAndTail,
        recovers_leaves: false,
    },
];

/// KVM's rules for plain VMs, newest first. All memory is shared.
const PLAIN: [Design; 2] = [
    PLAIN_TODAY,
    Design {
        name: "plain-zap",
        about: "a plain VM before Linux 6.13: the end of dirty logging zaps what it has split",
        recovers_leaves: false,
        ..PLAIN_TODAY
    },
];

const PLAIN_TODAY: Design = Design {
    name: "plain",
    about: "a plain VM: leaves as large as the pages behind its memory",
    private_leaf: PageLevel::Size4K,
    folio: PageLevel::Size4K,
    hole_alignment: PageLevel::Size4K,
    in_place: false,
    range_split: RangeSplit::Never,
    recovers_leaves: true,
};

/// A need that a design does not meet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unmet {
    /// The need, as the scenario words it.
    pub need: String,
    /// What the design offers instead.
    pub offers: String,
}

impl Design {
    /// Every design for TDs, oldest first.
    pub fn all() -> &'static [Design] {
        &ALL
    }

    /// Every design that can run such a guest.
    pub fn all_for(guest: &Guest) -> &'static [Design] {
        match guest.backing {
            None => &ALL,
            Some(_) => &PLAIN,
        }
    }

    /// The design of that name.
    pub fn named(name: &str) -> Option<&'static Design> {
        ALL.iter().chain(&PLAIN).find(|design| design.name == name)
    }

    /// Whether it is one for plain VMs.
    pub fn is_plain(&self) -> bool {
        PLAIN.contains(self)
    }

    /// Whether the design meets a plan's needs. Needs of the host are ignored.
    pub fn meets(&self, needs: &Needs) -> Result<(), Unmet> {
        let unmet = |need: &str, level: PageLevel, offers: String| {
            Err(Unmet {
                need: format!("{need}: {level}"),
                offers,
            })
        };
        let leaf = format!("{} maps private memory at {}", self.name, self.private_leaf);
        let hole = format!("{} punches at {}", self.name, self.hole_alignment);
        match *needs {
            Needs {
                private_leaf: Some(level),
                ..
            } if self.private_leaf < level => unmet("private_leaf", level, leaf),
            Needs {
                private_leaf_at_most: Some(level),
                ..
            } if self.private_leaf > level => unmet("private_leaf_at_most", level, leaf),
            Needs {
                hole_alignment: Some(level),
                ..
            } if self.hole_alignment > level => unmet("hole_alignment", level, hole),
            Needs {
                hole_alignment_at_least: Some(level),
                ..
            } if self.hole_alignment < level => unmet("hole_alignment_at_least", level, hole),
            _ => Ok(()),
        }
    }

    /// Whether private memory can be mapped at 2M at all, and so be split.
    pub fn huge(&self) -> bool {
        self.private_leaf >= PageLevel::Size2M
    }
}
