//! The size at which memory is mapped.

use std::collections::BTreeSet;

use tdxlab_protocol::addr::PageLevel;
use tdxlab_softkvm::policy::LevelLimits;

use super::faults;

faults! {
    "promotion": "a leaf of 2M is mapped over a table"
    ("v3 patch 6 exists because of it", rows 43, under "v5", seen by Td KernelLog)
    Promotion {} {
        fn fault_level(&mut self, limits: &LevelLimits) -> PageLevel {
            LevelLimits { table: false, inhibited: false, requested: None, ..*limits }.level()
        }
    }

    "mixed-region-mapped-huge": "a region with shared pages in it is mapped by one private leaf"
    ("hugepage_has_attrs() at the wrong index, late 2025 tree", rows 10, under "v5",
     seen by Debugfs Status)
    MixedMappedHuge {} {
        fn fault_level(&mut self, limits: &LevelLimits) -> PageLevel {
            LevelLimits { mixed: false, ..*limits }.level()
        }
    }

    "incongruent-slot-mapped-huge": "a slot that is off the 2M grid of its file is mapped huge"
    ("lpage_info of a slot that is not congruent with its file", rows 6, under "v5",
     seen by Debugfs Status)
    IncongruentMappedHuge {} {
        fn fault_level(&mut self, limits: &LevelLimits) -> PageLevel {
            LevelLimits { slot_fits: true, ..*limits }.level()
        }
    }

    "pieces-mapped-huge": "a region whose folio is in pieces counts as one folio"
    ("mapping level above the order that kvm_gmem_get_pfn() returns", rows 14, under "headtail",
     seen by Debugfs KernelLog)
    PiecesMappedHuge {} {
        fn fault_level(&mut self, limits: &LevelLimits) -> PageLevel {
            LevelLimits { folio_whole: true, ..*limits }.level()
        }
    }

    "folios-of-4k": "the guest_memfd never allocates a huge folio"
    ("guest_memfd of mainline: every folio is of order 0", under "v5",
     seen by Debugfs Populated Status)
    SmallFolios {} {
        fn folio(&mut self, _: u64, _: PageLevel) -> PageLevel {
            PageLevel::Size4K
        }
    }

    "folio-comes-back-small": "memory that was freed comes back in folios of 4K"
    ("guest_memfd that cannot merge folios again, v3 review", rows 15, under "v5",
     seen by Debugfs Populated)
    FolioComesBackSmall { seen: BTreeSet<u64> } {
        fn folio(&mut self, offset: u64, level: PageLevel) -> PageLevel {
            if self.seen.insert(offset) { level } else { PageLevel::Size4K }
        }
    }

    "stock-maps-2m": "a kernel without huge page support maps 2M"
    ("KVM_BUG_ON of mainline for any level but 4K", under "stock", seen by Debugfs Status)
    StockMapsHuge {} {
        fn fault_level(&mut self, limits: &LevelLimits) -> PageLevel {
            LevelLimits { leaf: PageLevel::Size2M, folio_whole: true, ..*limits }.level()
        }
        fn folio(&mut self, _: u64, _: PageLevel) -> PageLevel {
            PageLevel::Size2M
        }
    }

    "level-not-looked-at-again": "a level chosen without the lock is used though a table has come since"
    ("two vCPUs accept two sizes, v3 review", rows 23 29, under "v5", seen by Td KernelLog)
    LevelNotLookedAtAgain {} {
        fn level_is_stale(&mut self, _: bool) -> bool {
            false
        }
    }

    "access-maps-4k": "an access before ACCEPT maps 4K only"
    ("RFC v1 forced prefault to 4K", rows 24, under "v5", seen by Debugfs Splits)
    AccessMaps4K {} {
        fn fault_level(&mut self, limits: &LevelLimits) -> PageLevel {
            if limits.requested.is_none() { PageLevel::Size4K } else { limits.level() }
        }
    }
}
