//! Outlines of runs of pages, as SVG paths.
//!
//! A tile has 32 columns of 16 cells. Addresses run down a column, then to the next, so that a run
//! of pages is one closed shape, with low addresses on the left.

use std::fmt::Write;
use std::ops::Range;

use super::axis::{Axis, CELL, HEIGHT, PAGES, Piece, ROWS, TILE};

/// Adds the shape of the pages of `run` that are drawn.
pub(super) fn outline(path: &mut String, axis: &Axis, run: Range<u64>) {
    for piece in &axis.pieces {
        let pages = piece.pages();
        let part = run.start.max(pages.start)..run.end.min(pages.end);
        if part.start >= part.end {
            continue;
        }
        match piece {
            Piece::Tile { x, .. } => {
                tile(path, *x, part.start - pages.start..part.end - pages.start);
            }
            Piece::Gap { x, .. } => {
                let _ = write!(path, "M{x} 0h{}v{HEIGHT}h-{0}z", piece.width());
            }
        }
    }
}

/// Pages of one tile, counted from its first.
fn tile(path: &mut String, x: u64, pages: Range<u64>) {
    if pages == (0..PAGES) {
        let _ = write!(path, "M{x} 0h{TILE}v{HEIGHT}h-{TILE}z");
        return;
    }
    let (left, top) = (pages.start / ROWS, pages.start % ROWS);
    let (right, bottom) = (pages.end / ROWS, pages.end % ROWS);
    let at = |column: u64| x + column * CELL;
    if left == right {
        let _ = write!(
            path,
            "M{} {}h{CELL}v{}h-{CELL}z",
            at(left),
            top * CELL,
            (bottom - top) * CELL
        );
        return;
    }
    // Clockwise from the top of the first cell: the steps at both ends are there only where a
    // column is not full.
    let _ = write!(path, "M{} {}", at(left), top * CELL);
    if top > 0 {
        let _ = write!(path, "H{}V0", at(left + 1));
    }
    if bottom > 0 {
        let _ = write!(path, "H{}V{}H{}", at(right + 1), bottom * CELL, at(right));
    } else {
        let _ = write!(path, "H{}", at(right));
    }
    let _ = write!(path, "V{HEIGHT}H{}z", at(left));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drawn(pages: Range<u64>) -> String {
        let mut path = String::new();
        tile(&mut path, 0, pages);
        path
    }

    /// Area by the shoelace formula: one cell for each page, whatever the shape.
    fn area(path: &str) -> u64 {
        let mut points = Vec::new();
        let mut at = (0i64, 0i64);
        for part in path
            .split_inclusive(|c: char| c.is_ascii_digit())
            .collect::<String>()
            .replace('z', "")
            .replace('M', " M ")
            .replace('H', " H ")
            .replace('V', " V ")
            .replace('h', " h ")
            .replace('v', " v ")
            .split_whitespace()
            .map(str::to_owned)
            .collect::<Vec<_>>()
            .iter()
            .fold(Vec::<(char, Vec<i64>)>::new(), |mut all, word| {
                match word.parse() {
                    Ok(number) => all.last_mut().unwrap().1.push(number),
                    Err(_) => all.push((word.chars().next().unwrap(), Vec::new())),
                }
                all
            })
        {
            let value = part.1[0];
            at = match part.0 {
                'M' => (value, part.1[1]),
                'H' => (value, at.1),
                'V' => (at.0, value),
                'h' => (at.0 + value, at.1),
                _ => (at.0, at.1 + value),
            };
            points.push(at);
        }
        let twice: i64 = (0..points.len())
            .map(|i| {
                let (a, b) = (points[i], points[(i + 1) % points.len()]);
                a.0 * b.1 - b.0 * a.1
            })
            .sum();
        twice.unsigned_abs() / 2
    }

    #[test]
    fn a_run_covers_one_cell_for_each_page() {
        for (start, end) in [
            (0, 512),
            (0, 1),
            (511, 512),
            (3, 9),
            (3, 20),
            (16, 32),
            (5, 16),
            (0, 17),
            (256, 511),
        ] {
            let path = drawn(start..end);
            assert_eq!(
                area(&path),
                (end - start) * CELL * CELL,
                "{start}..{end}: {path}"
            );
        }
    }
}
