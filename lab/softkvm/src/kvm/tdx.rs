//! KVM's side of the TDX module: the SEAMCALL sequences, and what happens when one fails.
//!
//! Source: arch/x86/kvm/vmx/tdx.c; sequences in sections 3.1 and 3.2 of the patch series' design.

use rand::Rng;
use tdxlab_protocol::addr::{Gpa, PageLevel};
use tdxlab_tdxmodule::policy::{
    Allocation, Counted, Failure, Kick, MapStage, OnInterrupt, PamtFor, Why,
};
use tdxlab_tdxmodule::{Pfn, PhysicalMemory, Platform, Seamcall, Status};

use super::mirror::Leaf;
use super::{Kvm, death};
use crate::api::Killer;

/// One DEMOTE in so many finds an interrupt pending, where the module looks for one.
const DEMOTES_PER_INTERRUPT: u32 = 3;

/// Interrupted DEMOTEs in a row after which the CPU is reported as stuck. A host that serves the
/// interrupt in between needs one retry.
const INTERRUPTED_FOR_EVER: u32 = 1000;

impl<M: PhysicalMemory> Kvm<M> {
    /// Maps a private page: tables first, then PAGE.AUG (PAGE.ADD before the TD runs), then the
    /// mirror.
    pub(super) fn map_private(
        &mut self,
        gpa: Gpa,
        level: PageLevel,
        frame: Pfn,
    ) -> Result<(), Failure> {
        let gpa = gpa.align_down(level);
        while let Some(missing) = self.mirror.missing_table(gpa, level) {
            let base = missing.base(gpa);
            let table = self.take_sept_table(Allocation::SeptTable)?;
            let status = self.hardware.sept_add(base, missing, table);
            if let Err(failure) = self.map_status(Seamcall::SeptAdd, status) {
                self.give_sept_table(table);
                return Err(failure);
            }
            self.sept_tables.push(table);
            self.mirror.add_table(gpa, missing);
        }
        for stage in self.hardware.policy.map_stages() {
            match stage {
                MapStage::Sept => self.map_in_sept(gpa, level, frame)?,
                MapStage::Mirror => self.mirror.set_leaf(gpa, level, frame),
                MapStage::Count => self.count(Counted::Map, level, 1),
            }
        }
        Ok(())
    }

    fn map_in_sept(&mut self, gpa: Gpa, level: PageLevel, frame: Pfn) -> Result<(), Failure> {
        let is_small = level == PageLevel::Size4K;
        if is_small {
            self.pamt_get(frame, PamtFor::Page)?;
        }
        let result = self.map_with_pamt(gpa, level, frame);
        if is_small && result.is_err() {
            self.pamt_put(frame);
        }
        result
    }

    fn map_with_pamt(&mut self, gpa: Gpa, level: PageLevel, frame: Pfn) -> Result<(), Failure> {
        if self.hardware.td.runnable() {
            let status = self.hardware.page_aug(gpa, level, frame);
            self.map_status(Seamcall::PageAug, status)
        } else {
            let status = self.hardware.page_add(gpa, frame);
            self.map_status(Seamcall::PageAdd, status)
        }
    }

    /// Splits a 2M leaf in the S-EPT: BLOCK, TRACK, kick, DEMOTE. A module that gives way to an
    /// interrupt is called again with the same table page, once the interrupt was served.
    pub(super) fn split_in_sept(
        &mut self,
        leaf: &Leaf,
        table: Pfn,
        why: Why,
    ) -> Result<(), Failure> {
        let (gpa, level) = (leaf.gpa, leaf.level);
        self.block_and_track(gpa, level, why)?;
        if self.hardware.version().demote_is_interruptible()
            && self.interrupts.random_ratio(1, DEMOTES_PER_INTERRUPT)
        {
            self.hardware.set_interrupt(Some(0));
        }
        let result = self.demote_with_pamt(leaf, table);
        // Whatever was pending is served when KVM leaves the kernel, if not before.
        self.hardware.set_interrupt(None);
        result
    }

    pub(super) fn demote(
        &mut self,
        leaf: &Leaf,
        table: Pfn,
        pair: Option<[Pfn; 2]>,
    ) -> Result<(), Failure> {
        let (gpa, level) = (leaf.gpa, leaf.level);
        const CALL: Seamcall = Seamcall::PageDemote;
        for _ in 0..INTERRUPTED_FOR_EVER {
            let status = self.made_again_when_busy(CALL, |hardware| {
                hardware.page_demote(gpa, level, table, pair)
            });
            if status.class() != Status::INTERRUPTED_RESTARTABLE {
                return self.judged(CALL, status);
            }
            match self.hardware.policy.on_interrupted_demote() {
                OnInterrupt::Again => self.hardware.set_interrupt(None),
                OnInterrupt::AgainAtOnce => {}
                OnInterrupt::Fail => return self.judged(CALL, status),
                OnInterrupt::Abandon => return Err(Failure::Again),
            }
        }
        let thread = self.trace.thread();
        let line = format!(
            "watchdog: BUG: soft lockup - CPU#0 stuck for 26s! [tdx_sept_split_private_spte:{thread}]"
        );
        self.log(line.clone());
        self.die(death(Killer::KvmBug, line));
        Err(Failure::Bugged)
    }

    /// Removes a leaf from the S-EPT: BLOCK, TRACK, kick, REMOVE.
    pub(super) fn remove_from_sept(&mut self, leaf: &Leaf) -> Result<(), Failure> {
        let (gpa, level) = (leaf.gpa, leaf.level);
        self.block_and_track(gpa, level, Why::Zap)?;
        self.seamcall(Seamcall::PageRemove, |hardware| {
            hardware.page_remove(gpa, level)
        })?;
        if level == PageLevel::Size4K {
            self.pamt_put(leaf.spte.frame());
        }
        Ok(())
    }

    /// Flushes every vCPU's translations that are no longer in the tables.
    pub(super) fn kick(&mut self, why: Why) {
        match self.hardware.policy.kick(why) {
            Kick::Flush => {
                self.hardware.machine.kick();
                self.hardware.td.reenter_all();
            }
            Kick::Pretend => self.hardware.td.reenter_all(),
            Kick::Skip => {}
        }
    }

    /// A frame for a page table.
    pub(super) fn take_table(&mut self, what: Allocation) -> Result<Pfn, Failure> {
        if !self.hardware.policy.allocates(what) {
            return Err(Failure::NoMemory);
        }
        self.hardware.pool.take_frame().ok_or(Failure::NoMemory)
    }

    /// A frame for a table of the S-EPT, with metadata.
    pub(super) fn take_sept_table(&mut self, what: Allocation) -> Result<Pfn, Failure> {
        let table = self.take_table(what)?;
        let pamt = match self.hardware.td.runnable() {
            true => PamtFor::Table,
            false => PamtFor::FirstTable,
        };
        match self.pamt_get(table, pamt) {
            Ok(()) => Ok(table),
            Err(failure) => {
                self.hardware.pool.give_frame(table);
                Err(failure)
            }
        }
    }

    /// Frees a table that the module did not take.
    pub(super) fn give_sept_table(&mut self, table: Pfn) {
        self.pamt_put(table);
        self.hardware.pool.give_frame(table);
    }

    /// KVM_BUG_ON: a warning in the log, and the VM is dead.
    pub(super) fn bug(&mut self, call: Seamcall, status: Status) -> Failure {
        let function = match call {
            Seamcall::SeptAdd => "tdx_sept_link_private_spt",
            Seamcall::PageAdd => "tdx_mem_page_add",
            Seamcall::PageAug => "tdx_mem_page_aug",
            Seamcall::Track => "tdx_track",
            Seamcall::PageDemote => "tdx_sept_split_private_spte",
            Seamcall::RangeBlock | Seamcall::PageRemove => "tdx_sept_remove_private_spte",
            Seamcall::PamtAdd => "tdx_pamt_get",
            Seamcall::PamtRemove => "tdx_pamt_put",
            // KVM makes none of these.
            Seamcall::SeptRemove
            | Seamcall::SeptRead
            | Seamcall::RangeUnblock
            | Seamcall::PagePromote
            | Seamcall::PageRelocate => "tdx_mem",
        };
        let line = failed(call.name(), status);
        self.log(line.clone());
        let thread = self.trace.thread();
        self.log(format!(
            "WARNING: CPU: 0 PID: {thread} at arch/x86/kvm/vmx/tdx.c {function} [kvm_intel]"
        ));
        self.die(death(Killer::KvmBug, line));
        Failure::Bugged
    }

    fn block_and_track(&mut self, gpa: Gpa, level: PageLevel, why: Why) -> Result<(), Failure> {
        if self.hardware.policy.blocks(why) {
            self.seamcall(Seamcall::RangeBlock, |hardware| {
                hardware.range_block(gpa, level)
            })?;
        }
        if self.hardware.policy.tracks(why) {
            self.seamcall(Seamcall::Track, Platform::track)?;
        }
        self.kick(why);
        Ok(())
    }

    /// A SEAMCALL with mmu_lock held for write: if it is busy, all vCPUs are kept out and it is
    /// repeated. That must succeed.
    fn seamcall(
        &mut self,
        call: Seamcall,
        make: impl FnMut(&mut Platform<M>) -> Status,
    ) -> Result<(), Failure> {
        let status = self.made_again_when_busy(call, make);
        self.judged(call, status)
    }

    fn made_again_when_busy(
        &mut self,
        call: Seamcall,
        mut make: impl FnMut(&mut Platform<M>) -> Status,
    ) -> Status {
        let status = make(&mut self.hardware);
        if !status.is_busy() || !self.hardware.policy.retries_busy(call) {
            return status;
        }
        self.kick(Why::Busy);
        make(&mut self.hardware)
    }

    fn judged(&mut self, call: Seamcall, status: Status) -> Result<(), Failure> {
        if self.hardware.policy.notices(call, status) {
            Err(self.bug(call, status))
        } else {
            Ok(())
        }
    }

    /// The status of a SEAMCALL made with mmu_lock held for read: busy means that the fault is
    /// handled again.
    pub(super) fn map_status(&mut self, call: Seamcall, status: Status) -> Result<(), Failure> {
        if status.is_busy() {
            Err(Failure::Again)
        } else if self.hardware.policy.notices(call, status) {
            Err(self.bug(call, status))
        } else {
            Ok(())
        }
    }
}

/// What TDX_BUG_ON and pr_tdx_error print.
pub(super) fn failed(call: &str, status: Status) -> String {
    format!("kvm_intel: SEAMCALL {call} failed: 0x{:x}", status.0)
}
