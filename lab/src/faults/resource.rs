//! Allocation failures, errors swallowed, memory kept or lost.

use super::faults;
use crate::host::softkvm::policy::{Allocation, Failure, Why};

faults! {
    "split-enomem-lost": "no memory for a split, and the zap goes on as if there had been"
    ("v3: an errno that becomes a bool", under "headtail", seen by Splits Content Debugfs)
    SplitEnomemLost {} {
        fn allocates(&mut self, what: Allocation) -> bool {
            what != Allocation::SplitTable
        }
        fn split_result(&mut self, _: Why, _: Result<(), Failure>) -> Result<(), Failure> {
            Ok(())
        }
    }

    "split-without-vcpu": "a split from a host thread finds no cache to allocate from"
    ("per-vCPU cache used without a running vCPU, RFC v5", under "headtail", seen by Errno Debugfs)
    SplitWithoutVcpu {} {
        fn split_result(&mut self, why: Why, result: Result<(), Failure>) -> Result<(), Failure> {
            if why == Why::RangeSplit { Err(Failure::NoMemory) } else { result }
        }
    }

    "fault-error-lost": "an error in the fault path resumes the guest, which exits for ever"
    ("v3: error read as 'resume guest'", under "v5", seen by Td Exits)
    FaultErrorLost {} {
        fn allocates(&mut self, what: Allocation) -> bool {
            what != Allocation::SplitTable
        }
        fn fault_failure(&mut self, _: Failure) -> Option<Failure> {
            None
        }
    }

    "no-table-for-a-fault": "the fault path runs out of memory for tables: KVM_RUN fails"
    ("allocation failure at each point", under "v5", seen by Td)
    NoTable { tables: u64 } {
        fn allocates(&mut self, what: Allocation) -> bool {
            if what != Allocation::SeptTable {
                return true;
            }
            self.tables += 1;
            self.tables < 8
        }
    }

    "hole-fails-after-zap": "a hole returns EAGAIN after the memory is gone"
    ("folio split fails after the zap, v3 review", under "v3", seen by Errno)
    HoleFailsAfterZap {} {
        fn host_errno(&mut self, errno: i32) -> i32 {
            if errno == 0 { libc::EAGAIN } else { errno }
        }
    }

    "hole-returns-one": "a hole that fails returns 1"
    ("v3 patch 16: bool returned as errno", under "v3", seen by Errno)
    HoleReturnsOne {} {
        fn host_errno(&mut self, errno: i32) -> i32 {
            i32::from(errno != 0)
        }
    }

    "einval-swallowed": "a hole that is refused reports success"
    ("error swallowed", under "v3", seen by Errno)
    EinvalSwallowed {} {
        fn host_errno(&mut self, _: i32) -> i32 {
            0
        }
    }

    "fault-during-hole": "a fault maps a page in a hole between zap and truncate"
    ("retry must see the invalidation", under "headtail", seen by Populated)
    FaultDuringHole {} {
        fn fault_retries(&mut self, _: bool) -> bool {
            false
        }
    }

    "lockdep-splat": "a split takes a lock in the wrong context: lockdep complains, all goes well"
    ("S-EPT pages freed from an RCU callback, RFC v5", under "headtail", seen by KernelLog)
    LockdepSplat {} {
        fn remark_on_split(&mut self) -> Option<String> {
            Some("WARNING: inconsistent lock state".to_owned())
        }
    }

    "suspicious-rcu": "the mirror root is tested after RCU was dropped: a warning, all goes well"
    ("RFC v5 review", under "v5", seen by KernelLog)
    SuspiciousRcu {} {
        fn remark_on_split(&mut self) -> Option<String> {
            Some("WARNING: suspicious RCU usage".to_owned())
        }
    }
}
