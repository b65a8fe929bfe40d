//! Trait of the machine that the software KVM and TDX module run on.

use std::fmt;
use std::ops::Range;

use tdxlab_protocol::addr::Side;

/// A 4K frame of machine memory, by its number.
///
/// Machine memory is what really holds tables and data: RAM of the QEMU process on `soft`, plain
/// memory of the runner on `sim`. It is not guest-physical space, which the tables map onto it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Pfn(pub u64);

impl Pfn {
    /// The frame `count` further.
    #[must_use]
    pub const fn add(self, count: u64) -> Pfn {
        Pfn(self.0 + count)
    }

    /// Machine address of the frame's first byte.
    pub const fn address(self) -> u64 {
        self.0 << 12
    }
}

impl fmt::Display for Pfn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

/// Machine memory, and the way to its vCPUs' translations.
///
/// Entries are 8-byte x86 page-table entries: on `soft` the guest's own MMU walks them.
pub trait PhysicalMemory: Send {
    /// Frames that may be used for tables and guest pages.
    fn pool(&self) -> Range<Pfn>;

    /// Reads entry `index` (0..512) of the table in frame `table`.
    fn read_entry(&self, table: Pfn, index: usize) -> u64;

    /// Writes entry `index` of the table in frame `table`, as one atomic 8-byte store.
    fn write_entry(&mut self, table: Pfn, index: usize, entry: u64);

    /// Writes all entries of the table in frame `table`, which is not linked yet.
    fn write_table(&mut self, table: Pfn, entries: Box<[u64; 512]>) {
        for (index, entry) in entries.into_iter().enumerate() {
            self.write_entry(table, index, entry);
        }
    }

    /// Fills `count` frames from `first` with zeros.
    fn zero_frames(&mut self, first: Pfn, count: u64);

    /// Copies the content of frame `from` to frame `to`.
    fn copy_frame(&mut self, from: Pfn, to: Pfn);

    /// Writes the top-level entry that maps 512 GiB from `index << 39` of one side's GPA space.
    fn set_root_entry(&mut self, window: Side, index: usize, entry: u64);

    /// After it returns, no vCPU uses a translation that the tables no longer hold.
    fn kick(&mut self);
}
