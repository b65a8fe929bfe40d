//! The TDX module: what the TD's memory is, kept in an S-EPT that only the module may change.
//!
//! | part | what it holds |
//! |---|---|
//! | [`sept`] | the radix tree and the walk through it |
//! | [`seamcall`] | the host's side: SEPT.ADD, PAGE.ADD, PAGE.AUG, RANGE.BLOCK, TRACK, PAGE.DEMOTE, PAGE.REMOVE |
//! | [`accept`] | TDG.MEM.PAGE.ACCEPT |
//! | [`tdcall`] | the rest of the guest's side, and plain accesses |
//! | [`status`] | completion status codes |
//!
//! Source of the rules: the public 1.5.01 module, `src/vmm_dispatcher/api_calls` and
//! `src/td_dispatcher`.

mod accept;
mod seamcall;
mod sept;
mod status;
mod tdcall;

#[cfg(test)]
mod tests;

pub use self::seamcall::Seamcall;
pub use self::status::Status;
pub(crate) use self::tdcall::{Exit, Outcome, Vmcall};

use std::cell::Cell;

use tdxlab_protocol::addr::{Gpa, PageLevel};

use super::frame_allocator::Pool;
use super::physical_memory::PhysicalMemory;
use super::policy::Policy;

/// Width of guest-physical addresses, shared bit included.
pub(crate) const GPA_WIDTH: u32 = 48;

/// The bit of a guest-physical address that says shared.
pub const SHARED_BIT: u64 = 1 << (GPA_WIDTH - 1);

/// TD attribute bit SEPT_VE_DISABLE.
pub(crate) const ATTRIBUTE_SEPT_VE_DISABLE: u64 = 1 << 28;

/// The hardware: machine memory with the TDX module that guards a part of it.
pub(crate) struct Platform<M> {
    pub(crate) machine: M,
    pub(crate) policy: Box<dyn Policy>,
    pub(crate) pool: Pool,
    pub(crate) td: Td,
}

/// What the module keeps of the TD outside the S-EPT's own pages.
pub(crate) struct Td {
    /// Entries of the S-EPT's root.
    root: sept::Root,
    /// The table of 4K entries that a walk came to last.
    last: Cell<Option<sept::LastTable>>,
    /// Whether the TD may run; until then pages are added, from then on augmented.
    runnable: bool,
    /// TLB epoch, raised by TRACK.
    epoch: u64,
    /// Leaves that are blocked, each with the epoch in which it was. The real module keeps that with
    /// the page (PAMT.BEPOCH). KVM blocks one at a time, so there are hardly ever more.
    blocked: Vec<(Gpa, PageLevel, u64)>,
    vcpus: Vec<TdVcpu>,
    sept_ve_disable: bool,
}

/// What the module keeps of a vCPU.
#[derive(Clone, Copy, Debug, Default)]
struct TdVcpu {
    /// Epoch at its last entry; `None` while it is outside the TD.
    entered: Option<u64>,
    /// #VE information the guest has not fetched.
    ve: Option<VeInfo>,
}

/// What TDG.VP.VEINFO.GET returns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct VeInfo {
    pub(crate) reason: u32,
    pub(crate) qualification: u64,
    pub(crate) gla: u64,
    pub(crate) gpa: u64,
}

impl Td {
    /// A TD that is being built.
    pub(crate) fn new(vcpus: u16, sept_ve_disable: bool) -> Td {
        Td {
            root: sept::Root::default(),
            last: Cell::new(None),
            runnable: false,
            epoch: 1,
            blocked: Vec::new(),
            vcpus: vec![TdVcpu::default(); usize::from(vcpus)],
            sept_ve_disable,
        }
    }

    /// TDH.MR.FINALIZE: the TD may run, all its vCPUs enter it.
    pub(crate) fn finalize(&mut self) {
        self.runnable = true;
        for vcpu in &mut self.vcpus {
            vcpu.entered = Some(self.epoch);
        }
    }

    /// Whether the TD may run.
    pub(crate) fn runnable(&self) -> bool {
        self.runnable
    }

    /// TDH.VP.ENTER: the vCPU is in the TD, in the current epoch.
    pub(crate) fn enter(&mut self, vcpu: usize) {
        self.vcpus[vcpu].entered = Some(self.epoch);
    }

    /// The vCPU has left the TD.
    pub(crate) fn leave(&mut self, vcpu: usize) {
        self.vcpus[vcpu].entered = None;
    }

    /// All vCPUs in the TD were interrupted and have entered again.
    pub(crate) fn reenter_all(&mut self) {
        for vcpu in &mut self.vcpus {
            if vcpu.entered.is_some() {
                vcpu.entered = Some(self.epoch);
            }
        }
    }

    /// The leaf is blocked from the current epoch on.
    fn block(&mut self, gpa: Gpa, level: PageLevel) {
        self.blocked.push((gpa, level, self.epoch));
    }

    /// The leaf is blocked no more.
    fn unblock(&mut self, gpa: Gpa, level: PageLevel) {
        self.blocked.retain(|&(at, of, _)| (at, of) != (gpa, level));
    }

    /// Since when the leaf is blocked, if it is.
    fn blocked_since(&self, gpa: Gpa, level: PageLevel) -> Option<u64> {
        let mut blocked = self.blocked.iter();
        let found = blocked.find(|&&(at, of, _)| (at, of) == (gpa, level));
        found.map(|&(.., epoch)| epoch)
    }

    /// Whether a vCPU may still use translations from `epoch` or before.
    fn in_use_since(&self, epoch: u64) -> bool {
        self.vcpus
            .iter()
            .any(|vcpu| vcpu.entered.is_some_and(|entered| entered <= epoch))
    }
}

impl<M: PhysicalMemory> Platform<M> {
    /// A machine without a TD's memory.
    pub(crate) fn new(machine: M, policy: Box<dyn Policy>, td: Td) -> Platform<M> {
        let pool = Pool::new(machine.pool());
        Platform {
            machine,
            policy,
            pool,
            td,
        }
    }
}
