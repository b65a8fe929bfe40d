//! Machine memory of the vectors: 4 GiB, of which tables are kept, and whether a frame was filled.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use tdxlab_protocol::addr::Side;
use tdxlab_tdxmodule::{Pfn, PhysicalMemory};

/// Frames of the one TDMR.
pub(crate) const TDMR: Range<Pfn> = Pfn(0)..Pfn(1 << 20);

/// The machine.
#[derive(Default)]
pub(crate) struct Memory {
    tables: BTreeMap<Pfn, Box<[u64; 512]>>,
    /// Frames with content.
    pub(crate) filled: BTreeSet<Pfn>,
}

impl PhysicalMemory for Memory {
    fn pool(&self) -> Range<Pfn> {
        TDMR
    }

    fn read_entry(&self, table: Pfn, index: usize) -> u64 {
        self.tables.get(&table).map_or(0, |entries| entries[index])
    }

    fn write_entry(&mut self, table: Pfn, index: usize, entry: u64) {
        self.tables
            .entry(table)
            .or_insert_with(|| Box::new([0; 512]))[index] = entry;
    }

    fn write_table(&mut self, table: Pfn, entries: Box<[u64; 512]>) {
        self.tables.insert(table, entries);
    }

    fn zero_frames(&mut self, first: Pfn, count: u64) {
        for offset in 0..count {
            self.tables.remove(&first.add(offset));
            self.filled.remove(&first.add(offset));
        }
    }

    fn copy_frame(&mut self, from: Pfn, to: Pfn) {
        if self.filled.contains(&from) {
            self.filled.insert(to);
        } else {
            self.filled.remove(&to);
        }
    }

    fn set_root_entry(&mut self, _: Side, _: usize, _: u64) {}

    fn kick(&mut self) {}
}
