//! S-EPT entries, kept as x86 page-table entries.
//!
//! An accepted page is a present, writable entry with accessed and dirty set, so that on `soft` the
//! guest's MMU uses the very entries the module works on. In every other state the entry is not
//! present; the MMU ignores the rest of it, where state and frame are kept:
//!
//! ```text
//! bit 0        present: MAPPED, or a table
//! bit 1        writable
//! bits 5, 6    accessed, dirty
//! bit 7        leaf (in present entries only above 4K, where x86 calls it PS)
//! bits 10:8    state, not present entries only
//! bits 51:12   frame
//! bits 61:52   4K pages of a 2M leaf already zeroed by an interrupted ACCEPT
//! ```

use tdxlab_protocol::addr::{Gpa, PageLevel};

use super::physical_memory::Pfn;

const PRESENT: u64 = 1 << 0;
const WRITABLE: u64 = 1 << 1;
const ACCESSED: u64 = 1 << 5;
const DIRTY: u64 = 1 << 6;
const LEAF: u64 = 1 << 7;
const STATE_SHIFT: u32 = 8;
const STATE_MASK: u64 = 0b111 << STATE_SHIFT;
const FRAME_MASK: u64 = 0x000f_ffff_ffff_f000;
const PROGRESS_SHIFT: u32 = 52;
const PROGRESS_MASK: u64 = 0x3ff << PROGRESS_SHIFT;

/// Level of an entry in the radix tree, by its span.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Level {
    /// 4K, TDX level 0.
    Pte,
    /// 2M, TDX level 1.
    Pmd,
    /// 1G, TDX level 2.
    Pud,
    /// 512G, TDX level 3: the entries of the root of a tree of four levels.
    Pgd,
    /// 256T, TDX level 4: the entries of the root of a tree of five levels.
    Pml5,
}

impl Level {
    /// Bytes that one entry spans.
    pub const fn bytes(self) -> u64 {
        1 << (12 + 9 * self as u32)
    }

    /// The level in TDX's numbering.
    pub const fn tdx(self) -> u64 {
        self as u64
    }

    /// The level below; `None` for 4K.
    pub const fn below(self) -> Option<Level> {
        match self {
            Level::Pte => None,
            Level::Pmd => Some(Level::Pte),
            Level::Pud => Some(Level::Pmd),
            Level::Pgd => Some(Level::Pud),
            Level::Pml5 => Some(Level::Pgd),
        }
    }

    /// The level with this number in TDX's numbering; `None` where no tree has it.
    pub const fn from_tdx(level: u64) -> Option<Level> {
        match level {
            0 => Some(Level::Pte),
            1 => Some(Level::Pmd),
            2 => Some(Level::Pud),
            3 => Some(Level::Pgd),
            4 => Some(Level::Pml5),
            _ => None,
        }
    }

    /// Index of the entry for `gpa` in its table.
    pub const fn index(self, gpa: Gpa) -> usize {
        ((gpa.as_u64() >> (12 + 9 * self as u32)) & 0x1ff) as usize
    }

    /// Start of the span of the entry for `gpa`.
    pub const fn base(self, gpa: Gpa) -> Gpa {
        Gpa::new(gpa.as_u64() & !(self.bytes() - 1))
    }

    /// The page level, if leaves of it exist.
    pub const fn page(self) -> Option<PageLevel> {
        PageLevel::from_tdx(self as u8)
    }

    /// Size of the page that a leaf of this level maps. Levels above 1G have no leaves.
    pub fn page_or_1g(self) -> PageLevel {
        self.page().unwrap_or(PageLevel::Size1G)
    }
}

impl From<PageLevel> for Level {
    fn from(level: PageLevel) -> Level {
        match level {
            PageLevel::Size4K => Level::Pte,
            PageLevel::Size2M => Level::Pmd,
            PageLevel::Size1G => Level::Pud,
        }
    }
}

/// State of an S-EPT entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum State {
    /// Not mapped.
    Free,
    /// An accepted leaf, blocked for a change.
    Blocked,
    /// A leaf the guest has not accepted.
    Pending,
    /// Such a leaf, blocked for a change.
    PendingBlocked,
    /// An accepted leaf.
    Mapped,
    /// A leaf that was removed while the TD was being imported: free, but known to have been there.
    Removed,
    /// A table, blocked for a change: the walk ends here.
    NonLeafBlocked,
    /// A table.
    NonLeaf,
}

impl State {
    /// The code the module reports.
    pub const fn code(self) -> u64 {
        match self {
            State::Free => 0,
            State::Blocked => 1,
            State::Pending => 2,
            State::PendingBlocked => 3,
            State::Mapped => 4,
            State::Removed => 5,
            State::NonLeafBlocked => 129,
            State::NonLeaf => 132,
        }
    }

    /// Whether it is one of a leaf.
    pub const fn is_leaf(self) -> bool {
        matches!(
            self,
            State::Blocked | State::Pending | State::PendingBlocked | State::Mapped
        )
    }

    /// Whether RANGE.BLOCK made it.
    pub const fn is_blocked(self) -> bool {
        matches!(
            self,
            State::Blocked | State::PendingBlocked | State::NonLeafBlocked
        )
    }

    /// The state after UNBLOCK: the one before BLOCK.
    #[must_use]
    pub const fn unblocked(self) -> State {
        match self {
            State::Blocked => State::Mapped,
            State::PendingBlocked => State::Pending,
            State::NonLeafBlocked => State::NonLeaf,
            other => other,
        }
    }
}

/// Bits 10:8 of an entry that is not present: a leaf's code, and two of our own.
const STATE_REMOVED: u64 = 5;
const STATE_TABLE_BLOCKED: u64 = 6;

/// An S-EPT entry, in its x86 encoding.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SeptEntry(u64);

impl SeptEntry {
    /// A free entry.
    pub const FREE: SeptEntry = SeptEntry(0);

    /// Removed while the TD was being imported.
    pub const REMOVED: SeptEntry = SeptEntry(STATE_REMOVED << STATE_SHIFT);

    /// The entry with these bits.
    pub const fn from_bits(bits: u64) -> SeptEntry {
        SeptEntry(bits)
    }

    /// Its bits.
    pub const fn bits(self) -> u64 {
        self.0
    }

    /// A table in frame `table`.
    pub const fn table(table: Pfn) -> SeptEntry {
        SeptEntry(PRESENT | WRITABLE | ACCESSED | (table.address() & FRAME_MASK))
    }

    /// Such a table, blocked.
    pub const fn blocked_table(table: Pfn) -> SeptEntry {
        SeptEntry((STATE_TABLE_BLOCKED << STATE_SHIFT) | (table.address() & FRAME_MASK))
    }

    /// A leaf of `level` in `state` over the frames from `frame`. For the states that no leaf has,
    /// the free entry.
    pub const fn leaf(state: State, level: PageLevel, frame: Pfn) -> SeptEntry {
        let address = frame.address() & FRAME_MASK;
        match state {
            State::Free | State::Removed | State::NonLeafBlocked | State::NonLeaf => {
                SeptEntry::FREE
            }
            State::Mapped => {
                let size = match level {
                    PageLevel::Size4K => 0,
                    PageLevel::Size2M | PageLevel::Size1G => LEAF,
                };
                SeptEntry(PRESENT | WRITABLE | ACCESSED | DIRTY | size | address)
            }
            State::Blocked | State::Pending | State::PendingBlocked => {
                SeptEntry(LEAF | (state.code() << STATE_SHIFT) | address)
            }
        }
    }

    /// Its state, as an entry of `level`.
    pub const fn state(self, level: Level) -> State {
        if self.0 & PRESENT != 0 {
            return if matches!(level, Level::Pte) || self.0 & LEAF != 0 {
                State::Mapped
            } else {
                State::NonLeaf
            };
        }
        match (self.0 & STATE_MASK) >> STATE_SHIFT {
            1 => State::Blocked,
            2 => State::Pending,
            3 => State::PendingBlocked,
            STATE_REMOVED => State::Removed,
            STATE_TABLE_BLOCKED => State::NonLeafBlocked,
            _ => State::Free,
        }
    }

    /// Whether it is a leaf in any state but free.
    pub const fn is_leaf(self, level: Level) -> bool {
        self.state(level).is_leaf()
    }

    /// The first frame it points to.
    pub const fn frame(self) -> Pfn {
        Pfn((self.0 & FRAME_MASK) >> 12)
    }

    /// 4K pages already zeroed by an interrupted ACCEPT.
    pub const fn progress(self) -> u64 {
        if self.0 & PRESENT != 0 {
            0
        } else {
            (self.0 & PROGRESS_MASK) >> PROGRESS_SHIFT
        }
    }

    /// The same entry with that progress.
    #[must_use]
    pub const fn with_progress(self, pages: u64) -> SeptEntry {
        SeptEntry((self.0 & !PROGRESS_MASK) | ((pages << PROGRESS_SHIFT) & PROGRESS_MASK))
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    fn a_leaf_keeps_state_and_frame(
        #[values(State::Blocked, State::Pending, State::PendingBlocked, State::Mapped)]
        state: State,
        #[values(PageLevel::Size4K, PageLevel::Size2M)] level: PageLevel,
    ) {
        let entry = SeptEntry::leaf(state, level, Pfn(0x1234_5600));
        assert_eq!(entry.state(level.into()), state);
        assert_eq!(entry.frame(), Pfn(0x1234_5600));
        assert!(entry.is_leaf(level.into()));
        assert_eq!(
            entry.bits() & PRESENT != 0,
            state == State::Mapped,
            "only an accepted page may be present to the MMU"
        );
    }

    #[test]
    fn progress_does_not_disturb_the_rest() {
        let entry =
            SeptEntry::leaf(State::Pending, PageLevel::Size2M, Pfn(0x200)).with_progress(511);
        assert_eq!(entry.progress(), 511);
        assert_eq!(entry.state(Level::Pmd), State::Pending);
        assert_eq!(entry.frame(), Pfn(0x200));
    }

    #[test]
    fn a_table_is_no_leaf() {
        let entry = SeptEntry::table(Pfn(0x55));
        assert_eq!(entry.state(Level::Pmd), State::NonLeaf);
        assert!(!entry.is_leaf(Level::Pud));
    }

    #[test]
    fn a_blocked_table_ends_a_walk_and_keeps_its_frame() {
        let entry = SeptEntry::blocked_table(Pfn(0x55));
        assert_eq!(entry.state(Level::Pmd), State::NonLeafBlocked);
        assert_eq!(entry.state(Level::Pmd).unblocked(), State::NonLeaf);
        assert_eq!(entry.frame(), Pfn(0x55));
        assert_eq!(entry.bits() & PRESENT, 0);
        assert_eq!(SeptEntry::REMOVED.state(Level::Pte), State::Removed);
    }
}
