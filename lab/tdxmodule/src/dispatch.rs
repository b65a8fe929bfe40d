//! The host's side of the module: the checks of all SEAMCALLs on a TD's memory, in order.
//!
//! The TDR's lock, the TD's state, the form of RCX, the address, the lock of the S-EPT tree, the
//! walk, the entry's lock, its state, whether it is blocked, TLB tracking; only then the page in
//! R8. A leaf is removed in a fixed order: RANGE.BLOCK, TRACK, every vCPU out of the old epoch,
//! then PAGE.REMOVE or PAGE.DEMOTE. The module checks each step and rejects calls that come too
//! early.
//!
//! Source: `check_state_map_tdcs_and_lock()`, `lock_sept_check_and_walk_private_gpa()`,
//! `is_tlb_tracked()`.

use std::ops::RangeInclusive;

use tdxlab_protocol::addr::{Gpa, PageLevel};

use super::lock::Hold;
use super::pamt::Unit;
use super::platform::Platform;
use super::seamcall::{PageInfo, Seamcall, SeamcallRegs, told};
use super::sept::Found;
use super::state::Lifecycle;
use super::status::Status;
use crate::entry::Level;
use crate::physical_memory::PhysicalMemory;

impl<M: PhysicalMemory> Platform<M> {
    /// Makes a SEAMCALL. Returns RAX; results, and the entry that stood in the way, are in `regs`.
    pub fn seamcall(&mut self, call: Seamcall, regs: &mut SeamcallRegs) -> Status {
        self.pamt.begin();
        let level = (regs.rcx & 7) as usize;
        let result = match call {
            Seamcall::PamtAdd => self.do_pamt_add(regs),
            Seamcall::PamtRemove => self.do_pamt_remove(regs),
            _ => self.seamcall_on_td(call, regs),
        };
        match result {
            Ok(()) => {
                self.count(call, level);
                Status::SUCCESS
            }
            Err(status) => status,
        }
    }

    /// Counts a call that was done, on an entry of `level`.
    fn count(&mut self, call: Seamcall, level: usize) {
        match call {
            Seamcall::Track => self.done.tracks += 1,
            Seamcall::PageAug => {
                if let Some(count) = self.done.auged.get_mut(level) {
                    *count += 1;
                }
            }
            _ => {}
        }
    }

    fn seamcall_on_td(&mut self, call: Seamcall, regs: &mut SeamcallRegs) -> Result<(), Status> {
        let given = *regs;
        if call != Seamcall::Track {
            (regs.rcx, regs.rdx) = (0, 0);
        }
        self.check_td(call)?;
        match call {
            Seamcall::SeptAdd => self.do_sept_add(&given, regs),
            Seamcall::SeptRemove => self.do_sept_remove(&given, regs),
            Seamcall::SeptRead => self.do_sept_read(&given, regs),
            Seamcall::PageAdd => self.do_page_add(&given, regs),
            Seamcall::PageAug => self.do_page_aug(&given, regs),
            Seamcall::RangeBlock => self.do_range_block(&given, regs),
            Seamcall::RangeUnblock => self.do_range_unblock(&given, regs),
            Seamcall::Track => self.do_track(),
            Seamcall::PageDemote => self.do_page_demote(&given, regs),
            Seamcall::PagePromote => self.do_page_promote(&given, regs),
            Seamcall::PageRemove => self.do_page_remove(&given, regs),
            Seamcall::PageRelocate => self.do_page_relocate(&given, regs),
            Seamcall::PamtAdd | Seamcall::PamtRemove => {
                unreachable!("they are no calls on a TD")
            }
        }
    }

    /// Locks the TDR, checks the TD's state, locks its operation state.
    fn check_td(&mut self, call: Seamcall) -> Result<(), Status> {
        let hold = if call == Seamcall::PageAdd {
            Hold::Exclusive
        } else {
            Hold::Shared
        };
        let locks = &mut self.td.locks;
        let gets = match self.td.tdr {
            Some(tdr) => self.pamt.lock_page(tdr, hold),
            None => locks.tdr.host_gets(hold),
        };
        if !gets {
            let operand = if call == Seamcall::Track {
                Status::RCX
            } else {
                Status::RDX
            };
            return Err(Status::OPERAND_BUSY.detail(operand));
        }
        if let Some(tdr) = self.td.tdr {
            self.pamt.keep(tdr, hold);
        }
        if self.td.fatal {
            return Err(Status::TD_FATAL);
        }
        if self.td.lifecycle != Lifecycle::KeysConfigured {
            return Err(Status::TD_KEYS_NOT_CONFIGURED);
        }
        // PAGE.ADD has the whole TD to itself.
        if call != Seamcall::PageAdd && !locks.op_state.host_gets(Hold::Shared) {
            return Err(Status::OPERAND_BUSY.detail(Status::OP_STATE));
        }
        if !self.td.op_state.allows(call) {
            let detail = if self.version.tells_op_state() {
                self.td.op_state.number()
            } else {
                0
            };
            return Err(Status::OP_STATE_INCORRECT.detail(detail));
        }
        self.policy.seamcall(call).map_or(Ok(()), Err)
    }

    /// Checks the form of RCX.
    pub(super) fn page_info(
        &self,
        rcx: u64,
        levels: RangeInclusive<Level>,
    ) -> Result<PageInfo, Status> {
        PageInfo::parse(rcx, levels)
            .filter(|info| self.is_private(info.gpa))
            .ok_or(Status::OPERAND_INVALID.rcx())
    }

    /// All levels of this TD's tree from `lowest`.
    pub(super) fn levels_from(&self, lowest: Level) -> RangeInclusive<Level> {
        lowest..=self.td.root_level()
    }

    /// Whether it is an address of the TD's private half.
    pub(super) fn is_private(&self, gpa: Gpa) -> bool {
        gpa.as_u64() < self.td.shared_bit()
    }

    /// Locks the tree, walks to the entry, and locks it.
    pub(super) fn find(
        &mut self,
        info: PageInfo,
        tree: Hold,
        regs: &mut SeamcallRegs,
    ) -> Result<Found, Status> {
        self.lock_tree(tree)?;
        let found = self.find_unlocked(info, regs)?;
        let (place, index) = (found.place, found.index());
        if !self.td.locks.entries.host_gets(place, index) {
            return Err(told(&found, Status::OPERAND_BUSY, regs));
        }
        Ok(found)
    }

    /// Walks to the entry; the caller has the TD to itself.
    pub(super) fn find_unlocked(
        &mut self,
        info: PageInfo,
        regs: &mut SeamcallRegs,
    ) -> Result<Found, Status> {
        let found = self.walk(info.gpa, info.level);
        if found.level == info.level {
            Ok(found)
        } else {
            Err(told(&found, Status::EPT_WALK_FAILED, regs))
        }
    }

    /// Locks the S-EPT tree.
    pub(super) fn lock_tree(&mut self, hold: Hold) -> Result<(), Status> {
        let tree = &mut self.td.locks.tree;
        let gets = match self.version.tree_lock_has_host_priority() {
            true => tree.host_gets(hold),
            false => tree.is_free(hold),
        };
        if gets {
            Ok(())
        } else {
            Err(Status::OPERAND_BUSY.detail(Status::SEPT_TREE))
        }
    }

    /// Yields to a pending interrupt, or to a host that wants the S-EPT tree. The state is
    /// unchanged: RCX and RDX keep their values, and the call is to be repeated.
    pub(super) fn give_way(
        &mut self,
        given: &SeamcallRegs,
        regs: &mut SeamcallRegs,
    ) -> Result<(), Status> {
        let flagged = self.td.locks.tree.has_host_priority();
        let status = if self.is_interrupted() {
            Status::INTERRUPTED_RESTARTABLE
        } else if flagged && self.version.yields_to_host_priority() {
            Status::INTERRUPTED_BUSY
        } else {
            return Ok(());
        };
        (regs.rcx, regs.rdx) = (given.rcx, given.rdx);
        Err(status)
    }

    /// PAMT's entry of the page an S-EPT entry points to.
    pub(super) fn unit_of(found: &Found) -> Unit {
        let level = if found.state().is_leaf() {
            found.level.page().unwrap_or(PageLevel::Size4K)
        } else {
            PageLevel::Size4K
        };
        Unit::new(level, found.entry.frame())
    }

    /// Whether the range must be, and is, blocked, and no vCPU can use it any more.
    pub(super) fn check_blocked(
        &mut self,
        found: &Found,
        regs: &mut SeamcallRegs,
    ) -> Result<(), Status> {
        if !self.td.op_state.needs_tracking() {
            return Ok(());
        }
        if !found.state().is_blocked() {
            return Err(told(found, Status::GPA_RANGE_NOT_BLOCKED, regs));
        }
        self.check_tracked(found, Status::RCX)
    }

    /// Whether no vCPU can use the blocked range any more.
    pub(super) fn check_tracked(&mut self, found: &Found, operand: u64) -> Result<(), Status> {
        if !self.td.op_state.needs_tracking() {
            return Ok(());
        }
        let blocked = self.pamt.epoch(Self::unit_of(found));
        let tracked = blocked < self.td.epoch && !self.td.in_use_since(blocked);
        if tracked || !self.policy.module_checks_tracking() {
            Ok(())
        } else {
            Err(Status::TLB_TRACKING_NOT_DONE.detail(operand))
        }
    }
}
