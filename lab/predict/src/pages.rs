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
