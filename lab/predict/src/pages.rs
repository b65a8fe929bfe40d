//! Ranges of 4K pages and of 2M regions, and conversions between them.

use tdxlab_plan::addr::{Gpa, GpaRange, PageLevel};

use super::runs::Pages;

/// 4K pages in a 2M region.
pub(super) const REGION: u64 = PageLevel::Size2M.pages_4k();

/// The gfns of a range.
pub(super) fn pages_of(range: GpaRange) -> Pages {
    range.start().gfn()..range.end().gfn()
}

/// The range of these gfns.
pub(super) fn range_of(pages: &Pages) -> GpaRange {
    GpaRange::new(Gpa::from_gfn(pages.start), Gpa::from_gfn(pages.end))
        .expect("page ranges are never reversed")
}

/// The gfns of a region.
pub(super) fn gfns_of(region: u64) -> Pages {
    region * REGION..(region + 1) * REGION
}

/// The gfns of several regions.
pub(super) fn gfns_of_all(regions: &Pages) -> Pages {
    regions.start * REGION..regions.end * REGION
}

/// Whether two stretches, of pages or of regions, have any in common.
pub(super) fn overlap(one: &Pages, other: &Pages) -> bool {
    one.start < other.end && other.start < one.end
}

/// The regions that hold any of `pages`.
pub(super) fn regions_touching(pages: &Pages) -> Pages {
    if pages.is_empty() {
        return 0..0;
    }
    pages.start / REGION..pages.end.div_ceil(REGION)
}

/// How many pages, as a change of a counter.
pub(super) fn count(pages: &Pages) -> i64 {
    (pages.end - pages.start) as i64
}
