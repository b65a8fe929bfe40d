//! A plan: a scenario made fully concrete, and what each of its steps must show.
//!
//! Everything random has been drawn, every `matrix` and `repeat` expanded, every address turned
//! into a GPA. A plan does not depend on the design under test; [`Expectation`]s do.
//!
//! Invariant: pure data. This crate names the guest protocol and nothing else, and does no I/O.
//!
//! | file | holds |
//! |---|---|
//! | `design` | where designs differ |
//! | `host` | kinds of hosts and what each promises |
//! | `needs` | whether host and design offer what a plan needs |
//! | `expectation` | what a step must show |
//! | `map` | what is mapped where |
//! | `names`, `text` | statuses, operations and expectations in words |

#![warn(missing_docs)]

mod design;
mod expectation;
mod host;
mod map;
pub mod names;
pub mod needs;
pub mod one_root;
pub mod text;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::addr::{Gpa, GpaRange, PageLevel};
pub use design::{Design, RangeSplit, Unmet};
pub use expectation::{
    AccessOutcome, Content, Expectation, Interval, PageDelta, ProbeRun, ReadPlan, SplitLeaf,
    StatusRun,
};
pub use host::{HostKind, HostProfile, Races};
pub use map::{MemoryMap, RegionState};
pub use tdxlab_protocol::addr;
pub use tdxlab_protocol::message::{AccessKind, OnVe, Side, VcpuId};
pub use tdxlab_protocol::pattern::Generation;

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

/// What a step does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// One operation.
    One(Op),
    /// Branches that run side by side; each branch runs its operations in order.
    Parallel(Vec<Branch>),
}

/// One strand of a parallel step. All guest operations of a branch run on one vCPU, and no two
/// branches use the same; host operations (punch, prefault, allocate) stand in branches of their
/// own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Branch(pub Vec<Op>);

/// One operation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Op {
    /// Guest: TDG.MEM.PAGE.ACCEPT over the range.
    Accept {
        /// Where.
        range: GpaRange,
        /// At which size.
        size: Size,
        /// Who.
        vcpu: VcpuId,
    },
    /// Guest: access one word per stride.
    Touch {
        /// Where.
        range: GpaRange,
        /// Distance between accesses.
        stride: PageLevel,
        /// Load or store.
        access: AccessKind,
        /// Which half of GPA space.
        side: Side,
        /// What the #VE handler does.
        on_ve: OnVe,
        /// Who.
        vcpu: VcpuId,
    },
    /// Guest: write pattern words of a fresh generation.
    Fill {
        /// Where.
        range: GpaRange,
        /// The generation.
        generation: Generation,
        /// Which half of GPA space.
        side: Side,
        /// Who.
        vcpu: VcpuId,
    },
    /// Guest: read and classify every page. What of the range is read depends on `gone` and on
    /// what the predictor knows to be accepted.
    Verify {
        /// Where.
        range: GpaRange,
        /// What to do about memory that must be gone.
        gone: Gone,
        /// Which half of GPA space.
        side: Side,
        /// Who.
        vcpu: VcpuId,
    },
    /// Guest: MapGPA.
    Convert {
        /// Where.
        range: GpaRange,
        /// To which side.
        to: Side,
        /// Who.
        vcpu: VcpuId,
    },
    /// Guest: TDG.MEM.PAGE.ATTR.RD once per stride.
    Probe {
        /// Where.
        range: GpaRange,
        /// Distance between probes.
        stride: PageLevel,
        /// Who.
        vcpu: VcpuId,
    },
    /// Host: fallocate(PUNCH_HOLE | KEEP_SIZE) on the guest_memfd, from outside the VMM.
    Punch {
        /// Where. May end past test memory, to show that nothing happens there.
        range: GpaRange,
    },
    /// Host: KVM_PRE_FAULT_MEMORY.
    Prefault {
        /// Where.
        range: GpaRange,
    },
    /// Host: fallocate(KEEP_SIZE): allocate guest_memfd pages without mapping them.
    Allocate {
        /// Where.
        range: GpaRange,
    },
    /// Host: log which pages the guest writes (KVM_MEM_LOG_DIRTY_PAGES), or stop that. Plain VMs
    /// only.
    DirtyLog {
        /// Whether from now on.
        on: bool,
    },
    /// Host: stop the vCPUs. Plain VMs only.
    Stop,
    /// Host: let the vCPUs go on. Plain VMs only.
    Cont,
}

impl Action {
    /// Its operations, branch after branch.
    pub fn ops(&self) -> impl Iterator<Item = &Op> {
        let (one, branches) = match self {
            Action::One(op) => (Some(op), [].as_slice()),
            Action::Parallel(branches) => (None, branches.as_slice()),
        };
        let raced = branches.iter().flat_map(|branch| &branch.0);
        one.into_iter().chain(raced)
    }

    /// The same, to change them.
    pub fn ops_mut(&mut self) -> impl Iterator<Item = &mut Op> {
        let (one, branches) = match self {
            Action::One(op) => (Some(op), [].as_mut_slice()),
            Action::Parallel(branches) => (None, branches.as_mut_slice()),
        };
        let raced = branches.iter_mut().flat_map(|branch| &mut branch.0);
        one.into_iter().chain(raced)
    }
}

impl Op {
    /// Where it works; `None` for what is done to the whole VM.
    pub const fn range(&self) -> Option<GpaRange> {
        match self {
            Op::Accept { range, .. }
            | Op::Touch { range, .. }
            | Op::Fill { range, .. }
            | Op::Verify { range, .. }
            | Op::Convert { range, .. }
            | Op::Probe { range, .. }
            | Op::Punch { range }
            | Op::Prefault { range }
            | Op::Allocate { range } => Some(*range),
            Op::DirtyLog { .. } | Op::Stop | Op::Cont => None,
        }
    }

    /// Puts it elsewhere. What is done to the whole VM stays as it is.
    pub const fn set_range(&mut self, to: GpaRange) {
        match self {
            Op::Accept { range, .. }
            | Op::Touch { range, .. }
            | Op::Fill { range, .. }
            | Op::Verify { range, .. }
            | Op::Convert { range, .. }
            | Op::Probe { range, .. }
            | Op::Punch { range }
            | Op::Prefault { range }
            | Op::Allocate { range } => *range = to,
            Op::DirtyLog { .. } | Op::Stop | Op::Cont => {}
        }
    }

    /// The vCPU that does it; `None` for operations of the host.
    pub const fn vcpu(&self) -> Option<VcpuId> {
        match self {
            Op::Accept { vcpu, .. }
            | Op::Touch { vcpu, .. }
            | Op::Fill { vcpu, .. }
            | Op::Verify { vcpu, .. }
            | Op::Convert { vcpu, .. }
            | Op::Probe { vcpu, .. } => Some(*vcpu),
            Op::Punch { .. }
            | Op::Prefault { .. }
            | Op::Allocate { .. }
            | Op::DirtyLog { .. }
            | Op::Stop
            | Op::Cont => None,
        }
    }
}

/// Sizes at which a range is accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Size {
    /// 4K at a time.
    #[serde(rename = "4K")]
    Size4K,
    /// 2M at a time.
    #[serde(rename = "2M")]
    Size2M,
    /// 1G at a time (refused by the module).
    #[serde(rename = "1G")]
    Size1G,
    /// 1G, then 2M, then 4K at each position, any non-zero status meaning the next smaller.
    #[serde(rename = "linux")]
    Linux,
}

/// What `verify` does about pages that are not accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Gone {
    /// Leave them alone; only counters and page cache witness that they are gone.
    Skip,
    /// Touch the first and the last 4K page of every such extent: each must raise #VE.
    Ends,
    /// Touch every page.
    Every,
}

/// What a scenario's author expects of a step. Absent means: whatever the predictor says. A value
/// must agree with the predictor, else the scenario is rejected.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Expect {
    /// Split events.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub splits: Option<u64>,
    /// Change of `pages_4k`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pages_4k: Option<i64>,
    /// Change of `pages_2m`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pages_2m: Option<i64>,
    /// Change of `pages_1g`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pages_1g: Option<i64>,
    /// VM exits of type ACCEPT.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub accept_exits: Option<u64>,
    /// The one status every ACCEPT of the step returns.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<ExpectStatus>,
    /// How the host call ends.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub errno: Option<ExpectErrno>,
    /// Whether the TD survives.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub td: Option<ExpectTd>,
    /// Most S-EPT entries looked at to decide the splits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub entries_at_most: Option<u64>,
}

impl Expect {
    /// Whether the author wrote nothing.
    pub fn is_empty(&self) -> bool {
        *self == Expect::default()
    }
}

/// A status by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ExpectStatus {
    /// TDX_SUCCESS.
    Success,
    /// TDX_PAGE_ALREADY_ACCEPTED.
    AlreadyAccepted,
    /// TDX_PAGE_SIZE_MISMATCH.
    SizeMismatch,
    /// TDX_OPERAND_INVALID.
    OperandInvalid,
}

/// How a host call ends, by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ExpectErrno {
    /// It succeeds.
    #[serde(rename = "ok")]
    Ok,
    /// EINVAL.
    EINVAL,
    /// ENOMEM.
    ENOMEM,
}

/// What becomes of the TD.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ExpectTd {
    /// It lives.
    Alive,
    /// The host or the module ends it.
    Killed,
}
