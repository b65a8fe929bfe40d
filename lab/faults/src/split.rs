//! The result of a split.

use tdxlab_protocol::addr::{Gpa, PageLevel};
use tdxlab_softkvm::{Pfn, SeptEntry, State};

use super::faults;

fn child(state: State, first: Pfn, index: u64) -> SeptEntry {
    SeptEntry::leaf(state, PageLevel::Size4K, Pfn(first.0 + index))
}

faults! {
    "split-accepts-pending": "a split of a pending leaf makes accepted pages"
    ("TDH.MEM.PAGE.DEMOTE copies the state of the parent", rows 44, under "v5", seen by Status)
    SplitAccepts {} {
        fn demoted_child(&mut self, _: State, first: Pfn, index: u64) -> SeptEntry {
            child(State::Mapped, first, index)
        }
    }

    "split-unaccepts": "a split of an accepted leaf makes pending pages"
    ("TDH.MEM.PAGE.DEMOTE copies the state of the parent", rows 44, under "headtail",
     seen by Content)
    SplitUnaccepts {} {
        fn demoted_child(&mut self, _: State, first: Pfn, index: u64) -> SeptEntry {
            child(State::Pending, first, index)
        }
    }

    "split-unaccepts-last": "a split forgets the state of the last page"
    ("TDH.MEM.PAGE.DEMOTE copies the state of the parent", rows 44, under "headtail",
     seen by Content)
    SplitUnacceptsLast {} {
        fn demoted_child(&mut self, state: State, first: Pfn, index: u64) -> SeptEntry {
            child(if index == 511 { State::Pending } else { state }, first, index)
        }
    }

    "split-swaps-children": "a split gives two neighbouring pages each other's memory"
    ("TDH.MEM.PAGE.DEMOTE: frame of child i is that of the leaf plus i", rows 44, under "headtail",
     seen by Content)
    SplitSwaps {} {
        fn demoted_child(&mut self, state: State, first: Pfn, index: u64) -> SeptEntry {
            child(state, first, index ^ 1)
        }
    }

    "split-repeats-first-page": "a split maps the leaf's first page 512 times"
    ("TDH.MEM.PAGE.DEMOTE: frame of child i is that of the leaf plus i", rows 44, under "headtail",
     seen by Content)
    SplitRepeats {} {
        fn demoted_child(&mut self, state: State, first: Pfn, _: u64) -> SeptEntry {
            child(state, first, 0)
        }
    }

    "split-shifts-children": "a split maps every page to the memory after it"
    ("TDH.MEM.PAGE.DEMOTE: frame of child i is that of the leaf plus i", rows 44, under "headtail",
     seen by Content)
    SplitShifts {} {
        fn demoted_child(&mut self, state: State, first: Pfn, index: u64) -> SeptEntry {
            child(state, first, (index + 1) % 512)
        }
    }

    "split-leaves-a-child-out": "a split leaves the last entry of the new table empty: an access exits for ever"
    ("mirror and S-EPT diverge, v3 patch 7", rows 17, under "headtail", seen by Td Exits)
    SplitLeavesOut {} {
        fn demoted_child(&mut self, state: State, first: Pfn, index: u64) -> SeptEntry {
            if index == 511 { SeptEntry::FREE } else { child(state, first, index) }
        }
    }

    "split-loses-content": "a split loses the content of one page"
    ("TDH.MEM.PAGE.DEMOTE keeps content", rows 44, under "headtail", seen by Content)
    SplitLosesOne {} {
        fn demote_keeps_content(&mut self, index: u64) -> bool {
            index != 300
        }
    }

    "split-loses-all-content": "a split loses the content of the leaf"
    ("TDH.MEM.PAGE.DEMOTE keeps content", rows 44, under "headtail", seen by Content)
    SplitLosesAll {} {
        fn demote_keeps_content(&mut self, _: u64) -> bool {
            false
        }
    }

    "accept-maps-the-next-page": "an accepted page shows the memory of the one after it"
    ("TDG.MEM.PAGE.ACCEPT keeps the frame of the entry", rows 44, under "v5", seen by Content)
    AcceptMapsNext {} {
        fn accepted_entry(&mut self, level: PageLevel, frame: Pfn) -> SeptEntry {
            let shift = u64::from(level == PageLevel::Size4K && frame.0 % 512 == 7);
            SeptEntry::leaf(State::Mapped, level, Pfn(frame.0 + shift))
        }
    }

    "inhibit-in-the-next-region": "the inhibit bit is set in the region after the accepted page"
    ("inhibit for the wrong range, RFC v5 review", rows 22, under "v5", seen by Status Debugfs)
    InhibitNextRegion {} {
        fn inhibits(&mut self, gpa: Gpa) -> Option<Gpa> {
            Some(gpa.page(PageLevel::Size2M).end())
        }
    }
}
