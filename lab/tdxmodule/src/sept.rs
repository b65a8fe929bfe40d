//! Positions in the S-EPT, and the result of a walk.

use tdxlab_protocol::addr::Gpa;

use crate::entry::{Level, SeptEntry, State};
use crate::physical_memory::Pfn;

/// Entries of the tree's root. The page they live in is the guest's on `soft`, so the module keeps
/// its own copy and hands every change to the machine.
#[derive(Clone, Debug, Default)]
pub(super) struct Root(Vec<SeptEntry>);

impl Root {
    pub(super) fn get(&self, index: usize) -> SeptEntry {
        self.0.get(index).copied().unwrap_or(SeptEntry::FREE)
    }

    pub(super) fn set(&mut self, index: usize, entry: SeptEntry) {
        if self.0.len() <= index {
            self.0.resize(index + 1, SeptEntry::FREE);
        }
        self.0[index] = entry;
    }
}

/// Where an entry is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    Root,
    Table(Pfn),
}

/// A table of 4K entries with the number of the region it is for: the next walk to that region need
/// not begin at the root, as long as no entry above it changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct LastTable {
    pub(super) region: u64,
    pub(super) table: Pfn,
}

/// Where a walk ended.
#[derive(Clone, Copy, Debug)]
pub(super) struct Found {
    pub(super) place: Place,
    /// Level of the entry.
    pub(super) level: Level,
    /// The address looked up, cut down to the span of the entry.
    pub(super) base: Gpa,
    /// The entry.
    pub(super) entry: SeptEntry,
}

impl Found {
    /// State of the entry.
    pub(super) fn state(&self) -> State {
        self.entry.state(self.level)
    }

    /// Its number in its table.
    pub(super) const fn index(&self) -> usize {
        self.level.index(self.base)
    }
}
