//! The hardware with one TD: machine memory, the module's state, and controls for tests.

use std::cell::Cell;
use std::ops::Range;

use tdxlab_protocol::addr::{Gpa, PageLevel};

use super::exit::VeInfo;
use super::lock::{EntryLocks, Hold, Lock, SharexLock};
use super::pamt::{PageType, Pamt, Unit};
use super::profile::ModuleVersion;
use super::sept;
use super::state::{Lifecycle, OpState};
use super::stepping::Stepping;
use crate::entry::Level;
use crate::frame_allocator::Pool;
use crate::physical_memory::{Pfn, PhysicalMemory};
use crate::policy::Policy;

/// Width of guest-physical addresses, shared bit included.
pub(crate) const GPA_WIDTH: u32 = 48;

/// The shared bit of a guest-physical address.
pub const SHARED_BIT: u64 = 1 << (GPA_WIDTH - 1);

/// TD attribute bit SEPT_VE_DISABLE.
pub(crate) const ATTRIBUTE_SEPT_VE_DISABLE: u64 = 1 << 28;

/// The hardware: machine memory, of which the TDX module manages a part.
pub struct Platform<M> {
    pub machine: M,
    pub policy: Box<dyn Policy>,
    pub pool: Pool,
    pub td: Td,
    pub(super) version: ModuleVersion,
    pub(super) pamt: Pamt,
    /// Number of checks for a pending interrupt that still find none; `None` if none is pending.
    pub(super) interrupt_after: Option<u64>,
    /// What was done since it was last taken.
    pub(super) done: Done,
}

/// SEAMCALLs that were done.
#[derive(Clone, Copy, Debug, Default)]
pub struct Done {
    /// Pages added by PAGE.AUG, by level of the entry.
    pub auged: [u64; 3],
    /// TRACKs.
    pub tracks: u64,
}

/// Parameters of a TD.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TdParams {
    /// Number of vCPUs.
    pub vcpus: u16,
    /// An access to a pending page is a TD exit, not a #VE.
    pub sept_ve_disable: bool,
    /// GPAW 1: guest-physical addresses of 52 bits, and an S-EPT of five levels.
    pub wide: bool,
}

/// State of the TD outside the S-EPT's own pages.
pub struct Td {
    /// Entries of the S-EPT's root.
    pub(super) root: sept::Root,
    /// The table of 4K entries that a walk came to last.
    pub(super) last: Cell<Option<sept::LastTable>>,
    pub(super) op_state: OpState,
    pub(super) lifecycle: Lifecycle,
    pub(super) fatal: bool,
    /// TLB epoch, raised by TRACK.
    pub(super) epoch: u64,
    /// Page of the TDR, if known.
    pub(super) tdr: Option<Pfn>,
    pub(super) locks: TdLocks,
    pub(super) vcpus: Vec<TdVcpu>,
    pub(super) params: TdParams,
}

/// The TD's locks, as others hold them.
#[derive(Clone, Debug, Default)]
pub(super) struct TdLocks {
    pub(super) tree: SharexLock,
    pub(super) epoch: SharexLock,
    pub(super) op_state: SharexLock,
    pub(super) tdr: SharexLock,
    pub(super) entries: EntryLocks,
}

/// State of a vCPU in the module.
#[derive(Clone, Debug, Default)]
pub(super) struct TdVcpu {
    /// Epoch at its last entry; `None` while it is outside the TD.
    pub(super) entered: Option<u64>,
    /// #VE information the guest has not fetched.
    pub(super) ve: Option<VeInfo>,
    pub(super) stepping: Stepping,
}

impl Td {
    /// A TD that is being built.
    pub fn new(params: TdParams) -> Td {
        Td {
            root: sept::Root::default(),
            last: Cell::new(None),
            op_state: OpState::Initialized,
            lifecycle: Lifecycle::KeysConfigured,
            fatal: false,
            epoch: 1,
            tdr: None,
            locks: TdLocks::default(),
            vcpus: vec![TdVcpu::default(); usize::from(params.vcpus)],
            params,
        }
    }

    /// TDH.MR.FINALIZE: the TD may run, all its vCPUs enter it.
    pub fn finalize(&mut self) {
        self.op_state = OpState::Runnable;
        for vcpu in &mut self.vcpus {
            vcpu.entered = Some(self.epoch);
        }
    }

    /// Whether the TD may run.
    pub fn runnable(&self) -> bool {
        self.op_state == OpState::Runnable
    }

    /// TDH.VP.ENTER: the vCPU is in the TD, in the current epoch.
    pub fn enter(&mut self, vcpu: usize) {
        self.vcpus[vcpu].entered = Some(self.epoch);
    }

    /// The vCPU has left the TD.
    pub fn leave(&mut self, vcpu: usize) {
        self.vcpus[vcpu].entered = None;
    }

    /// All vCPUs in the TD were interrupted and have entered again.
    pub fn reenter_all(&mut self) {
        for vcpu in &mut self.vcpus {
            if vcpu.entered.is_some() {
                vcpu.entered = Some(self.epoch);
            }
        }
    }

    /// Level of the entries of the S-EPT's root.
    pub(super) const fn root_level(&self) -> Level {
        if self.params.wide {
            Level::Pml5
        } else {
            Level::Pgd
        }
    }

    /// The shared bit of a guest-physical address.
    pub(super) const fn shared_bit(&self) -> u64 {
        if self.params.wide {
            1 << 51
        } else {
            SHARED_BIT
        }
    }

    /// Whether a vCPU may still use translations from `epoch` or before.
    pub(super) fn in_use_since(&self, epoch: u64) -> bool {
        self.vcpus
            .iter()
            .any(|vcpu| vcpu.entered.is_some_and(|entered| entered <= epoch))
    }
}

impl<M: PhysicalMemory> Platform<M> {
    /// A machine without a TD's memory. All its pool is one TDMR.
    pub fn new(
        machine: M,
        policy: Box<dyn Policy>,
        version: ModuleVersion,
        params: TdParams,
    ) -> Platform<M> {
        let pool = Pool::new(machine.pool());
        let pamt = Pamt::new(machine.pool(), false);
        Platform {
            machine,
            policy,
            pool,
            td: Td::new(params),
            version,
            pamt,
            interrupt_after: None,
            done: Done::default(),
        }
    }

    /// What SEAMCALLs have done since the previous call.
    pub fn take_done(&mut self) -> Done {
        std::mem::take(&mut self.done)
    }

    /// The module's version.
    pub fn version(&self) -> ModuleVersion {
        self.version
    }

    /// Enables Dynamic PAMT: 2M ranges with 4K pages need PAMT pages. No page may be in use yet.
    pub fn enable_dynamic_pamt(&mut self) {
        self.pamt = Pamt::new(self.machine.pool(), true);
    }

    /// TDH.MNG.CREATE and what follows: these pages hold the module's own data about the TD, the
    /// first one its TDR.
    pub fn place_control_pages(&mut self, pages: Range<Pfn>) {
        self.td.tdr = Some(pages.start);
        for page in pages.start.0..pages.end.0 {
            self.pamt
                .assign(Pfn(page), PageLevel::Size4K, PageType::Control);
        }
    }

    /// PAMT pages that were given for a 2M range before.
    pub fn place_pamt_pages(&mut self, range: Pfn, pair: [Pfn; 2]) {
        self.pamt.add_pair(range, pair);
    }

    /// TDH.MR.FINALIZE: the TD may run, all its vCPUs enter it.
    pub fn finalize(&mut self) {
        self.td.finalize();
    }

    /// TDH.VP.ENTER.
    pub fn enter(&mut self, vcpu: usize) {
        self.td.enter(vcpu);
    }

    /// The vCPU has left the TD.
    pub fn leave(&mut self, vcpu: usize) {
        self.td.leave(vcpu);
    }

    /// All vCPUs in the TD were interrupted and have entered again.
    pub fn reenter_all(&mut self) {
        self.td.reenter_all();
    }

    /// Whether the vCPU is in the TD.
    pub fn is_inside(&self, vcpu: usize) -> bool {
        self.td.vcpus[vcpu].entered.is_some()
    }

    /// Puts the TD into an operation state that no call here leads to.
    pub fn set_op_state(&mut self, state: OpState) {
        self.td.op_state = state;
    }

    /// Puts the TD into a state of its life cycle.
    pub fn set_lifecycle(&mut self, state: Lifecycle) {
        self.td.lifecycle = state;
    }

    /// Marks the TD as lost.
    pub fn set_fatal(&mut self) {
        self.td.fatal = true;
    }

    /// An interrupt comes after this many checks for one; `None`: it has gone.
    pub fn set_interrupt(&mut self, after: Option<u64>) {
        self.interrupt_after = after;
    }

    /// #VE information that the guest has not fetched.
    pub fn ve_info(&self, vcpu: usize) -> Option<VeInfo> {
        self.td.vcpus[vcpu].ve
    }

    /// Another CPU takes a lock.
    pub fn hold(&mut self, lock: Lock, hold: Hold) {
        self.lock_of_others(lock).hold(hold);
    }

    /// Another CPU releases a lock.
    pub fn let_go(&mut self, lock: Lock, hold: Hold) {
        self.lock_of_others(lock).release(hold);
    }

    /// Another CPU failed to take the S-EPT tree.
    pub fn flag_tree(&mut self) {
        self.td.locks.tree.flag_host_priority();
    }

    /// Another CPU takes the lock of the entry where the walk to `level` ends.
    pub fn hold_entry(&mut self, gpa: Gpa, level: Level) {
        let found = self.walk(gpa, level);
        self.td.locks.entries.hold(found.place, found.index());
    }

    /// Another CPU releases that lock.
    pub fn let_entry_go(&mut self, gpa: Gpa, level: Level) {
        let found = self.walk(gpa, level);
        self.td.locks.entries.release(found.place, found.index());
    }

    /// A host wanted that lock and did not get it.
    pub fn flag_entry(&mut self, gpa: Gpa, level: Level) {
        let found = self.walk(gpa, level);
        let (place, index) = (found.place, found.index());
        self.td.locks.entries.flag_host_priority(place, index);
    }

    fn lock_of_others(&mut self, lock: Lock) -> &mut SharexLock {
        let unit = match lock {
            Lock::Tree => return &mut self.td.locks.tree,
            Lock::Epoch => return &mut self.td.locks.epoch,
            Lock::OpState => return &mut self.td.locks.op_state,
            Lock::Tdr => match self.td.tdr {
                Some(tdr) => Unit::new(PageLevel::Size4K, tdr),
                None => return &mut self.td.locks.tdr,
            },
            Lock::Pamt2m(frame) => Unit::new(PageLevel::Size2M, frame),
            Lock::Pamt4k(frame) => Unit::new(PageLevel::Size4K, frame),
        };
        self.pamt.lock_of_others(unit)
    }

    /// Whether an interrupt is pending at this check.
    pub(super) fn is_interrupted(&mut self) -> bool {
        match &mut self.interrupt_after {
            None => false,
            Some(0) => true,
            Some(left) => {
                *left -= 1;
                false
            }
        }
    }

    /// The machine.
    pub fn machine(&self) -> &M {
        &self.machine
    }

    /// The machine.
    pub fn machine_mut(&mut self) -> &mut M {
        &mut self.machine
    }
}
