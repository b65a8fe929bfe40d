//! The host's part of ACCEPT.

use std::collections::BTreeSet;

use tdxlab_protocol::addr::{Gpa, GpaRange, PageLevel, Side};
use tdxlab_softkvm::Status;
use tdxlab_softkvm::policy::{Allocation, Failure, LevelLimits, Why};

use super::faults;

/// KVM takes the level from lpage_info alone, where the inhibit bit is kept.
fn without_request(limits: &LevelLimits) -> PageLevel {
    LevelLimits {
        requested: None,
        ..*limits
    }
    .level()
}

faults! {
    "no-memory-resumes": "an ACCEPT where no slot is resumes the guest, which exits for ever"
    ("KVM_EXIT_MEMORY_FAULT not raised for a GPA without a slot", under "v5", seen by Td)
    NoMemoryResumes {} {
        fn ends_without_memory(&mut self) -> bool {
            false
        }
    }

    "split-in-the-shared-root": "the split for an ACCEPT goes to the shared root: nothing is split"
    ("found by the author of RFC v5 in his own patch", rows 19, under "v5", seen by Td Exits)
    SharedRoot {} {
        fn accept_split_root(&mut self) -> Side {
            Side::Shared
        }
    }

    "accept-level-ignored": "KVM does not split for an ACCEPT below the level of the leaf"
    ("RFC v1 ignored it in the fault path", rows 27, under "v3", seen by Td Exits)
    LevelIgnored {} {
        fn accept_level(&mut self, _: PageLevel) -> PageLevel {
            PageLevel::Size2M
        }
    }

    "inhibit-not-set": "the inhibit bit is never set, so a 4K ACCEPT maps 2M and splits it"
    ("ping-pong of map and split, v3 review", rows 21, under "v5", seen by Splits Exits)
    InhibitNotSet {} {
        fn inhibits(&mut self, _: Gpa) -> Option<Gpa> {
            None
        }
        fn fault_level(&mut self, limits: &LevelLimits) -> PageLevel {
            without_request(limits)
        }
    }

    "inhibit-everywhere": "huge pages count as forbidden in every region"
    ("hugepage_test_guest_inhibit() for the wrong range, RFC v5 review", rows 22, under "v5",
     seen by Debugfs Status)
    InhibitEverywhere {} {
        fn is_inhibited(&mut self, _: Gpa, _: bool) -> bool {
            true
        }
    }

    "inhibit-bars-the-gigabyte": "a 4K ACCEPT forbids huge pages in the whole 1G around it"
    ("inhibit bit set at level + 2 and read at 2M, RFC v5 review", rows 22, under "v5",
     seen by Debugfs Status)
    InhibitGigabyte { gigabytes: BTreeSet<Gpa> } {
        fn inhibits(&mut self, gpa: Gpa) -> Option<Gpa> {
            self.gigabytes.insert(gpa.align_down(PageLevel::Size1G));
            Some(gpa.align_down(PageLevel::Size2M))
        }
        fn is_inhibited(&mut self, region: Gpa, bit: bool) -> bool {
            bit || self.gigabytes.contains(&region.align_down(PageLevel::Size1G))
        }
    }

    "inhibit-not-looked-at": "a fault maps 2M where the inhibit bit is set, which says that the split is done"
    ("lockless check against a bit that no longer holds, RFC v5 review", rows 20 22, under "v5",
     seen by Td Exits)
    InhibitNotLookedAt {} {
        fn fault_level(&mut self, limits: &LevelLimits) -> PageLevel {
            LevelLimits { inhibited: false, requested: None, ..*limits }.level()
        }
    }

    "inhibit-read-stale": "the check without the lock says done though nothing was split"
    ("lockless check, RFC v5 review", rows 20, under "v5", seen by Td Exits)
    InhibitStale {} {
        fn is_done_already(&mut self, _: bool) -> bool {
            true
        }
    }

    "accept-split-error-lost": "an error of the split for an ACCEPT is taken for success"
    ("v3 patch 11: errno kept in a bool", rows 26, under "v3", seen by Td Exits)
    SplitErrorLost {} {
        fn allocates(&mut self, what: Allocation) -> bool {
            what != Allocation::SplitTable
        }
        fn split_result(&mut self, _: Why, _: Result<(), Failure>) -> Result<(), Failure> {
            Ok(())
        }
    }

    "accept-maps-4k": "KVM maps 4K where the guest accepts 2M"
    ("max_mapping_level that stays at 4K, tdx_huge_page off unnoticed", under "v5",
     seen by Debugfs Status)
    AcceptMaps4K {} {
        fn fault_level(&mut self, _: &LevelLimits) -> PageLevel {
            PageLevel::Size4K
        }
    }

    "accepted-for-ever": "KVM takes a leaf that it mapped for an ACCEPT for accepted, and splits it for none"
    ("the guest gives a leaf back and accepts it at 4K without the VMM knowing, 2025", under "headtail",
     seen by Td Exits)
    AcceptedForEver { at: Option<Gpa>, accepted: BTreeSet<Gpa> } {
        fn accept_refused(&mut self, gpa: Gpa, _: PageLevel) -> Option<Status> {
            self.at = Some(gpa.align_down(PageLevel::Size2M));
            None
        }
        fn fault_level(&mut self, limits: &LevelLimits) -> PageLevel {
            let level = limits.level();
            if level == PageLevel::Size2M && limits.requested == Some(level) {
                self.accepted.extend(self.at);
            }
            level
        }
        fn accept_level(&mut self, requested: PageLevel) -> PageLevel {
            match self.at.is_some_and(|region| self.accepted.contains(&region)) {
                true => PageLevel::Size2M,
                false => requested,
            }
        }
        fn zaps(&mut self, leaf: GpaRange, range: GpaRange) -> bool {
            self.accepted.remove(&leaf.start());
            leaf.overlaps(range)
        }
    }
}
