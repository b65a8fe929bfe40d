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
    ///
    /// With Dynamic PAMT, `pair` becomes the metadata of these leaves.
    pub fn page_demote(
        &mut self,
        gpa: Gpa,
        level: PageLevel,
        table: Pfn,
        pair: Option<[Pfn; 2]>,
    ) -> Status {
        let [first, second] = pair.map_or([0; 2], |pair| pair.map(Pfn::address));
        let mut regs = SeamcallRegs {
            rcx: gpa.as_u64() | Level::from(level).tdx(),
            r8: table.address(),
            r12: first,
            r13: second,
            ..SeamcallRegs::default()
        };
        self.seamcall(Seamcall::PageDemote, &mut regs)
    }

    /// TDH.PHYMEM.PAMT.ADD: gives the 2M range from `range` the pages for its metadata.
    pub fn pamt_add(&mut self, range: Pfn, pair: [Pfn; 2]) -> Status {
        let [first, second] = pair.map(Pfn::address);
        let mut regs = SeamcallRegs {
            rcx: range.address() | Level::Pmd.tdx(),
            rdx: first,
            r8: second,
            ..SeamcallRegs::default()
        };
        self.seamcall(Seamcall::PamtAdd, &mut regs)
    }

    /// TDH.PHYMEM.PAMT.REMOVE: takes them away again.
    ///
    /// # Errors
    ///
    /// The status: a page of the range is in use, or there are no such pages.
    pub fn pamt_remove(&mut self, range: Pfn) -> Result<[Pfn; 2], Status> {
        let mut regs = SeamcallRegs {
            rcx: range.address() | Level::Pmd.tdx(),
            ..SeamcallRegs::default()
        };
        match self.seamcall(Seamcall::PamtRemove, &mut regs) {
            Status::SUCCESS => Ok([Pfn(regs.rdx >> 12), Pfn(regs.r8 >> 12)]),
            status => Err(status),
        }
    }

    /// TDH.MEM.PAGE.REMOVE: frees the entry of a blocked leaf.
    pub fn page_remove(&mut self, gpa: Gpa, level: PageLevel) -> Status {
        self.call(Seamcall::PageRemove, gpa, level.into(), None)
    }
}
