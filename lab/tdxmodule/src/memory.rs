//! Machine memory of `sim`: the content of each frame, in compressed form.
//!
//! A frame holds zeros, the words of a fill, or arbitrary words (page tables). 512 frames that a
//! fill wrote in a row, or that are all zero, are one entry. Content belongs to frames and not to
//! guest-physical addresses: a frame mapped to the wrong place really shows another page's data.

use std::ops::Range;

use tdxlab_protocol::addr::{Gpa, PageLevel, Side};
use tdxlab_protocol::message::Content;
use tdxlab_protocol::pattern::{self, Generation};

use crate::physical_memory::{Pfn, PhysicalMemory};
use crate::sparse_page::SparsePage;

/// Frames in a block.
const BLOCK: u64 = 512;

/// Entry bits that the MMU looks at.
const PRESENT: u64 = 1 << 0;
const LARGE: u64 = 1 << 7;
const FRAME_MASK: u64 = 0x000f_ffff_ffff_f000;

/// Plain memory of the runner that plays machine memory.
#[derive(Clone, Debug)]
pub struct SimMachine {
    pool: Range<Pfn>,
    /// From frame 0 up, as far as anything was written.
    blocks: Vec<Block>,
    /// Top-level entries of the private and the shared window.
    roots: [Vec<u64>; 2],
    /// Raised by every kick: translations of earlier epochs are forgotten.
    epoch: u64,
}

/// A block of 512 frames.
#[derive(Clone, Debug)]
enum Block {
    Zero,
    /// Written by one fill, in a row: this is the first word of the first frame.
    Row(u64),
    /// Frame by frame, as far as any was written; the others are zero.
    Frames(Vec<Frame>),
}

/// Content of a frame.
#[derive(Clone, Debug, Default)]
enum Frame {
    #[default]
    Zero,
    /// The words of a fill; this is the first.
    Written(u64),
    SparsePage(SparsePage),
}

/// A translation that the MMU found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Translation {
    /// First frame of the leaf.
    pub frame: Pfn,
    /// Size of the leaf.
    pub level: PageLevel,
}

/// Difference of the first words of adjacent pages in one fill.
const NEXT_PAGE: u64 = pattern::word(Gpa::from_gfn(1), 0, Generation::MAX)
    - pattern::word(Gpa::new(0), 0, Generation::MAX);

/// The first word of the frame `offset` frames after the one with this first word.
const fn row_word(first: u64, offset: u64) -> u64 {
    first + offset * NEXT_PAGE
}

impl Block {
    fn frame(&self, offset: u64) -> Frame {
        match self {
            Block::Zero => Frame::Zero,
            Block::Row(first) => Frame::Written(row_word(*first, offset)),
            Block::Frames(frames) => frames.get(offset as usize).cloned().unwrap_or_default(),
        }
    }

    fn word(&self, offset: u64, index: usize) -> u64 {
        match self {
            Block::Frames(frames) => frames
                .get(offset as usize)
                .map_or(0, |frame| frame.word(index)),
            Block::Zero => 0,
            Block::Row(_) => self.frame(offset).word(index),
        }
    }

    /// The frames up to `end` at least, as single entries.
    fn frames_to(&mut self, end: u64) -> &mut Vec<Frame> {
        match self {
            Block::Zero => *self = Block::Frames(Vec::new()),
            Block::Row(_) => {
                *self = Block::Frames((0..BLOCK).map(|offset| self.frame(offset)).collect());
            }
            Block::Frames(_) => {}
        }
        match self {
            Block::Frames(frames) => {
                if frames.len() < end as usize {
                    frames.resize_with(end as usize, Frame::default);
                }
                frames
            }
            Block::Zero | Block::Row(_) => unreachable!("made of frames above"),
        }
    }

    fn frame_mut(&mut self, offset: u64) -> &mut Frame {
        &mut self.frames_to(offset + 1)[offset as usize]
    }
}

impl Frame {
    #[inline]
    fn word(&self, index: usize) -> u64 {
        match self {
            Frame::Zero => 0,
            // The index is in the low bits, and that of the first word is 0.
            Frame::Written(first) => first + index as u64,
            Frame::SparsePage(words) => words.get(index),
        }
    }

    fn content(&self, page: Gpa) -> Content {
        match self {
            Frame::Zero => Content::Zero,
            Frame::Written(first) => written_content(*first, page),
            Frame::SparsePage(words) => {
                pattern::classify(page, &std::array::from_fn(|index| words.get(index)))
            }
        }
    }
}

/// Class of a filled page when read at `page`.
fn written_content(first: u64, page: Gpa) -> Content {
    match pattern::decode(first) {
        Some(word) if word.page == page => Content::Own(word.generation),
        Some(word) => Content::Foreign {
            generation: word.generation,
            distance: page.gfn().wrapping_sub(word.page.gfn()).cast_signed(),
        },
        None => Content::Zero,
    }
}

impl SimMachine {
    /// A machine with `bytes` of memory, allocated when written.
    pub fn new(bytes: u64) -> SimMachine {
        SimMachine {
            // Frame 0 stays out, so that no entry of a page in use is ever all zero.
            pool: Pfn(BLOCK)..Pfn(BLOCK + (bytes >> 12)),
            blocks: Vec::new(),
            roots: [Vec::new(), Vec::new()],
            epoch: 0,
        }
    }

    /// The epoch of the tables: a translation found in another is not to be used.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Walks the tables of `side` as an MMU does.
    pub fn translate(&self, side: Side, gpa: Gpa) -> Option<Translation> {
        let index = |shift: u32| ((gpa.as_u64() >> shift) & 0x1ff) as usize;
        let mut entry = self.roots[side as usize]
            .get((gpa.as_u64() >> 39) as usize)
            .copied()?;
        for (shift, level) in [
            (30, PageLevel::Size1G),
            (21, PageLevel::Size2M),
            (12, PageLevel::Size4K),
        ] {
            if entry & PRESENT == 0 {
                return None;
            }
            entry = self.read_entry(frame_of(entry), index(shift));
            let leaf = level == PageLevel::Size4K || entry & LARGE != 0;
            if leaf {
                return (entry & PRESENT != 0).then_some(Translation {
                    frame: frame_of(entry),
                    level,
                });
            }
        }
        None
    }

    /// Writes the words of `generation` for `count` pages from `page` into the frames from `first`.
    pub fn fill(&mut self, first: Pfn, count: u64, page: Gpa, generation: Generation) {
        self.for_blocks(first, count, |block, offsets, done| {
            let gfn = page.gfn() + done;
            let word = pattern::word(Gpa::from_gfn(gfn), 0, generation);
            if offsets == (0..BLOCK) {
                *block = Block::Row(word);
            } else {
                let frames = block.frames_to(offsets.end);
                for offset in offsets.clone() {
                    frames[offset as usize] =
                        Frame::Written(row_word(word, offset - offsets.start));
                }
            }
        });
    }

    /// Reads `count` pages at `page` from the frames starting at `first`, and reports their content
    /// as runs of a page count and a content.
    pub fn read(&self, first: Pfn, count: u64, page: Gpa, found: &mut dyn FnMut(u64, Content)) {
        let mut done = 0;
        while done < count {
            let frame = first.add(done);
            let offset = frame.0 % BLOCK;
            let here = (BLOCK - offset).min(count - done);
            let page = Gpa::from_gfn(page.gfn() + done);
            match self.blocks.get((frame.0 / BLOCK) as usize) {
                None | Some(Block::Zero) => found(here, Content::Zero),
                Some(Block::Row(word)) => {
                    found(here, written_content(row_word(*word, offset), page));
                }
                Some(Block::Frames(frames)) => {
                    for step in 0..here {
                        let page = Gpa::from_gfn(page.gfn() + step);
                        let frame = frames.get((offset + step) as usize);
                        found(1, frame.map_or(Content::Zero, |frame| frame.content(page)));
                    }
                }
            }
            done += here;
        }
    }

    fn block_mut(&mut self, at: usize) -> &mut Block {
        if self.blocks.len() <= at {
            self.blocks.resize(at + 1, Block::Zero);
        }
        &mut self.blocks[at]
    }

    /// Hands each block that the frames touch to `change`, with the offsets in it and the number of
    /// frames before it.
    fn for_blocks(
        &mut self,
        first: Pfn,
        count: u64,
        mut change: impl FnMut(&mut Block, Range<u64>, u64),
    ) {
        // As on a real machine, writes beyond memory are lost: a fault may leave a table to a guest
        // that fills it with words.
        let count = count.min(self.pool.end.0.saturating_sub(first.0));
        let mut done = 0;
        while done < count {
            let frame = first.add(done);
            let offset = frame.0 % BLOCK;
            let here = (BLOCK - offset).min(count - done);
            change(
                self.block_mut((frame.0 / BLOCK) as usize),
                offset..offset + here,
                done,
            );
            done += here;
        }
    }
}

fn frame_of(entry: u64) -> Pfn {
    Pfn((entry & FRAME_MASK) >> 12)
}

impl PhysicalMemory for SimMachine {
    fn pool(&self) -> Range<Pfn> {
        self.pool.clone()
    }

    #[inline]
    fn read_entry(&self, table: Pfn, index: usize) -> u64 {
        let block = self.blocks.get((table.0 / BLOCK) as usize);
        block.map_or(0, |block| block.word(table.0 % BLOCK, index))
    }

    fn write_entry(&mut self, table: Pfn, index: usize, entry: u64) {
        if table >= self.pool.end {
            return;
        }
        // The frame is nearly always a table already.
        let block = self.blocks.get_mut((table.0 / BLOCK) as usize);
        if let Some(Block::Frames(frames)) = block
            && let Some(Frame::SparsePage(words)) = frames.get_mut((table.0 % BLOCK) as usize)
        {
            words.set(index, entry);
            return;
        }
        let block = self.block_mut((table.0 / BLOCK) as usize);
        let frame = block.frame_mut(table.0 % BLOCK);
        if let Frame::Zero = frame {
            *frame = Frame::SparsePage(SparsePage::default());
        } else if let Frame::Written(_) = frame {
            let all = std::array::from_fn(|at| frame.word(at));
            *frame = Frame::SparsePage(SparsePage::All(Box::new(all)));
        }
        if let Frame::SparsePage(words) = frame {
            words.set(index, entry);
        }
    }

    fn write_table(&mut self, table: Pfn, entries: Box<[u64; 512]>) {
        if table < self.pool.end {
            let block = self.block_mut((table.0 / BLOCK) as usize);
            *block.frame_mut(table.0 % BLOCK) = Frame::SparsePage(SparsePage::All(entries));
        }
    }

    fn zero_frames(&mut self, first: Pfn, count: u64) {
        self.for_blocks(first, count, |block, offsets, _| {
            if offsets == (0..BLOCK) {
                *block = Block::Zero;
            } else if !matches!(block, Block::Zero) {
                let (start, end) = (offsets.start as usize, offsets.end as usize);
                // Unwritten frames are zero already.
                for frame in block.frames_to(0).iter_mut().take(end).skip(start) {
                    *frame = Frame::Zero;
                }
            }
        });
    }

    fn copy_frame(&mut self, from: Pfn, to: Pfn) {
        if to >= self.pool.end {
            return;
        }
        let frame = match self.blocks.get((from.0 / BLOCK) as usize) {
            Some(block) => block.frame(from.0 % BLOCK),
            None => Frame::Zero,
        };
        *self
            .block_mut((to.0 / BLOCK) as usize)
            .frame_mut(to.0 % BLOCK) = frame;
    }

    fn set_root_entry(&mut self, window: Side, index: usize, entry: u64) {
        let root = &mut self.roots[window as usize];
        if root.len() <= index {
            root.resize(index + 1, 0);
        }
        root[index] = entry;
    }

    fn kick(&mut self) {
        self.epoch += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn contents(machine: &SimMachine, first: Pfn, count: u64, page: Gpa) -> Vec<(u64, Content)> {
        let mut runs: Vec<(u64, Content)> = Vec::new();
        machine.read(
            first,
            count,
            page,
            &mut |count, content| match runs.last_mut() {
                Some(last) if last.1 == content => last.0 += count,
                _ => runs.push((count, content)),
            },
        );
        runs
    }

    #[test]
    fn content_belongs_to_frames() {
        let mut machine = SimMachine::new(64 << 20);
        let generation = Generation::new(3).unwrap();
        let page = Gpa::new(0x4000_0000);
        machine.fill(Pfn(0x400), 512, page, generation);
        assert_eq!(
            contents(&machine, Pfn(0x400), 512, page),
            [(512, Content::Own(generation))]
        );
        let elsewhere = Gpa::new(0x4000_0000 + 7 * 4096);
        assert_eq!(
            contents(&machine, Pfn(0x400), 2, elsewhere),
            [(
                2,
                Content::Foreign {
                    generation,
                    distance: 7
                }
            )]
        );
        machine.zero_frames(Pfn(0x401), 1);
        assert_eq!(
            contents(&machine, Pfn(0x400), 512, page),
            [
                (1, Content::Own(generation)),
                (1, Content::Zero),
                (510, Content::Own(generation))
            ]
        );
        machine.copy_frame(Pfn(0x402), Pfn(0x800));
        assert_eq!(
            contents(&machine, Pfn(0x800), 1, Gpa::new(0x4000_2000)),
            [(1, Content::Own(generation))]
        );
    }

    #[test]
    fn what_is_written_where_no_memory_is_is_lost() {
        let mut machine = SimMachine::new(2 << 20);
        let generation = Generation::new(3).unwrap();
        let page = Gpa::new(0x4000_0000);
        let nowhere = Pfn(1 << 39);
        machine.fill(nowhere, 1, page, generation);
        machine.write_entry(nowhere, 0, 1);
        machine.copy_frame(Pfn(0x200), nowhere);
        assert_eq!(machine.read_entry(nowhere, 0), 0);
        let last = Pfn(BLOCK + (2 << 20 >> 12) - 1);
        machine.fill(last, 2, page, generation);
        assert_eq!(
            contents(&machine, last, 2, page),
            [(1, Content::Own(generation)), (1, Content::Zero)]
        );
    }

    #[test]
    fn a_table_entry_in_a_filled_page_tears_it() {
        let mut machine = SimMachine::new(64 << 20);
        let generation = Generation::new(9).unwrap();
        let page = Gpa::new(0x20_0000);
        machine.fill(Pfn(0x400), 1, page, generation);
        machine.write_entry(Pfn(0x400), 17, 0xdead);
        let found = contents(&machine, Pfn(0x400), 1, page);
        assert!(
            matches!(
                &found[..],
                [(
                    1,
                    Content::Torn {
                        like_first: 511,
                        ..
                    }
                )]
            ),
            "{found:?}"
        );
    }

    #[test]
    fn the_walk_uses_the_entries() {
        let mut machine = SimMachine::new(64 << 20);
        let gpa = Gpa::new((5 << 39) + (3 << 30) + (7 << 21) + 0x3000);
        machine.set_root_entry(Side::Private, 5, (0x201 << 12) | PRESENT);
        machine.write_entry(Pfn(0x201), 3, (0x202 << 12) | PRESENT);
        machine.write_entry(Pfn(0x202), 7, (0x400 << 12) | PRESENT | LARGE);
        assert_eq!(
            machine.translate(Side::Private, gpa),
            Some(Translation {
                frame: Pfn(0x400),
                level: PageLevel::Size2M
            })
        );
        assert_eq!(machine.translate(Side::Shared, gpa), None);
        machine.write_entry(Pfn(0x202), 7, (0x203 << 12) | PRESENT);
        assert_eq!(machine.translate(Side::Private, gpa), None);
    }
}
