//! The size at which memory is mapped.

use std::collections::BTreeSet;

use super::faults;
use crate::addr::PageLevel;
use crate::host::softkvm::policy::LevelLimits;

faults! {
    "promotion": "a leaf of 2M is mapped over a table"
    ("v3 patch 6 exists because of it", under "v5", seen by Td KernelLog)
    Promotion {} {
        fn fault_level(&mut self, limits: &LevelLimits) -> PageLevel {
            LevelLimits { table: false, inhibited: false, requested: None, ..*limits }.level()
        }
    }

    "mixed-region-mapped-huge": "a region with shared pages in it is mapped by one private leaf"
    ("wrong index in the test for a private range", under "v5", seen by Debugfs Status)
    MixedMappedHuge {} {
        fn fault_level(&mut self, limits: &LevelLimits) -> PageLevel {
            LevelLimits { mixed: false, ..*limits }.level()
        }
    }

    "incongruent-slot-mapped-huge": "a slot that is off the 2M grid of its file is mapped huge"
    ("alignment by file offset, not by guest address", under "v5", seen by Debugfs Status)
    IncongruentMappedHuge {} {
        fn fault_level(&mut self, limits: &LevelLimits) -> PageLevel {
            LevelLimits { slot_fits: true, ..*limits }.level()
        }
    }

    "pieces-mapped-huge": "a region whose folio is in pieces counts as one folio"
    ("mapping level above the folio size", under "headtail", seen by Debugfs Status)
    PiecesMappedHuge {} {
        fn fault_level(&mut self, limits: &LevelLimits) -> PageLevel {
            LevelLimits { folio_whole: true, ..*limits }.level()
        }
    }

    "folios-of-4k": "the guest_memfd never allocates a huge folio"
    ("backend without huge pages", under "v5", seen by Debugfs Populated Status)
    SmallFolios {} {
        fn folio(&mut self, _: u64, _: PageLevel) -> PageLevel {
            PageLevel::Size4K
        }
    }

    "folio-comes-back-small": "memory that was freed comes back in folios of 4K"
    ("guest_memfd that cannot merge folios again, v3 review", under "v5",
     seen by Debugfs Populated)
    FolioComesBackSmall { seen: BTreeSet<u64> } {
        fn folio(&mut self, offset: u64, level: PageLevel) -> PageLevel {
            if self.seen.insert(offset) { level } else { PageLevel::Size4K }
        }
    }

    "stock-maps-2m": "a kernel without huge page support maps 2M"
    ("KVM_BUG_ON of mainline", under "stock", seen by Debugfs Status)
    StockMapsHuge {} {
        fn fault_level(&mut self, limits: &LevelLimits) -> PageLevel {
            LevelLimits { leaf: PageLevel::Size2M, folio_whole: true, ..*limits }.level()
        }
        fn folio(&mut self, _: u64, _: PageLevel) -> PageLevel {
            PageLevel::Size2M
        }
    }

    "access-maps-4k": "an access before ACCEPT maps 4K only"
    ("RFC v1 forced prefault to 4K", under "v5", seen by Debugfs Splits)
    AccessMaps4K {} {
        fn fault_level(&mut self, limits: &LevelLimits) -> PageLevel {
            if limits.requested.is_none() { PageLevel::Size4K } else { limits.level() }
        }
    }
}
