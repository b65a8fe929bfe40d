//! The predictor's picture of memory, for reports.

use serde::{Deserialize, Serialize};

use super::state::{REGION, Sept, State, Taken, pages_of, range_of};
use crate::addr::GpaRange;

/// What is mapped somewhere, as a picture shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RegionState {
    /// Nothing, and no table above it.
    Empty,
    /// 2M leaves, not accepted.
    LeafPending,
    /// 2M leaves, accepted.
    LeafAccepted,
    /// Free entries of a table.
    TableFree,
    /// 4K leaves, not accepted.
    PagePending,
    /// 4K leaves, accepted.
    PageAccepted,
    /// Converted to shared, not mapped.
    Shared,
    /// Converted to shared, mapped at 4K.
    SharedMapped,
    /// Left by a race: nobody can say.
    Unknown,
}

impl State {
    /// What is mapped in `window`, as runs in address order, at most `most` of them. Empty memory is
    /// left out.
    pub(super) fn map(&self, window: GpaRange, most: usize) -> Vec<(GpaRange, RegionState)> {
        let pages = pages_of(window);
        let mut runs: Vec<(GpaRange, RegionState)> = Vec::new();
        let mut at = pages.start;
        while at < pages.end && runs.len() < most {
            let look = self.look(at..pages.end);
            let here = at..at + look.pages;
            at = here.end;
            let state = match (look.region.fog, look.shared.attribute, look.sept) {
                (true, ..) => RegionState::Unknown,
                (_, true, _) if look.shared.mapped => RegionState::SharedMapped,
                (_, true, _) => RegionState::Shared,
                (.., Sept::Leaf(Taken::Pending)) => RegionState::LeafPending,
                (.., Sept::Leaf(Taken::Accepted)) => RegionState::LeafAccepted,
                (.., Sept::Page(Taken::Pending)) => RegionState::PagePending,
                (.., Sept::Page(Taken::Accepted)) => RegionState::PageAccepted,
                (.., Sept::Absent) if look.region.table => RegionState::TableFree,
                (.., Sept::Absent) => continue,
            };
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
