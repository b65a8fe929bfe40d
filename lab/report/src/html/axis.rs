//! The axis of a scenario's pictures: memory to scale where it is used, with gaps between.
//!
//! Memory is cut at every start and end of a range in any picture of the scenario. Between two cuts
//! all 2M regions look the same in every picture, so only a few are drawn, with a gap that gives
//! the size of the rest. So 16 TiB fit on a screen while a 4K page is still a cell.

use std::collections::BTreeSet;
use std::ops::Range;

use tdxlab_protocol::addr::{GpaRange, PageLevel};

/// Width and height of a cell: one 4K page.
pub(super) const CELL: u64 = 3;
/// Columns of a tile: addresses run down a column, then on to the next.
pub(super) const COLUMNS: u64 = 32;
/// Rows of a tile.
pub(super) const ROWS: u64 = 16;
/// Width of a tile: one 2M region.
pub(super) const TILE: u64 = CELL * COLUMNS;
/// Height of a tile.
pub(super) const HEIGHT: u64 = CELL * ROWS;
/// 4K pages of a tile.
pub(super) const PAGES: u64 = PageLevel::Size2M.pages_4k();
/// Room left of the first tile, for the names of rows.
pub(super) const LEFT: u64 = 58;

const SPACE: u64 = 4;
const GAP: u64 = 46;
/// As many tiles as fit a wide screen.
const COMFORTABLE: u64 = 12;
/// More tiles than this are not drawn.
const MOST: u64 = 160;

/// Memory as it is drawn, left to right.
#[derive(Debug)]
pub(super) struct Axis {
    pub(super) pieces: Vec<Piece>,
    pub(super) width: u64,
}

/// A part of the axis. Regions are numbered by GPA / 2M.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Piece {
    /// One region, to scale.
    Tile {
        /// Index of the 2M region.
        region: u64,
        /// Left edge in SVG units.
        x: u64,
    },
    /// Regions left out.
    Gap {
        /// Indices of the regions.
        regions: Range<u64>,
        /// Left edge in SVG units.
        x: u64,
        /// Whether they all look alike in every picture. Otherwise there were too many places.
        alike: bool,
    },
}

impl Axis {
    /// An axis over `memory`. `things` are all ranges drawn on it, `used` those ever mapped.
    pub(super) fn new(memory: GpaRange, things: &[GpaRange], used: &[GpaRange]) -> Axis {
        let first = memory.start().gfn() / PAGES;
        let last = memory.end().gfn().div_ceil(PAGES);
        let mut cuts = BTreeSet::from([first, last]);
        for range in things.iter().chain(used) {
            for page in [
                range.start().gfn(),
                range.end().as_u64().div_ceil(PageLevel::Size4K.bytes()),
            ] {
                cuts.insert((page / PAGES).clamp(first, last));
                cuts.insert(page.div_ceil(PAGES).clamp(first, last));
            }
        }
        let cuts: Vec<u64> = cuts.into_iter().collect();
        let stretches: Vec<(Range<u64>, bool)> = cuts
            .windows(2)
            .map(|pair| (pair[0]..pair[1], is_used(pair[0], used)))
            .collect();
        Axis::lay_out(&stretches, generosity(&stretches))
    }

    fn lay_out(stretches: &[(Range<u64>, bool)], generosity: u64) -> Axis {
        let mut axis = Axis {
            pieces: Vec::new(),
            width: LEFT,
        };
        let mut tiles = 0;
        for (index, (regions, used)) in stretches.iter().enumerate() {
            if tiles >= MOST {
                let end = stretches.last().map_or(regions.end, |(last, _)| last.end);
                let alike = index + 1 == stretches.len();
                axis.gap(regions.start..end, alike);
                break;
            }
            let shown = shown(regions, *used, generosity);
            tiles += shown;
            let head = shown.div_ceil(2);
            let tail = regions.end - (shown - head);
            for region in regions.start..regions.start + head {
                axis.tile(region);
            }
            if regions.start + head < tail {
                axis.gap(regions.start + head..tail, true);
            }
            for region in tail..regions.end {
                axis.tile(region);
            }
        }
        axis
    }

    fn tile(&mut self, region: u64) {
        self.pieces.push(Piece::Tile {
            region,
            x: self.width,
        });
        self.width += TILE + SPACE;
    }

    fn gap(&mut self, regions: Range<u64>, alike: bool) {
        self.pieces.push(Piece::Gap {
            regions,
            x: self.width,
            alike,
        });
        self.width += GAP + SPACE;
    }

    /// Left and right edge of a range. `None` if it is outside or empty.
    pub(super) fn span(&self, range: GpaRange) -> Option<(u64, u64)> {
        let start = range.start().gfn();
        let end = range.end().as_u64().div_ceil(PageLevel::Size4K.bytes());
        let first = self.pieces.first()?.regions().start * PAGES;
        let last = self.pieces.last()?.regions().end * PAGES;
        let (start, end) = (start.max(first), end.min(last));
        if start >= end {
            return None;
        }
        let left = self.place(start)?.x_of(start, false);
        let right = self.place(end - 1)?.x_of(end, true);
        Some((left, right.max(left + CELL)))
    }

    /// The tile of a region; `None` if it is not drawn.
    pub(super) fn tile_of(&self, region: u64) -> Option<u64> {
        match self.place(region * PAGES)? {
            Piece::Tile { x, .. } => Some(*x),
            Piece::Gap { .. } => None,
        }
    }

    fn place(&self, page: u64) -> Option<&Piece> {
        let region = page / PAGES;
        let index = self
            .pieces
            .partition_point(|piece| piece.regions().end <= region);
        self.pieces
            .get(index)
            .filter(|piece| piece.regions().contains(&region))
    }
}

impl Piece {
    pub(super) fn regions(&self) -> Range<u64> {
        match self {
            Piece::Tile { region, .. } => *region..region + 1,
            Piece::Gap { regions, .. } => regions.clone(),
        }
    }

    pub(super) fn x(&self) -> u64 {
        match self {
            Piece::Tile { x, .. } | Piece::Gap { x, .. } => *x,
        }
    }

    pub(super) fn width(&self) -> u64 {
        match self {
            Piece::Tile { .. } => TILE,
            Piece::Gap { .. } => GAP,
        }
    }

    /// The pages of the piece.
    pub(super) fn pages(&self) -> Range<u64> {
        let regions = self.regions();
        regions.start * PAGES..regions.end * PAGES
    }

    /// An edge that lies in this piece.
    fn x_of(&self, page: u64, right: bool) -> u64 {
        match self {
            Piece::Tile { region, x } => {
                let inside = page - region * PAGES;
                let column = if right {
                    inside.div_ceil(ROWS)
                } else {
                    inside / ROWS
                };
                x + column * CELL
            }
            Piece::Gap { x, .. } => {
                let pages = self.pages();
                let part = u128::from(page - pages.start) * u128::from(GAP)
                    / u128::from(pages.end - pages.start);
                x + part as u64
            }
        }
    }
}

fn is_used(region: u64, used: &[GpaRange]) -> bool {
    let pages = region * PAGES..(region + 1) * PAGES;
    used.iter()
        .any(|range| range.start().gfn() < pages.end && pages.start < range.end().gfn())
}

/// How many regions of a stretch are drawn.
fn shown(regions: &Range<u64>, used: bool, generosity: u64) -> u64 {
    let all = regions.end - regions.start;
    let wanted = match (used, all) {
        (_, 1) => 1,
        (false, _) => 0,
        (true, _) if all <= generosity + 1 => all,
        (true, _) => generosity,
    };
    wanted.min(all)
}

/// Regions to draw of each stretch: as many as fit comfortably, at least one.
fn generosity(stretches: &[(Range<u64>, bool)]) -> u64 {
    let total = |generosity: u64| -> u64 {
        stretches
            .iter()
            .map(|(regions, used)| shown(regions, *used, generosity))
            .sum()
    };
    [8, 6, 4, 3, 2]
        .into_iter()
        .find(|generosity| total(*generosity) <= COMFORTABLE)
        .unwrap_or(1)
}

#[cfg(test)]
mod tests {
    use tdxlab_protocol::addr::Gpa;

    use super::*;

    const M: u64 = 1 << 20;
    const T: u64 = 1 << 40;

    fn range(start: u64, end: u64) -> GpaRange {
        GpaRange::new(Gpa::new(start), Gpa::new(end)).unwrap()
    }

    #[test]
    fn sixteen_terabytes_fit_and_a_page_keeps_its_cell() {
        let hole = range(T + M, 13 * T + M);
        let used = [range(T, T + 4 * M), range(13 * T - 2 * M, 13 * T + 2 * M)];
        let axis = Axis::new(range(0, 16 * T), &[hole], &used);
        assert!(axis.pieces.len() < 12, "{axis:?}");
        let page = axis.span(range(T + M, T + M + 4096)).unwrap();
        assert_eq!(page.1 - page.0, CELL);
        let (left, right) = axis.span(hole).unwrap();
        let head = axis.tile_of(T / (2 * M)).unwrap();
        let tail = axis.tile_of(13 * T / (2 * M)).unwrap();
        assert_eq!((left, right), (head + TILE / 2, tail + TILE / 2));
    }

    #[test]
    fn every_region_lies_in_exactly_one_piece() {
        let used: Vec<GpaRange> = (0..400)
            .map(|place| range(place * 8 * M + M, place * 8 * M + 3 * M))
            .collect();
        let axis = Axis::new(range(0, 4096 * M), &used, &used);
        let mut next = 0;
        for piece in &axis.pieces {
            assert_eq!(piece.regions().start, next);
            next = piece.regions().end;
        }
        assert_eq!(next, 2048);
        assert!(axis.pieces.len() as u64 <= 2 * MOST);
        assert!(
            axis.pieces
                .iter()
                .any(|piece| matches!(piece, Piece::Gap { alike: false, .. }))
        );
    }

    #[test]
    fn what_lies_outside_has_no_place() {
        let axis = Axis::new(range(0, 4 * M), &[], &[]);
        assert_eq!(axis.span(range(4 * M, 6 * M)), None);
        assert_eq!(axis.span(range(M, M)), None);
    }
}
