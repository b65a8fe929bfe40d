//! States of S-EPT entries in a TD whose private memory is mapped 4K by 4K (design `stock`).
//!
//! An entry is FREE, PENDING or MAPPED; this keeps those that are not FREE. A page-table page, once
//! there, stays until the TD dies: from then on an ACCEPT of the 2M page finds a table and ends in
//! PAGE_SIZE_MISMATCH.

use std::collections::{BTreeMap, BTreeSet};

/// Bytes of a 4K page.
pub(crate) const PAGE: u64 = 4096;
/// Bytes that one page-table page maps.
pub(crate) const REGION: u64 = 2 << 20;

/// State of a 4K entry that is not FREE.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// Added while the TD runs, not yet accepted.
    Pending,
    /// Accepted, or part of the initial image.
    Mapped,
}

/// The S-EPT.
#[derive(Debug, Default)]
pub(crate) struct Sept {
    pages: BTreeMap<u64, State>,
    tables: BTreeSet<u64>,
}

impl Sept {
    pub(crate) const fn new() -> Sept {
        Sept {
            pages: BTreeMap::new(),
            tables: BTreeSet::new(),
        }
    }

    /// State of the page at `gpa`; `None` where it is FREE.
    pub(crate) fn state(&self, gpa: u64) -> Option<State> {
        self.pages.get(&(gpa & !(PAGE - 1))).copied()
    }

    /// Whether the 2M region of `gpa` has a page-table page.
    pub(crate) fn has_table(&self, gpa: u64) -> bool {
        self.tables.contains(&(gpa & !(REGION - 1)))
    }

    /// Sets the state of the page at `gpa`, with the table it needs.
    pub(crate) fn set(&mut self, gpa: u64, state: State) {
        self.tables.insert(gpa & !(REGION - 1));
        self.pages.insert(gpa & !(PAGE - 1), state);
    }

    /// Makes the page at `gpa` FREE. The table stays.
    pub(crate) fn free(&mut self, gpa: u64) {
        self.pages.remove(&(gpa & !(PAGE - 1)));
    }

    /// Makes every page of `start..end` FREE and lists those that were not.
    pub(crate) fn free_range(&mut self, start: u64, end: u64) -> Vec<u64> {
        let gone: Vec<u64> = self.pages.range(start..end).map(|(&gpa, _)| gpa).collect();
        for gpa in &gone {
            self.pages.remove(gpa);
        }
        gone
    }

    /// The 2M regions that hold a page that is not FREE.
    pub(crate) fn regions(&self) -> Vec<u64> {
        let mut regions: Vec<u64> = self.pages.keys().map(|gpa| gpa & !(REGION - 1)).collect();
        regions.dedup();
        regions
    }

    /// Pages of `start..end` that are not FREE.
    pub(crate) fn pages(&self, start: u64, end: u64) -> Vec<u64> {
        self.pages.range(start..end).map(|(&gpa, _)| gpa).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_outlives_its_pages() {
        let mut sept = Sept::new();
        assert!(!sept.has_table(0x4020_0000));
        sept.set(0x4020_1000, State::Pending);
        sept.set(0x4020_1000, State::Mapped);
        assert_eq!(sept.state(0x4020_1fff), Some(State::Mapped));
        assert_eq!(sept.free_range(0x4020_0000, 0x4040_0000), [0x4020_1000]);
        assert_eq!(sept.state(0x4020_1000), None);
        assert!(sept.has_table(0x403f_f000));
        assert!(!sept.has_table(0x4040_0000));
        assert!(sept.regions().is_empty());
    }
}
