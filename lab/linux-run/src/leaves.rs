//! What conversions that a test asks for do to the leaves under them: each 2M block is one leaf, a table of
//! pages, or nothing.
//!
//! | rule | source |
//! |---|---|
//! | MapGPA is served in pieces of 2M, counted from its start | `TDX_MAP_GPA_MAX_LEN`, `tdx_map_gpa()` in arch/x86/kvm/vmx/tdx.c |
//! | a piece that covers a leaf in part splits it; what it covers is removed | head and tail, docs/semantics.md |
//! | a table stays when its last page goes | `tdp_mmu_zap_leafs()` in arch/x86/kvm/mmu/tdp_mmu.c |
//! | Linux accepts by 2M where 2M are left and aligned, else by 4K | `tdx_accept_memory()` in arch/x86/coco/tdx/tdx-shared.c |
//! | ACCEPT of 2M over a table is refused | TDG.MEM.PAGE.ACCEPT, TDX_PAGE_SIZE_MISMATCH |

use std::collections::BTreeMap;

use tdxlab_kernel::software_module::{Calls, LeafState, Sept};
use tdxlab_plan::Side;
use tdxlab_plan::addr::{Gpa, GpaRange, PageLevel};

const PAGES: usize = 512;

/// Pages of a 2M block that are mapped.
pub(crate) type Mapped = [bool; PAGES];

/// How 2M of private memory are mapped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Block {
    /// By one leaf.
    Leaf,
    /// By a table with these pages.
    Table(Box<Mapped>),
    /// Not at all, and without a table.
    Empty,
}

impl Block {
    /// As the S-EPT shows it. A table without pages looks like none.
    pub(crate) fn of(sept: &Sept, block: Gpa) -> Block {
        let mut pages = Box::new([false; PAGES]);
        let mut any = false;
        for leaves in sept.within(block.page(PageLevel::Size2M)) {
            if leaves.state != LeafState::Mapped {
                continue;
            }
            if leaves.level != PageLevel::Size4K {
                return Block::Leaf;
            }
            any = true;
            let first = (leaves.range.start().gfn() - block.gfn()) as usize;
            pages[first..first + leaves.count() as usize].fill(true);
        }
        match any {
            true => Block::Table(pages),
            false => Block::Empty,
        }
    }

    /// Whether the S-EPT may show `found` where this is expected.
    pub(crate) fn shows_as(&self, found: &Block) -> bool {
        match (self, found) {
            (Block::Table(pages), Block::Empty) => !pages.contains(&true),
            _ => self == found,
        }
    }

    /// In words.
    pub(crate) fn text(&self) -> String {
        match self {
            Block::Leaf => "a 2M leaf".to_owned(),
            Block::Empty => "nothing".to_owned(),
            Block::Table(pages) => {
                let count = pages.iter().filter(|&&page| page).count();
                format!("a table with {count} of 512 pages")
            }
        }
    }

    /// The first page that is mapped here and not there, or the other way round.
    pub(crate) fn first_difference(&self, other: &Block) -> Option<usize> {
        let mapped = |block: &Block, page: usize| match block {
            Block::Leaf => true,
            Block::Empty => false,
            Block::Table(pages) => pages[page],
        };
        (0..PAGES).find(|&page| mapped(self, page) != mapped(other, page))
    }
}

/// What the TDX module has to do for a step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Work {
    /// Leaves demoted.
    pub(crate) demoted: u64,
    /// Leaves removed.
    pub(crate) removed: u64,
    /// Leaves added.
    pub(crate) augmented: u64,
    /// Pages of 4K accepted.
    pub(crate) accepted_4k: u64,
    /// Pages of 2M accepted.
    pub(crate) accepted_2m: u64,
    /// ACCEPTs of 2M refused for their size.
    pub(crate) size_mismatch: u64,
}

impl Work {
    /// What was done between two readings; `None` where a counter has fallen, as when the VM is another.
    pub(crate) fn between(before: &Calls, after: &Calls) -> Option<Work> {
        Some(Work {
            demoted: after.demoted.checked_sub(before.demoted)?,
            removed: after.removed.checked_sub(before.removed)?,
            augmented: after.augmented.checked_sub(before.augmented)?,
            accepted_4k: after.accepted_4k.checked_sub(before.accepted_4k)?,
            accepted_2m: after.accepted_2m.checked_sub(before.accepted_2m)?,
            size_mismatch: after.size_mismatch.checked_sub(before.size_mismatch)?,
        })
    }

    /// Each part with its name.
    pub(crate) fn parts(&self) -> [(&'static str, u64); 6] {
        [
            ("DEMOTE", self.demoted),
            ("REMOVE", self.removed),
            ("AUG", self.augmented),
            ("ACCEPT of 4K", self.accepted_4k),
            ("ACCEPT of 2M", self.accepted_2m),
            ("ACCEPT of 2M refused for its size", self.size_mismatch),
        ]
    }

    /// In words, without what is 0.
    pub(crate) fn text(&self) -> String {
        let parts = self.parts();
        let some = parts.iter().filter(|(_, count)| *count > 0);
        let words: Vec<_> = some
            .map(|(name, count)| format!("{count} x {name}"))
            .collect();
        match words.is_empty() {
            true => "nothing to do for the TDX module".to_owned(),
            false => words.join(", "),
        }
    }
}

/// The blocks under buffers that Linux converts, as they must be.
#[derive(Debug, Default)]
pub(crate) struct Blocks(BTreeMap<Gpa, Block>);

/// What a step must leave behind.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Change {
    /// Done by the module.
    pub(crate) work: Work,
    /// Blocks that were touched, as they must be now.
    pub(crate) blocks: BTreeMap<Gpa, Block>,
    /// Leaves that must be split, by their first GPA.
    pub(crate) splits: Vec<Gpa>,
    /// Change of the number of 2M leaves.
    pub(crate) leaves_2m: i64,
    /// Change of the number of private 4K leaves.
    pub(crate) leaves_4k: i64,
}

impl Blocks {
    /// Takes the blocks of a range as the S-EPT shows them, but those that are known.
    pub(crate) fn learn(&mut self, sept: &Sept, range: GpaRange) {
        for block in blocks_of(range) {
            self.0
                .entry(block)
                .or_insert_with(|| Block::of(sept, block));
        }
    }

    /// Forgets blocks: Linux does with them what it likes from now on.
    pub(crate) fn forget(&mut self, range: GpaRange) {
        for block in blocks_of(range) {
            self.0.remove(&block);
        }
    }

    /// Forgets all.
    pub(crate) fn clear(&mut self) {
        self.0.clear();
    }

    /// Converts a range, all of it on the other side before. `None` where its blocks are not known.
    pub(crate) fn convert(&mut self, range: GpaRange, to: Side, change: &mut Change) -> Option<()> {
        if !blocks_of(range).all(|block| self.0.contains_key(&block)) {
            return None;
        }
        match to {
            Side::Shared => {
                let mut start = range.start();
                while start < range.end() {
                    let piece = start.checked_add(PageLevel::Size2M.bytes())?;
                    let end = piece.min(range.end());
                    self.remove(GpaRange::new(start, end)?, change);
                    start = end;
                }
            }
            Side::Private => self.accept(range, change),
        }
        for block in blocks_of(range) {
            change.blocks.insert(block, self.0[&block].clone());
        }
        Some(())
    }

    /// A piece of MapGPA to shared.
    fn remove(&mut self, piece: GpaRange, change: &mut Change) {
        for at in blocks_of(piece) {
            let block = self.0.get_mut(&at).expect("checked by the caller");
            let (first, end) = part(piece, at);
            if *block == Block::Leaf {
                change.leaves_2m -= 1;
                if end - first == PAGES {
                    change.work.removed += 1;
                    *block = Block::Empty;
                    continue;
                }
                change.work.demoted += 1;
                change.splits.push(at);
                change.leaves_4k += PAGES as i64;
                *block = Block::Table(Box::new([true; PAGES]));
            }
            if let Block::Table(pages) = block {
                let mapped = pages[first..end].iter().filter(|&&page| page).count();
                change.work.removed += mapped as u64;
                change.leaves_4k -= mapped as i64;
                pages[first..end].fill(false);
            }
        }
    }

    /// Linux accepts a range.
    fn accept(&mut self, range: GpaRange, change: &mut Change) {
        for at in blocks_of(range) {
            let block = self.0.get_mut(&at).expect("checked by the caller");
            let (first, end) = part(range, at);
            if end - first == PAGES {
                if *block == Block::Empty {
                    change.work.accepted_2m += 1;
                    change.work.augmented += 1;
                    change.leaves_2m += 1;
                    *block = Block::Leaf;
                    continue;
                }
                change.work.size_mismatch += 1;
            }
            if *block == Block::Empty {
                *block = Block::Table(Box::new([false; PAGES]));
            }
            if let Block::Table(pages) = block {
                let count = (end - first) as u64;
                change.work.accepted_4k += count;
                change.work.augmented += count;
                change.leaves_4k += count as i64;
                pages[first..end].fill(true);
            }
        }
    }

    /// Ranges of a buffer that are shared, run by run.
    pub(crate) fn shared(&self, range: GpaRange) -> Vec<GpaRange> {
        let mut runs: Vec<GpaRange> = Vec::new();
        for page in range.pages(PageLevel::Size4K) {
            let at = page.align_down(PageLevel::Size2M);
            let mapped = match self.0.get(&at) {
                Some(Block::Table(pages)) => pages[(page.gfn() - at.gfn()) as usize],
                Some(Block::Empty) => false,
                Some(Block::Leaf) | None => true,
            };
            if mapped {
                continue;
            }
            let one = page.page(PageLevel::Size4K);
            match runs.last_mut() {
                Some(last) if last.end() == page => {
                    *last = GpaRange::new(last.start(), one.end()).unwrap_or(*last);
                }
                _ => runs.push(one),
            }
        }
        runs
    }
}

/// First GPAs of the 2M blocks that a range touches.
pub(crate) fn blocks_of(range: GpaRange) -> impl Iterator<Item = Gpa> {
    let first = range.start().align_down(PageLevel::Size2M);
    let step = PageLevel::Size2M.bytes();
    let blocks = (range.end().as_u64() - first.as_u64()).div_ceil(step);
    (0..blocks).filter_map(move |block| first.checked_add(block * step))
}

/// Pages of a block that a range covers.
fn part(range: GpaRange, block: Gpa) -> (usize, usize) {
    let inside = range.intersect(block.page(PageLevel::Size2M));
    inside.map_or((0, 0), |inside| {
        let page = |gpa: Gpa| (gpa.gfn() - block.gfn()) as usize;
        (page(inside.start()), page(inside.end()))
    })
}

/// What was mapped and is not, run by run.
pub(crate) fn gone(then: &Sept, now: &Sept) -> Vec<GpaRange> {
    let mut runs: Vec<GpaRange> = Vec::new();
    let mapped = then.leaves().iter();
    for leaves in mapped.filter(|leaves| leaves.state == LeafState::Mapped) {
        let mut at = leaves.range.start();
        let still = now.within(leaves.range);
        let still = still.filter(|leaves| leaves.state == LeafState::Mapped);
        let mut push = |start: Gpa, end: Gpa| match runs.last_mut() {
            _ if start >= end => {}
            Some(last) if last.end() == start => {
                *last = GpaRange::new(last.start(), end).unwrap_or(*last);
            }
            _ => runs.extend(GpaRange::new(start, end)),
        };
        for kept in still {
            push(at, kept.range.start());
            at = kept.range.end();
        }
        push(at, leaves.range.end());
    }
    debug_assert!(runs.iter().all(|run| run.is_aligned(PageLevel::Size4K)));
    runs
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(first: u64, count: u64) -> GpaRange {
        GpaRange::with_len(Gpa::new((64 << 20) + first * 4096), count * 4096).unwrap()
    }

    fn fresh() -> Blocks {
        let sept = Sept::parse("0x4000000..0x4400000 2M mapped 2\n").unwrap();
        let mut blocks = Blocks::default();
        blocks.learn(&sept, range(0, 1024));
        blocks
    }

    fn convert(blocks: &mut Blocks, first: u64, count: u64, to: Side) -> Change {
        let mut change = Change::default();
        let done = blocks.convert(range(first, count), to, &mut change);
        done.unwrap();
        change
    }

    #[test]
    fn a_part_splits_its_leaf_once_and_a_whole_leaf_is_not_split() {
        let mut blocks = fresh();
        let part = convert(&mut blocks, 0, 16, Side::Shared);
        assert_eq!((part.work.demoted, part.work.removed), (1, 16));
        assert_eq!((part.leaves_2m, part.leaves_4k), (-1, 496));
        assert_eq!(part.splits, [Gpa::new(64 << 20)]);
        let again = convert(&mut blocks, 496, 16, Side::Shared);
        assert_eq!((again.work.demoted, again.work.removed), (0, 16));
        let whole = convert(&mut blocks, 512, 512, Side::Shared);
        assert_eq!((whole.work.demoted, whole.work.removed), (0, 1));
        let back = convert(&mut blocks, 512, 512, Side::Private);
        assert_eq!((back.work.accepted_2m, back.work.augmented), (1, 1));
        assert_eq!(back.blocks[&Gpa::new(66 << 20)], Block::Leaf);
    }

    #[test]
    fn two_mib_off_a_boundary_split_two_leaves() {
        let change = convert(&mut fresh(), 256, 512, Side::Shared);
        assert_eq!((change.work.demoted, change.work.removed), (2, 512));
    }

    /// A table has no place for a leaf, whatever is left in it.
    #[test]
    fn two_mib_over_a_table_are_refused_and_accepted_page_by_page() {
        let mut blocks = fresh();
        convert(&mut blocks, 0, 1, Side::Shared);
        convert(&mut blocks, 1, 511, Side::Shared);
        assert_eq!(blocks.shared(range(0, 1024)), [range(0, 512)]);
        let back = convert(&mut blocks, 0, 512, Side::Private).work;
        assert_eq!(
            (back.size_mismatch, back.accepted_4k, back.augmented),
            (1, 512, 512)
        );
        assert_eq!(blocks.shared(range(0, 1024)), []);
    }

    #[test]
    fn blocks_that_are_not_known_are_not_predicted() {
        let mut change = Change::default();
        let mut blocks = Blocks::default();
        assert_eq!(blocks.convert(range(0, 1), Side::Shared, &mut change), None);
    }

    #[test]
    fn what_is_gone_is_found_over_leaves_and_tables() {
        let sept = |text: &str| Sept::parse(text).unwrap();
        let then = sept("0x0..0x400000 2M mapped 2\n0x400000..0x402000 4K mapped 2\n");
        let now = sept("0x0..0x1f0000 4K mapped 496\n0x200000..0x400000 2M mapped 1\n");
        let range = |start, end| GpaRange::new(Gpa::new(start), Gpa::new(end)).unwrap();
        assert_eq!(
            gone(&then, &now),
            [range(0x1f_0000, 0x20_0000), range(0x40_0000, 0x40_2000)]
        );
        assert_eq!(gone(&then, &then), []);
    }
}
