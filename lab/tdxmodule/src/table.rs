//! SEAMCALLs on tables: SEPT.ADD, SEPT.REMOVE, SEPT.RD, PAGE.DEMOTE, PAGE.PROMOTE.
//!
//! Source: `tdh_mem_sept_add.c`, `tdh_mem_sept_remove.c`, `tdh_mem_sept_rd.c`,
//! `tdh_mem_page_demote.c`, `tdh_mem_page_promote.c`. L2 VMs are left out: no TD here has one.

use tdxlab_protocol::addr::PageLevel;

use super::lock::Hold;
use super::pamt::{Pamt, Unit};
use super::platform::Platform;
use super::seamcall::{SeamcallRegs, tell, told};
use super::sept::{Found, Place};
use super::status::Status;
use crate::entry::{Level, SeptEntry, State};
use crate::physical_memory::{Pfn, PhysicalMemory};

/// Stands for a missing page where one is optional.
const NULL_PA: u64 = u64::MAX;

impl<M: PhysicalMemory> Platform<M> {
    /// TDH.MEM.SEPT.ADD: makes the page in R8 the table for the span of a free entry. Bit 63 of R8
    /// belongs to later versions, and is ignored.
    pub(super) fn do_sept_add(
        &mut self,
        given: &SeamcallRegs,
        regs: &mut SeamcallRegs,
    ) -> Result<(), Status> {
        let info = self.page_info(given.rcx, self.levels_from(Level::Pmd))?;
        let found = self.find(info, Hold::Shared, regs)?;
        // To give no page where there is a table already is a form of the call for TDs with L2 VMs.
        if found.state() == State::NonLeaf && given.r8 == NULL_PA {
            return Err(Status::OPERAND_INVALID.detail(Status::R8));
        }
        if found.state() != State::Free {
            return Err(told(&found, Status::EPT_ENTRY_STATE_INCORRECT, regs));
        }
        let hpa = match given.r8 {
            NULL_PA => NULL_PA,
            hpa => hpa & !(1 << 63),
        };
        let table = self.pamt.take(hpa, PageLevel::Size4K, Status::R8)?;
        self.assign_table(table);
        self.machine.zero_frames(table, 1);
        self.replace(&found, SeptEntry::table(table));
        Ok(())
    }

    /// TDH.MEM.SEPT.REMOVE: frees a blocked entry whose table is empty. RCX is the table.
    pub(super) fn do_sept_remove(
        &mut self,
        given: &SeamcallRegs,
        regs: &mut SeamcallRegs,
    ) -> Result<(), Status> {
        let info = self.page_info(given.rcx, self.levels_from(Level::Pmd))?;
        let found = self.find(info, Hold::Exclusive, regs)?;
        let table = self.hold_table(&found, regs)?;
        let below = found.level.below().unwrap_or(Level::Pte);
        let entry = |index| SeptEntry::from_bits(self.machine.read_entry(table, index));
        if (0..512).any(|index| entry(index).state(below) != State::Free) {
            return Err(told(&found, Status::EPT_PAGE_NOT_FREE, regs));
        }
        self.replace(&found, SeptEntry::FREE);
        regs.rcx = table.address() | self.pamt.release(table, PageLevel::Size4K);
        Ok(())
    }

    /// The table below an entry that is one, whose page is held and which no vCPU can use any more.
    fn hold_table(&mut self, found: &Found, regs: &mut SeamcallRegs) -> Result<Pfn, Status> {
        if !matches!(found.state(), State::NonLeaf | State::NonLeafBlocked) {
            return Err(told(found, Status::EPT_ENTRY_STATE_INCORRECT, regs));
        }
        self.pamt
            .lock(Self::unit_of(found), Hold::Exclusive)
            .map_err(Status::rcx)?;
        self.check_blocked(found, regs)?;
        Ok(found.entry.frame())
    }

    /// TDH.MEM.SEPT.RD: reads an entry.
    pub(super) fn do_sept_read(
        &mut self,
        given: &SeamcallRegs,
        regs: &mut SeamcallRegs,
    ) -> Result<(), Status> {
        let info = self.page_info(given.rcx, self.levels_from(Level::Pte))?;
        let found = self.find(info, Hold::Shared, regs)?;
        tell(&found, regs);
        Ok(())
    }

    /// TDH.MEM.PAGE.DEMOTE: replaces a blocked leaf by a table in the page of R8, filled with 512
    /// leaves of the same state over the same frames. With Dynamic PAMT, R12 and R13 are the pages
    /// for their metadata.
    pub(super) fn do_page_demote(
        &mut self,
        given: &SeamcallRegs,
        regs: &mut SeamcallRegs,
    ) -> Result<(), Status> {
        let info = self.page_info(given.rcx, Level::Pmd..=Level::Pud)?;
        let mut found = self.find(info, Hold::Shared, regs)?;
        if !found.state().is_leaf() {
            return Err(told(&found, Status::EPT_ENTRY_STATE_INCORRECT, regs));
        }
        found.entry = found.entry.with_progress(0);
        self.check_blocked(&found, regs)?;
        let table = self.pamt.take(given.r8, PageLevel::Size4K, Status::R8)?;
        if self.version.demote_is_interruptible() {
            self.give_way(given, regs)?;
        }
        let unit = Self::unit_of(&found);
        self.pamt
            .lock_and_keep(unit, Hold::Exclusive)
            .map_err(Status::rcx)?;
        let pair = if self.pamt.is_dynamic() && unit.level == PageLevel::Size2M {
            Some(self.take_pamt_pair([given.r12, given.r13])?)
        } else {
            None
        };
        self.pamt.demote(unit.first, unit.level, pair);
        self.assign_table(table);
        let children = self.children(found.state().unblocked(), unit);
        self.machine.write_table(table, children);
        self.replace(&found, SeptEntry::table(table));
        Ok(())
    }

    /// The pages in R12 and R13, if they can hold a range's metadata.
    fn take_pamt_pair(&mut self, hpas: [u64; 2]) -> Result<[Pfn; 2], Status> {
        const OPERANDS: [u64; 2] = [Status::R12, Status::R13];
        for (hpa, operand) in hpas.into_iter().zip(OPERANDS) {
            Pamt::check_form(hpa, PageLevel::Size4K, operand)?;
        }
        let [first, second] = hpas;
        let pair = [
            self.pamt.frame(first, PageLevel::Size4K, Status::R12)?,
            self.pamt.frame(second, PageLevel::Size4K, Status::R13)?,
        ];
        self.pamt.check_pair(pair, OPERANDS, None)?;
        Ok(pair)
    }

    /// 512 leaves for one that is demoted.
    fn children(&mut self, state: State, parent: Unit) -> Box<[u64; 512]> {
        let first = parent.first;
        let mut children = Box::new([0; 512]);
        for (index, child) in (0..).zip(children.iter_mut()) {
            if parent.level == PageLevel::Size1G {
                let frame = first.add(index * PageLevel::Size2M.pages_4k());
                *child = SeptEntry::leaf(state, PageLevel::Size2M, frame).bits();
                continue;
            }
            *child = self.policy.demoted_child(state, first, index).bits();
            if !self.policy.demote_keeps_content(index) {
                self.machine.zero_frames(first.add(index), 1);
            }
        }
        children
    }

    /// TDH.MEM.PAGE.PROMOTE: replaces a blocked table by one leaf, where all its entries are leaves of
    /// one state over frames in a row. RCX is the table; with Dynamic PAMT, R12 and R13 are the pages
    /// that its metadata needed.
    pub(super) fn do_page_promote(
        &mut self,
        given: &SeamcallRegs,
        regs: &mut SeamcallRegs,
    ) -> Result<(), Status> {
        let info = self.page_info(given.rcx, Level::Pmd..=Level::Pud)?;
        let tree = if self.version.promote_locks_tree() {
            Hold::Exclusive
        } else {
            Hold::Shared
        };
        let found = self.find(info, tree, regs)?;
        let table = self.hold_table(&found, regs)?;
        let level = found.level.page_or_1g();
        let (state, first) = self
            .merged(table, level)
            .map_err(|status| told(&found, status, regs))?;
        self.give_way(given, regs)?;
        self.pamt
            .lock(Unit::new(level, first), Hold::Exclusive)
            .map_err(Status::rcx)?;
        if let Some([first, second]) = self.pamt.promote(first, level) {
            (regs.r12, regs.r13) = (first.address(), second.address());
        }
        self.replace(&found, SeptEntry::leaf(state, level, first));
        regs.rcx = table.address() | self.pamt.release(table, PageLevel::Size4K);
        Ok(())
    }

    /// State and first frame of the leaf of `level` that is equivalent to a table.
    ///
    /// # Errors
    ///
    /// There is none, or others hold an entry: one module locks each, one after the other, the others
    /// compare them with the bit of the lock.
    fn merged(&mut self, table: Pfn, level: PageLevel) -> Result<(State, Pfn), Status> {
        let (below, stride) = match level {
            PageLevel::Size1G => (Level::Pmd, PageLevel::Size2M.pages_4k()),
            PageLevel::Size2M | PageLevel::Size4K => (Level::Pte, 1),
        };
        let read = |machine: &M, index| {
            let entry = SeptEntry::from_bits(machine.read_entry(table, index));
            (entry.state(below), entry.frame())
        };
        let (state, first) = read(&self.machine, 0);
        let usable = matches!(state, State::Mapped | State::Pending);
        let fits = usable && first.0.is_multiple_of(level.pages_4k());
        for index in 0..512 {
            let (locks, place) = (&mut self.td.locks.entries, Place::Table(table));
            if self.version.promote_locks_entries() && !locks.host_gets(place, index) {
                return Err(Status::OPERAND_BUSY);
            }
            let wanted = (state, first.add(index as u64 * stride));
            if !fits || locks.is_held(place, index) || read(&self.machine, index) != wanted {
                return Err(Status::EPT_INVALID_PROMOTE_CONDITIONS);
            }
        }
        Ok((state, first))
    }
}
