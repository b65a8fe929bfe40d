//! The designs: how a host's KVM handles huge private pages, each as a small value.

use tdxlab_protocol::addr::PageLevel;

use crate::converts::Converts;
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
    /// How a range changes sides.
    pub converts: Converts,
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
        converts: Converts::AttributesAndHole,
        range_split: RangeSplit::Never,
        recovers_leaves: false,
    },
    Design {
        name: "v3",
        about: "the series of January 2026: ranges are walked to find the leaves that stick out",
        private_leaf: PageLevel::Size2M,
        folio: PageLevel::Size2M,
        hole_alignment: PageLevel::Size2M,
        converts: Converts::InPlace,
        range_split: RangeSplit::Walk,
        recovers_leaves: false,
    },
    Design {
        name: "v5",
        about: "the RFC that followed: head and tail of a conversion by arithmetic",
        private_leaf: PageLevel::Size2M,
        folio: PageLevel::Size2M,
        hole_alignment: PageLevel::Size2M,
        converts: Converts::InPlace,
        range_split: RangeSplit::HeadAndTail,
        recovers_leaves: false,
    },
    Design {
        name: "headtail",
        about: "head and tail by arithmetic for holes too, which may start and end at 4K",
        private_leaf: PageLevel::Size2M,
        folio: PageLevel::Size2M,
        hole_alignment: PageLevel::Size4K,
        converts: Converts::InPlace,
        range_split: RangeSplit::HeadAndTail,
        recovers_leaves: false,
    },
];

/// The same designs, each with the other way of converting, which is independent of how a kernel maps.
/// Kernels of today convert by attributes whatever they map; the first that convert in place map at
/// 4K.
const CONVERTING_OTHERWISE: [Design; 4] = [
    Design {
        name: "stock-in-place",
        about: "4K only, and memory converts in place",
        converts: Converts::InPlace,
        ..ALL[0]
    },
    Design {
        name: "v3-attributes",
        about: "v3 where the VMM converts by memory attributes and a hole",
        converts: Converts::AttributesAndHole,
        ..ALL[1]
    },
    Design {
        name: "v5-attributes",
        about: "v5 where the VMM converts by memory attributes and a hole",
        converts: Converts::AttributesAndHole,
        ..ALL[2]
    },
    Design {
        name: "headtail-attributes",
        about: "headtail where the VMM converts by memory attributes and a hole",
        converts: Converts::AttributesAndHole,
        ..ALL[3]
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
    converts: Converts::AttributesAndHole,
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
    /// Every design for TDs, oldest first, each with the way of converting that belongs to it.
    pub fn all() -> &'static [Design] {
        &ALL
    }

    /// The same designs with the other way of converting, in the same order.
    pub fn converting_otherwise() -> &'static [Design] {
        &CONVERTING_OTHERWISE
    }

    /// This design, or its twin, whichever converts like that. Plain VMs convert nothing.
    pub fn converting(&'static self, converts: Converts) -> &'static Design {
        let pairs = || ALL.iter().zip(&CONVERTING_OTHERWISE);
        pairs()
            .find(|(one, other)| self == *one || self == *other)
            .map(|(one, other)| if one.converts == converts { one } else { other })
            .unwrap_or(self)
    }

    /// Whether private and shared memory are the same pages of the guest_memfd.
    pub fn in_place(&self) -> bool {
        self.converts == Converts::InPlace
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
        let all = ALL.iter().chain(&CONVERTING_OTHERWISE).chain(&PLAIN);
        all.into_iter().find(|design| design.name == name)
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
            Needs {
                converts: Some(wanted),
                ..
            } if self.converts != wanted => Err(Unmet {
                need: format!("converts: {}", wanted.name()),
                offers: format!("{} converts {}", self.name, self.converts.described()),
            }),
            _ => Ok(()),
        }
    }

    /// Whether private memory can be mapped at 2M at all, and so be split.
    pub fn huge(&self) -> bool {
        self.private_leaf >= PageLevel::Size2M
    }
}
