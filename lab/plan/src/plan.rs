//! A concrete scenario: the guest to boot, and the steps to do.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tdxlab_protocol::addr::{Gpa, GpaRange, PageLevel};

use crate::converts::Converts;
use crate::expect::Expect;
use crate::host::HostKind;
use crate::op::{Action, Op};
use crate::tdx_module::TdxModule;

/// Version of the plan format.
pub const VERSION: u32 = 1;

/// Where test memory starts while it ends at or below 2 GiB. Aligned to 1G, clear of the guest's
/// own memory, and below the PCI hole of q35, so that guest_memfd offset and GPA are the same.
pub const LOW_BASE: Gpa = Gpa::new(1 << 30);

/// Where test memory starts otherwise: above the hole below 4 GiB.
pub const HIGH_BASE: Gpa = Gpa::new(4 << 30);

/// The one page of the positive control: below all test memory, in a memory slot and a guest_memfd of
/// its own where the host is software.
pub const CONTROL_PAGE: Gpa = Gpa::new(0x3fe0_0000);

/// A concrete scenario.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    /// [`VERSION`].
    pub version: u32,
    /// Scenario name with the matrix point it stands for: `punch/offsets[offset=4K]`.
    pub name: String,
    /// What the scenario shows.
    pub about: String,
    /// Seed of everything random in the plan and of the order of racing steps.
    pub seed: u64,
    /// What host and design must offer.
    pub needs: Needs,
    /// The guest to boot.
    pub guest: Guest,
    /// What to do, in order.
    pub steps: Vec<Step>,
}

/// What a plan needs of host and design. Absent means not needed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Needs {
    /// Largest private leaf must be at least this.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub private_leaf: Option<PageLevel>,
    /// Largest private leaf must be at most this (scenarios about hosts without huge pages).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub private_leaf_at_most: Option<PageLevel>,
    /// Holes of this alignment must be allowed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hole_alignment: Option<PageLevel>,
    /// Holes of finer alignment than this must be refused with EINVAL.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hole_alignment_at_least: Option<PageLevel>,
    /// Memory must convert like that.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub converts: Option<Converts>,
    /// The TDX module must be this version.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub module: Option<TdxModule>,
    /// The only hosts on which it makes sense; empty means any.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub hosts: Vec<HostKind>,
}

/// The guest of a plan.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Guest {
    /// Test memory: all ranges of steps lie in it. Starts at [`LOW_BASE`] or [`HIGH_BASE`].
    pub memory: GpaRange,
    /// Number of vCPUs.
    pub vcpus: u16,
    /// The TD attribute SEPT_VE_DISABLE: touching a pending page kills the TD instead of raising
    /// #VE in the guest.
    pub sept_ve_disable: bool,
    /// Memory slots over test memory, in address order, covering it without gap or overlap.
    pub slots: Vec<Slot>,
    /// Ranges that are part of the initial image: added as 4K pages before the TD runs.
    pub image: Vec<GpaRange>,
    /// Test memory is ordinary memory of a plain VM, and this is behind it; `None` for the private
    /// memory of a TD.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backing: Option<Backing>,
}

/// What is behind the test memory of a plain VM: always a memfd, so that holes can be punched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum Backing {
    /// Pages of 4K.
    #[serde(rename = "4K")]
    Small,
    /// Transparent huge pages of 2M.
    #[serde(rename = "thp")]
    Transparent,
    /// Pages of 2M from the hugetlb pool.
    #[serde(rename = "hugetlb-2M")]
    Hugetlb2M,
    /// Pages of 1G from the hugetlb pool.
    #[serde(rename = "hugetlb-1G")]
    Hugetlb1G,
}

impl Backing {
    /// The name used in scenarios and reports.
    pub const fn name(self) -> &'static str {
        match self {
            Backing::Small => "4K",
            Backing::Transparent => "thp",
            Backing::Hugetlb2M => "hugetlb-2M",
            Backing::Hugetlb1G => "hugetlb-1G",
        }
    }

    /// The largest leaf that can map it.
    pub const fn leaf(self) -> PageLevel {
        match self {
            Backing::Small => PageLevel::Size4K,
            Backing::Transparent | Backing::Hugetlb2M => PageLevel::Size2M,
            Backing::Hugetlb1G => PageLevel::Size1G,
        }
    }
}

impl Guest {
    /// A TD of one vCPU whose test memory lies in one slot, at the start of the guest_memfd.
    pub fn over(memory: GpaRange) -> Guest {
        Guest {
            memory,
            vcpus: 1,
            sept_ve_disable: false,
            slots: vec![Slot {
                range: memory,
                gmem_offset: 0,
            }],
            image: Vec::new(),
            backing: None,
        }
    }
}

impl Plan {
    /// Whether any touch of it goes by one instruction, so that a TDX module counts its faults.
    pub fn has_same_rip(&self) -> bool {
        let mut ops = self.steps.iter().flat_map(|step| step.action.ops());
        ops.any(|op| matches!(op, Op::Touch { same_rip: true, .. }))
    }
}

/// A memory slot bound to the guest_memfd.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Slot {
    /// The GPAs it serves.
    pub range: GpaRange,
    /// Offset in the guest_memfd of the slot's first byte.
    pub gmem_offset: u64,
}

/// One operation (or several that race) and what the scenario's author expects of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Step {
    /// Line of the scenario file, counted from 1; 0 where there is none.
    pub line: u32,
    /// What is done.
    pub action: Action,
    /// What the author wrote under `expect`.
    #[serde(default, skip_serializing_if = "Expect::is_empty")]
    pub expect: Expect,
}
