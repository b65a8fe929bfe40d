//! Operations, and steps that are made of them.
//!
//! [`Op`] is the serialised form, and the place to start a new operation. [`Op::kind`] tells guest,
//! host and VM operations apart, and every host matches on it.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tdxlab_protocol::addr::{GpaRange, PageLevel};
use tdxlab_protocol::message::{AccessKind, OnVe, Side, VcpuId};
use tdxlab_protocol::pattern::Generation;

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

/// One operation: its form in files.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
#[expect(missing_docs, reason = "`range` and `vcpu` say all there is to say")]
pub enum Op {
    /// Guest: TDG.MEM.PAGE.ACCEPT over the range.
    Accept {
        range: GpaRange,
        /// At which size.
        size: Size,
        vcpu: VcpuId,
    },
    /// Guest: access one word per stride.
    Touch {
        range: GpaRange,
        /// Distance between accesses.
        stride: PageLevel,
        /// Load or store.
        access: AccessKind,
        /// Which half of GPA space.
        side: Side,
        /// What the #VE handler does.
        on_ve: OnVe,
        /// One instruction makes all accesses, so that the zero-step filter of the TDX module counts
        /// those that fault.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        same_rip: bool,
        vcpu: VcpuId,
    },
    /// Guest: write pattern words of a fresh generation.
    Fill {
        range: GpaRange,
        /// The generation.
        generation: Generation,
        /// Which half of GPA space.
        side: Side,
        vcpu: VcpuId,
    },
    /// Guest: read and classify every page. What of the range is read depends on `gone` and on
    /// what the predictor knows to be accepted.
    Verify {
        range: GpaRange,
        /// What to do about memory that must be gone.
        gone: Gone,
        /// Which half of GPA space.
        side: Side,
        vcpu: VcpuId,
    },
    /// Guest: MapGPA.
    Convert {
        range: GpaRange,
        /// To which side.
        to: Side,
        vcpu: VcpuId,
    },
    /// Guest: TDG.MEM.PAGE.ATTR.RD once per stride.
    Probe {
        range: GpaRange,
        /// Distance between probes.
        stride: PageLevel,
        vcpu: VcpuId,
    },
    /// Guest: TDG.MEM.PAGE.RELEASE over the range: accepted pages become pending again, and the host
    /// is not told.
    Release {
        range: GpaRange,
        /// Size of the pages.
        level: PageLevel,
        vcpu: VcpuId,
    },
    /// Host: fallocate(PUNCH_HOLE | KEEP_SIZE) on the guest_memfd, from outside the VMM.
    Punch {
        /// Where. May end past test memory, to show that nothing happens there.
        range: GpaRange,
    },
    /// Host: KVM_PRE_FAULT_MEMORY.
    Prefault { range: GpaRange },
    /// Host: fallocate(KEEP_SIZE): allocate guest_memfd pages without mapping them.
    Allocate { range: GpaRange },
    /// Host: takes a reference to every page of the range, which user space can map, as a device
    /// does before DMA (pin_user_pages()). Software hosts only.
    Pin { range: GpaRange },
    /// Host: drops the references that [`Op::Pin`] took.
    Unpin { range: GpaRange },
    /// Host: deletes the memory slot that serves exactly this range, or adds it again as it was
    /// (KVM_SET_USER_MEMORY_REGION2). Software hosts only.
    Slot {
        range: GpaRange,
        /// Which of the two.
        change: SlotChange,
    },
    /// Host: what the VMM answers from now on to conversions that touch the range. Software hosts
    /// only.
    Conversions {
        range: GpaRange,
        /// The answer.
        answer: VmmAnswer,
    },
    /// Host: KVM_SET_MEMORY_ATTRIBUTES2 on the guest_memfd, from outside the VMM: the range becomes
    /// private or shared at once, and the guest is not asked.
    SetAttributes {
        /// Where. May end past test memory, to show that it is refused.
        range: GpaRange,
        /// To which side.
        to: Side,
    },
    /// Host: log which pages the guest writes (KVM_MEM_LOG_DIRTY_PAGES), or stop that. KVM refuses
    /// it for the private memory of TDs.
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

/// Operations by who does them: guest, host or VMM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The guest, on this vCPU.
    Guest(VcpuId, GuestOp),
    /// The host, to the guest_memfd or the memory of a TD.
    Host(HostOp),
    /// The VMM, to the whole VM.
    Vm(VmOp),
}

/// An operation of the guest; see [`Op`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(
    missing_docs,
    reason = "fields are those of the operations of the same name"
)]
pub enum GuestOp {
    /// [`Op::Accept`]
    Accept { range: GpaRange, size: Size },
    /// [`Op::Touch`]
    Touch {
        range: GpaRange,
        stride: PageLevel,
        access: AccessKind,
        side: Side,
        on_ve: OnVe,
        same_rip: bool,
    },
    /// [`Op::Fill`]
    Fill {
        range: GpaRange,
        generation: Generation,
        side: Side,
    },
    /// [`Op::Verify`]
    Verify {
        range: GpaRange,
        gone: Gone,
        side: Side,
    },
    /// [`Op::Convert`]
    Convert { range: GpaRange, to: Side },
    /// [`Op::Probe`]
    Probe { range: GpaRange, stride: PageLevel },
    /// [`Op::Release`]
    Release { range: GpaRange, level: PageLevel },
}

/// An operation of the host on a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HostOp {
    /// [`Op::Punch`]
    Punch(GpaRange),
    /// [`Op::Prefault`]
    Prefault(GpaRange),
    /// [`Op::Allocate`]
    Allocate(GpaRange),
    /// [`Op::Pin`]
    Pin(GpaRange),
    /// [`Op::Unpin`]
    Unpin(GpaRange),
    /// [`Op::Slot`]
    Slot(GpaRange, SlotChange),
    /// [`Op::Conversions`]
    Conversions(GpaRange, VmmAnswer),
    /// [`Op::SetAttributes`]
    SetAttributes(GpaRange, Side),
}

/// A change of a memory slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum SlotChange {
    /// It is deleted.
    Delete,
    /// It is added again, where it was and with the same part of the guest_memfd.
    Add,
}

/// What a VMM answers to a conversion (KVM_HC_MAP_GPA_RANGE).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum VmmAnswer {
    /// It does what the guest asks for.
    Serve,
    /// It is busy: the first call for every chunk ends in RETRY, the second is served.
    Delay,
    /// It refuses, and leaves everything as it is.
    Refuse,
}

/// An operation on the whole VM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VmOp {
    /// [`Op::DirtyLog`]: on or off.
    DirtyLog(bool),
    /// [`Op::Stop`]
    Stop,
    /// [`Op::Cont`]
    Cont,
}

impl Op {
    /// The operation by who does it. Hosts match on this, so that the compiler finds a missing
    /// operation.
    pub const fn kind(&self) -> Kind {
        match *self {
            Op::Accept { range, size, vcpu } => Kind::Guest(vcpu, GuestOp::Accept { range, size }),
            Op::Touch {
                range,
                stride,
                access,
                side,
                on_ve,
                same_rip,
                vcpu,
            } => {
                let touch = GuestOp::Touch {
                    range,
                    stride,
                    access,
                    side,
                    on_ve,
                    same_rip,
                };
                Kind::Guest(vcpu, touch)
            }
            Op::Fill {
                range,
                generation,
                side,
                vcpu,
            } => {
                let fill = GuestOp::Fill {
                    range,
                    generation,
                    side,
                };
                Kind::Guest(vcpu, fill)
            }
            Op::Verify {
                range,
                gone,
                side,
                vcpu,
            } => Kind::Guest(vcpu, GuestOp::Verify { range, gone, side }),
            Op::Convert { range, to, vcpu } => Kind::Guest(vcpu, GuestOp::Convert { range, to }),
            Op::Probe {
                range,
                stride,
                vcpu,
            } => Kind::Guest(vcpu, GuestOp::Probe { range, stride }),
            Op::Release { range, level, vcpu } => {
                Kind::Guest(vcpu, GuestOp::Release { range, level })
            }
            Op::Punch { range } => Kind::Host(HostOp::Punch(range)),
            Op::Prefault { range } => Kind::Host(HostOp::Prefault(range)),
            Op::Allocate { range } => Kind::Host(HostOp::Allocate(range)),
            Op::Pin { range } => Kind::Host(HostOp::Pin(range)),
            Op::Unpin { range } => Kind::Host(HostOp::Unpin(range)),
            Op::Slot { range, change } => Kind::Host(HostOp::Slot(range, change)),
            Op::Conversions { range, answer } => Kind::Host(HostOp::Conversions(range, answer)),
            Op::SetAttributes { range, to } => Kind::Host(HostOp::SetAttributes(range, to)),
            Op::DirtyLog { on } => Kind::Vm(VmOp::DirtyLog(on)),
            Op::Stop => Kind::Vm(VmOp::Stop),
            Op::Cont => Kind::Vm(VmOp::Cont),
        }
    }

    /// Its range; `None` for operations on the whole VM.
    pub const fn range(&self) -> Option<GpaRange> {
        match self.kind() {
            Kind::Guest(_, op) => Some(op.range()),
            Kind::Host(op) => Some(op.range()),
            Kind::Vm(_) => None,
        }
    }

    /// The vCPU that does it; `None` for operations of the host.
    pub const fn vcpu(&self) -> Option<VcpuId> {
        match self.kind() {
            Kind::Guest(vcpu, _) => Some(vcpu),
            Kind::Host(_) | Kind::Vm(_) => None,
        }
    }

    /// Replaces its range. Operations on the whole VM are unchanged.
    pub const fn set_range(&mut self, to: GpaRange) {
        if let Some(range) = self.fields_mut().0 {
            *range = to;
        }
    }

    /// Gives an operation of the guest to another vCPU.
    pub const fn set_vcpu(&mut self, to: VcpuId) {
        if let Some(vcpu) = self.fields_mut().1 {
            *vcpu = to;
        }
    }

    const fn fields_mut(&mut self) -> (Option<&mut GpaRange>, Option<&mut VcpuId>) {
        match self {
            Op::Accept { range, vcpu, .. }
            | Op::Touch { range, vcpu, .. }
            | Op::Fill { range, vcpu, .. }
            | Op::Verify { range, vcpu, .. }
            | Op::Convert { range, vcpu, .. }
            | Op::Probe { range, vcpu, .. }
            | Op::Release { range, vcpu, .. } => (Some(range), Some(vcpu)),
            Op::Punch { range }
            | Op::Prefault { range }
            | Op::Allocate { range }
            | Op::Pin { range }
            | Op::Unpin { range }
            | Op::Slot { range, .. }
            | Op::Conversions { range, .. }
            | Op::SetAttributes { range, .. } => (Some(range), None),
            Op::DirtyLog { .. } | Op::Stop | Op::Cont => (None, None),
        }
    }

    /// The side on which the guest loads or stores; `None` where it does neither.
    pub const fn accesses(&self) -> Option<Side> {
        match self.kind() {
            Kind::Guest(_, op) => op.accesses(),
            Kind::Host(_) | Kind::Vm(_) => None,
        }
    }

    /// Granularity of its separate actions; `None` if it takes the range as a whole.
    pub const fn unit(&self) -> Option<PageLevel> {
        match self.kind() {
            Kind::Guest(_, op) => op.unit(),
            Kind::Host(
                HostOp::Prefault(_) | HostOp::Allocate(_) | HostOp::Pin(_) | HostOp::Unpin(_),
            ) => Some(PageLevel::Size4K),
            Kind::Host(
                HostOp::Punch(_)
                | HostOp::Slot(..)
                | HostOp::Conversions(..)
                | HostOp::SetAttributes(..),
            )
            | Kind::Vm(_) => None,
        }
    }
}

impl GuestOp {
    /// Its range.
    pub const fn range(&self) -> GpaRange {
        match *self {
            GuestOp::Accept { range, .. }
            | GuestOp::Touch { range, .. }
            | GuestOp::Fill { range, .. }
            | GuestOp::Verify { range, .. }
            | GuestOp::Convert { range, .. }
            | GuestOp::Probe { range, .. }
            | GuestOp::Release { range, .. } => range,
        }
    }

    const fn accesses(&self) -> Option<Side> {
        match *self {
            GuestOp::Touch { side, .. }
            | GuestOp::Fill { side, .. }
            | GuestOp::Verify { side, .. } => Some(side),
            GuestOp::Accept { .. }
            | GuestOp::Convert { .. }
            | GuestOp::Probe { .. }
            | GuestOp::Release { .. } => None,
        }
    }

    const fn unit(&self) -> Option<PageLevel> {
        match *self {
            GuestOp::Accept { size, .. } => Some(size.smallest()),
            GuestOp::Release { level, .. } => Some(level),
            GuestOp::Touch { stride, .. } | GuestOp::Probe { stride, .. } => Some(stride),
            GuestOp::Fill { .. }
            | GuestOp::Verify {
                gone: Gone::Every, ..
            } => Some(PageLevel::Size4K),
            GuestOp::Verify { .. } | GuestOp::Convert { .. } => None,
        }
    }
}

impl HostOp {
    /// Whether only software hosts can do it.
    pub const fn is_for_software(&self) -> bool {
        match self {
            HostOp::Pin(_) | HostOp::Unpin(_) | HostOp::Slot(..) | HostOp::Conversions(..) => true,
            HostOp::Punch(_)
            | HostOp::Prefault(_)
            | HostOp::Allocate(_)
            | HostOp::SetAttributes(..) => false,
        }
    }

    /// Its range.
    pub const fn range(&self) -> GpaRange {
        match *self {
            HostOp::Punch(range)
            | HostOp::Prefault(range)
            | HostOp::Allocate(range)
            | HostOp::Pin(range)
            | HostOp::Unpin(range)
            | HostOp::Slot(range, _)
            | HostOp::Conversions(range, _)
            | HostOp::SetAttributes(range, _) => range,
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

impl Size {
    /// The smallest size of which it may make an ACCEPT.
    pub const fn smallest(self) -> PageLevel {
        match self {
            Size::Size4K | Size::Linux => PageLevel::Size4K,
            Size::Size2M => PageLevel::Size2M,
            Size::Size1G => PageLevel::Size1G,
        }
    }
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
