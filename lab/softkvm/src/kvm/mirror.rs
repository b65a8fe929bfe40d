//! KVM's software copy of the S-EPT.
//!
//! KVM's decisions use this copy; it never reads the S-EPT. An entry is 0, a leaf in the shape of a
//! TDP MMU entry, or the number of the table below.

use std::cell::Cell;

use tdxlab_protocol::addr::{Gpa, GpaRange, PageLevel};
use tdxlab_tdxmodule::{Level, Pfn, SparsePage, WORDS};

/// Bits that all leaves carry: read, write, execute, write-back memory, accessed, dirty, present
/// to the MMU, host- and MMU-writable.
const LEAF_BITS: u64 = 0x6000_0000_0000_0b77;
/// Bit of a leaf above 4K.
const HUGE_BIT: u64 = 1 << 7;
/// Bit that only leaves have.
const LEAF_MARK: u64 = 1 << 61;
const TABLE_BITS: u64 = 0x907;
const FRAME_MASK: u64 = 0x000f_ffff_ffff_f000;

/// One entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Spte(u64);

impl Spte {
    fn leaf(level: PageLevel, frame: Pfn) -> Spte {
        let huge = if level > PageLevel::Size4K {
            HUGE_BIT
        } else {
            0
        };
        Spte(LEAF_BITS | huge | (frame.address() & FRAME_MASK))
    }

    fn table(number: usize) -> Spte {
        Spte(TABLE_BITS | ((number as u64) << 12))
    }

    /// Its bits, as the trace prints them.
    pub(crate) fn bits(self) -> u64 {
        self.0
    }

    /// Whether nothing is mapped.
    pub(crate) fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Whether it is a leaf.
    pub(crate) fn is_leaf(self) -> bool {
        self.0 & LEAF_MARK != 0
    }

    /// The first frame of a leaf.
    pub(crate) fn frame(self) -> Pfn {
        Pfn((self.0 & FRAME_MASK) >> 12)
    }

    fn below(self) -> Option<usize> {
        (!self.is_empty() && !self.is_leaf()).then_some(((self.0 & FRAME_MASK) >> 12) as usize)
    }
}

/// A mapped page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Leaf {
    /// First address.
    pub(crate) gpa: Gpa,
    /// Size.
    pub(crate) level: PageLevel,
    /// KVM's entry.
    pub(crate) spte: Spte,
    /// The table that has it.
    table: usize,
}

impl Leaf {
    /// The addresses it maps.
    pub(crate) fn range(&self) -> GpaRange {
        self.gpa.page(self.level)
    }
}

/// Where a walk ended.
#[derive(Clone, Copy, Debug)]
struct Place {
    table: usize,
    level: Level,
    spte: Spte,
}

/// The tables. The first one is the root. A table stays until the VM dies.
#[derive(Clone, Debug)]
pub(crate) struct Mirror {
    tables: Vec<SparsePage>,
    /// The table of 4K entries that a walk came to last, with the number of its region: one that is
    /// there once stays, so the next walk to that region need not begin at the root.
    last: Cell<Option<(u64, usize)>>,
}

impl Default for Mirror {
    fn default() -> Self {
        Mirror {
            tables: vec![SparsePage::default()],
            last: Cell::new(None),
        }
    }
}

impl Mirror {
    /// The leaf that maps `gpa`.
    pub(crate) fn leaf(&self, gpa: Gpa) -> Option<Leaf> {
        let place = self.walk(gpa, Level::Pte);
        leaf_at(gpa, place)
    }

    /// Whether the 2M region of `gpa` has a table of 4K entries.
    pub(crate) fn has_table(&self, gpa: Gpa) -> bool {
        self.walk(gpa, Level::Pte).level == Level::Pte
    }

    /// Level of the first entry on the way to a page of `level` that has yet to become a table.
    pub(crate) fn missing_table(&self, gpa: Gpa, level: PageLevel) -> Option<Level> {
        let place = self.walk(gpa, level.into());
        (place.level > level.into()).then_some(place.level)
    }

    /// Makes the empty entry where the walk for `gpa` ends at `level` a table.
    pub(crate) fn add_table(&mut self, gpa: Gpa, level: Level) {
        let place = self.walk(gpa, level);
        let number = self.tables.len();
        self.tables.push(SparsePage::default());
        self.tables[place.table].set(level.index(gpa), Spte::table(number).bits());
    }

    /// Maps a page. Its tables are there.
    pub(crate) fn set_leaf(&mut self, gpa: Gpa, level: PageLevel, frame: Pfn) {
        let place = self.walk(gpa, level.into());
        self.tables[place.table].set(
            Level::from(level).index(gpa),
            Spte::leaf(level, frame).bits(),
        );
    }

    /// Takes a leaf out.
    pub(crate) fn clear(&mut self, leaf: &Leaf) {
        let index = Level::from(leaf.level).index(leaf.gpa);
        self.tables[leaf.table].set(index, 0);
    }

    /// Replaces a 2M leaf by 512 leaves of 4K: first the children, then the parent.
    pub(crate) fn split(&mut self, leaf: &Leaf) {
        let children = std::array::from_fn(|index| {
            Spte::leaf(PageLevel::Size4K, leaf.spte.frame().add(index as u64)).bits()
        });
        let number = self.tables.len();
        self.tables.push(SparsePage::All(Box::new(children)));
        self.tables[leaf.table].set(Level::Pmd.index(leaf.gpa), Spte::table(number).bits());
    }

    /// The first leaf that maps something of `range`. Empty entries are stepped over at every
    /// level, so the cost is that of the tables that exist.
    pub(crate) fn next_leaf(&self, range: GpaRange) -> Option<Leaf> {
        let mut range = range;
        if let Some(table) = self.known_table(range.start()) {
            let region = range.start().page(PageLevel::Size2M);
            let here = region.intersect(range)?;
            let found = self.next_leaf_below(table, Level::Pte, region.start(), here);
            if found.is_some() {
                return found;
            }
            range = GpaRange::new(here.end(), range.end())?;
        }
        if range.is_empty() {
            return None;
        }
        self.next_leaf_below(0, Level::Pgd, Gpa::new(0), range)
    }

    /// The table of 4K entries of the region of `gpa`, if the last walk led there.
    fn known_table(&self, gpa: Gpa) -> Option<usize> {
        let (region, table) = self.last.get()?;
        (region == region_of(gpa)).then_some(table)
    }

    fn next_leaf_below(
        &self,
        table: usize,
        level: Level,
        base: Gpa,
        range: GpaRange,
    ) -> Option<Leaf> {
        let mut from = if base < range.start() {
            level.index(range.start())
        } else {
            0
        };
        while let Some((index, bits)) = self.tables[table].next_set(from) {
            let gpa = Gpa::new(base.as_u64() + index as u64 * level.bytes());
            if gpa >= range.end() {
                return None;
            }
            let spte = Spte(bits);
            let place = Place { table, level, spte };
            if let Some(leaf) = leaf_at(gpa, place) {
                if level == Level::Pte {
                    self.last.set(Some((region_of(gpa), table)));
                }
                return Some(leaf);
            }
            if let (Some(below), Some(table)) = (level.below(), spte.below())
                && let Some(leaf) = self.next_leaf_below(table, below, gpa, range)
            {
                return Some(leaf);
            }
            from = index + 1;
        }
        None
    }

    /// Goes over every entry of 2M and above that `range` touches, as the TDP MMU's iterator does
    /// with a minimum level of 2M, and hands each one that is no table to `look`: leaves and empty
    /// entries, and the 2M entries that are tables of 4K pages.
    pub(crate) fn walk_range(&self, range: GpaRange, look: &mut dyn FnMut(Option<Leaf>)) {
        if !range.is_empty() {
            self.walk_range_below(0, Level::Pgd, Gpa::new(0), range, look);
        }
    }

    fn walk_range_below(
        &self,
        table: usize,
        level: Level,
        base: Gpa,
        range: GpaRange,
        look: &mut dyn FnMut(Option<Leaf>),
    ) {
        let first = if base < range.start() {
            level.index(range.start())
        } else {
            0
        };
        for index in first..WORDS {
            let gpa = Gpa::new(base.as_u64() + index as u64 * level.bytes());
            if gpa >= range.end() {
                return;
            }
            let spte = Spte(self.tables[table].get(index));
            match (level.below(), spte.below()) {
                (Some(below), Some(table)) if level > Level::Pmd => {
                    self.walk_range_below(table, below, gpa, range, look);
                }
                _ => look(leaf_at(gpa, Place { table, level, spte })),
            }
        }
    }

    fn walk(&self, gpa: Gpa, target: Level) -> Place {
        if target == Level::Pte
            && let Some(table) = self.known_table(gpa)
        {
            return Place {
                table,
                level: Level::Pte,
                spte: Spte(self.tables[table].get(Level::Pte.index(gpa))),
            };
        }
        let mut place = Place {
            table: 0,
            level: Level::Pgd,
            spte: Spte(self.tables[0].get(Level::Pgd.index(gpa))),
        };
        while place.level > target
            && let (Some(level), Some(table)) = (place.level.below(), place.spte.below())
        {
            place = Place {
                table,
                level,
                spte: Spte(self.tables[table].get(level.index(gpa))),
            };
        }
        if place.level == Level::Pte {
            self.last.set(Some((region_of(gpa), place.table)));
        }
        place
    }
}

fn region_of(gpa: Gpa) -> u64 {
    gpa.as_u64() / PageLevel::Size2M.bytes()
}

fn leaf_at(gpa: Gpa, place: Place) -> Option<Leaf> {
    if !place.spte.is_leaf() {
        return None;
    }
    let page = place.level.page()?;
    Some(Leaf {
        gpa: gpa.align_down(page),
        level: page,
        spte: place.spte,
        table: place.table,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const G: u64 = 1 << 30;
    const M: u64 = 1 << 20;

    fn map(mirror: &mut Mirror, gpa: u64, level: PageLevel, frame: u64) {
        let gpa = Gpa::new(gpa);
        while let Some(missing) = mirror.missing_table(gpa, level) {
            mirror.add_table(gpa, missing);
        }
        mirror.set_leaf(gpa, level, Pfn(frame));
    }

    fn range(start: u64, end: u64) -> GpaRange {
        GpaRange::new(Gpa::new(start), Gpa::new(end)).unwrap()
    }

    #[test]
    fn the_next_leaf_is_found_across_terabytes() {
        let mut mirror = Mirror::default();
        map(&mut mirror, 5 * G, PageLevel::Size2M, 0x200);
        map(&mut mirror, 9000 * G + 4096, PageLevel::Size4K, 0x401);
        let first = mirror.next_leaf(range(5 * G + M, 16_000 * G)).unwrap();
        assert_eq!(first.gpa, Gpa::new(5 * G), "a leaf that overlaps counts");
        let second = mirror.next_leaf(range(5 * G + 2 * M, 16_000 * G)).unwrap();
        assert_eq!(second.gpa, Gpa::new(9000 * G + 4096));
        assert_eq!(mirror.next_leaf(range(9000 * G + 8192, 16_000 * G)), None);
    }

    #[test]
    fn a_split_keeps_every_frame() {
        let mut mirror = Mirror::default();
        map(&mut mirror, 2 * M, PageLevel::Size2M, 0x800);
        let leaf = mirror.leaf(Gpa::new(3 * M)).unwrap();
        mirror.split(&leaf);
        for index in 0..512 {
            let child = mirror.leaf(Gpa::new(2 * M + index * 4096)).unwrap();
            assert_eq!(child.level, PageLevel::Size4K);
            assert_eq!(child.spte.frame(), Pfn(0x800 + index));
        }
        assert!(mirror.has_table(Gpa::new(2 * M)));
    }

    #[test]
    fn a_walk_looks_at_every_entry_of_the_tables_that_exist() {
        let mut mirror = Mirror::default();
        map(&mut mirror, G, PageLevel::Size2M, 0x200);
        let mut looked = 0;
        let mut leaves = 0;
        mirror.walk_range(range(0, 4 * G), &mut |leaf| {
            looked += 1;
            leaves += u64::from(leaf.is_some());
        });
        // Three empty 1G entries, and the 512 entries of the one table of 2M entries.
        assert_eq!((looked, leaves), (515, 1));
    }
}
