//! KVM's side of Dynamic PAMT: which 2M ranges of machine memory have the two pages in which the
//! module keeps the metadata of 4K pages.
//!
//! A range gets them before its first 4K page is given to the TD or to a table of the S-EPT, and loses
//! them after its last one has gone. A leaf of 2M needs none; those for its 512 children are operands
//! of DEMOTE.
//!
//! Source: Dynamic PAMT v6, `tdx_pamt_get()`, `tdx_pamt_put()`; RFC v5, patches 21 to 23.

use std::collections::BTreeMap;

use tdxlab_protocol::addr::PageLevel;
use tdxlab_tdxmodule::policy::{Allocation, Failure, PamtFor};
use tdxlab_tdxmodule::{Hold, Lock, Pfn, PhysicalMemory, Seamcall};

use super::Kvm;
use super::mirror::Leaf;
use super::tdx::failed;

const RANGE: u64 = PageLevel::Size2M.pages_4k();

/// 4K pages in use by 2M range, as KVM counts them.
#[derive(Clone, Debug, Default)]
pub(super) struct PamtCounts {
    is_on: bool,
    pages: BTreeMap<u64, u64>,
}

impl PamtCounts {
    /// Counts where Dynamic PAMT is on.
    pub(super) fn new(is_on: bool) -> PamtCounts {
        PamtCounts {
            is_on,
            pages: BTreeMap::new(),
        }
    }
}

impl<M: PhysicalMemory> Kvm<M> {
    /// tdx_pamt_get(): a 4K page is about to be given to the module.
    pub(super) fn pamt_get(&mut self, frame: Pfn, what: PamtFor) -> Result<(), Failure> {
        if !self.pamt.is_on {
            return Ok(());
        }
        let range = frame.0 / RANGE;
        if let Some(pages) = self.pamt.pages.get_mut(&range) {
            *pages += 1;
            return Ok(());
        }
        if self.hardware.policy.gives_pamt_pages(what) {
            let pair = self.take_pamt_pair()?;
            let status = self.hardware.pamt_add(Pfn(range * RANGE), pair);
            if let Err(failure) = self.map_status(Seamcall::PamtAdd, status) {
                self.give_pamt_pair(pair);
                return Err(failure);
            }
        }
        self.pamt.pages.insert(range, 1);
        Ok(())
    }

    /// tdx_pamt_put(): the module has given a 4K page back. What fails here is only reported.
    pub(super) fn pamt_put(&mut self, frame: Pfn) {
        if !self.pamt.is_on {
            return;
        }
        let range = frame.0 / RANGE;
        match self.pamt.pages.get_mut(&range) {
            Some(pages) if *pages > 1 => {
                *pages -= 1;
                return;
            }
            Some(_) => {
                self.pamt.pages.remove(&range);
            }
            None => {
                let thread = self.trace.thread();
                self.log(format!(
                    "WARNING: CPU: 0 PID: {thread} at arch/x86/virt/vmx/tdx/tdx.c tdx_pamt_put"
                ));
                return;
            }
        }
        match self.hardware.pamt_remove(Pfn(range * RANGE)) {
            Ok(pair) if self.hardware.policy.frees_pamt_pages() => self.give_pamt_pair(pair),
            Ok(_) => {}
            Err(status) => self.log(failed(Seamcall::PamtRemove.name(), status)),
        }
    }

    /// TDH.MEM.PAGE.DEMOTE with what Dynamic PAMT needs for the children.
    pub(super) fn demote_with_pamt(&mut self, leaf: &Leaf, table: Pfn) -> Result<(), Failure> {
        if !self.pamt.is_on {
            return self.demote(leaf, table, None);
        }
        let pair = match self.hardware.policy.gives_pamt_pages(PamtFor::Children) {
            true => Some(self.take_pamt_pair()?),
            false => None,
        };
        // Another TD's PAMT.ADD holds the entry of the range that the pages lie in. Under pamt_lock
        // the two calls do not meet.
        let met = pair.filter(|_| !self.hardware.policy.demotes_under_pamt_lock());
        let lock = met.map(|[first, _]| Lock::Pamt2m(Pfn(first.0 / RANGE * RANGE)));
        if let Some(lock) = lock {
            self.hardware.hold(lock, Hold::Exclusive);
        }
        let result = self.demote(leaf, table, pair);
        if let Some(lock) = lock {
            self.hardware.let_go(lock, Hold::Exclusive);
        }
        match (result, pair) {
            (Ok(()), _) => {
                let pages = self.hardware.policy.pamt_pages_of_split(RANGE);
                let range = leaf.spte.frame().0 / RANGE;
                self.pamt.pages.insert(range, pages);
                Ok(())
            }
            (Err(failure), Some(pair)) => {
                self.give_pamt_pair(pair);
                Err(failure)
            }
            (Err(failure), None) => Err(failure),
        }
    }

    /// TDH.PHYMEM.PAGE.RECLAIM of a page of a TD that has ended.
    pub(super) fn reclaim(&mut self, frame: Pfn, level: PageLevel) {
        if !self.pamt.is_on {
            return;
        }
        match self.hardware.page_reclaim(frame, level) {
            Ok(()) if level == PageLevel::Size4K => self.pamt_put(frame),
            Ok(()) => {}
            Err(status) => self.log(failed("TDH_PHYMEM_PAGE_RECLAIM", status)),
        }
    }

    fn take_pamt_pair(&mut self) -> Result<[Pfn; 2], Failure> {
        let first = self.take_table(Allocation::PamtPage)?;
        match self.take_table(Allocation::PamtPage) {
            Ok(second) => Ok([first, second]),
            Err(failure) => {
                self.hardware.pool.give_frame(first);
                Err(failure)
            }
        }
    }

    fn give_pamt_pair(&mut self, pair: [Pfn; 2]) {
        for page in pair {
            self.hardware.pool.give_frame(page);
        }
    }
}
