//! SEAMCALLs with typed operands, as KVM's wrappers make them.

use tdxlab_protocol::addr::{Gpa, PageLevel};

use super::platform::Platform;
use super::seamcall::{Seamcall, SeamcallRegs};
use super::status::Status;
use crate::entry::Level;
use crate::physical_memory::{Pfn, PhysicalMemory};

impl<M: PhysicalMemory> Platform<M> {
    fn call(&mut self, call: Seamcall, gpa: Gpa, level: Level, page: Option<Pfn>) -> Status {
        let mut regs = SeamcallRegs {
            rcx: gpa.as_u64() | level.tdx(),
            r8: page.map_or(0, Pfn::address),
            ..SeamcallRegs::default()
        };
        self.seamcall(call, &mut regs)
    }

    /// TDH.MEM.SEPT.ADD: makes `table` the table for the span of the free entry of `level`.
    pub fn sept_add(&mut self, gpa: Gpa, level: Level, table: Pfn) -> Status {
        self.call(Seamcall::SeptAdd, gpa, level, Some(table))
    }

    /// TDH.MEM.PAGE.ADD: a 4K page of the initial image. Only before the TD runs.
    pub fn page_add(&mut self, gpa: Gpa, frame: Pfn) -> Status {
        self.call(Seamcall::PageAdd, gpa, Level::Pte, Some(frame))
    }

    /// TDH.MEM.PAGE.AUG: a pending page of 4K or 2M.
    pub fn page_aug(&mut self, gpa: Gpa, level: PageLevel, frame: Pfn) -> Status {
        self.call(Seamcall::PageAug, gpa, level.into(), Some(frame))
    }

    /// TDH.MEM.RANGE.BLOCK: no new translation through this leaf from here on.
    pub fn range_block(&mut self, gpa: Gpa, level: PageLevel) -> Status {
        self.call(Seamcall::RangeBlock, gpa, level.into(), None)
    }

    /// TDH.MEM.TRACK: raises the epoch. All vCPUs must have left the one before.
    pub fn track(&mut self) -> Status {
        self.call(Seamcall::Track, Gpa::new(0), Level::Pte, None)
    }

    /// TDH.MEM.PAGE.DEMOTE: replaces a blocked 2M leaf by `table`, filled with 512 leaves of the
    /// same state over the same frames.
    pub fn page_demote(&mut self, gpa: Gpa, level: PageLevel, table: Pfn) -> Status {
        self.call(Seamcall::PageDemote, gpa, level.into(), Some(table))
    }

    /// TDH.MEM.PAGE.REMOVE: frees the entry of a blocked leaf.
    pub fn page_remove(&mut self, gpa: Gpa, level: PageLevel) -> Status {
        self.call(Seamcall::PageRemove, gpa, level.into(), None)
    }
}
