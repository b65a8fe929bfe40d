//! guest_memfd: the frames behind each part of a file.

use std::collections::BTreeMap;
use std::ops::Range;

use tdxlab_protocol::addr::PageLevel;
use tdxlab_tdxmodule::policy::Allocation;
use tdxlab_tdxmodule::{Pfn, PhysicalMemory, Platform, SparsePage};

const PAGE: u64 = PageLevel::Size4K.bytes();
const REGION: u64 = PageLevel::Size2M.bytes();

/// A file. Only regions of 2M with something populated take room.
#[derive(Clone, Debug)]
pub(crate) struct GuestMemfd {
    size: u64,
    folio: PageLevel,
    regions: BTreeMap<u64, Region>,
    populated: u64,
}

/// 2M of a file, by offset.
#[derive(Clone, Debug)]
struct Region {
    frames: Frames,
    /// Pages that may be exposed as shared: cleared once, and not used privately since. The bit
    /// does not concern private content, since ACCEPT zeroes it.
    clear: [u64; 8],
}

/// The memory of a region.
#[derive(Clone, Debug)]
enum Frames {
    /// One folio of 2M, by its first frame.
    Folio(Pfn),
    /// Pages of 4K; a word is the frame plus 1, and 0 where nothing is populated.
    Pages { frames: SparsePage, count: u16 },
}

/// A populated page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Page {
    /// Its frame.
    pub(crate) frame: Pfn,
    /// First frame of the folio of 2M it is part of, if it is.
    pub(crate) folio: Option<Pfn>,
}

impl Region {
    fn page(&self, index: usize) -> Option<Page> {
        match &self.frames {
            Frames::Folio(first) => Some(Page {
                frame: first.add(index as u64),
                folio: Some(*first),
            }),
            Frames::Pages { frames, .. } => match frames.get(index) {
                0 => None,
                frame => Some(Page {
                    frame: Pfn(frame - 1),
                    folio: None,
                }),
            },
        }
    }

    fn populated(&self, pages: Range<u64>) -> u64 {
        match &self.frames {
            Frames::Folio(_) => pages.end - pages.start,
            Frames::Pages { count, .. } if pages == (0..512) => u64::from(*count),
            Frames::Pages { frames, .. } => {
                pages.filter(|&at| frames.get(at as usize) != 0).count() as u64
            }
        }
    }
}

/// Splits a range of bytes into the 4K pages of each region it touches.
fn regions_of(range: Range<u64>) -> (u64, u64, impl Fn(u64) -> Range<u64>) {
    let first = range.start / REGION;
    let last = range.end.div_ceil(REGION);
    let pages = move |region: u64| {
        let base = region * REGION;
        let start = range.start.max(base) - base;
        let end = range.end.min(base + REGION) - base;
        start / PAGE..end.div_ceil(PAGE)
    };
    (first, last, pages)
}

impl GuestMemfd {
    /// An empty file of `size` bytes that allocates folios of this size where it can.
    pub(crate) fn new(size: u64, folio: PageLevel) -> GuestMemfd {
        GuestMemfd {
            size,
            folio,
            regions: BTreeMap::new(),
            populated: 0,
        }
    }

    /// Size in bytes.
    pub(crate) fn size(&self) -> u64 {
        self.size
    }

    /// The page at `offset`, allocated if need be; `None` where there is no memory for it.
    pub(crate) fn populate<M: PhysicalMemory>(
        &mut self,
        offset: u64,
        hardware: &mut Platform<M>,
    ) -> Option<Page> {
        let number = offset / REGION;
        let index = (offset % REGION / PAGE) as usize;
        if let Some(region) = self.regions.get_mut(&number) {
            if let Some(page) = region.page(index) {
                return Some(page);
            }
            let frame = take_page(hardware)?;
            if let Frames::Pages { frames, count } = &mut region.frames {
                frames.set(index, frame.0 + 1);
                *count += 1;
            }
            region.clear[index / 64] &= !(1 << (index % 64));
            self.populated += 1;
            return Some(Page { frame, folio: None });
        }
        let inside = (number + 1) * REGION <= self.size;
        let folio = hardware.policy.folio(number * REGION, self.folio);
        let frames = if inside && folio >= PageLevel::Size2M {
            if !hardware.policy.allocates(Allocation::Folio) {
                return None;
            }
            let first = hardware.pool.take_block()?;
            self.populated += 512;
            Frames::Folio(first)
        } else {
            let mut frames = SparsePage::default();
            frames.set(index, take_page(hardware)?.0 + 1);
            self.populated += 1;
            Frames::Pages { frames, count: 1 }
        };
        let region = Region {
            frames,
            clear: [0; 8],
        };
        let page = region.page(index);
        self.regions.insert(number, region);
        page
    }

    /// Notes that `pages` 4K pages from `offset` are used privately.
    pub(crate) fn use_privately(&mut self, offset: u64, pages: u64) {
        if let Some(region) = self.regions.get_mut(&(offset / REGION)) {
            let index = (offset % REGION / PAGE) as usize;
            if pages == 512 {
                region.clear = [0; 8];
            } else {
                region.clear[index / 64] &= !(1 << (index % 64));
            }
        }
    }

    /// Whether the page at `offset` must be cleared before others see it. From now on it is clear.
    pub(crate) fn use_shared(&mut self, offset: u64) -> bool {
        let Some(region) = self.regions.get_mut(&(offset / REGION)) else {
            return false;
        };
        let index = (offset % REGION / PAGE) as usize;
        let (word, bit) = (index / 64, 1 << (index % 64));
        let dirty = region.clear[word] & bit == 0;
        region.clear[word] |= bit;
        dirty
    }

    /// Frees all pages of `range` (bytes, cut to the file).
    pub(crate) fn truncate<M: PhysicalMemory>(
        &mut self,
        range: Range<u64>,
        hardware: &mut Platform<M>,
    ) {
        let range = range.start..range.end.min(self.size);
        if range.start >= range.end {
            return;
        }
        let (first, last, pages) = regions_of(range);
        let touched: Vec<u64> = self.regions.range(first..last).map(|(&at, _)| at).collect();
        for number in touched {
            let whole = self.free_pages(number, pages(number), hardware);
            if whole {
                self.regions.remove(&number);
            }
        }
    }

    /// Frees pages of one region; whether it is empty then.
    fn free_pages<M: PhysicalMemory>(
        &mut self,
        number: u64,
        pages: Range<u64>,
        hardware: &mut Platform<M>,
    ) -> bool {
        let Some(region) = self.regions.get_mut(&number) else {
            return false;
        };
        if let Frames::Folio(first) = region.frames {
            if pages == (0..512) {
                self.populated -= 512;
                if hardware.policy.frees(number * REGION) {
                    hardware.pool.give_block(first);
                }
                return true;
            }
            let frames = std::array::from_fn(|index| first.0 + index as u64 + 1);
            let frames = SparsePage::All(Box::new(frames));
            region.frames = Frames::Pages { frames, count: 512 };
        }
        let Frames::Pages { frames, count } = &mut region.frames else {
            return false;
        };
        let mut from = pages.start as usize;
        while let Some((index, frame)) = frames.next_set(from)
            && (index as u64) < pages.end
        {
            frames.set(index, 0);
            *count -= 1;
            self.populated -= 1;
            let offset = number * REGION + index as u64 * PAGE;
            if hardware.policy.frees(offset) {
                hardware.pool.give_frame(Pfn(frame - 1));
            }
            from = index + 1;
        }
        *count == 0
    }

    /// Populated 4K pages of `range` (bytes), as `cachestat(2)` counts them.
    pub(crate) fn populated(&self, range: Range<u64>) -> u64 {
        if range.start == 0 && range.end >= self.size {
            return self.populated;
        }
        let range = range.start..range.end.min(self.size);
        if range.start >= range.end {
            return 0;
        }
        let (first, last, pages) = regions_of(range);
        self.regions
            .range(first..last)
            .map(|(&number, region)| region.populated(pages(number)))
            .sum()
    }
}

fn take_page<M: PhysicalMemory>(hardware: &mut Platform<M>) -> Option<Pfn> {
    if hardware.policy.allocates(Allocation::Page) {
        hardware.pool.take_frame()
    } else {
        None
    }
}
