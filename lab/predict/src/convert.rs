//! MapGPA and implicit conversions: docs/semantics.md, section 6.

use tdxlab_plan::addr::{Gpa, GpaRange, PageLevel, Side};

use super::entries::entries;
use super::pages::{REGION, gfns_of, pages_of, regions_touching};
use super::runs::Pages;
use super::state::{Sept, SharedPage, State};
use super::tally::Tally;

/// R10 of a MapGPA that went through.
const MAP_GPA_DONE: u64 = 0;

/// R10 of a MapGPA that is not made of whole pages.
const MAP_GPA_ALIGN: u64 = (1 << 63) + 2;

impl State {
    /// The guest converts a range with MapGPA.
    ///
    /// KVM cuts the request into chunks of 2M **counted from its start**. So a request that starts
    /// on a 2M boundary covers every leaf but the last by one chunk, and one that does not covers
    /// none: all leaves it touches split.
    pub(super) fn convert(&mut self, tally: &mut Tally, range: GpaRange, to: Side) {
        if !range.is_aligned(PageLevel::Size4K) {
            // KVM looks at the whole request before it asks the VMM (`tdx_map_gpa()`).
            tally.map_gpa = Some(MAP_GPA_ALIGN);
            tally.map_gpa_stopped_at = Some(range.start());
            return;
        }
        let stop = self.stop(&pages_of(range), to);
        tally.map_gpa = Some(stop.map_or(MAP_GPA_DONE, |stop| stop.status));
        tally.map_gpa_stopped_at = stop.map(|stop| Gpa::from_gfn(stop.at));
        let asked = pages_of(range);
        let pages = asked.start..stop.map_or(asked.end, |stop| stop.at);
        if pages.is_empty() {
            tally.entries_at_most = Some(0);
            return;
        }
        tally.entries_at_most = match to {
            Side::Private => Some(0),
            Side::Shared => self.entries_of_chunks(&pages),
        };
        let uncertain = self.uncertain_regions(&pages);
        match to {
            Side::Shared if pages.start.is_multiple_of(REGION) => {
                self.split_ends(tally, &pages);
                self.share(tally, pages.clone());
            }
            Side::Shared => self.share_by_page(tally, pages.clone()),
            Side::Private => self.unshare(tally, pages.clone()),
        }
        for region in uncertain {
            self.clear_or_widen(tally, region, &pages, Settled::Converted(to));
        }
    }

    /// Entries visited for all chunks of a MapGPA. All chunks but the last cut the regions alike.
    fn entries_of_chunks(&self, pages: &Pages) -> Option<u64> {
        let full = (pages.end - pages.start) / REGION;
        let last = pages.start + full * REGION..pages.end;
        let each = entries(&self.design, &(pages.start..pages.start + REGION))?;
        let rest = entries(&self.design, &last)?;
        // If a slot ends inside a chunk, both parts are separate ranges.
        let seams = self.slots.pieces(pages).len() as u64 - 1;
        Some(full * each + if last.is_empty() { 0 } else { rest } + 2 * seams)
    }

    /// Splits the leaves that stick out of `pages` at its head and at its tail: each at most once,
    /// and one only where head and tail are the same leaf.
    pub(super) fn split_ends(&mut self, tally: &mut Tally, pages: &Pages) {
        for end in [pages.start, pages.end] {
            if !end.is_multiple_of(REGION) {
                let start = end - end % REGION;
                self.split(tally, start..start + REGION);
            }
        }
    }

    /// Conversion to shared in pieces that cover no leaf: all leaves touched split first.
    pub(super) fn share_by_page(&mut self, tally: &mut Tally, pages: Pages) {
        let regions = regions_touching(&pages);
        self.split(tally, regions.start * REGION..regions.end * REGION);
        self.share(tally, pages);
    }

    /// Conversion to shared: private mappings go; where user space punches, the memory too.
    pub(super) fn share(&mut self, tally: &mut Tally, pages: Pages) {
        self.unmap_private(tally, pages.clone());
        if !self.design.in_place() {
            for (_, file) in self.slots.pieces(&pages) {
                self.folios.free(file);
            }
        }
        self.shared.update(pages, |page| SharedPage {
            attribute: true,
            ..page
        });
    }

    /// Conversion to private: shared mappings and their content are lost.
    pub(super) fn unshare(&mut self, tally: &mut Tally, pages: Pages) {
        self.unmap_shared(tally, pages.clone());
        self.shared.set(pages, SharedPage::default());
    }

    /// The uncertain regions that hold any of `pages`.
    pub(super) fn uncertain_regions(&self, pages: &Pages) -> Vec<u64> {
        let uncertain = (self.regions).those(regions_touching(pages), |region| region.uncertain);
        uncertain.into_iter().flatten().collect()
    }

    /// After a range operation, a uncertain region is settled where the range covered it.
    pub(super) fn clear_or_widen(
        &mut self,
        tally: &mut Tally,
        region: u64,
        pages: &Pages,
        how: Settled,
    ) {
        let own = gfns_of(region);
        debug_assert!(self.sept.all(own.clone(), |sept| sept == Sept::Absent));
        if own.start < pages.start || pages.end < own.end {
            self.stir(tally, &own);
            return;
        }
        match how {
            Settled::Converted(Side::Private) => self.stir(tally, &own),
            Settled::Converted(Side::Shared) => {
                self.widen(region);
                self.uncertain.clear(region, true, self.design.in_place());
            }
            // Leaves wholly inside a hole do not split.
            Settled::Punched => self.uncertain.clear(region, !self.design.in_place(), false),
        }
    }
}

/// Effect on an uncertain region.
#[derive(Clone, Copy, Debug)]
pub(super) enum Settled {
    /// Converted to this side.
    Converted(Side),
    /// Punched.
    Punched,
}
