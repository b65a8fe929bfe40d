//! SEAMCALLs on machine memory: PHYMEM.PAMT.ADD, PHYMEM.PAMT.REMOVE, PHYMEM.PAGE.RECLAIM.
//!
//! Source: `tdh_phymem_pamt_add.c`, `tdh_phymem_pamt_remove.c`,
//! `tdh_phymem_page_reclaim.c`. None accesses a TD.

use tdxlab_protocol::addr::PageLevel;

use super::lock::Hold;
use super::pamt::{Pamt, Reached};
use super::platform::Platform;
use super::seamcall::SeamcallRegs;
use super::status::Status;
use crate::physical_memory::{Pfn, PhysicalMemory};

impl<M: PhysicalMemory> Platform<M> {
    /// The 2M range that RCX names.
    fn pamt_range(&self, rcx: u64) -> Result<u64, Status> {
        if !self.pamt.is_dynamic() {
            return Err(Status::OPERAND_INVALID.detail(Status::RAX));
        }
        let hpa = rcx & !0xfff;
        if rcx & 0xfff != u64::from(PageLevel::Size2M.tdx()) {
            return Err(Status::OPERAND_INVALID.rcx());
        }
        Pamt::check_form(hpa, PageLevel::Size2M, Status::RCX)?;
        Ok(hpa)
    }

    fn walk_range(&mut self, hpa: u64) -> Result<(Pfn, Reached), Status> {
        let range = self.pamt.frame(hpa, PageLevel::Size2M, Status::RCX)?;
        let reached = self
            .pamt
            .walk(range, PageLevel::Size2M, Hold::Exclusive)
            .map_err(Status::rcx)?;
        Ok((range, reached))
    }

    /// TDH.PHYMEM.PAGE.RECLAIM: takes a page back from a TD that has no key any more.
    ///
    /// # Errors
    ///
    /// The status: it is no such page of the TD or of its tables.
    pub fn page_reclaim(&mut self, frame: Pfn, level: PageLevel) -> Result<(), Status> {
        self.pamt.begin();
        let reached = self
            .pamt
            .walk(frame, level, Hold::Exclusive)
            .map_err(Status::rcx)?;
        if !Pamt::is_of_td(&reached, level) {
            return Err(Status::PAGE_METADATA_INCORRECT.rcx());
        }
        self.pamt.release(frame, level);
        Ok(())
    }

    /// TDH.PHYMEM.PAMT.ADD: gives the 2M range of RCX the pages in RDX and R8 for its metadata.
    pub(super) fn do_pamt_add(&mut self, regs: &mut SeamcallRegs) -> Result<(), Status> {
        const OPERANDS: [u64; 2] = [Status::RDX, Status::R8];
        let hpa = self.pamt_range(regs.rcx)?;
        let pair = [
            self.pamt.frame(regs.rdx, PageLevel::Size4K, Status::RDX)?,
            self.pamt.frame(regs.r8, PageLevel::Size4K, Status::R8)?,
        ];
        let (range, reached) = self.walk_range(hpa)?;
        if !Pamt::is_bare(&reached) {
            return Err(Status::HPA_RANGE_NOT_FREE.rcx());
        }
        self.pamt.check_pair(pair, OPERANDS, Some(range))?;
        self.pamt.add_pair(range, pair);
        Ok(())
    }

    /// TDH.PHYMEM.PAMT.REMOVE: takes them away again, into RDX and R8.
    pub(super) fn do_pamt_remove(&mut self, regs: &mut SeamcallRegs) -> Result<(), Status> {
        let hpa = self.pamt_range(regs.rcx)?;
        let (range, _) = self.walk_range(hpa)?;
        let [first, second] = self.pamt.remove_pair(range)?;
        (regs.rdx, regs.r8) = (first.address(), second.address());
        Ok(())
    }
}
