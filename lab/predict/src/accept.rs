//! TDG.MEM.PAGE.ACCEPT and KVM's handling of its exits: docs/semantics.md, sections 2 and 3.

use tdxlab_plan::Size;
use tdxlab_plan::addr::{GpaRange, PageLevel};

use super::Unjudgeable;
use super::pages::{REGION, gfns_of, pages_of};
use super::runs::Pages;
use super::state::{Acceptance, Sept, State};
use super::status::{OPERAND_INVALID, SIZE_MISMATCH, SUCCESS, already_accepted};
use super::tally::Tally;

const PAGES_1G: u64 = PageLevel::Size1G.pages_4k();

impl State {
    /// The guest accepts a range at one size.
    ///
    /// A 2M page of which only the start lies in memory is mapped by 4K, so its ACCEPT finds a table.
    /// Where nothing lies behind an address, the EPT violation becomes an exit that no VMM can serve.
    pub(super) fn accept(
        &mut self,
        tally: &mut Tally,
        range: GpaRange,
        size: Size,
    ) -> Result<(), Unjudgeable> {
        tally.makes_accepts();
        let mut pages = pages_of(range);
        let memory = self.memory.end().gfn();
        if pages.end > memory && size != Size::Size1G {
            let last = match size {
                Size::Size4K => memory,
                Size::Size2M => memory.next_multiple_of(REGION),
                Size::Size1G | Size::Linux => {
                    return Err(Unjudgeable {
                        why: format!("{range} ends past test memory"),
                        advice: "accept past the end of memory at 4K or 2M".to_owned(),
                    });
                }
            };
            if last < pages.end {
                pages.end = last;
                tally.accept_exits += 1;
                tally.died = true;
                tally.ended_by_vmm = true;
                self.alive = false;
            }
        }
        match size {
            Size::Size4K => self.accept_pages(tally, pages),
            Size::Size2M => self.accept_regions(tally, pages),
            Size::Size1G => {
                let number = (pages.end - pages.start).div_ceil(PAGES_1G);
                tally.accepted(pages.start, PageLevel::Size1G, number, OPERAND_INVALID);
            }
            Size::Linux => self.accept_like_linux(tally, pages),
        }
        Ok(())
    }

    /// The guest releases accepted pages, each at the size at which it is mapped: they are pending
    /// again, without an exit, unknown to the host (TDG.MEM.PAGE.RELEASE).
    pub(super) fn release(
        &mut self,
        tally: &mut Tally,
        range: GpaRange,
        level: PageLevel,
    ) -> Result<(), Unjudgeable> {
        let pages = pages_of(range);
        let whole = self
            .sept
            .stretches(pages.clone())
            .all(|(_, sept)| match level {
                PageLevel::Size4K => sept == Sept::Page(Acceptance::Accepted),
                PageLevel::Size2M => sept == Sept::Leaf(Acceptance::Accepted),
                PageLevel::Size1G => false,
            });
        if !whole || !self.uncertain_regions(&pages).is_empty() {
            return Err(Unjudgeable {
                why: format!("not all of {range} is accepted and mapped at {level}"),
                advice: "release accepted memory at the size at which it is mapped; what the TDX \
                         module says of other memory is not public"
                    .to_owned(),
            });
        }
        tally.makes_accepts();
        let number = (pages.end - pages.start) / level.pages_4k();
        tally.accepted(pages.start, level, number, SUCCESS);
        self.give_back(pages);
        Ok(())
    }

    fn accept_pages(&mut self, tally: &mut Tally, pages: Pages) {
        let mut at = pages.start;
        while at < pages.end {
            let (status, number) = self.accept_4k(tally, at..pages.end);
            tally.accepted(at, PageLevel::Size4K, number, status);
            at += number;
        }
    }

    fn accept_regions(&mut self, tally: &mut Tally, pages: Pages) {
        let mut at = pages.start;
        while at < pages.end {
            let (status, regions) = self.accept_2m(tally, at..pages.end);
            tally.accepted(at, PageLevel::Size2M, regions, status);
            at += regions * REGION;
        }
    }

    /// `try_accept_one()` of Linux: 1G, then 2M, then 4K as far as alignment and length allow, any
    /// non-zero status meaning the next smaller; a 4K page that fails ends it.
    fn accept_like_linux(&mut self, tally: &mut Tally, pages: Pages) {
        let mut at = pages.start;
        while at < pages.end {
            let left = pages.end - at;
            if self.regions.at(at / REGION).0.uncertain {
                // A refused 4K page may end the command here, or nowhere.
                self.becomes_uncertain(tally, at..pages.end);
                return;
            }
            if at.is_multiple_of(PAGES_1G) && left >= PAGES_1G {
                tally.accepted(at, PageLevel::Size1G, 1, OPERAND_INVALID);
            }
            if at.is_multiple_of(REGION) && left >= REGION {
                // A 1G attempt is made at every 1G boundary.
                let stop = (at + PAGES_1G - at % PAGES_1G).min(at + left - left % REGION);
                let (status, regions) = self.accept_2m(tally, at..stop);
                if status == SUCCESS {
                    tally.accepted(at, PageLevel::Size2M, regions, status);
                    at += regions * REGION;
                    continue;
                }
                tally.accepted(at, PageLevel::Size2M, 1, status);
            }
            let stop = pages.end.min(gfns_of(at / REGION).end);
            let (status, number) = self.accept_4k(tally, at..stop);
            if status != SUCCESS {
                tally.accepted(at, PageLevel::Size4K, 1, status);
                return;
            }
            tally.accepted(at, PageLevel::Size4K, number, status);
            at += number;
        }
    }

    /// ACCEPT 4K from `pages.start` on: the status, and how many of `pages` get it.
    fn accept_4k(&mut self, tally: &mut Tally, pages: Pages) -> (u64, u64) {
        loop {
            let view = self.view(pages.clone());
            let here = pages.start..pages.start + view.pages;
            if view.region.uncertain {
                self.stir(tally, &here);
                return (SUCCESS, view.pages);
            }
            if view.shared.attribute {
                // KVM_EXIT_MEMORY_FAULT: user space converts page by page, then KVM maps.
                self.unshare(tally, here.clone());
            }
            match view.sept {
                Sept::Absent => {
                    tally.accept_exits += view.pages as i64;
                    self.inhibit(&here);
                    self.map_pages(tally, here, Acceptance::Accepted);
                    return (SUCCESS, view.pages);
                }
                Sept::Leaf(Acceptance::Pending) => {
                    // The walk stops at level 1: KVM splits to the accepted level and sets the
                    // inhibit bit (`tdx_handle_mismatched_accept()`), once per leaf.
                    let leaves = leaves_from(pages.start, view.regions);
                    tally.accept_exits += view.regions as i64;
                    self.inhibit(&leaves);
                    self.split(tally, leaves);
                }
                Sept::Leaf(Acceptance::Accepted) => {
                    return (already_accepted(PageLevel::Size2M), view.pages);
                }
                Sept::Page(Acceptance::Pending) => {
                    self.take(here);
                    return (SUCCESS, view.pages);
                }
                Sept::Page(Acceptance::Accepted) => {
                    return (already_accepted(PageLevel::Size4K), view.pages);
                }
            }
        }
    }

    /// ACCEPT 2M from region start `pages.start` on: the status, and how many regions get it.
    fn accept_2m(&mut self, tally: &mut Tally, pages: Pages) -> (u64, u64) {
        let region = pages.start / REGION;
        let wanted = (pages.end - pages.start) / REGION;
        let (facts, facts_end) = self.regions.at(region);
        if facts.uncertain {
            self.stir(tally, &gfns_of(region));
            return (SUCCESS, 1);
        }
        if facts.table {
            return (SIZE_MISMATCH, wanted.min(facts_end - region));
        }
        let view = self.view(pages.clone());
        let here = leaves_from(pages.start, view.regions);
        match view.sept {
            Sept::Leaf(Acceptance::Pending) => {
                self.take(here);
                (SUCCESS, view.regions)
            }
            Sept::Leaf(Acceptance::Accepted) => (already_accepted(PageLevel::Size2M), view.regions),
            Sept::Page(_) => unreachable!("a 4K leaf implies a table"),
            Sept::Absent => {
                let first = pages.start..pages.start + 1;
                let mut most = view.regions;
                if view.shared.attribute {
                    self.unshare(tally, first.clone());
                    most = 1;
                }
                match self.leaf_allowed(region) {
                    (true, span) => {
                        let regions = most.min(span);
                        tally.accept_exits += regions as i64;
                        let here = leaves_from(pages.start, regions);
                        self.map_leaves(tally, here, Acceptance::Accepted);
                        (SUCCESS, regions)
                    }
                    (false, _) => {
                        // KVM maps the faulting page at 4K; the repeated ACCEPT finds a table.
                        tally.accept_exits += 1;
                        self.map_pages(tally, first, Acceptance::Pending);
                        (SIZE_MISMATCH, 1)
                    }
                }
            }
        }
    }
}

/// The pages of `regions` regions, the first of which holds page `at`.
pub(super) fn leaves_from(at: u64, regions: u64) -> Pages {
    let start = at - at % REGION;
    start..start + regions * REGION
}
