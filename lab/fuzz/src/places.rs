//! Draws ranges: boundaries of 2M regions and one page around them, mostly short.

use rand::Rng;
use rand_chacha::ChaCha8Rng;
use tdxlab_plan::addr::{Gpa, GpaRange, PageLevel};

const PAGE: u64 = PageLevel::Size4K.bytes();
const REGION: u64 = PageLevel::Size2M.bytes();

/// A range inside `window`, in whole pages, never empty. `window` starts on a 2M boundary.
pub(super) fn range(random: &mut ChaCha8Rng, window: GpaRange) -> GpaRange {
    let one = corner(random, window);
    let other = match random.random_range(0..16) {
        // A few pages from there: most bugs show within a page or two, and an operation on whole
        // regions takes as long as a hundred such steps.
        0..13 => one + random.random_range(1..=5) * PAGE,
        13..15 => one.saturating_sub(random.random_range(1..=5) * PAGE),
        _ => corner(random, window),
    };
    between(one, other, window)
}

/// A few pages around a place where something happens.
pub(super) fn short(random: &mut ChaCha8Rng, window: GpaRange) -> GpaRange {
    let one = corner(random, window);
    let pages = random.random_range(1..=5);
    let back = random.random_range(0..=pages);
    let start = one.saturating_sub(back * PAGE);
    between(start, start + pages * PAGE, window)
}

/// A range whose ends lie on 2M boundaries; whole regions only.
pub(super) fn regions(random: &mut ChaCha8Rng, window: GpaRange) -> Option<GpaRange> {
    let count = window.bytes() / REGION;
    if count == 0 {
        return None;
    }
    let first = random.random_range(0..count);
    let most = (count - first).min(2);
    let some = random.random_range(1..=most);
    let start = window.start().checked_add(first * REGION)?;
    GpaRange::with_len(start, some * REGION)
}

/// An offset into `window` where something happens.
fn corner(random: &mut ChaCha8Rng, window: GpaRange) -> u64 {
    let regions = window.bytes().div_ceil(REGION);
    let boundary = random.random_range(0..=regions) * REGION;
    match random.random_range(0..16) {
        0..7 => boundary,
        7..9 => boundary + PAGE,
        9..11 => boundary.saturating_sub(PAGE),
        11 => boundary + REGION / 2,
        _ => random.random_range(0..window.pages_4k().max(1)) * PAGE,
    }
}

fn between(one: u64, other: u64, window: GpaRange) -> GpaRange {
    let last = window.bytes() - PAGE;
    let start = one.min(other).min(last);
    let end = one.max(other).clamp(start + PAGE, window.bytes());
    let at = |offset| Gpa::new(window.start().as_u64() + offset);
    GpaRange::new(at(start), at(end)).unwrap_or(window)
}

/// The same range, widened to whole pages of `level` and cut to `window`; `None` where none fits.
pub(super) fn widen(range: GpaRange, level: PageLevel, window: GpaRange) -> Option<GpaRange> {
    let end = range
        .end()
        .align_up(level)?
        .min(window.end().align_down(level));
    GpaRange::new(range.start().align_down(level), end).filter(|range| !range.is_empty())
}
