//! The S-EPT as a radix tree in machine memory: walks and changes of entries.

use tdxlab_protocol::addr::{Gpa, Side};

use super::platform::Platform;
use super::sept::{Found, LastTable, Place};
use crate::entry::{Level, SeptEntry, State};
use crate::physical_memory::{Pfn, PhysicalMemory};

impl<M: PhysicalMemory> Platform<M> {
    /// Walks to the entry of `target` for `gpa`, or to the entry where the walk ends early.
    pub(super) fn walk(&self, gpa: Gpa, target: Level) -> Found {
        let region = gpa.as_u64() / Level::Pmd.bytes();
        if target == Level::Pte
            && let Some(last) = self.td.last.get()
            && last.region == region
        {
            return self.entry_of(last.table, Level::Pte, gpa);
        }
        let root = self.td.root_level();
        let mut found = Found {
            place: Place::Root,
            level: root,
            base: root.base(gpa),
            entry: self.td.root.get(root.index(gpa)),
        };
        while found.level > target
            && found.state() == State::NonLeaf
            && let Some(level) = found.level.below()
        {
            let table = found.entry.frame();
            if level == Level::Pte {
                self.td.last.set(Some(LastTable { region, table }));
            }
            found = self.entry_of(table, level, gpa);
        }
        found
    }

    /// The entry for `gpa` in a table of entries of `level`.
    fn entry_of(&self, table: Pfn, level: Level, gpa: Gpa) -> Found {
        let entry = self.machine.read_entry(table, level.index(gpa));
        Found {
            place: Place::Table(table),
            level,
            base: level.base(gpa),
            entry: SeptEntry::from_bits(entry),
        }
    }

    /// State of the entry that governs `gpa`.
    pub fn state(&self, gpa: Gpa) -> State {
        self.walk(gpa, Level::Pte).state()
    }

    /// Level, state and frame of the entry where the walk to `level` ends.
    pub fn entry_at(&self, gpa: Gpa, level: Level) -> (Level, State, Pfn) {
        let found = self.walk(gpa, level);
        (found.level, found.state(), found.entry.frame())
    }

    /// Replaces the entry that a walk has found.
    pub(super) fn replace(&mut self, found: &Found, entry: SeptEntry) {
        let index = found.index();
        if found.level > Level::Pte {
            self.td.last.set(None);
        }
        match found.place {
            Place::Root => {
                self.td.root.set(index, entry);
                // No machine here runs a TD of five levels.
                if found.level == Level::Pgd {
                    self.machine
                        .set_root_entry(Side::Private, index, entry.bits());
                }
            }
            Place::Table(table) => self.machine.write_entry(table, index, entry.bits()),
        }
    }
}
