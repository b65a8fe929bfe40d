//! State of the predictor between steps, and the few ways to change it.
//!
//! Facts are runs over 4K page numbers (gfns), over 2M regions, and over pages of the guest_memfd.
//! There are no tables here: "a table is there" is one fact about a region.

use std::collections::BTreeMap;

use tdxlab_plan::addr::GpaRange;
use tdxlab_plan::{Design, Generation, Guest, TdxModule, VcpuId};

use super::folio::Folios;
use super::pages::{REGION, count, gfns_of, pages_of, regions_touching};
use super::runs::{Pages, Runs};
use super::slots::Slots;
use super::tally::Tally;
use super::uncertain::UncertainRegions;
use super::zero_step::Stepping;

/// Whether mapped pages are accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Acceptance {
    /// Mapped by the host, not accepted.
    Pending,
    /// Accepted by the guest.
    Accepted,
}

/// How a private page is mapped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Sept {
    /// Unmapped.
    #[default]
    Absent,
    /// By the 2M leaf of its region.
    Leaf(Acceptance),
    /// By a 4K leaf.
    Page(Acceptance),
}

impl Sept {
    /// Whether the guest has accepted it.
    pub(super) fn is_accepted(self) -> bool {
        matches!(
            self,
            Sept::Leaf(Acceptance::Accepted) | Sept::Page(Acceptance::Accepted)
        )
    }
}

/// Facts about a 2M region that never change back while the TD lives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Region {
    /// Its level-2 entry is a table. There is no promotion.
    pub(super) table: bool,
    /// Its GUEST_INHIBIT bit is set: no 2M mapping any more (`hugepage_set_guest_inhibit()`).
    pub(super) inhibit: bool,
    /// A race touched it: its mappings are known within bounds only, see [`super::uncertain`].
    pub(super) uncertain: bool,
}

/// The shared side of a page.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct SharedPage {
    /// The page's memory attribute says shared.
    pub(super) attribute: bool,
    /// A shared 4K leaf maps it.
    pub(super) mapped: bool,
    /// The fill since it became shared; `None` if not filled.
    pub(super) filled: Option<Generation>,
}

/// What stands in the way of a conversion, or of memory as such.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Others {
    /// A device holds a reference to the page.
    pub(super) held: bool,
    /// The memory slot was deleted.
    pub(super) no_slot: bool,
    /// The VMM refuses to convert the page.
    pub(super) refused: bool,
}

/// State of one guest.
#[derive(Clone, Debug)]
pub(super) struct State {
    pub(super) design: Design,
    pub(super) memory: GpaRange,
    pub(super) sept_ve_disable: bool,
    pub(super) alive: bool,
    pub(super) slots: Slots,
    pub(super) sept: Runs<Sept>,
    /// Keyed by region number: gfn / 512.
    pub(super) regions: Runs<Region>,
    pub(super) shared: Runs<SharedPage>,
    /// What others did, by page.
    pub(super) others: Runs<Others>,
    /// The fill of a private page since it was accepted; `None`: it is zero.
    pub(super) filled: Runs<Option<Generation>>,
    /// Pages of uncertain regions that are private and accepted all the same, with the content that
    /// `filled` says; only the size of their mapping is not known.
    pub(super) steady: Runs<bool>,
    pub(super) folios: Folios,
    pub(super) uncertain: UncertainRegions,
    /// `None` where nobody knows which.
    pub(super) module: Option<TdxModule>,
    /// The VMM has KVM map what the guest has converted.
    pub(super) maps_conversions: bool,
    /// What its zero-step filter may know.
    pub(super) stepping: BTreeMap<VcpuId, Stepping>,
}

/// Facts that are uniform from one page on, for a while.
#[derive(Clone, Copy, Debug)]
pub(super) struct PageView {
    /// How many pages it is the same for.
    pub(super) pages: u64,
    /// Number of whole regions in it, if the first page starts one; otherwise 1, for the region of
    /// the page.
    pub(super) regions: u64,
    pub(super) sept: Sept,
    pub(super) region: Region,
    pub(super) shared: SharedPage,
}

impl State {
    /// A guest that has just become runnable: only its initial image is mapped, at 4K and accepted
    /// (TDH.MEM.PAGE.ADD).
    pub(super) fn new(design: &Design, guest: &Guest) -> State {
        let slots = Slots::new(&guest.slots);
        let mut state = State {
            design: *design,
            memory: guest.memory,
            sept_ve_disable: guest.sept_ve_disable,
            alive: true,
            folios: Folios::new(design.folio, slots.file_pages(), slots.unseen()),
            slots,
            sept: Runs::default(),
            regions: Runs::default(),
            shared: Runs::default(),
            others: Runs::default(),
            filled: Runs::default(),
            steady: Runs::default(),
            uncertain: UncertainRegions::default(),
            module: None,
            maps_conversions: false,
            stepping: BTreeMap::new(),
        };
        let mut image = Tally::default();
        for range in &guest.image {
            let pages = pages_of(*range);
            let mut at = pages.start;
            while at < pages.end {
                let view = state.view(at..pages.end);
                if view.sept == Sept::Absent {
                    state.map_pages(&mut image, at..at + view.pages, Acceptance::Accepted);
                }
                at += view.pages;
            }
        }
        state
    }

    /// State at `pages.start`, and the number of `pages` it holds for.
    pub(super) fn view(&self, pages: Pages) -> PageView {
        let at = pages.start;
        let (sept, sept_end) = self.sept.at(at);
        let (shared, shared_end) = self.shared.at(at);
        let (region, region_end) = self.regions.at(at / REGION);
        let end = sept_end
            .min(shared_end)
            .min(region_end.saturating_mul(REGION))
            .min(pages.end);
        let whole = if at.is_multiple_of(REGION) {
            (end - at) / REGION
        } else {
            0
        };
        PageView {
            pages: end - at,
            regions: whole.max(1),
            sept,
            region,
            shared,
        }
    }

    /// Whether a missing page of this region may be mapped by a 2M leaf, and for how many regions
    /// from this one on the answer is the same. An ACCEPT of 4K asks for less and does not come
    /// here. Source: docs/semantics.md, section 3 (`kvm_max_private_mapping_level()`, `lpage_info`, `disallowed_hugepage_adjust()`).
    pub(super) fn leaf_allowed(&self, region: u64) -> (bool, u64) {
        if !self.design.huge() {
            return (false, u64::MAX);
        }
        let (facts, facts_end) = self.regions.at(region);
        let span = facts_end - region;
        if facts.table || facts.inhibit {
            return (false, span);
        }
        let pages = gfns_of(region);
        let (shared, shared_end) = self.shared.at(pages.start);
        if shared.attribute || shared_end < pages.end {
            return (false, 1);
        }
        let span = span.min((shared_end - pages.start) / REGION);
        let Some((file, slot_span)) = self.slots.congruent(region) else {
            return (false, 1);
        };
        let (whole, folio_span) = self.folios.can_be_whole(file);
        (whole, span.min(slot_span).min(folio_span))
    }

    /// Maps pages one by one: a table comes to be, the guest_memfd is populated.
    pub(super) fn map_pages(&mut self, tally: &mut Tally, pages: Pages, taken: Acceptance) {
        tally.pages_4k += count(&pages);
        self.regions
            .update(regions_touching(&pages), |region| Region {
                table: true,
                ..region
            });
        self.populate(&pages);
        self.filled.set(pages.clone(), None);
        self.sept.set(pages, Sept::Page(taken));
    }

    /// Maps whole regions by 2M leaves.
    pub(super) fn map_leaves(&mut self, tally: &mut Tally, pages: Pages, taken: Acceptance) {
        tally.pages_2m += count(&pages) / REGION as i64;
        self.populate(&pages);
        self.filled.set(pages.clone(), None);
        self.sept.set(pages, Sept::Leaf(taken));
    }

    /// The guest accepts pending pages: they become zero.
    pub(super) fn take(&mut self, pages: Pages) {
        self.filled.set(pages.clone(), None);
        self.sept.update(pages, |sept| match sept {
            Sept::Absent => Sept::Absent,
            Sept::Leaf(_) => Sept::Leaf(Acceptance::Accepted),
            Sept::Page(_) => Sept::Page(Acceptance::Accepted),
        });
    }

    /// The guest releases pages: mapped ones are pending again.
    pub(super) fn give_back(&mut self, pages: Pages) {
        self.filled.set(pages.clone(), None);
        self.sept.update(pages, |sept| match sept {
            Sept::Absent => Sept::Absent,
            Sept::Leaf(_) => Sept::Leaf(Acceptance::Pending),
            Sept::Page(_) => Sept::Page(Acceptance::Pending),
        });
    }

    /// Splits every leaf of these whole regions. State and content stay (TDH.MEM.PAGE.DEMOTE).
    pub(super) fn split(&mut self, tally: &mut Tally, pages: Pages) {
        let is_leaf = |sept| matches!(sept, Sept::Leaf(_));
        for stretch in self.sept.those(pages, is_leaf) {
            tally.split(stretch.clone());
            self.regions
                .update(regions_touching(&stretch), |region| Region {
                    table: true,
                    ..region
                });
            self.sept.update(stretch, |sept| match sept {
                Sept::Leaf(taken) => Sept::Page(taken),
                other => other,
            });
        }
    }

    /// Sets the GUEST_INHIBIT bit of every region of `pages`.
    pub(super) fn inhibit(&mut self, pages: &Pages) {
        self.regions
            .update(regions_touching(pages), |region| Region {
                inhibit: true,
                ..region
            });
    }

    /// Removes every private mapping of `pages`. No leaf may stick out of them.
    pub(super) fn unmap_private(&mut self, tally: &mut Tally, pages: Pages) {
        for (stretch, sept) in self.sept.stretches(pages.clone()) {
            match sept {
                Sept::Absent => {}
                Sept::Leaf(_) => tally.pages_2m -= count(&stretch) / REGION as i64,
                Sept::Page(_) => tally.pages_4k -= count(&stretch),
            }
        }
        self.sept.set(pages.clone(), Sept::Absent);
        self.unsettle(pages);
    }

    /// Removes every shared mapping of `pages`, and the knowledge of their content.
    pub(super) fn unmap_shared(&mut self, tally: &mut Tally, pages: Pages) {
        tally.pages_4k -= self.shared.count(pages.clone(), |page| page.mapped) as i64;
        self.shared.update(pages, |page| SharedPage {
            attribute: page.attribute,
            ..SharedPage::default()
        });
    }

    /// Makes sure that the guest_memfd has these pages. Fogged regions keep their bounds.
    pub(super) fn populate(&mut self, pages: &Pages) {
        for (regions, region) in self.regions.stretches(regions_touching(pages)) {
            let part = pages.start.max(regions.start * REGION)..pages.end.min(regions.end * REGION);
            if !region.uncertain {
                for (_, file) in self.slots.pieces(&part) {
                    self.folios.populate(file);
                }
            }
        }
    }
}
