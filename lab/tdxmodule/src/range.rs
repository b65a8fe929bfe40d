//! SEAMCALLs on ranges: RANGE.BLOCK, RANGE.UNBLOCK, TRACK.
//!
//! Source: `tdh_mem_range_block.c`, `tdh_mem_range_unblock.c`, `tdh_mem_track.c`.

use super::lock::Hold;
use super::platform::Platform;
use super::seamcall::{SeamcallRegs, told};
use super::status::Status;
use crate::entry::{Level, SeptEntry, State};
use crate::physical_memory::PhysicalMemory;

impl<M: PhysicalMemory> Platform<M> {
    /// TDH.MEM.RANGE.BLOCK: no new translation through this entry from now on. Progress of an
    /// interrupted ACCEPT is lost.
    pub(super) fn do_range_block(
        &mut self,
        given: &SeamcallRegs,
        regs: &mut SeamcallRegs,
    ) -> Result<(), Status> {
        let info = self.page_info(given.rcx, self.levels_from(Level::Pte))?;
        let found = self.find(info, Hold::Exclusive, regs)?;
        let frame = found.entry.frame();
        let leaf = |state| SeptEntry::leaf(state, found.level.page_or_1g(), frame);
        let entry = match found.state() {
            State::Mapped => leaf(State::Blocked),
            State::Pending => leaf(State::PendingBlocked),
            State::NonLeaf => SeptEntry::blocked_table(frame),
            State::Blocked | State::PendingBlocked | State::NonLeafBlocked => {
                return Err(told(&found, Status::GPA_RANGE_ALREADY_BLOCKED, regs));
            }
            State::Free | State::Removed => {
                return Err(told(&found, Status::EPT_ENTRY_STATE_INCORRECT, regs));
            }
        };
        self.replace(&found, entry);
        self.pamt.set_epoch(Self::unit_of(&found), self.td.epoch);
        Ok(())
    }

    /// TDH.MEM.RANGE.UNBLOCK: restores the entry as it was before BLOCK.
    pub(super) fn do_range_unblock(
        &mut self,
        given: &SeamcallRegs,
        regs: &mut SeamcallRegs,
    ) -> Result<(), Status> {
        let info = self.page_info(given.rcx, self.levels_from(Level::Pte))?;
        let found = self.find(info, Hold::Exclusive, regs)?;
        let state = found.state();
        if !state.is_blocked() {
            return Err(told(&found, Status::EPT_ENTRY_STATE_INCORRECT, regs));
        }
        let operand = if self.version.unblock_blames_tree() {
            Status::SEPT_TREE
        } else {
            Status::RCX
        };
        self.check_tracked(&found, operand)?;
        let frame = found.entry.frame();
        let entry = match state.unblocked() {
            State::NonLeaf => SeptEntry::table(frame),
            state => SeptEntry::leaf(state, found.level.page_or_1g(), frame),
        };
        self.replace(&found, entry);
        Ok(())
    }

    /// TDH.MEM.TRACK: raises the epoch. All vCPUs must have left the one before.
    pub(super) fn do_track(&mut self) -> Result<(), Status> {
        if !self.td.locks.epoch.host_gets(Hold::Exclusive) {
            return Err(Status::OPERAND_BUSY.detail(Status::TD_EPOCH));
        }
        if self.td.in_use_since(self.td.epoch - 1) {
            return Err(Status::PREVIOUS_TLB_EPOCH_BUSY);
        }
        self.td.epoch += 1;
        Ok(())
    }
}
