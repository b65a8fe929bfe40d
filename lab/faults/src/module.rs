//! SEAMCALLs that fail, or are made before their preconditions hold.

use tdxlab_softkvm::policy::{Failure, Kick, OnInterrupt, SplitStage, Why};
use tdxlab_softkvm::{Seamcall, Status};

use super::faults;

/// BUSY for the first two attempts of this SEAMCALL.
fn busy_twice(made: &mut u64, call: Seamcall, busy: Seamcall) -> Option<Status> {
    *made += u64::from(call == busy);
    (call == busy && *made <= 2).then_some(Status::OPERAND_BUSY.rcx())
}

faults! {
    "zap-without-block": "PAGE.REMOVE is called without RANGE.BLOCK"
    ("TDH.MEM.PAGE.REMOVE wants RANGE.BLOCK first", under "headtail", seen by Td KernelLog)
    ZapWithoutBlock {} {
        fn blocks(&mut self, why: Why) -> bool {
            why != Why::Zap
        }
    }

    "split-without-block": "PAGE.DEMOTE is called without RANGE.BLOCK"
    ("TDH.MEM.PAGE.DEMOTE wants RANGE.BLOCK first", under "headtail", seen by Td KernelLog)
    SplitWithoutBlock {} {
        fn blocks(&mut self, why: Why) -> bool {
            why == Why::Zap
        }
    }

    "zap-without-track": "PAGE.REMOVE is called without TRACK"
    ("TDH.MEM.PAGE.REMOVE wants TRACK first", under "headtail", seen by Td KernelLog)
    ZapWithoutTrack {} {
        fn tracks(&mut self, why: Why) -> bool {
            why != Why::Zap
        }
    }

    "no-kick": "vCPUs are not kicked out between TRACK and the change"
    ("TDH.MEM.PAGE.REMOVE wants every vCPU out of the old epoch", under "headtail",
     seen by Td KernelLog)
    NoKick {} {
        fn kick(&mut self, _: Why) -> Kick {
            Kick::Skip
        }
    }

    "tracking-not-checked": "PAGE.REMOVE comes without TRACK and kick, and the module does not mind"
    ("BEPOCH check of TDH.MEM.PAGE.REMOVE", under "headtail", seen by Access Exits)
    TrackingNotChecked {} {
        fn tracks(&mut self, why: Why) -> bool {
            why != Why::Zap
        }
        fn kick(&mut self, why: Why) -> Kick {
            if why == Why::Zap { Kick::Skip } else { Kick::Flush }
        }
        fn module_checks_tracking(&mut self) -> bool {
            false
        }
    }

    "demote-fails-silently": "DEMOTE fails, the return value is dropped, mirror and S-EPT diverge"
    ("v3 patch 7; report on a 5.19 tree, July 2026", rows 17, under "headtail",
     seen by Td KernelLog)
    DemoteFailsSilently {} {
        fn seamcall(&mut self, call: Seamcall) -> Option<Status> {
            (call == Seamcall::PageDemote).then_some(Status::EPT_ENTRY_STATE_INCORRECT.rcx())
        }
        fn notices(&mut self, call: Seamcall, status: Status) -> bool {
            call != Seamcall::PageDemote && !status.is_success()
        }
    }

    "demote-fails-without-a-line": "DEMOTE fails and ends the VM, and the log has lost the lines that say so"
    ("rate-limited records, report on a 5.19 tree, July 2026", rows 17, under "headtail", seen by Td)
    DemoteFailsUnlogged {} {
        fn seamcall(&mut self, call: Seamcall) -> Option<Status> {
            (call == Seamcall::PageDemote).then_some(Status::EPT_WALK_FAILED.rcx())
        }
        fn logged(&mut self, _: String) -> Option<String> {
            None
        }
    }

    "demote-busy-twice": "DEMOTE is busy again after the kick that must make it succeed: KVM_BUG_ON"
    ("zero-step mitigation takes the S-EPT lock, RFC v5 thread", rows 30, under "headtail",
     seen by Td KernelLog)
    DemoteBusyTwice { made: u64 } {
        fn seamcall(&mut self, call: Seamcall) -> Option<Status> {
            busy_twice(&mut self.made, call, Seamcall::PageDemote)
        }
    }

    "block-busy-twice": "RANGE.BLOCK is busy again after the kick that must make it succeed: KVM_BUG_ON"
    ("zero-step mitigation takes the S-EPT lock, RFC v5 thread", rows 30, under "headtail",
     seen by Td KernelLog)
    BlockBusyTwice { made: u64 } {
        fn seamcall(&mut self, call: Seamcall) -> Option<Status> {
            busy_twice(&mut self.made, call, Seamcall::RangeBlock)
        }
    }

    "remove-busy-twice": "PAGE.REMOVE is busy again after the kick that must make it succeed: KVM_BUG_ON"
    ("zero-step mitigation takes the S-EPT lock, RFC v5 thread", rows 30, under "headtail",
     seen by Td KernelLog)
    RemoveBusyTwice { made: u64 } {
        fn seamcall(&mut self, call: Seamcall) -> Option<Status> {
            busy_twice(&mut self.made, call, Seamcall::PageRemove)
        }
    }

    "busy-without-kick": "DEMOTE is made again without a kick: the vCPU that holds the lock still does"
    ("tdx_no_vcpus_enter_start() left out", rows 30, under "headtail", seen by Td KernelLog)
    BusyWithoutKick { kicked: bool } {
        fn kick(&mut self, why: Why) -> Kick {
            // A right KVM kicks here; with `Flush` in place of `Skip` the lock would be let go.
            let kick = if why == Why::Busy { Kick::Skip } else { Kick::Flush };
            self.kicked |= why == Why::Busy && kick == Kick::Flush;
            kick
        }
        fn seamcall(&mut self, call: Seamcall) -> Option<Status> {
            let held = call == Seamcall::PageDemote && !self.kicked;
            held.then_some(Status::OPERAND_BUSY.rcx())
        }
    }

    "demote-interrupted": "an old module gives DEMOTE up when an interrupt is pending, and nobody tries again"
    ("module without ENHANCE_DEMOTE_INTERRUPTIBILITY, v3 patch 2", rows 32, under "v3",
     seen by Td KernelLog)
    DemoteInterrupted { made: u64 } {
        fn seamcall(&mut self, call: Seamcall) -> Option<Status> {
            // A second call would go through.
            self.made += u64::from(call == Seamcall::PageDemote);
            (call == Seamcall::PageDemote && self.made == 1)
                .then_some(Status::INTERRUPTED_RESTARTABLE)
        }
        fn on_interrupted_demote(&mut self) -> OnInterrupt {
            OnInterrupt::Fail
        }
    }

    "demote-interrupted-for-ever": "DEMOTE gives way to an interrupt and is made again at once, with interrupts off"
    ("retry loop around TDX_INTERRUPTED_RESTARTABLE under mmu_lock, v3 patch 2", rows 32,
     under "headtail", seen by Td KernelLog)
    DemoteInterruptedForEver { served: bool } {
        fn seamcall(&mut self, call: Seamcall) -> Option<Status> {
            (call == Seamcall::PageDemote && !self.served)
                .then_some(Status::INTERRUPTED_RESTARTABLE)
        }
        fn on_interrupted_demote(&mut self) -> OnInterrupt {
            // A right KVM lets the interrupt in here; with `Again` the next call would go through.
            let answer = OnInterrupt::AgainAtOnce;
            self.served |= answer == OnInterrupt::Again;
            answer
        }
    }

    "demote-interrupted-given-up": "DEMOTE gives way to an interrupt, KVM tries again later, and the leaf stays blocked"
    ("no UNBLOCK after an aborted split, v3 thread", rows 46, under "headtail", seen by Td KernelLog)
    DemoteInterruptedGivenUp { made: u64 } {
        fn seamcall(&mut self, call: Seamcall) -> Option<Status> {
            self.made += u64::from(call == Seamcall::PageDemote);
            (call == Seamcall::PageDemote && self.made == 1)
                .then_some(Status::INTERRUPTED_RESTARTABLE)
        }
        fn on_interrupted_demote(&mut self) -> OnInterrupt {
            OnInterrupt::Abandon
        }
    }

    "entry-busy-is-final": "TDH.VP.ENTER is busy while another call has the S-EPT tree, and KVM takes that for an unknown exit"
    ("zero-step filter of the module, RFC v5 thread", rows 31, under "headtail", seen by Td)
    EntryBusyIsFinal { entries: u64 } {
        fn entry_is_busy(&mut self) -> bool {
            // Rarely, as the lock is held for a moment only.
            self.entries += 1;
            self.entries.is_multiple_of(16)
        }
        fn enters_again(&mut self) -> bool {
            false
        }
    }

    "filter-keeps-pending-out": "the zero-step filter keeps a vCPU out while a noted page is pending, though its #VE is all that can end that"
    ("td_entry_stepping_filter() of module 1.5.01", rows 31, under "headtail", seen by Td Exits)
    FilterKeepsPendingOut {} {
        fn admits_pending(&mut self, _: bool) -> bool {
            false
        }
    }

    "filter-ignores-rip": "the zero-step filter counts violations wherever the guest is, and KVM maps again what a hole has taken"
    ("td_exit_epf_stepping_log() of the module: another RIP ends the count", rows 31, under "headtail",
     seen by Debugfs Exits)
    FilterIgnoresRip {} {
        fn rip_has_moved(&mut self, _: bool) -> bool {
            false
        }
    }

    "filter-counts-accepts": "the zero-step filter counts violations of ACCEPT, and KVM maps again what a hole has taken"
    ("td_exit_epf_stepping_log() of the module: exits of ACCEPT do not count", rows 31, under "headtail",
     seen by Debugfs Exits)
    FilterCountsAccepts {} {
        fn counts_accepts(&mut self) -> bool {
            true
        }
    }

    "busy-is-final": "KVM takes TDX_OPERAND_BUSY of DEMOTE for a failure, though the S-EPT tree is free a moment later"
    ("zero-step mitigation takes the S-EPT lock, RFC v5 thread", rows 30, under "headtail",
     seen by Td KernelLog)
    BusyIsFinal { made: u64 } {
        fn seamcall(&mut self, call: Seamcall) -> Option<Status> {
            self.made += u64::from(call == Seamcall::PageDemote);
            (call == Seamcall::PageDemote && self.made == 1)
                .then_some(Status::OPERAND_BUSY.detail(Status::SEPT_TREE))
        }
        fn retries_busy(&mut self, _: Seamcall) -> bool {
            false
        }
    }

    "split-called-twice": "the S-EPT is split twice for one leaf"
    ("set_external called twice under the shared lock, RFC v5", rows 40, under "v5",
     seen by Td KernelLog)
    SplitTwice {} {
        fn split_stages(&mut self, _: Why) -> &'static [SplitStage] {
            use SplitStage::{Count, Mirror, Sept, Trace};
            &[Sept, Sept, Mirror, Count, Trace]
        }
    }

    "remove-fails-silently": "REMOVE fails unnoticed and leaves the entry blocked"
    ("a leaf left BLOCKED, v3 thread", rows 46, under "headtail", seen by Td Exits)
    RemoveFailsSilently {} {
        fn seamcall(&mut self, call: Seamcall) -> Option<Status> {
            (call == Seamcall::PageRemove).then_some(Status::EPT_ENTRY_STATE_INCORRECT.rcx())
        }
        fn notices(&mut self, call: Seamcall, status: Status) -> bool {
            call == Seamcall::PageAug && !status.is_success()
        }
    }

    "block-left-behind": "a split is given up after BLOCK: it fails with ENOMEM, and the leaf stays blocked"
    ("no UNBLOCK after an aborted split, v3 thread", rows 46, under "headtail", seen by Errno Td)
    BlockLeftBehind { given_up: bool } {
        fn seamcall(&mut self, call: Seamcall) -> Option<Status> {
            self.given_up |= call == Seamcall::PageDemote;
            (call == Seamcall::PageDemote).then_some(Status::INTERRUPTED_RESTARTABLE)
        }
        fn on_interrupted_demote(&mut self) -> OnInterrupt {
            OnInterrupt::Fail
        }
        fn notices(&mut self, call: Seamcall, status: Status) -> bool {
            call != Seamcall::PageDemote && !status.is_success()
        }
        fn split_stages(&mut self, _: Why) -> &'static [SplitStage] {
            &[SplitStage::Sept]
        }
        fn split_result(&mut self, _: Why, result: Result<(), Failure>) -> Result<(), Failure> {
            if std::mem::take(&mut self.given_up) { Err(Failure::NoMemory) } else { result }
        }
    }
}
