//! Loads, stores and TDG.MEM.PAGE.ATTR.RD: docs/semantics.md, section 4.

use tdxlab_plan::addr::{Gpa, GpaRange, PageLevel};
use tdxlab_plan::{AccessOutcome, Generation, OnVe, ProbeRun};

use super::accept::leaves_from;
use super::pages::{REGION, count, pages_of};
use super::runs::Pages;
use super::state::{Acceptance, Sept, SharedPage, State};
use super::tally::Tally;

/// Parameters of the accesses to each page.
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
    /// Reads every page and continues after #VE.
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
            // With a wider stride each access is predicted separately.
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
            let view = self.view(reach);
            let here = at..at + view.pages;
            if view.region.uncertain {
                // What is private still becomes shared.
                self.unsettle(here.clone());
                self.stir(tally, &here);
            } else {
                self.access_shared_here(tally, here, view.shared, access.fill);
            }
            let end = (at + view.pages * step).min(pages.end);
            tally.access(&(at..end), AccessOutcome::Done);
            at = end;
        }
    }

    /// ATTR.RD once per stride: it maps missing pages, and reports pending ones without #VE.
    pub(super) fn probe(&mut self, tally: &mut Tally, range: GpaRange, stride: PageLevel) {
        let pages = pages_of(range);
        let mut at = pages.start;
        while at < pages.end {
            let reach = match stride {
                PageLevel::Size4K => at..pages.end,
                _ => at..at + 1,
            };
            let view = self.view(reach.clone());
            if view.region.uncertain {
                self.stir(tally, &(at..at + view.pages));
                at += view.pages * stride.pages_4k();
                continue;
            }
            let (level, taken) = match view.sept {
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
                count: view.pages,
                level,
                pending: taken == Acceptance::Pending,
            });
            at += view.pages * stride.pages_4k();
        }
    }

    /// KVM_PRE_FAULT_MEMORY: maps missing pages, shared ones at 4K; invisible to the guest.
    pub(super) fn prefault(&mut self, tally: &mut Tally, range: GpaRange) {
        let exits = tally.access_exits;
        let pages = pages_of(range);
        let mut at = pages.start;
        while at < pages.end {
            let view = self.view(at..pages.end);
            let here = at..at + view.pages;
            if view.region.uncertain {
                self.stir(tally, &here);
            } else if view.shared.attribute {
                self.access_shared_here(tally, here, view.shared, view.shared.filled);
            } else if view.sept == Sept::Absent {
                self.fault(tally, at..pages.end);
                continue;
            }
            at += view.pages;
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
            let view = self.view(pages.clone());
            let here = pages.start..pages.start + view.pages;
            if view.region.uncertain {
                self.stir(tally, &here);
                tally.fault(&here, 1);
                if let Some(generation) = access.fill {
                    self.fill_steady(here, generation);
                }
                return (AccessOutcome::Either, view.pages);
            }
            match view.sept {
                Sept::Absent if self.sept_ve_disable => {
                    self.fault(tally, pages.start..pages.start + 1);
                }
                Sept::Absent => self.fault(tally, pages.clone()),
                Sept::Leaf(Acceptance::Pending) | Sept::Page(Acceptance::Pending)
                    if self.sept_ve_disable =>
                {
                    // EEQ type 6: KVM logs the access and marks the VM dead.
                    tally.died = true;
                    self.alive = false;
                    return (AccessOutcome::Ve, 1);
                }
                Sept::Leaf(Acceptance::Pending) | Sept::Page(Acceptance::Pending)
                    if access.on_ve == OnVe::Skip =>
                {
                    return (AccessOutcome::Ve, view.pages);
                }
                // The handler accepts the 4K page it was stopped at.
                Sept::Leaf(Acceptance::Pending) => {
                    let leaves = leaves_from(pages.start, view.regions);
                    tally.accept_exits += view.regions as i64;
                    self.inhibit(&leaves);
                    self.split(tally, leaves);
                }
                Sept::Page(Acceptance::Pending) => {
                    self.take(here);
                    return (AccessOutcome::Accepted, view.pages);
                }
                Sept::Leaf(Acceptance::Accepted) | Sept::Page(Acceptance::Accepted) => {
                    if let Some(generation) = access.fill {
                        self.filled.set(here, Some(generation));
                    }
                    return (AccessOutcome::Done, view.pages);
                }
            }
        }
    }

    /// EPT violations of plain accesses from `pages.start` on, as far as they are alike: KVM maps
    /// pending memory at the largest level allowed.
    fn fault(&mut self, tally: &mut Tally, pages: Pages) {
        let at = pages.start;
        let view = self.view(pages);
        let mut most = view.pages;
        let mut leaves = view.regions;
        if view.shared.attribute {
            // Converted page by page: until the last shared page of the region is gone, the region
            // is MIXED and gets a table, so only the first page needs a view of its own.
            if !view.region.table {
                (most, leaves) = (1, 1);
            }
            self.unshare(tally, at..at + most);
        }
        let region = at / REGION;
        let (allowed, span) = self.leaf_allowed(region);
        if allowed {
            let here = leaves_from(at, leaves.min(span));
            tally.access_exits += count(&here) / REGION as i64;
            tally.fault(&here, REGION);
            self.map_leaves(tally, here, Acceptance::Pending);
        } else {
            let end = region.saturating_add(span).saturating_mul(REGION);
            let here = at..end.min(at + most);
            tally.access_exits += count(&here);
            tally.fault(&here, 1);
            self.map_pages(tally, here, Acceptance::Pending);
        }
    }

    pub(super) fn access_shared_here(
        &mut self,
        tally: &mut Tally,
        pages: Pages,
        view: SharedPage,
        fill: Option<Generation>,
    ) {
        if !view.attribute {
            // KVM_EXIT_MEMORY_FAULT again, 4K at a time: every leaf touched must split.
            self.share_by_page(tally, pages.clone());
        }
        if !view.mapped {
            tally.pages_4k += count(&pages);
            if self.design.in_place() {
                self.populate(&pages);
            }
        }
        self.shared.set(
            pages,
            SharedPage {
                attribute: true,
                mapped: true,
                filled: fill.or(view.filled),
            },
        );
    }
}
