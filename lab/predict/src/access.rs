//! Loads, stores and TDG.MEM.PAGE.ATTR.RD: docs/semantics.md, section 4.

use tdxlab_plan::addr::{Gpa, GpaRange, PageLevel};
use tdxlab_plan::{AccessOutcome, Generation, OnVe, ProbeRun};

use super::accept::leaves_from;
use super::pages::{REGION, count, pages_of};
use super::runs::Pages;
use super::state::{Sept, SharedPage, State, Taken};
use super::tally::Tally;

/// What the guest does with each page it reaches.
#[derive(Clone, Copy, Debug)]
pub(super) struct Access {
    /// Distance between accesses.
    pub(super) stride: PageLevel,
    /// What the #VE handler does.
    pub(super) on_ve: OnVe,
    /// Writes this generation over the page.
    pub(super) fill: Option<Generation>,
}

impl Access {
    /// Reads every page and goes on at #VE.
    pub(super) const READ: Access = Access {
        stride: PageLevel::Size4K,
        on_ve: OnVe::Skip,
        fill: None,
    };
}

impl State {
    /// Private accesses over a range. Ends early if one of them kills the TD.
    pub(super) fn access(&mut self, tally: &mut Tally, range: GpaRange, access: Access) {
        tally.handler_accepts |= access.on_ve == OnVe::Accept;
        let pages = pages_of(range);
        let mut at = pages.start;
        while at < pages.end && !tally.died {
            // With a wider stride every access is looked at by itself.
            let reach = match access.stride {
                PageLevel::Size4K => at..pages.end,
                _ => at..at + 1,
            };
            let (outcome, number) = self.access_here(tally, reach, access);
            let step = access.stride.pages_4k();
            tally.access(&(at..(at + number * step).min(pages.end)), outcome);
            at += number * step;
        }
    }

    /// Shared accesses over a range: always 4K leaves, never #VE.
    pub(super) fn access_shared(&mut self, tally: &mut Tally, range: GpaRange, access: Access) {
        let pages = pages_of(range);
        let step = access.stride.pages_4k();
        let mut at = pages.start;
        while at < pages.end {
            let reach = match access.stride {
                PageLevel::Size4K => at..pages.end,
                _ => at..at + 1,
            };
            let look = self.look(reach);
            let here = at..at + look.pages;
            if look.region.fog {
                self.stir(tally, &here);
            } else {
                self.access_shared_here(tally, here, look.shared, access.fill);
            }
            let end = (at + look.pages * step).min(pages.end);
            tally.access(&(at..end), AccessOutcome::Done);
            at = end;
        }
    }

    /// ATTR.RD once per stride: it maps what is missing, and tells pending without #VE.
    pub(super) fn probe(&mut self, tally: &mut Tally, range: GpaRange, stride: PageLevel) {
        let pages = pages_of(range);
        let mut at = pages.start;
        while at < pages.end {
            let reach = match stride {
                PageLevel::Size4K => at..pages.end,
                _ => at..at + 1,
            };
            let look = self.look(reach.clone());
            if look.region.fog {
                self.stir(tally, &(at..at + look.pages));
                at += look.pages * stride.pages_4k();
                continue;
            }
            let (level, taken) = match look.sept {
                Sept::Absent => {
                    self.fault(tally, reach);
                    continue;
                }
                Sept::Leaf(taken) => (PageLevel::Size2M, taken),
                Sept::Page(taken) => (PageLevel::Size4K, taken),
            };
            tally.probe(ProbeRun {
                start: Gpa::from_gfn(at),
                stride,
                count: look.pages,
                level,
                pending: taken == Taken::Pending,
            });
            at += look.pages * stride.pages_4k();
        }
    }

    /// KVM_PRE_FAULT_MEMORY: maps what is missing, shared pages at 4K; the guest notices nothing.
    pub(super) fn prefault(&mut self, tally: &mut Tally, range: GpaRange) {
        let exits = tally.access_exits;
        let pages = pages_of(range);
        let mut at = pages.start;
        while at < pages.end {
            let look = self.look(at..pages.end);
            let here = at..at + look.pages;
            if look.region.fog {
                self.stir(tally, &here);
            } else if look.shared.attribute {
                self.access_shared_here(tally, here, look.shared, look.shared.filled);
            } else if look.sept == Sept::Absent {
                self.fault(tally, at..pages.end);
                continue;
            }
            at += look.pages;
        }
        tally.access_exits = exits;
    }

    /// One private access at `pages.start`: its outcome, and how many of `pages` have the same.
    pub(super) fn access_here(
        &mut self,
        tally: &mut Tally,
        pages: Pages,
        access: Access,
    ) -> (AccessOutcome, u64) {
        loop {
            let look = self.look(pages.clone());
            let here = pages.start..pages.start + look.pages;
            if look.region.fog {
                self.stir(tally, &here);
                return (AccessOutcome::Either, look.pages);
            }
            match look.sept {
                Sept::Absent if self.sept_ve_disable => {
                    self.fault(tally, pages.start..pages.start + 1);
                }
                Sept::Absent => self.fault(tally, pages.clone()),
                Sept::Leaf(Taken::Pending) | Sept::Page(Taken::Pending) if self.sept_ve_disable => {
                    // EEQ type 6: KVM logs the access and marks the VM dead.
                    tally.died = true;
                    self.alive = false;
                    return (AccessOutcome::Ve, 1);
                }
                Sept::Leaf(Taken::Pending) | Sept::Page(Taken::Pending)
                    if access.on_ve == OnVe::Skip =>
                {
                    return (AccessOutcome::Ve, look.pages);
                }
                // The handler accepts the 4K page it was stopped at.
                Sept::Leaf(Taken::Pending) => {
                    let leaves = leaves_from(pages.start, look.regions);
                    tally.accept_exits += look.regions as i64;
                    self.inhibit(&leaves);
                    self.split(tally, leaves);
                }
                Sept::Page(Taken::Pending) => {
                    self.take(here);
                    return (AccessOutcome::Accepted, look.pages);
                }
                Sept::Leaf(Taken::Accepted) | Sept::Page(Taken::Accepted) => {
                    if let Some(generation) = access.fill {
                        self.filled.set(here, Some(generation));
                    }
                    return (AccessOutcome::Done, look.pages);
                }
            }
        }
    }

    /// EPT violations of plain accesses from `pages.start` on, as far as they are alike: KVM maps
    /// pending memory at the largest level allowed.
    fn fault(&mut self, tally: &mut Tally, pages: Pages) {
        let at = pages.start;
        let look = self.look(pages);
        let mut most = look.pages;
        let mut leaves = look.regions;
        if look.shared.attribute {
            // Converted page by page: until the last shared page of the region has gone, the
            // region is MIXED and gets a table, so only the first page needs a look of its own.
            if !look.region.table {
                (most, leaves) = (1, 1);
            }
            self.unshare(tally, at..at + most);
        }
        let region = at / REGION;
        let (allowed, span) = self.leaf_allowed(region);
        if allowed {
            let here = leaves_from(at, leaves.min(span));
            tally.access_exits += count(&here) / REGION as i64;
            self.map_leaves(tally, here, Taken::Pending);
        } else {
            let end = region.saturating_add(span).saturating_mul(REGION);
            let here = at..end.min(at + most);
            tally.access_exits += count(&here);
            self.map_pages(tally, here, Taken::Pending);
        }
    }

    pub(super) fn access_shared_here(
        &mut self,
        tally: &mut Tally,
        pages: Pages,
        look: SharedPage,
        fill: Option<Generation>,
    ) {
        if !look.attribute {
            // KVM_EXIT_MEMORY_FAULT again, 4K at a time: every leaf touched must split.
            self.share_by_page(tally, pages.clone());
        }
        if !look.mapped {
            tally.pages_4k += count(&pages);
            if self.design.in_place {
                self.populate(&pages);
            }
        }
        self.shared.set(
            pages,
            SharedPage {
                attribute: true,
                mapped: true,
                filled: fill.or(look.filled),
            },
        );
    }
}
