//! The host's side of the module: SEAMCALLs on the TD's memory.
//!
//! A leaf goes away in a fixed order: RANGE.BLOCK, TRACK, every vCPU out of the old epoch, then
//! PAGE.REMOVE or PAGE.DEMOTE. The module checks each step and refuses what comes too early.

use tdxlab_protocol::addr::{Gpa, PageLevel};

use super::super::entry::{Level, SeptEntry, State};
use super::super::physical_memory::{Pfn, PhysicalMemory};
use super::sept::Found;
use super::status::Status;
use super::{Platform, SHARED_BIT};

/// A SEAMCALL, for those who count or disturb them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Seamcall {
    /// TDH.MEM.SEPT.ADD.
    SeptAdd,
    /// TDH.MEM.PAGE.ADD.
    PageAdd,
    /// TDH.MEM.PAGE.AUG.
    PageAug,
    /// TDH.MEM.RANGE.BLOCK.
    RangeBlock,
    /// TDH.MEM.TRACK.
    Track,
    /// TDH.MEM.PAGE.DEMOTE.
    PageDemote,
    /// TDH.MEM.PAGE.REMOVE.
    PageRemove,
}

impl Seamcall {
    /// The name that KVM prints.
    pub const fn name(self) -> &'static str {
        match self {
            Seamcall::SeptAdd => "TDH_MEM_SEPT_ADD",
            Seamcall::PageAdd => "TDH_MEM_PAGE_ADD",
            Seamcall::PageAug => "TDH_MEM_PAGE_AUG",
            Seamcall::RangeBlock => "TDH_MEM_RANGE_BLOCK",
            Seamcall::Track => "TDH_MEM_TRACK",
            Seamcall::PageDemote => "TDH_MEM_PAGE_DEMOTE",
            Seamcall::PageRemove => "TDH_MEM_PAGE_REMOVE",
        }
    }
}

/// Whether a SEAMCALL may name this page.
fn operand_is_valid(gpa: Gpa, level: Level) -> bool {
    gpa.as_u64() < SHARED_BIT && level.base(gpa) == gpa
}

impl<M: PhysicalMemory> Platform<M> {
    /// TDH.MEM.SEPT.ADD: makes `table` the table for the span of the free entry of `level`.
    pub(crate) fn sept_add(&mut self, gpa: Gpa, level: Level, table: Pfn) -> Status {
        if level == Level::Pte || !operand_is_valid(gpa, level) {
            return Status::OPERAND_INVALID.rcx();
        }
        let found = match self.find(Seamcall::SeptAdd, gpa, level) {
            Ok(found) => found,
            Err(status) => return status,
        };
        if found.state() != State::Free {
            return Status::EPT_ENTRY_STATE_INCORRECT.rcx();
        }
        self.machine.zero_frames(table, 1);
        self.replace(&found, SeptEntry::table(table));
        Status::SUCCESS
    }

    /// TDH.MEM.PAGE.ADD: a 4K page of the initial image. Only before the TD runs.
    pub(crate) fn page_add(&mut self, gpa: Gpa, frame: Pfn) -> Status {
        if self.td.runnable {
            return Status::OP_STATE_INCORRECT;
        }
        self.put_leaf(
            Seamcall::PageAdd,
            gpa,
            PageLevel::Size4K,
            State::Mapped,
            frame,
        )
    }

    /// TDH.MEM.PAGE.AUG: a pending page of 4K or 2M. Only while the TD runs.
    pub(crate) fn page_aug(&mut self, gpa: Gpa, level: PageLevel, frame: Pfn) -> Status {
        if !self.td.runnable {
            return Status::OP_STATE_INCORRECT;
        }
        if level == PageLevel::Size1G {
            return Status::OPERAND_INVALID.rcx();
        }
        self.put_leaf(Seamcall::PageAug, gpa, level, State::Pending, frame)
    }

    /// TDH.MEM.RANGE.BLOCK: no new translation through this leaf from here on.
    pub(crate) fn range_block(&mut self, gpa: Gpa, level: PageLevel) -> Status {
        let found = match self.find_leaf(Seamcall::RangeBlock, gpa, level) {
            Ok(found) => found,
            Err(status) => return status,
        };
        let blocked = match found.state() {
            State::Mapped => State::Blocked,
            State::Pending => State::PendingBlocked,
            State::Blocked | State::PendingBlocked => {
                return Status::GPA_RANGE_ALREADY_BLOCKED.rcx();
            }
            State::Free | State::NonLeaf => return Status::EPT_ENTRY_STATE_INCORRECT.rcx(),
        };
        let entry = SeptEntry::leaf(blocked, level, found.entry.frame())
            .with_progress(found.entry.progress());
        self.replace(&found, entry);
        self.td.block(gpa, level);
        Status::SUCCESS
    }

    /// TDH.MEM.TRACK: raises the epoch. All vCPUs must have left the one before.
    pub(crate) fn track(&mut self) -> Status {
        if let Some(status) = self.policy.seamcall(Seamcall::Track) {
            return status;
        }
        if self.td.in_use_since(self.td.epoch - 1) {
            return Status::PREVIOUS_TLB_EPOCH_BUSY;
        }
        self.td.epoch += 1;
        Status::SUCCESS
    }

    /// TDH.MEM.PAGE.DEMOTE: replaces a blocked 2M leaf by `table`, filled with 512 leaves of the
    /// same state over the same frames.
    pub(crate) fn page_demote(&mut self, gpa: Gpa, level: PageLevel, table: Pfn) -> Status {
        if level == PageLevel::Size4K {
            return Status::OPERAND_INVALID.rcx();
        }
        let found = match self.find_blocked(Seamcall::PageDemote, gpa, level) {
            Ok(found) => found,
            Err(status) => return status,
        };
        let parent = match found.state() {
            State::PendingBlocked => State::Pending,
            _ => State::Mapped,
        };
        let frame = found.entry.frame();
        let mut children = Box::new([0; 512]);
        for (index, child) in (0..).zip(children.iter_mut()) {
            *child = self.policy.demoted_child(parent, frame, index).bits();
            if !self.policy.demote_keeps_content(index) {
                self.machine.zero_frames(frame.add(index), 1);
            }
        }
        self.machine.write_table(table, children);
        self.td.unblock(gpa, level);
        self.replace(&found, SeptEntry::table(table));
        Status::SUCCESS
    }

    /// TDH.MEM.PAGE.REMOVE: frees the entry of a blocked leaf.
    pub(crate) fn page_remove(&mut self, gpa: Gpa, level: PageLevel) -> Status {
        let found = match self.find_blocked(Seamcall::PageRemove, gpa, level) {
            Ok(found) => found,
            Err(status) => return status,
        };
        self.td.unblock(gpa, level);
        self.replace(&found, SeptEntry::FREE);
        Status::SUCCESS
    }

    fn put_leaf(
        &mut self,
        call: Seamcall,
        gpa: Gpa,
        level: PageLevel,
        state: State,
        frame: Pfn,
    ) -> Status {
        if !operand_is_valid(gpa, level.into()) {
            return Status::OPERAND_INVALID.rcx();
        }
        let found = match self.find(call, gpa, level.into()) {
            Ok(found) => found,
            Err(status) => return status,
        };
        if found.state() != State::Free {
            return Status::EPT_ENTRY_STATE_INCORRECT.rcx();
        }
        self.replace(&found, SeptEntry::leaf(state, level, frame));
        Status::SUCCESS
    }

    /// The entry of exactly this level.
    fn find(&mut self, call: Seamcall, gpa: Gpa, level: Level) -> Result<Found, Status> {
        if let Some(status) = self.policy.seamcall(call) {
            return Err(status);
        }
        let found = self.walk(gpa, level);
        if found.level == level {
            Ok(found)
        } else {
            Err(Status::EPT_WALK_FAILED.rcx())
        }
    }

    /// The leaf of exactly this level.
    fn find_leaf(&mut self, call: Seamcall, gpa: Gpa, level: PageLevel) -> Result<Found, Status> {
        if !operand_is_valid(gpa, level.into()) {
            return Err(Status::OPERAND_INVALID.rcx());
        }
        let found = self.find(call, gpa, level.into())?;
        if found.entry.is_leaf(found.level) {
            Ok(found)
        } else {
            Err(Status::EPT_ENTRY_STATE_INCORRECT.rcx())
        }
    }

    /// The blocked leaf of exactly this level that no vCPU can use any more.
    fn find_blocked(
        &mut self,
        call: Seamcall,
        gpa: Gpa,
        level: PageLevel,
    ) -> Result<Found, Status> {
        let found = self.find_leaf(call, gpa, level)?;
        if !matches!(found.state(), State::Blocked | State::PendingBlocked) {
            return Err(Status::GPA_RANGE_NOT_BLOCKED.rcx());
        }
        let blocked = self.td.blocked_since(gpa, level);
        let tracked =
            blocked.is_none_or(|epoch| epoch < self.td.epoch && !self.td.in_use_since(epoch));
        if tracked || !self.policy.module_checks_tracking() {
            Ok(found)
        } else {
            Err(Status::TLB_TRACKING_NOT_DONE.rcx())
        }
    }
}
