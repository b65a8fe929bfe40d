//! Allocation failures, errors swallowed, memory kept or lost.

use tdxlab_softkvm::policy::{
    Allocation, AtTheEnd, ConversionStage, Failure, Faithful, HoleStage, HostCallKind, PamtFor, Why,
};

use super::faults;

faults! {
    "split-enomem-lost": "no memory for a split, and the zap goes on as if there had been"
    ("v3 patch 11: an errno that becomes a bool", rows 26, under "headtail",
     seen by Splits Content Debugfs)
    SplitEnomemLost {} {
        fn allocates(&mut self, what: Allocation) -> bool {
            what != Allocation::SplitTable
        }
        fn split_result(&mut self, _: Why, _: Result<(), Failure>) -> Result<(), Failure> {
            Ok(())
        }
    }

    "split-without-vcpu": "a split from a host thread finds no cache to allocate from"
    ("per-vCPU cache used without a running vCPU, RFC v5", rows 36, under "headtail",
     seen by Errno Debugfs)
    SplitWithoutVcpu {} {
        fn split_result(&mut self, why: Why, result: Result<(), Failure>) -> Result<(), Failure> {
            if why == Why::RangeSplit { Err(Failure::NoMemory) } else { result }
        }
    }

    "fault-error-lost": "an error in the fault path resumes the guest, which exits for ever"
    ("v3 patch 13: error read as 'resume guest'", rows 26, under "v5", seen by Td Exits)
    FaultErrorLost {} {
        fn allocates(&mut self, what: Allocation) -> bool {
            what != Allocation::SplitTable
        }
        fn fault_failure(&mut self, _: Failure) -> Option<Failure> {
            None
        }
    }

    "no-table-for-a-fault": "the fault path runs out of memory for tables: KVM_RUN fails"
    ("kvm_mmu_topup_memory_cache() fails", under "v5", seen by Td)
    NoTable { tables: u64 } {
        fn allocates(&mut self, what: Allocation) -> bool {
            if what != Allocation::SeptTable {
                return true;
            }
            self.tables += 1;
            self.tables < 8
        }
    }

    "split-cache-too-small": "the second split of a call finds the cache of page tables empty"
    ("wrong size of the split cache, RFC v5 review", rows 35, under "headtail",
     seen by Errno Splits Debugfs)
    SplitCacheTooSmall { taken: u64 } {
        fn hole_stages(&mut self) -> &'static [HoleStage] {
            self.taken = 0;
            Faithful.hole_stages()
        }
        fn conversion_stages(&mut self) -> &'static [ConversionStage] {
            self.taken = 0;
            Faithful.conversion_stages()
        }
        fn fault_retries(&mut self, invalidated: bool) -> bool {
            self.taken = 0;
            Faithful.fault_retries(invalidated)
        }
        fn allocates(&mut self, what: Allocation) -> bool {
            self.taken += u64::from(what == Allocation::SplitTable);
            what != Allocation::SplitTable || self.taken == 1
        }
    }

    "hole-fails-after-zap": "a hole zaps and then fails with EAGAIN before it frees: the guest's data is gone"
    ("folio split fails after the zap, v3 review", rows 13, under "v3", seen by Errno Populated)
    HoleFailsAfterZap {} {
        fn hole_stages(&mut self) -> &'static [HoleStage] {
            use HoleStage::{InvalidateBegin, InvalidateEnd, Split, Zap};
            &[InvalidateBegin, Split, Zap, InvalidateEnd]
        }
        fn host_errno(&mut self, kind: HostCallKind, errno: i32) -> i32 {
            match (kind, errno) {
                (HostCallKind::Punch, 0) => libc::EAGAIN,
                _ => errno,
            }
        }
    }

    "hole-returns-one": "a hole that finds no memory for a split returns 1 and zaps nothing"
    ("v3 patch 16: bool returned as errno", rows 26, under "headtail", seen by Errno Splits Debugfs)
    HoleReturnsOne {} {
        fn allocates(&mut self, what: Allocation) -> bool {
            what != Allocation::SplitTable
        }
        fn host_errno(&mut self, kind: HostCallKind, errno: i32) -> i32 {
            match (kind, errno) {
                (HostCallKind::Punch, libc::ENOMEM) => 1,
                _ => errno,
            }
        }
    }

    "einval-swallowed": "a hole that is refused reports success"
    ("kvm_gmem_fallocate() drops the error of a hole", under "v3", seen by Errno)
    EinvalSwallowed {} {
        fn host_errno(&mut self, kind: HostCallKind, errno: i32) -> i32 {
            match kind {
                HostCallKind::Punch => 0,
                HostCallKind::Prefault | HostCallKind::Allocate => errno,
            }
        }
    }

    "hole-leaks-memory": "the pages of a hole never go back to the allocator: memory runs out"
    ("kvm_gmem_free_folio() left out", under "stock", seen by Errno)
    HoleLeaks {} {
        fn frees(&mut self, _: u64) -> bool {
            false
        }
    }

    "shared-page-not-cleared": "a page that becomes shared shows what it was used for before"
    ("a page that is handed out must be zero, kvm_gmem_prepare_folio()", rows 44, under "stock",
     seen by Content)
    SharedNotCleared {} {
        fn clears_for_shared(&mut self, _: bool) -> bool {
            false
        }
    }

    "fault-during-hole": "a fault maps a page in a hole between zap and truncate: the TD keeps a page that is free"
    ("mmu_invalidate_retry_gfn() not asked", rows 28, under "headtail", seen by Td KernelLog)
    FaultDuringHole {} {
        fn fault_retries(&mut self, _: bool) -> bool {
            false
        }
    }

    "lockdep-splat": "a split takes a lock in the wrong context: lockdep complains, all goes well"
    ("S-EPT pages freed from an RCU callback, RFC v5", rows 34, under "headtail", seen by KernelLog)
    LockdepSplat {} {
        fn remark_on_split(&mut self) -> Option<String> {
            Some("WARNING: inconsistent lock state".to_owned())
        }
    }

    "reclaim-fails-at-the-end": "a page of a guest that ends is busy, and is never given back: the log alone says so"
    ("TDH.PHYMEM.PAGE.RECLAIM contended by another VM, public report on 6.17", under "stock",
     seen by KernelLog)
    ReclaimFailsAtTheEnd {} {
        fn remark_on_teardown(&mut self) -> Option<String> {
            let line = "kvm_intel: SEAMCALL TDH_PHYMEM_PAGE_RECLAIM failed: 0x8000020000000000";
            Some(line.to_owned())
        }
    }

    "leaves-left-at-the-end": "a guest that ends leaves its leaves in the counters: the VM is never freed"
    ("reference to a VM that is never dropped, kvm_put_kvm()", under "v5", seen by Remains)
    LeavesLeftAtTheEnd {} {
        fn frees_at_the_end(&mut self, what: AtTheEnd) -> bool {
            what != AtTheEnd::Leaf
        }
    }

    "table-lost-at-the-end": "the S-EPT pages of a guest that ends are never reclaimed"
    ("tdx_sept_free_private_spt() leaks pages whose reclaim fails", under "v5", seen by Remains)
    TableLostAtTheEnd {} {
        fn frees_at_the_end(&mut self, what: AtTheEnd) -> bool {
            what != AtTheEnd::Table
        }
    }

    "file-kept-at-the-end": "the guest_memfd of a guest that ends keeps its pages"
    ("kvm_gmem_release() without truncation, a reference too many", under "stock", seen by Remains)
    FileKeptAtTheEnd {} {
        fn frees_at_the_end(&mut self, what: AtTheEnd) -> bool {
            what != AtTheEnd::File
        }
    }

    "demote-without-pamt-pages": "a split gives the module no pages for the metadata of 512 leaves"
    ("missing PAMT get in the split path, Dynamic PAMT with huge pages", rows 35, under "v5",
     seen by Td KernelLog)
    DemoteWithoutPamtPages {} {
        fn gives_pamt_pages(&mut self, what: PamtFor) -> bool {
            what != PamtFor::Children
        }
    }

    "table-without-pamt-pages": "a new S-EPT table lies in memory that the module has no metadata for"
    ("RFC v5 patch 21: PAMT pages for the new S-EPT page", under "v5", seen by Td KernelLog)
    TableWithoutPamtPages {} {
        fn gives_pamt_pages(&mut self, what: PamtFor) -> bool {
            what != PamtFor::Table
        }
    }

    "pamt-refcount-underflow": "a split counts one page of its range, not 512: the next removal takes the metadata"
    ("PAMT refcount not set to 512 after a split: later removals underflow, RFC v5", rows 37,
     under "headtail", seen by Td KernelLog)
    PamtUnderflow {} {
        fn pamt_pages_of_split(&mut self, _: u64) -> u64 {
            1
        }
    }

    "pamt-pages-leaked": "what PAMT.REMOVE gives back is never freed"
    ("tdx_pamt_put() loses the pages", under "v5", seen by Remains)
    PamtPagesLeaked {} {
        fn frees_pamt_pages(&mut self) -> bool {
            false
        }
    }

    "demote-against-pamt-add": "a split meets the PAMT.ADD of another TD: DEMOTE is busy twice, and the VM is dead"
    ("DEMOTE against PAMT.ADD of another TD, June 2026", rows 33, under "v5", seen by Td KernelLog)
    DemoteAgainstPamtAdd {} {
        fn demotes_under_pamt_lock(&mut self) -> bool {
            false
        }
    }

    "suspicious-rcu": "the mirror root is tested after RCU was dropped: a warning, all goes well"
    ("RFC v5 review: mirror root tested after RCU was dropped", rows 35, under "v5",
     seen by KernelLog)
    SuspiciousRcu {} {
        fn remark_on_split(&mut self) -> Option<String> {
            Some("WARNING: suspicious RCU usage".to_owned())
        }
    }
}
