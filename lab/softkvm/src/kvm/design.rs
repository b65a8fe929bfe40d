//! The designs, each a small value.

use std::fmt;
use std::str::FromStr;

use tdxlab_protocol::addr::PageLevel;

use crate::error::SoftKvmError;

/// How the played KVM handles huge private pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum KvmDesign {
    /// Mainline: 4K private pages, conversion by attributes and a hole in the guest_memfd.
    Stock,
    /// The series of January 2026 as posted: walks a range for leaves that cross its ends.
    V3,
    /// The RFC that followed: head and tail by arithmetic.
    V5,
    /// Head and tail by arithmetic, for holes at 4K too.
    HeadTail,
    /// 4K private pages that convert in place.
    StockInPlace,
    /// V3 under a VMM that converts by attributes and a hole.
    V3Attributes,
    /// V5 under such a VMM.
    V5Attributes,
    /// Holes at 4K under such a VMM.
    HeadTailAttributes,
}

impl KvmDesign {
    /// All designs.
    pub const ALL: [KvmDesign; 8] = [
        KvmDesign::Stock,
        KvmDesign::V3,
        KvmDesign::V5,
        KvmDesign::HeadTail,
        KvmDesign::StockInPlace,
        KvmDesign::V3Attributes,
        KvmDesign::V5Attributes,
        KvmDesign::HeadTailAttributes,
    ];

    /// The name used on the command line and in reports.
    pub const fn name(self) -> &'static str {
        match self {
            KvmDesign::Stock => "stock",
            KvmDesign::V3 => "v3",
            KvmDesign::V5 => "v5",
            KvmDesign::HeadTail => "headtail",
            KvmDesign::StockInPlace => "stock-in-place",
            KvmDesign::V3Attributes => "v3-attributes",
            KvmDesign::V5Attributes => "v5-attributes",
            KvmDesign::HeadTailAttributes => "headtail-attributes",
        }
    }

    /// What sets the design apart.
    pub const fn rules(self) -> Rules {
        match self {
            KvmDesign::Stock => Rules {
                leaf: PageLevel::Size4K,
                folio: PageLevel::Size4K,
                hole_alignment: PageLevel::Size4K,
                range_split: RangeSplit::Never,
                splits_for_accept: false,
                conversion: Conversion::AttributesAndHole,
                dynamic_pamt: false,
            },
            KvmDesign::V3 => Rules {
                leaf: PageLevel::Size2M,
                folio: PageLevel::Size2M,
                hole_alignment: PageLevel::Size2M,
                range_split: RangeSplit::Walk,
                splits_for_accept: true,
                conversion: Conversion::InPlace,
                dynamic_pamt: false,
            },
            KvmDesign::V5 => Rules {
                range_split: RangeSplit::HeadAndTail,
                dynamic_pamt: true,
                ..KvmDesign::V3.rules()
            },
            KvmDesign::HeadTail => Rules {
                hole_alignment: PageLevel::Size4K,
                ..KvmDesign::V5.rules()
            },
            KvmDesign::StockInPlace => Rules {
                conversion: Conversion::InPlace,
                ..KvmDesign::Stock.rules()
            },
            KvmDesign::V3Attributes => by_attributes(KvmDesign::V3),
            KvmDesign::V5Attributes => by_attributes(KvmDesign::V5),
            KvmDesign::HeadTailAttributes => by_attributes(KvmDesign::HeadTail),
        }
    }
}

/// A design under a VMM that converts by attributes and a hole.
const fn by_attributes(design: KvmDesign) -> Rules {
    Rules {
        conversion: Conversion::AttributesAndHole,
        ..design.rules()
    }
}

impl fmt::Display for KvmDesign {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for KvmDesign {
    type Err = SoftKvmError;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        KvmDesign::ALL
            .into_iter()
            .find(|design| design.name() == name)
            .ok_or_else(|| SoftKvmError::NoSuchDesign(name.to_owned()))
    }
}

/// What sets a design apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    /// Largest private leaf.
    pub leaf: PageLevel,
    /// Folio that guest_memfd allocates.
    pub folio: PageLevel,
    /// What offset and length of a hole must be multiples of.
    pub hole_alignment: PageLevel,
    /// How the leaves to split for a range are found.
    pub range_split: RangeSplit,
    /// Whether an ACCEPT below the level of a pending leaf splits it.
    pub splits_for_accept: bool,
    /// How a range changes sides.
    pub conversion: Conversion,
    /// Whether the module gets pages for metadata of 4K pages when they are needed, if it can do
    /// without until then.
    pub dynamic_pamt: bool,
}

/// How the leaves to split for a range are found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RangeSplit {
    /// Never.
    Never,
    /// By a walk over the range. Source: `kvm_split_cross_boundary_leafs()` of v3.
    Walk,
    /// By arithmetic on its ends. Source: `tdx_gmem_convert()` of RFC v5.
    HeadAndTail,
}

/// How a range changes sides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Conversion {
    /// Attributes of the VM, then a hole in the guest_memfd; shared pages are other memory.
    /// Source: QEMU's `kvm_convert_memory()`.
    AttributesAndHole,
    /// In the guest_memfd, which keeps its pages.
    InPlace,
}
