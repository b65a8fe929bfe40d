//! Operations of a race that meet in a 2M region and leave it the same in every order.
//!
//! All that KVM does to mapped memory is done by the page, but for the split of a leaf, which keeps
//! state and content of its pages and is made once, whoever asks for it first. So where branches
//! change pages of their own, and no page is newly mapped privately or accepted, the order does not
//! show in what is left. What is newly mapped may be a leaf or not, depending on who came first, and an
//! ACCEPT that finds the entry locked leaves the page as it was: such regions stay open, and so does
//! whatever is not listed here.

use tdxlab_plan::addr::{PageLevel, Side};
use tdxlab_plan::{Branch, OnVe, Op, Size};

use super::hole::pages_around;
use super::pages::{gfns_of, overlap, regions_touching};
use super::runs::Pages;
use super::state::{Others, Sept, State};
use super::tally::Tally;

/// What an operation does in one region.
struct Footprint {
    pages: Pages,
    /// It changes nothing, as long as nobody else changes these pages.
    looks: bool,
    /// It needs pages that the guest_memfd does not have.
    populates: bool,
    /// It takes pages from the guest_memfd.
    frees: bool,
}

/// What a branch does in each region where branches meet; `None` where that may depend on others.
type InEachRegion = Vec<Option<Vec<Footprint>>>;

impl Footprint {
    fn over(pages: Pages) -> Footprint {
        Footprint {
            pages,
            looks: false,
            populates: false,
            frees: false,
        }
    }

    /// Whether the order of the two does not show in what is left.
    fn commutes(&self, other: &Footprint) -> bool {
        let both_look = self.looks && other.looks;
        // Whether a whole folio is allocated depends on what of it is there.
        let folio = (self.populates && other.frees) || (self.frees && other.populates);
        !folio && (both_look || !overlap(&self.pages, &other.pages))
    }
}

impl State {
    /// Those of the regions where branches meet whose state afterwards depends on the order.
    pub(super) fn open_regions(&self, branches: &[Branch], meeting: &[u64]) -> Vec<u64> {
        if meeting.is_empty() {
            return Vec::new();
        }
        let alone: Option<Vec<InEachRegion>> = branches
            .iter()
            .map(|branch| self.footprints(branch, meeting))
            .collect();
        let Some(alone) = alone else {
            return meeting.to_vec();
        };
        let is_open = |index: usize, region: u64| {
            let each: Option<Vec<&Vec<Footprint>>> =
                alone.iter().map(|branch| branch[index].as_ref()).collect();
            each.is_none_or(|each| !self.is_plain(region) || !all_commute(&each))
        };
        let numbered = meeting.iter().enumerate();
        numbered
            .filter(|(index, region)| is_open(*index, **region))
            .map(|(_, region)| *region)
            .collect()
    }

    /// Whether a region is known, has its folio for itself, and nobody stands in the way there.
    fn is_plain(&self, region: u64) -> bool {
        !self.regions.at(region).0.uncertain
            && self.slots.all_congruent()
            && self.slots.congruent(region).is_some()
            && self
                .others
                .all(gfns_of(region), |page| page == Others::default())
    }

    /// What a branch does in each of the regions if it is left alone; `None` for a region where it may
    /// do more than change pages of its own. `None` for the whole if it cannot be foreseen.
    fn footprints(&self, branch: &Branch, meeting: &[u64]) -> Option<InEachRegion> {
        let mut alone = self.clone();
        let mut found: InEachRegion = Vec::new();
        found.resize_with(meeting.len(), || Some(Vec::new()));
        for op in &branch.0 {
            let touched = regions_touching(&pages_around(op.range().unwrap_or_default()));
            let first = meeting.partition_point(|region| *region < touched.start);
            let last = meeting.partition_point(|region| *region < touched.end);
            for (index, region) in meeting.iter().enumerate().take(last).skip(first) {
                match (&mut found[index], alone.footprint(op, *region)) {
                    (Some(all), Some(one)) => all.push(one),
                    (all, _) => *all = None,
                }
            }
            alone.operate(&mut Tally::default(), op).ok()?;
        }
        Some(found)
    }

    /// What an operation does in a region; `None` where it may do more than change pages of its own.
    fn footprint(&self, op: &Op, region: u64) -> Option<Footprint> {
        let own = gfns_of(region);
        let all = pages_around(op.range()?);
        let pages = all.start.max(own.start)..all.end.min(own.end);
        let looks = |pages: &Pages| Footprint {
            looks: true,
            ..Footprint::over(pages.clone())
        };
        match *op {
            Op::Accept {
                size: Size::Size4K, ..
            } => self.is_accepted(&pages).then(|| looks(&pages)),
            Op::Touch {
                side: Side::Private,
                stride,
                on_ve,
                ..
            } => {
                let pages = accessed(&pages, stride);
                self.is_readable(&pages, on_ve).then(|| looks(&pages))
            }
            Op::Fill {
                side: Side::Private,
                ..
            } => self
                .is_readable(&pages, OnVe::Skip)
                .then(|| Footprint::over(pages)),
            Op::Touch {
                side: Side::Shared,
                stride,
                ..
            } => self.shared_footprint(accessed(&pages, stride), true),
            Op::Fill {
                side: Side::Shared, ..
            } => self.shared_footprint(pages, false),
            // Where the VMM has KVM map what it converted, that may be a leaf.
            Op::Convert { to, .. } if !self.maps_conversions => Some(Footprint {
                frees: to == Side::Shared && !self.design.in_place(),
                ..Footprint::over(pages)
            }),
            Op::Punch { .. } => Some(Footprint {
                frees: true,
                ..Footprint::over(pages)
            }),
            Op::Probe { stride, .. } => {
                let pages = accessed(&pages, stride);
                self.is_mapped(&pages).then(|| looks(&pages))
            }
            Op::Prefault { .. } => self.is_mapped(&pages).then(|| looks(&pages)),
            Op::Allocate { .. } => Some(Footprint {
                populates: !self.is_held(&pages),
                ..looks(&pages)
            }),
            _ => None,
        }
    }

    /// Accesses through the shared half to pages that are shared already.
    fn shared_footprint(&self, pages: Pages, only_touches: bool) -> Option<Footprint> {
        let is_shared = self.shared.all(pages.clone(), |page| page.attribute);
        is_shared.then(|| Footprint {
            looks: only_touches && self.shared.all(pages.clone(), |page| page.mapped),
            populates: self.design.in_place() && !self.is_held(&pages),
            ..Footprint::over(pages)
        })
    }

    fn is_mapped(&self, pages: &Pages) -> bool {
        self.sept.all(pages.clone(), |sept| sept != Sept::Absent)
    }

    fn is_accepted(&self, pages: &Pages) -> bool {
        self.sept.all(pages.clone(), Sept::is_accepted)
    }

    /// Whether accesses complete or are skipped, and none of them maps, accepts or kills.
    fn is_readable(&self, pages: &Pages, on_ve: OnVe) -> bool {
        let skips = on_ve == OnVe::Skip && !self.sept_ve_disable;
        self.is_accepted(pages) || (skips && self.is_mapped(pages))
    }

    fn is_held(&self, pages: &Pages) -> bool {
        let pieces = self.slots.pieces(pages).into_iter();
        let held: u64 = pieces.map(|(_, file)| self.folios.held(file)).sum();
        held == pages.end - pages.start
    }
}

/// The pages of a region, some of which are accessed. Strides of 2M and more reach its first only.
fn accessed(pages: &Pages, stride: PageLevel) -> Pages {
    match stride {
        PageLevel::Size4K => pages.clone(),
        PageLevel::Size2M | PageLevel::Size1G => pages.start..pages.start + 1,
    }
}

/// Whether what each branch does in a region commutes with all that the others do.
fn all_commute(each: &[&Vec<Footprint>]) -> bool {
    each.iter().enumerate().all(|(who, mine)| {
        let mut others = each[who + 1..].iter().flat_map(|other| other.iter());
        others.all(|other| mine.iter().all(|one| one.commutes(other)))
    })
}
