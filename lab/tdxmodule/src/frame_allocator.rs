//! Allocates frames of machine memory, singly or as whole 2M blocks.

use std::ops::Range;

use tdxlab_protocol::addr::PageLevel;

use super::physical_memory::Pfn;

const BLOCK: u64 = PageLevel::Size2M.pages_4k();

/// Which frames of a 2M block are in use.
#[derive(Clone, Copy, Debug)]
struct Block {
    used: [u64; 8],
    count: u16,
}

impl Block {
    const FREE: Block = Block {
        used: [0; 8],
        count: 0,
    };
    const FULL: Block = Block {
        used: [u64::MAX; 8],
        count: 512,
    };
}

/// The allocator. Blocks are used in order of address, so unneeded memory is never touched, however
/// large the pool.
#[derive(Clone, Debug)]
pub struct Pool {
    first_block: u64,
    limit: usize,
    /// Blocks ever used, by distance from the first.
    blocks: Vec<Block>,
    /// Wholly free blocks among them.
    free: Vec<usize>,
    /// Blocks that may have a free frame; checked when taken.
    partial: Vec<usize>,
}

impl Pool {
    /// A pool over whole 2M blocks of `frames`.
    pub fn new(frames: Range<Pfn>) -> Pool {
        let first_block = frames.start.0.div_ceil(BLOCK);
        let end_block = frames.end.0 / BLOCK;
        Pool {
            first_block,
            limit: end_block.saturating_sub(first_block) as usize,
            blocks: Vec::new(),
            free: Vec::new(),
            partial: Vec::new(),
        }
    }

    /// One frame; `None` if none is left.
    pub fn take_frame(&mut self) -> Option<Pfn> {
        loop {
            let at = match self.partial.last() {
                Some(&at) => at,
                None => {
                    let at = self.take_free_block()?;
                    self.partial.push(at);
                    at
                }
            };
            let block = &mut self.blocks[at];
            let Some(word) = block.used.iter().position(|&word| word != u64::MAX) else {
                self.partial.pop();
                continue;
            };
            let bit = block.used[word].trailing_ones();
            block.used[word] |= 1 << bit;
            block.count += 1;
            let offset = word as u64 * 64 + u64::from(bit);
            return Some(Pfn((self.first_block + at as u64) * BLOCK + offset));
        }
    }

    /// A whole 2M block; `None` if none is left. Returns its first frame.
    pub fn take_block(&mut self) -> Option<Pfn> {
        let at = self.take_free_block()?;
        self.blocks[at] = Block::FULL;
        Some(Pfn((self.first_block + at as u64) * BLOCK))
    }

    /// Gives a frame back. A frame that is not in use is left alone.
    pub fn give_frame(&mut self, frame: Pfn) {
        let Some((at, offset)) = self.place(frame) else {
            return;
        };
        let block = &mut self.blocks[at];
        let (word, bit) = ((offset / 64) as usize, 1 << (offset % 64));
        if block.used[word] & bit == 0 {
            return;
        }
        let was_full = block.count == 512;
        block.used[word] &= !bit;
        block.count -= 1;
        if block.count == 0 {
            self.partial.retain(|&partial| partial != at);
            self.free.push(at);
        } else if was_full {
            self.partial.push(at);
        }
    }

    /// Gives a whole block back, by its first frame.
    pub fn give_block(&mut self, first: Pfn) {
        if let Some((at, 0)) = self.place(first)
            && self.blocks[at].count == 512
        {
            self.blocks[at] = Block::FREE;
            self.partial.retain(|&partial| partial != at);
            self.free.push(at);
        }
    }

    /// Number of frames in use.
    pub fn used(&self) -> u64 {
        self.blocks.iter().map(|block| u64::from(block.count)).sum()
    }

    fn place(&self, frame: Pfn) -> Option<(usize, u64)> {
        let at = (frame.0 / BLOCK).checked_sub(self.first_block)? as usize;
        (at < self.blocks.len()).then_some((at, frame.0 % BLOCK))
    }

    fn take_free_block(&mut self) -> Option<usize> {
        if let Some(at) = self.free.pop() {
            return Some(at);
        }
        if self.blocks.len() == self.limit {
            return None;
        }
        self.blocks.push(Block::FREE);
        Some(self.blocks.len() - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_and_frames_never_overlap() {
        let mut pool = Pool::new(Pfn(0x401)..Pfn(0x401 + 4 * BLOCK));
        let block = pool.take_block().unwrap();
        assert_eq!(block, Pfn(0x600), "the part block at the start is left out");
        let frame = pool.take_frame().unwrap();
        assert_eq!(frame, Pfn(0x800));
        assert_eq!(pool.take_block(), Some(Pfn(0xa00)));
        assert_eq!(pool.take_block(), None);
        assert_eq!(pool.used(), 1025);
    }

    #[test]
    fn a_block_given_back_frame_by_frame_is_whole_again() {
        let mut pool = Pool::new(Pfn(0)..Pfn(BLOCK));
        let block = pool.take_block().unwrap();
        assert_eq!(pool.take_frame(), None);
        for offset in 0..BLOCK {
            pool.give_frame(block.add(offset));
        }
        assert_eq!(pool.used(), 0);
        assert_eq!(pool.take_block(), Some(block));
    }

    #[test]
    fn giving_back_twice_changes_nothing() {
        let mut pool = Pool::new(Pfn(0)..Pfn(2 * BLOCK));
        let first = pool.take_frame().unwrap();
        let second = pool.take_frame().unwrap();
        pool.give_frame(first);
        pool.give_frame(first);
        assert_eq!(pool.used(), 1);
        assert_eq!(pool.take_frame(), Some(first));
        pool.give_block(second);
        assert_eq!(pool.used(), 2);
    }
}
