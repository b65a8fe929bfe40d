//! Counters and events.

use super::faults;
use crate::addr::PageLevel;
use crate::host::softkvm::policy::{Counted, SplitTrace};

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
                // The page of the positive control is the first: a counter that never moved at all
                // would not be believed.
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
    ("counter drift", under "headtail", seen by Debugfs)
    ZapNotCounted {} {
        fn counted(&mut self, event: Counted, _: PageLevel, delta: i64) -> i64 {
            instead(event, Counted::Zap, delta, 0)
        }
    }

    "zap-counted-twice": "a zapped leaf is taken off twice: the counters drift downwards"
    ("counter drift", under "headtail", seen by Debugfs)
    ZapCountedTwice {} {
        fn counted(&mut self, event: Counted, _: PageLevel, delta: i64) -> i64 {
            instead(event, Counted::Zap, delta, 2 * delta)
        }
    }

    "split-parent-still-counted": "a split leaf stays in pages_2m"
    ("split accounting", under "headtail", seen by Debugfs)
    ParentCounted {} {
        fn counted(&mut self, event: Counted, _: PageLevel, delta: i64) -> i64 {
            instead(event, Counted::SplitParent, delta, 0)
        }
    }

    "split-children-not-counted": "the 512 pages of a split are not counted"
    ("split accounting", under "headtail", seen by Debugfs)
    ChildrenNotCounted {} {
        fn counted(&mut self, event: Counted, _: PageLevel, delta: i64) -> i64 {
            instead(event, Counted::SplitChildren, delta, 0)
        }
    }

    "split-children-511": "a split counts 511 pages"
    ("split accounting", under "headtail", seen by Debugfs)
    Children511 {} {
        fn counted(&mut self, event: Counted, _: PageLevel, delta: i64) -> i64 {
            instead(event, Counted::SplitChildren, delta, 511)
        }
    }

    "shared-map-not-counted": "a shared leaf is not counted"
    ("shared and private leaves share the counters", under "v5", seen by Debugfs)
    SharedMapNotCounted {} {
        fn counted(&mut self, event: Counted, _: PageLevel, delta: i64) -> i64 {
            instead(event, Counted::SharedMap, delta, 0)
        }
    }

    "shared-zap-not-counted": "a shared leaf that is zapped stays counted"
    ("shared and private leaves share the counters", under "v5", seen by Debugfs)
    SharedZapNotCounted {} {
        fn counted(&mut self, event: Counted, _: PageLevel, delta: i64) -> i64 {
            instead(event, Counted::SharedZap, delta, 0)
        }
    }

    "split-event-lost": "a split leaves no trace event"
    ("rate-limited trace records hid a divergence", under "headtail", seen by Splits)
    EventLost {} {
        fn traced(&mut self, _: SplitTrace) -> Option<SplitTrace> {
            None
        }
    }

    "split-event-elsewhere": "the trace event of a split names the frame after the leaf's first"
    ("wrong gfn", under "headtail", seen by Splits)
    EventElsewhere {} {
        fn traced(&mut self, event: SplitTrace) -> Option<SplitTrace> {
            Some(SplitTrace { gfn: event.gfn + 1, ..event })
        }
    }

    "split-event-errno": "the trace event of a split that worked carries ENOMEM"
    ("trace before the result is known", under "headtail", seen by Splits)
    EventErrno {} {
        fn traced(&mut self, event: SplitTrace) -> Option<SplitTrace> {
            Some(SplitTrace { errno: -libc::ENOMEM, ..event })
        }
    }

    "split-event-level": "the trace event of a split names level 1"
    ("wrong level", under "headtail", seen by Splits)
    EventLevel {} {
        fn traced(&mut self, event: SplitTrace) -> Option<SplitTrace> {
            Some(SplitTrace { level: 1, ..event })
        }
    }
}
