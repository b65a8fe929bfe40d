//! SEAMCALLs that fail, or are made without what must come first.

use super::faults;
use crate::host::softkvm::policy::{Failure, Kick, Why};
use crate::host::softkvm::{Seamcall, Status};

faults! {
    "zap-without-block": "PAGE.REMOVE is called without RANGE.BLOCK"
    ("order rule of the module", under "headtail", seen by Td KernelLog)
    ZapWithoutBlock {} {
        fn blocks(&mut self, why: Why) -> bool {
            why != Why::Zap
        }
    }

    "split-without-block": "PAGE.DEMOTE is called without RANGE.BLOCK"
    ("order rule of the module", under "headtail", seen by Td KernelLog)
    SplitWithoutBlock {} {
        fn blocks(&mut self, why: Why) -> bool {
            why == Why::Zap
        }
    }

    "zap-without-track": "PAGE.REMOVE is called without TRACK"
    ("order rule of the module", under "headtail", seen by Td KernelLog)
    ZapWithoutTrack {} {
        fn tracks(&mut self, why: Why) -> bool {
            why != Why::Zap
        }
    }

    "no-kick": "vCPUs are not kicked out between TRACK and the change"
    ("order rule of the module", under "headtail", seen by Td KernelLog)
    NoKick {} {
        fn kick(&mut self, _: Why) -> Kick {
            Kick::Skip
        }
    }

    "demote-fails-silently": "DEMOTE fails, the return value is dropped, mirror and S-EPT diverge"
    ("v3 patch 7; report on a 5.19 tree, July 2026", under "headtail", seen by Td KernelLog)
    DemoteFailsSilently {} {
        fn seamcall(&mut self, call: Seamcall) -> Option<Status> {
            (call == Seamcall::PageDemote).then_some(Status::EPT_ENTRY_STATE_INCORRECT.rcx())
        }
        fn notices(&mut self, call: Seamcall, status: Status) -> bool {
            call != Seamcall::PageDemote && !status.is_success()
        }
    }

    "demote-busy-twice": "DEMOTE is busy a second time: KVM_BUG_ON"
    ("zero-step mitigation takes the S-EPT lock", under "headtail", seen by Td KernelLog)
    DemoteBusyTwice {} {
        fn seamcall(&mut self, call: Seamcall) -> Option<Status> {
            (call == Seamcall::PageDemote).then_some(Status::OPERAND_BUSY.rcx())
        }
    }

    "demote-against-pamt-add": "DEMOTE is busy because another TD adds PAMT memory"
    ("operand 0xc, found June 2026", under "v5", seen by Td KernelLog)
    DemoteAgainstPamt {} {
        fn seamcall(&mut self, call: Seamcall) -> Option<Status> {
            (call == Seamcall::PageDemote).then_some(Status::OPERAND_BUSY.detail(0xc))
        }
    }

    "demote-interrupted": "an old module gives DEMOTE up when an interrupt is pending"
    ("no ENHANCE_DEMOTE_INTERRUPTIBILITY", under "v3", seen by Td KernelLog)
    DemoteInterrupted {} {
        fn seamcall(&mut self, call: Seamcall) -> Option<Status> {
            (call == Seamcall::PageDemote).then_some(Status::INTERRUPTED_RESTARTABLE)
        }
    }

    "split-called-twice": "the S-EPT is split twice for one leaf"
    ("set_external called twice under the shared lock, RFC v5", under "v5", seen by Td KernelLog)
    SplitTwice { demotes: u64 } {
        fn seamcall(&mut self, call: Seamcall) -> Option<Status> {
            if call != Seamcall::PageDemote {
                return None;
            }
            self.demotes += 1;
            (self.demotes > 1).then_some(Status::EPT_WALK_FAILED.rcx())
        }
    }

    "pamt-refcount-underflow": "after a split the PAMT reference count is wrong: a later REMOVE fails"
    ("count must be set to 512, RFC v5", under "headtail", seen by Td KernelLog)
    PamtUnderflow { demoted: bool } {
        fn seamcall(&mut self, call: Seamcall) -> Option<Status> {
            self.demoted |= call == Seamcall::PageDemote;
            (self.demoted && call == Seamcall::PageRemove)
                .then_some(Status::EPT_ENTRY_STATE_INCORRECT.rcx())
        }
    }

    "remove-fails-silently": "REMOVE fails unnoticed and leaves the entry blocked"
    ("a leaf left BLOCKED: guest access exits for ever", under "headtail", seen by Td Exits)
    RemoveFailsSilently {} {
        fn seamcall(&mut self, call: Seamcall) -> Option<Status> {
            (call == Seamcall::PageRemove).then_some(Status::EPT_ENTRY_STATE_INCORRECT.rcx())
        }
        fn notices(&mut self, call: Seamcall, status: Status) -> bool {
            call == Seamcall::PageAug && !status.is_success()
        }
    }

    "block-left-behind": "a split is given up after BLOCK and the leaf stays blocked"
    ("no UNBLOCK after an aborted split", under "headtail", seen by Errno Td)
    BlockLeftBehind {} {
        fn seamcall(&mut self, call: Seamcall) -> Option<Status> {
            (call == Seamcall::PageDemote).then_some(Status::EPT_WALK_FAILED.rcx())
        }
        fn split_result(&mut self, _: Why, result: Result<(), Failure>) -> Result<(), Failure> {
            result.map_err(|_| Failure::NoMemory)
        }
    }
}
