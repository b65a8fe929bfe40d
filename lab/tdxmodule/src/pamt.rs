//! PAMT: metadata of each page of the machine memory that the module manages.
//!
//! A page is free, the TD's, a table of the S-EPT, or one of its control pages, as 4K, 2M or 1G. With
//! Dynamic PAMT the metadata of the 4K pages of a 2M range needs two pages that the host must give
//! first; without, it is always there.
//!
//! Source: `src/common/memory_handlers/pamt_manager.c`, `non_shared_hpa_metadata_check_and_lock()`.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use tdxlab_protocol::addr::PageLevel;

use super::lock::{Hold, SharexLock};
use super::status::Status;
use crate::physical_memory::Pfn;

/// Pages of 4K in a 2M range.
const RANGE: u64 = PageLevel::Size2M.pages_4k();

/// Bits 51:46 of a host-physical address hold the key id.
const HKID_MASK: u64 = 0x3f << 46;

/// Bits that no host-physical address has.
const BEYOND_MAX_PA: u64 = !((1 << 52) - 1);

/// Set in RCX (bit 62) when the last page of a range was removed: its PAMT pages can be removed.
pub(super) const REMOVAL_HINT: u64 = 1 << 62;

/// Type of a page.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum PageType {
    /// PT_NDA: not assigned.
    #[default]
    Free,
    /// PT_REG: a page of the TD.
    Td,
    /// PT_EPT: a table of the S-EPT.
    Table,
    /// PT_TDR, PT_TDCX, PT_TDVPR: the module's own data about the TD.
    Control,
    /// PT_PAMT: a 2M range with PAMT pages, or one of these pages.
    Pamt,
}

/// One entry of PAMT: a page of this size from this frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Unit {
    pub(super) level: PageLevel,
    pub(super) first: Pfn,
}

impl Unit {
    pub(super) const fn new(level: PageLevel, frame: Pfn) -> Unit {
        let first = Pfn(frame.0 & !(level.pages_4k() - 1));
        Unit { level, first }
    }
}

/// Where a walk through PAMT ended.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reached {
    level: PageLevel,
    page: PageType,
}

/// A 2M range.
#[derive(Clone, Debug, Default)]
enum Region {
    /// Unused; with Dynamic PAMT, it has no PAMT pages either.
    #[default]
    Free,
    /// One page of 2M.
    Page,
    /// Pages of 4K.
    Pages(Box<Pages>),
}

#[derive(Clone, Debug)]
struct Pages {
    types: [PageType; RANGE as usize],
    used: u16,
    /// With Dynamic PAMT, where all this is kept.
    pair: Option<[Pfn; 2]>,
}

impl Pages {
    fn of(page: PageType, pair: Option<[Pfn; 2]>) -> Box<Pages> {
        let used = if page == PageType::Free {
            0
        } else {
            RANGE as u16
        };
        Box::new(Pages {
            types: [page; RANGE as usize],
            used,
            pair,
        })
    }
}

/// The metadata of one TDMR.
#[derive(Clone, Debug)]
pub(super) struct Pamt {
    tdmr: Range<Pfn>,
    dynamic: bool,
    /// By number of the 2M range.
    regions: BTreeMap<u64, Region>,
    /// First frames of pages of 1G.
    gigas: BTreeSet<Pfn>,
    /// Pages given to PAMT.
    given: BTreeSet<Pfn>,
    /// BEPOCH of pages that were blocked.
    epochs: Vec<(Unit, u64)>,
    /// Entries that others lock.
    others: Vec<(Unit, SharexLock)>,
    /// Entries that the call under way locks.
    ours: Vec<(Unit, Hold)>,
}

impl Pamt {
    pub(super) fn new(tdmr: Range<Pfn>, dynamic: bool) -> Pamt {
        Pamt {
            tdmr,
            dynamic,
            regions: BTreeMap::new(),
            gigas: BTreeSet::new(),
            given: BTreeSet::new(),
            epochs: Vec::new(),
            others: Vec::new(),
            ours: Vec::new(),
        }
    }

    pub(super) const fn is_dynamic(&self) -> bool {
        self.dynamic
    }

    /// The lock of an entry, as others hold it.
    pub(super) fn lock_of_others(&mut self, unit: Unit) -> &mut SharexLock {
        let known = self.others.iter().position(|&(at, _)| at == unit);
        let at = known.unwrap_or_else(|| {
            self.others.push((unit, SharexLock::default()));
            self.others.len() - 1
        });
        &mut self.others[at].1
    }

    /// Starts a call, which holds no lock yet.
    pub(super) fn begin(&mut self) {
        self.ours.clear();
    }

    /// Notes that the call under way holds the 4K entry of a page, and shares those above.
    pub(super) fn keep(&mut self, frame: Pfn, hold: Hold) {
        self.ours.push((Unit::new(PageLevel::Size4K, frame), hold));
        self.ours
            .push((Unit::new(PageLevel::Size2M, frame), Hold::Shared));
    }

    /// Locks an entry for the length of the call.
    pub(super) fn lock(&mut self, unit: Unit, hold: Hold) -> Result<(), Status> {
        let mut ours = self.ours.iter().filter(|&&(at, _)| at == unit);
        let clashes = match hold {
            Hold::Exclusive => ours.next().is_some(),
            Hold::Shared => ours.any(|&(_, hold)| hold == Hold::Exclusive),
        };
        let others = self.others.iter_mut().find(|(at, _)| *at == unit);
        if clashes || others.is_some_and(|(_, lock)| !lock.host_gets(hold)) {
            return Err(Status::OPERAND_BUSY);
        }
        Ok(())
    }

    /// Locks the 4K entry of a page, below that of its range; whether both could be had.
    pub(super) fn lock_page(&mut self, frame: Pfn, hold: Hold) -> bool {
        let range = self.lock(Unit::new(PageLevel::Size2M, frame), Hold::Shared);
        range
            .and_then(|()| self.lock(Unit::new(PageLevel::Size4K, frame), hold))
            .is_ok()
    }

    /// Notes that the call under way holds this entry.
    pub(super) fn lock_and_keep(&mut self, unit: Unit, hold: Hold) -> Result<(), Status> {
        self.lock(unit, hold)?;
        self.ours.push((unit, hold));
        Ok(())
    }

    fn region(&self, frame: Pfn) -> &Region {
        self.regions
            .get(&(frame.0 / RANGE))
            .unwrap_or(&Region::Free)
    }

    fn region_mut(&mut self, frame: Pfn) -> &mut Region {
        self.regions.entry(frame.0 / RANGE).or_default()
    }

    fn giga_of(&self, frame: Pfn) -> Option<Pfn> {
        if self.gigas.is_empty() {
            return None;
        }
        let first = Unit::new(PageLevel::Size1G, frame).first;
        self.gigas.contains(&first).then_some(first)
    }

    /// Walks to the entry of `target` for `frame`, or to where a larger page ends the walk, and locks
    /// it.
    pub(super) fn walk(
        &mut self,
        frame: Pfn,
        target: PageLevel,
        hold: Hold,
    ) -> Result<Reached, Status> {
        if self.giga_of(frame).is_some() {
            self.lock(Unit::new(PageLevel::Size1G, frame), hold)?;
            return Ok(Reached {
                level: PageLevel::Size1G,
                page: PageType::Td,
            });
        }
        let range = Unit::new(PageLevel::Size2M, frame);
        let page = match self.region(frame) {
            Region::Page => PageType::Td,
            Region::Pages(pages) if pages.pair.is_some() => PageType::Pamt,
            Region::Free | Region::Pages(_) => PageType::Free,
        };
        let is_node = if self.dynamic {
            page == PageType::Pamt
        } else {
            page == PageType::Free
        };
        if !is_node || target == PageLevel::Size2M {
            self.lock(range, Hold::Shared)?;
            self.lock(range, hold)?;
            return Ok(Reached {
                level: PageLevel::Size2M,
                page,
            });
        }
        self.lock(range, Hold::Shared)?;
        self.lock(Unit::new(PageLevel::Size4K, frame), hold)?;
        Ok(Reached {
            level: PageLevel::Size4K,
            page: self.type_4k(frame),
        })
    }

    fn type_4k(&self, frame: Pfn) -> PageType {
        match self.region(frame) {
            Region::Free => PageType::Free,
            Region::Page => PageType::Td,
            Region::Pages(pages) => pages.types[(frame.0 % RANGE) as usize],
        }
    }

    /// Refuses a host-physical address that is not aligned to `level`, has a key id, or is too wide.
    pub(super) fn check_form(hpa: u64, level: PageLevel, operand: u64) -> Result<(), Status> {
        let misaligned = hpa & (level.bytes() - 1) != 0;
        if misaligned || hpa & (HKID_MASK | BEYOND_MAX_PA) != 0 {
            return Err(Status::OPERAND_INVALID.detail(operand));
        }
        Ok(())
    }

    /// The frame that a host-physical address names, which must be aligned to `level`.
    pub(super) fn frame(&self, hpa: u64, level: PageLevel, operand: u64) -> Result<Pfn, Status> {
        Pamt::check_form(hpa, level, operand)?;
        let frame = Pfn(hpa >> 12);
        if self.tdmr.contains(&frame) {
            Ok(frame)
        } else {
            Err(Status::OPERAND_ADDR_RANGE_ERROR.detail(operand))
        }
    }

    /// The frame of a page that the host gives, which must be free, as one of `level`.
    pub(super) fn take(&mut self, hpa: u64, level: PageLevel, operand: u64) -> Result<Pfn, Status> {
        let frame = self.frame(hpa, level, operand)?;
        let reached = self
            .walk(frame, level, Hold::Exclusive)
            .map_err(|busy| busy.detail(operand))?;
        let has_no_pair = self.dynamic && reached.level == PageLevel::Size2M;
        if reached.level != level {
            let status = if has_no_pair && reached.page == PageType::Free {
                Status::MISSING_PAMT_PAGE_PAIR
            } else {
                Status::PAGE_METADATA_INCORRECT
            };
            return Err(status.detail(operand));
        }
        let is_free = match level {
            // With Dynamic PAMT, a page of that is in use and of no type.
            PageLevel::Size4K => !self.given.contains(&frame),
            PageLevel::Size2M | PageLevel::Size1G => self.is_range_free(frame),
        };
        if reached.page != PageType::Free || !is_free {
            return Err(Status::PAGE_METADATA_INCORRECT.detail(operand));
        }
        if level == PageLevel::Size4K {
            self.keep(frame, Hold::Exclusive);
        }
        Ok(frame)
    }

    /// Whether no 4K page of the range is used; with Dynamic PAMT, whether none is a PAMT page.
    fn is_range_free(&self, first: Pfn) -> bool {
        if self.dynamic {
            self.given.range(first..first.add(RANGE)).next().is_none()
        } else {
            match self.region(first) {
                Region::Free => true,
                Region::Page => false,
                Region::Pages(pages) => pages.used == 0,
            }
        }
    }

    /// Assigns a page that was free.
    pub(super) fn assign(&mut self, frame: Pfn, level: PageLevel, page: PageType) {
        self.set_epoch(Unit::new(level, frame), 0);
        match level {
            PageLevel::Size4K => match self.region_mut(frame) {
                Region::Pages(pages) => {
                    let old = &mut pages.types[(frame.0 % RANGE) as usize];
                    pages.used += u16::from(*old == PageType::Free);
                    *old = page;
                }
                region => {
                    let mut pages = Pages::of(PageType::Free, None);
                    pages.types[(frame.0 % RANGE) as usize] = page;
                    pages.used = 1;
                    *region = Region::Pages(pages);
                }
            },
            PageLevel::Size2M => *self.region_mut(frame) = Region::Page,
            PageLevel::Size1G => {
                self.gigas.insert(frame);
            }
        }
    }

    /// Takes a page back. Returns the hint for RCX that the range has no page left.
    pub(super) fn release(&mut self, frame: Pfn, level: PageLevel) -> u64 {
        self.set_epoch(Unit::new(level, frame), 0);
        match level {
            PageLevel::Size4K => {
                let Region::Pages(pages) = self.region_mut(frame) else {
                    return 0;
                };
                let page = &mut pages.types[(frame.0 % RANGE) as usize];
                if *page != PageType::Free {
                    *page = PageType::Free;
                    pages.used -= 1;
                }
                match (pages.used, pages.pair) {
                    (0, Some(_)) => return REMOVAL_HINT,
                    (0, None) => *self.region_mut(frame) = Region::Free,
                    _ => {}
                }
            }
            PageLevel::Size2M => *self.region_mut(frame) = Region::Free,
            PageLevel::Size1G => {
                self.gigas.remove(&frame);
            }
        }
        0
    }

    /// Makes one page of `level` 512 smaller ones.
    pub(super) fn demote(&mut self, first: Pfn, level: PageLevel, pair: Option<[Pfn; 2]>) {
        self.set_epoch(Unit::new(level, first), 0);
        if level == PageLevel::Size1G {
            self.gigas.remove(&first);
            for range in 0..RANGE {
                *self.region_mut(first.add(range * RANGE)) = Region::Page;
            }
        } else {
            *self.region_mut(first) = Region::Pages(Pages::of(PageType::Td, pair));
            self.given.extend(pair.into_iter().flatten());
        }
    }

    /// Makes 512 pages one of `level`. Returns the PAMT pages that are free with that.
    pub(super) fn promote(&mut self, first: Pfn, level: PageLevel) -> Option<[Pfn; 2]> {
        if level == PageLevel::Size1G {
            for range in 0..RANGE {
                self.regions.remove(&(first.0 / RANGE + range));
            }
            self.gigas.insert(first);
            return None;
        }
        let old = std::mem::replace(self.region_mut(first), Region::Page);
        let pair = match old {
            Region::Pages(pages) => pages.pair,
            Region::Free | Region::Page => None,
        };
        for page in pair.into_iter().flatten() {
            self.given.remove(&page);
        }
        pair
    }

    /// Rejects PAMT pages that are in use. `operands` name their registers; the range that they are
    /// for is not checked.
    pub(super) fn check_pair(
        &mut self,
        pair: [Pfn; 2],
        operands: [u64; 2],
        range: Option<Pfn>,
    ) -> Result<(), Status> {
        for (frame, operand) in pair.into_iter().zip(operands) {
            if range.is_some_and(|range| range.0 / RANGE == frame.0 / RANGE) {
                continue;
            }
            let reached = self
                .walk(frame, PageLevel::Size4K, Hold::Shared)
                .map_err(|busy| busy.detail(operand))?;
            if reached.page != PageType::Free {
                return Err(Status::PAGE_NOT_FREE.detail(operand));
            }
        }
        for (at, (frame, operand)) in pair.into_iter().zip(operands).enumerate() {
            if self.given.contains(&frame) || pair[..at].contains(&frame) {
                return Err(Status::PAGE_NOT_FREE.detail(operand));
            }
        }
        Ok(())
    }

    /// TDH.PHYMEM.PAMT.ADD: gives a 2M range its two PAMT pages.
    pub(super) fn add_pair(&mut self, range: Pfn, pair: [Pfn; 2]) {
        *self.region_mut(range) = Region::Pages(Pages::of(PageType::Free, Some(pair)));
        self.given.extend(pair);
    }

    /// Whether a walk found a page of this size that the TD or its S-EPT has.
    pub(super) fn is_of_td(reached: &Reached, level: PageLevel) -> bool {
        reached.level == level && matches!(reached.page, PageType::Td | PageType::Table)
    }

    /// Whether a walk found a range that is free and has no PAMT pages.
    pub(super) const fn is_bare(reached: &Reached) -> bool {
        matches!(reached.level, PageLevel::Size2M) && matches!(reached.page, PageType::Free)
    }

    /// TDH.PHYMEM.PAMT.REMOVE: takes the two pages of a range away again.
    pub(super) fn remove_pair(&mut self, range: Pfn) -> Result<[Pfn; 2], Status> {
        let Region::Pages(pages) = self.region(range) else {
            return Err(Status::NO_PAMT_PAGE_PAIR.rcx());
        };
        let Some(pair) = pages.pair else {
            return Err(Status::NO_PAMT_PAGE_PAIR.rcx());
        };
        let half = pages.types.len() / 2;
        if let Some(used) = pages.types.iter().position(|&page| page != PageType::Free) {
            return Err(Status::PAMT_PAGE_NOT_EMPTY.detail((used / half) as u64));
        }
        for page in pair {
            self.given.remove(&page);
        }
        self.regions.remove(&(range.0 / RANGE));
        Ok(pair)
    }

    /// PAMT.BEPOCH of a page: the epoch in which it was blocked, 0 where it never was.
    pub(super) fn epoch(&self, unit: Unit) -> u64 {
        let mut epochs = self.epochs.iter();
        epochs
            .find(|(at, _)| *at == unit)
            .map_or(0, |&(_, epoch)| epoch)
    }

    /// Sets PAMT.BEPOCH.
    pub(super) fn set_epoch(&mut self, unit: Unit, epoch: u64) {
        match self.epochs.iter().position(|(at, _)| *at == unit) {
            Some(at) if epoch == 0 => {
                self.epochs.swap_remove(at);
            }
            Some(at) => self.epochs[at].1 = epoch,
            None if epoch == 0 => {}
            None => self.epochs.push((unit, epoch)),
        }
    }
}
