//! The predictor's picture of memory, for reports.

use tdxlab_plan::RegionState;
use tdxlab_plan::addr::GpaRange;

use super::pages::{REGION, pages_of, range_of};
use super::runs::Pages;
use super::state::{Acceptance, PageView, Sept, State};

impl PageView {
    fn state(&self) -> RegionState {
        match (self.region.uncertain, self.shared.attribute, self.sept) {
            (true, ..) => RegionState::Unknown,
            (_, true, _) if self.shared.mapped => RegionState::SharedMapped,
            (_, true, _) => RegionState::Shared,
            (.., Sept::Leaf(Acceptance::Pending)) => RegionState::LeafPending,
            (.., Sept::Leaf(Acceptance::Accepted)) => RegionState::LeafAccepted,
            (.., Sept::Page(Acceptance::Pending)) => RegionState::PagePending,
            (.., Sept::Page(Acceptance::Accepted)) => RegionState::PageAccepted,
            (.., Sept::Absent) if self.region.table => RegionState::TableFree,
            (.., Sept::Absent) => RegionState::Empty,
        }
    }
}

impl State {
    /// State of `window`, run by run.
    fn mapped_in(&self, window: GpaRange) -> impl Iterator<Item = (Pages, RegionState)> {
        let mut rest = pages_of(window);
        std::iter::from_fn(move || {
            if rest.is_empty() {
                return None;
            }
            let view = self.view(rest.clone());
            let here = rest.start..rest.start + view.pages;
            rest.start = here.end;
            Some((here, view.state()))
        })
    }

    /// State of `window`, if it is uniform.
    pub(super) fn mapped_all_over(&self, window: GpaRange) -> Option<RegionState> {
        let mut states = self.mapped_in(window).map(|(_, state)| state);
        let first = states.next().unwrap_or(RegionState::Empty);
        states.all(|state| state == first).then_some(first)
    }

    /// State of `window` as runs in address order, at most `most` of them. Unmapped memory is left
    /// out.
    pub(super) fn map(&self, window: GpaRange, most: usize) -> Vec<(GpaRange, RegionState)> {
        let mut runs: Vec<(GpaRange, RegionState)> = Vec::new();
        let mut stretches = self.mapped_in(window);
        while runs.len() < most
            && let Some((here, state)) = stretches.next()
        {
            if state == RegionState::Empty {
                continue;
            }
            let range = range_of(&here);
            match runs.last_mut() {
                Some((last, same)) if *same == state && last.end() == range.start() => {
                    *last =
                        GpaRange::new(last.start(), range.end()).expect("the later range follows");
                }
                _ => runs.push((range, state)),
            }
        }
        runs
    }

    /// Leaves mapped now: 4K, 2M. Fogged regions do not count.
    pub(super) fn mapped(&self) -> (u64, u64) {
        let pages = pages_of(self.memory);
        let small = self
            .sept
            .count(pages.clone(), |sept| matches!(sept, Sept::Page(_)))
            + self.shared.count(pages.clone(), |page| page.mapped);
        let large = self.sept.count(pages, |sept| matches!(sept, Sept::Leaf(_)));
        (small, large / REGION)
    }
}
