//! SEAMCALLs on leaves: PAGE.ADD, PAGE.AUG, PAGE.REMOVE, PAGE.RELOCATE.
//!
//! Source: `tdh_mem_page_add.c`, `tdh_mem_page_aug.c`, `tdh_mem_page_remove.c`,
//! `tdh_mem_page_relocate.c`.

use tdxlab_protocol::addr::PageLevel;

use super::lock::Hold;
use super::pamt::PageType;
use super::platform::Platform;
use super::seamcall::{SeamcallRegs, told};
use super::sept::Found;
use super::status::Status;
use crate::entry::{Level, SeptEntry, State};
use crate::physical_memory::{Pfn, PhysicalMemory};

impl<M: PhysicalMemory> Platform<M> {
    /// TDH.MEM.PAGE.ADD: a 4K page of the initial image. Only before the TD runs.
    pub(super) fn do_page_add(
        &mut self,
        given: &SeamcallRegs,
        regs: &mut SeamcallRegs,
    ) -> Result<(), Status> {
        let info = self.page_info(given.rcx, Level::Pte..=Level::Pte)?;
        let found = self.find_unlocked(info, regs)?;
        if found.state() != State::Free {
            return Err(told(&found, Status::EPT_ENTRY_STATE_INCORRECT, regs));
        }
        self.put_leaf(&found, given.r8, State::Mapped)?;
        // It writes the whole entry, while it has the TD to itself.
        let (place, index) = (found.place, found.index());
        self.td.locks.entries.forget(place, index);
        Ok(())
    }

    /// TDH.MEM.PAGE.AUG: a pending page of 4K or 2M.
    pub(super) fn do_page_aug(
        &mut self,
        given: &SeamcallRegs,
        regs: &mut SeamcallRegs,
    ) -> Result<(), Status> {
        let info = self.page_info(given.rcx, Level::Pte..=Level::Pmd)?;
        let found = self.find(info, Hold::Shared, regs)?;
        if !matches!(found.state(), State::Free | State::Removed) {
            return Err(told(&found, Status::EPT_ENTRY_STATE_INCORRECT, regs));
        }
        self.put_leaf(&found, given.r8, State::Pending)
    }

    fn put_leaf(&mut self, found: &Found, hpa: u64, state: State) -> Result<(), Status> {
        let level = found.level.page_or_1g();
        let frame = self.pamt.take(hpa, level, Status::R8)?;
        self.pamt.assign(frame, level, PageType::Td);
        self.replace(found, SeptEntry::leaf(state, level, frame));
        Ok(())
    }

    /// TDH.MEM.PAGE.REMOVE: frees the entry of a blocked leaf. RCX is its page.
    pub(super) fn do_page_remove(
        &mut self,
        given: &SeamcallRegs,
        regs: &mut SeamcallRegs,
    ) -> Result<(), Status> {
        let info = self.page_info(given.rcx, Level::Pte..=Level::Pud)?;
        let mut found = self.find(info, Hold::Shared, regs)?;
        if !found.state().is_leaf() {
            return Err(told(&found, Status::EPT_ENTRY_STATE_INCORRECT, regs));
        }
        found.entry = found.entry.with_progress(0);
        let unit = Self::unit_of(&found);
        self.pamt.lock(unit, Hold::Exclusive).map_err(Status::rcx)?;
        self.check_blocked(&found, regs)?;
        let entry = if self.td.op_state.is_import() {
            SeptEntry::REMOVED
        } else {
            SeptEntry::FREE
        };
        self.replace(&found, entry);
        let frame = found.entry.frame();
        regs.rcx = frame.address() | self.pamt.release(frame, unit.level);
        Ok(())
    }

    /// TDH.MEM.PAGE.RELOCATE: moves a blocked 4K page to another frame. RCX is the old one.
    pub(super) fn do_page_relocate(
        &mut self,
        given: &SeamcallRegs,
        regs: &mut SeamcallRegs,
    ) -> Result<(), Status> {
        let info = self.page_info(given.rcx, Level::Pte..=Level::Pte)?;
        let found = self.find(info, Hold::Shared, regs)?;
        let state = found.state();
        if !state.is_leaf() {
            return Err(told(&found, Status::EPT_ENTRY_STATE_INCORRECT, regs));
        }
        let source = found.entry.frame();
        if source.address() == given.r8 {
            return Err(Status::OPERAND_INVALID.detail(Status::R8));
        }
        let unit = Self::unit_of(&found);
        self.pamt
            .lock_and_keep(unit, Hold::Exclusive)
            .map_err(Status::rcx)?;
        self.check_blocked(&found, regs)?;
        let target = self.pamt.take(given.r8, PageLevel::Size4K, Status::R8)?;
        let state = state.unblocked();
        if state == State::Mapped {
            self.machine.copy_frame(source, target);
        }
        self.pamt.assign(target, PageLevel::Size4K, PageType::Td);
        self.replace(&found, SeptEntry::leaf(state, PageLevel::Size4K, target));
        regs.rcx = source.address() | self.pamt.release(source, PageLevel::Size4K);
        Ok(())
    }

    /// Assigns a page that becomes a table of the S-EPT.
    pub(super) fn assign_table(&mut self, table: Pfn) {
        self.pamt.assign(table, PageLevel::Size4K, PageType::Table);
        self.td.locks.entries.forget_table(table);
    }
}
