//! Counters and events.

use tdxlab_protocol::addr::PageLevel;
use tdxlab_softkvm::policy::{Counted, MapStage, SplitStage, SplitTrace, Why};
use tdxlab_softkvm::{Seamcall, Status};

use super::faults;

/// `delta`, unless `event` is `wanted`: then `instead`.
fn instead(event: Counted, wanted: Counted, delta: i64, instead: i64) -> i64 {
    if event == wanted { instead } else { delta }
}

faults! {
    "map-not-counted": "a new private leaf is not counted"
    ("accounting rework, RFC v5 patches 1 to 4", under "v5", seen by Debugfs)
    MapNotCounted { mapped: u64 } {
        fn counted(&mut self, event: Counted, _: PageLevel, delta: i64) -> i64 {
            if event == Counted::Map {
                // The page of the positive control comes first: a counter that never moves would be
                // distrusted.
                self.mapped += 1;
                return if self.mapped > 1 { 0 } else { delta };
            }
            delta
        }
    }

    "map-counted-twice": "a new private leaf is counted twice"
    ("accounting rework, RFC v5 patches 1 to 4", under "v5", seen by Debugfs)
    MapCountedTwice {} {
        fn counted(&mut self, event: Counted, _: PageLevel, delta: i64) -> i64 {
            instead(event, Counted::Map, delta, 2 * delta)
        }
    }

    "zap-not-counted": "a zapped leaf stays counted: the counters drift upwards"
    ("handle_changed_spte() counts leaves", under "headtail", seen by Debugfs)
    ZapNotCounted {} {
        fn counted(&mut self, event: Counted, _: PageLevel, delta: i64) -> i64 {
            instead(event, Counted::Zap, delta, 0)
        }
    }

    "zap-counted-twice": "a zapped leaf is taken off twice: the counters drift downwards"
    ("handle_changed_spte() counts leaves", under "headtail", seen by Debugfs)
    ZapCountedTwice {} {
        fn counted(&mut self, event: Counted, _: PageLevel, delta: i64) -> i64 {
            instead(event, Counted::Zap, delta, 2 * delta)
        }
    }

    "split-parent-still-counted": "a split leaf stays in pages_2m"
    ("accounting of tdp_mmu_split_huge_page()", under "headtail", seen by Debugfs)
    ParentCounted {} {
        fn counted(&mut self, event: Counted, _: PageLevel, delta: i64) -> i64 {
            instead(event, Counted::SplitParent, delta, 0)
        }
    }

    "split-children-not-counted": "the 512 pages of a split are not counted"
    ("accounting of tdp_mmu_split_huge_page()", under "headtail", seen by Debugfs)
    ChildrenNotCounted {} {
        fn counted(&mut self, event: Counted, _: PageLevel, delta: i64) -> i64 {
            instead(event, Counted::SplitChildren, delta, 0)
        }
    }

    "split-children-511": "a split counts 511 pages"
    ("accounting of tdp_mmu_split_huge_page()", under "headtail", seen by Debugfs)
    Children511 {} {
        fn counted(&mut self, event: Counted, _: PageLevel, delta: i64) -> i64 {
            instead(event, Counted::SplitChildren, delta, 511)
        }
    }

    "shared-map-not-counted": "a shared leaf is not counted"
    ("handle_changed_spte() serves both roots", under "v5", seen by Debugfs)
    SharedMapNotCounted {} {
        fn counted(&mut self, event: Counted, _: PageLevel, delta: i64) -> i64 {
            instead(event, Counted::SharedMap, delta, 0)
        }
    }

    "shared-zap-not-counted": "a shared leaf that is zapped stays counted"
    ("handle_changed_spte() serves both roots", under "v5", seen by Debugfs)
    SharedZapNotCounted {} {
        fn counted(&mut self, event: Counted, _: PageLevel, delta: i64) -> i64 {
            instead(event, Counted::SharedZap, delta, 0)
        }
    }

    "counters-stuck": "no counter ever counts anything: neither pages nor exits"
    ("statistics that nobody updates, RFC v5 patches 1 to 4", under "headtail", seen by Debugfs Exits)
    CountersStuck {} {
        fn counted(&mut self, _: Counted, _: PageLevel, _: i64) -> i64 {
            0
        }
        fn counts_exit(&mut self) -> bool {
            false
        }
    }

    "failed-split-counted": "a split is counted and traced before DEMOTE, which then fails"
    ("counters move before the S-EPT does, v3 patch 7", rows 18, under "headtail", seen by Td KernelLog)
    FailedSplitCounted {} {
        fn split_stages(&mut self, _: Why) -> &'static [SplitStage] {
            use SplitStage::{Count, Mirror, Sept, Trace};
            &[Count, Trace, Sept, Mirror]
        }
        fn seamcall(&mut self, call: Seamcall) -> Option<Status> {
            (call == Seamcall::PageDemote).then_some(Status::EPT_WALK_FAILED.rcx())
        }
    }

    "busy-map-counted": "a mapping is counted before AUG, and once more when AUG was busy"
    ("counters fire though the external update fails, RFC v5 thread", rows 18, under "v5",
     seen by Debugfs)
    BusyMapCounted { augs: u64 } {
        fn map_stages(&mut self) -> &'static [MapStage] {
            use MapStage::{Count, Mirror, Sept};
            &[Count, Sept, Mirror]
        }
        fn seamcall(&mut self, call: Seamcall) -> Option<Status> {
            if call != Seamcall::PageAug {
                return None;
            }
            // The page of the positive control is the first; of those after it, the second call of
            // each succeeds.
            self.augs += 1;
            (self.augs.is_multiple_of(2)).then_some(Status::OPERAND_BUSY.rcx())
        }
    }

    "split-event-lost": "a split leaves no trace event"
    ("rate-limited trace records hid a divergence, report on a 5.19 tree, July 2026", rows 17,
     under "headtail", seen by Splits)
    EventLost {} {
        fn traced(&mut self, _: SplitTrace) -> Option<SplitTrace> {
            None
        }
    }

    "split-event-elsewhere": "the trace event of a split names the frame after the leaf's first"
    ("trace_kvm_mmu_split_huge_page() names the leaf's gfn", under "headtail", seen by Splits)
    EventElsewhere {} {
        fn traced(&mut self, event: SplitTrace) -> Option<SplitTrace> {
            Some(SplitTrace { gfn: event.gfn + 1, ..event })
        }
    }

    "split-event-errno": "the trace event of a split that worked carries ENOMEM"
    ("trace before the result is known, RFC v5 thread", rows 18, under "headtail", seen by Splits)
    EventErrno {} {
        fn traced(&mut self, event: SplitTrace) -> Option<SplitTrace> {
            Some(SplitTrace { errno: -libc::ENOMEM, ..event })
        }
    }

    "split-event-level": "the trace event of a split names level 1"
    ("trace_kvm_mmu_split_huge_page() names level 2", under "headtail", seen by Splits)
    EventLevel {} {
        fn traced(&mut self, event: SplitTrace) -> Option<SplitTrace> {
            Some(SplitTrace { level: 1, ..event })
        }
    }
}
