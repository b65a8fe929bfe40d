//! Entries a range operation may visit, as promised by a design.

use tdxlab_plan::{Design, RangeSplit};

use super::pages::REGION;
use super::runs::Pages;

/// Most S-EPT entries that a range of pages may visit to decide its splits; `None` if the design
/// promises no bound. Source: truth table in docs/semantics.md, section 5.
pub(super) fn entries(design: &Design, pages: &Pages) -> Option<u64> {
    let [start, end] = [pages.start, pages.end].map(|page| page / REGION);
    let head = !pages.start.is_multiple_of(REGION);
    let tail = !pages.end.is_multiple_of(REGION) && (!head || start != end);
    match design.range_split {
        RangeSplit::Never => Some(0),
        RangeSplit::Walk => None,
        RangeSplit::HeadAndTail => Some(u64::from(head) + u64::from(tail)),
    }
}
