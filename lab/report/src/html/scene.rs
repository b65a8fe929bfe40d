//! The picture of one step: memory before and after, the operation's range, expected and actual
//! splits, and the content where it was read.

use std::fmt::Write;

use maud::{Markup, html};
use tdxlab_plan::text::size;
use tdxlab_plan::{MemoryMap, RegionState};
use tdxlab_protocol::addr::{Gpa, GpaRange, PageLevel};

use super::axis::{Axis, CELL, HEIGHT, LEFT, PAGES, Piece, TILE};
use super::place::Place;
use super::split::{Split, SplitKind};
use super::{cells, states};
use crate::timeline::{Album, StepPicture};

/// Height of a line of text, of a bracket, of a lane of found things.
const LINE: u64 = 13;
const BRACKET: u64 = 20;
const LANE: u64 = 15;
/// Most brackets that are drawn one above the other.
const MOST_MARKS: usize = 6;

/// The pictures of one scenario share an axis and, from step to step, the maps.
pub(super) struct Scenes<'a> {
    album: &'a Album,
    /// Makes the names of shapes unique on the page.
    id: usize,
    axis: Axis,
}

impl<'a> Scenes<'a> {
    pub(super) fn new(id: usize, album: &'a Album) -> Scenes<'a> {
        let mut used: Vec<GpaRange> = extents(&album.start).collect();
        let mut things = Vec::new();
        for frame in &album.frames {
            used.extend(frame.after.iter().flat_map(extents));
            things.extend(frame.marks.iter().map(|mark| mark.range));
            things.extend(
                frame
                    .expected
                    .split_leaves
                    .iter()
                    .filter_map(|leaf| leaf_range(leaf.gpa)),
            );
            things.extend(
                frame
                    .did_split
                    .iter()
                    .flatten()
                    .copied()
                    .filter_map(leaf_range),
            );
            things.extend(frame.wrong.iter().map(|one| one.range));
            things.extend(
                frame
                    .content
                    .iter()
                    .filter(|span| !span.right)
                    .map(|span| span.range),
            );
        }
        Scenes {
            axis: Axis::new(album.memory, &things, &used),
            album,
            id,
        }
    }

    /// Width of every picture, in units.
    pub(super) fn width(&self) -> u64 {
        self.axis.width
    }

    /// Where each piece of the axis lies: left edge, first page and pages of every piece, for the
    /// reader under the pointer. Pages are counted from the start of test memory.
    pub(super) fn ruler(&self) -> String {
        let base = self.album.memory.start().gfn();
        let mut text = String::new();
        for piece in &self.axis.pieces {
            let pages = piece.pages();
            let kind = match piece {
                Piece::Tile { .. } => 't',
                Piece::Gap { .. } => 'g',
            };
            let first = i128::from(pages.start) - i128::from(base);
            let _ = write!(
                text,
                "{kind}{},{first},{};",
                piece.x(),
                pages.end - pages.start
            );
        }
        text
    }

    /// The drawing of the step at `index`.
    pub(super) fn draw(&self, index: usize) -> Markup {
        let frame = &self.album.frames[index];
        let before = match index.checked_sub(1) {
            None => Some(&self.album.start),
            Some(previous) => self.album.frames[previous].after.as_ref(),
        };
        let marks = frame.marks.len().min(MOST_MARKS) as u64;
        let y_labels = marks * BRACKET;
        let y_before = y_labels + LINE;
        let changes = before != frame.after.as_ref();
        let y_after = if changes {
            y_before + HEIGHT + 8
        } else {
            y_before
        };
        let mut y = y_after + HEIGHT + 4;
        let mut lane = |used: bool| {
            let here = y;
            y += if used { LANE } else { 0 };
            here
        };
        let splits = self.splits(frame);
        let y_splits = lane(!splits.is_empty());
        let y_content = lane(!frame.content.is_empty());
        let y_wrong = lane(!frame.wrong.is_empty());
        let width = self.width();
        html! {
            svg.m viewBox=(format!("0 0 {width} {}", y + 2))
                role="img" aria-label=(self.in_words(frame, changes)) {
                @for (row, mark) in frame.marks.iter().take(MOST_MARKS).enumerate() {
                    (self.bracket(mark.name, mark.range, row as u64 * BRACKET))
                }
                @if index == 0 {
                    (at(y_labels, html! { g #(self.name("x")) { (self.labels()) } }))
                    (at(y_before, html! {
                        g #(self.name("t")) { (self.tiles()) }
                        g #(self.map_name(0)) { (self.map(&self.album.start)) }
                    }))
                } @else {
                    (self.again("x", y_labels))
                    (self.again("t", y_before))
                    @if let Some(known) = self.drawn(index) { (self.again(&format!("m{known}-"), y_before)) }
                }
                (row(y_before, match changes {
                    _ if !self.is_found(index) => "predicted",
                    true => "before",
                    false => "no change",
                }))
                @if !changes { (self.doubted(frame, &splits, y_before)) }
                @if changes {
                    (row(y_after, if self.is_found(index + 1) { "after" } else { "predicted" }))
                    (self.again("t", y_after))
                    @match &frame.after {
                        Some(map) => (at(y_after, html! {
                            g #(self.map_name(index + 1)) { (self.map(map)) }
                            @if let Some(before) = before { (self.gone(before, map)) }
                        })),
                        None => text.r x=(LEFT) y=(y_after + HEIGHT / 2 + 4) { "not judged" },
                    }
                    (self.doubted(frame, &splits, y_after))
                }
                @for split in &splits { (split.draw(y_before, y_after, y_splits)) }
                @if !splits.is_empty() { text.r y=(y_splits + 11) { "splits" } }
                @if !frame.content.is_empty() {
                    text.r y=(y_content + 11) { "read" }
                    (at(y_content, self.content(frame)))
                }
                @if !frame.wrong.is_empty() {
                    text.r y=(y_wrong + 11) { "differs" }
                    @for one in &frame.wrong {
                        @if let Some((left, right)) = self.axis.span(one.range) {
                            rect.bad data-at=(one.range) x=(left) y=(y_wrong + 3) width=(right - left) height="8" {
                                title { (one.witness) " at " (self.place(one.range)) ": expected " (one.expected) ", found " (one.found) }
                            }
                        }
                    }
                }
            }
        }
    }

    /// Whether the map before the step at `index` is confirmed: a map is a prediction, and counts
    /// as found as long as no step contradicts it.
    fn is_found(&self, index: usize) -> bool {
        !self.album.frames.iter().take(index).any(|frame| frame.bad)
    }

    /// Caption of the step at `index`, if its map is only predicted.
    pub(super) fn caption(&self, index: usize) -> Option<String> {
        if self.is_found(index + 1) {
            return None;
        }
        let frame = &self.album.frames[index];
        let mut text = "Memory is drawn as predicted".to_owned();
        if !self.is_found(index) {
            text += "; an earlier step failed, so the real one may differ";
        }
        if frame.bad && !self.doubts(frame, &self.splits(frame)).is_empty() {
            text += "; striped where a witness contradicts it";
        }
        if !frame.unplaced.is_empty() {
            let names: Vec<&str> = frame.unplaced.iter().map(|one| one.name()).collect();
            text += &format!("; {} contradict it without a place", names.join(", "));
        }
        Some(text + ".")
    }

    /// Ranges where a witness contradicts the map after a step, and its finding.
    fn doubts(&self, frame: &StepPicture, splits: &[Split]) -> Vec<(GpaRange, String)> {
        let said = |expected: &str, found: &str| format!("expected {expected}, found {found}");
        let mut doubts: Vec<(GpaRange, String)> = frame
            .wrong
            .iter()
            .map(|one| (one.range, said(&one.expected, &one.found)))
            .collect();
        doubts.extend(splits.iter().filter_map(|split| {
            let text = match split.kind {
                SplitKind::Missing => said("512 pages of 4K", "no split: one leaf of 2M"),
                SplitKind::Extra => said("no split", "a split"),
                SplitKind::Right | SplitKind::Unseen | SplitKind::Raced => return None,
            };
            Some((leaf_range(split.gpa)?, text))
        }));
        doubts.extend(frame.content.iter().filter(|span| !span.right).map(|span| {
            let expected = tdxlab_journal::content::wanted(span.expected);
            (span.range, said(&expected, &span.found.to_string()))
        }));
        doubts
    }

    /// Hatching over ranges that a witness contradicts; empty for most steps, since most pass.
    fn doubted(&self, frame: &StepPicture, splits: &[Split], y: u64) -> Markup {
        let doubts = self.doubts(frame, splits);
        let outline = |range: GpaRange| {
            let mut path = String::new();
            let pages = range.start().gfn()..range.end().gfn();
            cells::outline(&mut path, &self.axis, pages);
            path
        };
        html! {
            @if !doubts.is_empty() {
                (at(y, html! {
                    @for (range, text) in doubts {
                        path.x data-at=(range) d=(outline(range)) { title { (self.place(range)) ": " (text) } }
                    }
                }))
            }
        }
    }

    /// The picture that first showed memory as it was before the step at `index`; `None` where
    /// that is not known.
    fn drawn(&self, index: usize) -> Option<usize> {
        let map = |index: usize| match index.checked_sub(1) {
            None => Some(&self.album.start),
            Some(step) => self.album.frames[step].after.as_ref(),
        };
        let before = map(index)?;
        Some(
            (0..index)
                .rev()
                .take_while(|earlier| map(*earlier) == Some(before))
                .last()
                .unwrap_or(index),
        )
    }

    fn name(&self, what: &str) -> String {
        format!("{what}{}", self.id)
    }

    fn map_name(&self, number: usize) -> String {
        format!("m{number}-{}", self.id)
    }

    fn again(&self, what: &str, y: u64) -> Markup {
        html! { use href=(format!("#{what}{}", self.id)) y=(y) {} }
    }

    fn place(&self, range: GpaRange) -> String {
        Place::new(self.album.memory).range(range)
    }

    /// Where the pieces start, as offsets into test memory.
    fn labels(&self) -> Markup {
        let place = Place::new(self.album.memory);
        html! {
            @for piece in &self.axis.pieces {
                @match piece {
                    Piece::Tile { region, x } => text x=(x) y="10" { (place.offset(Gpa::from_gfn(region * PAGES))) },
                    Piece::Gap { .. } => {},
                }
            }
        }
    }

    /// The tiles of 4K pages, and captions of the gaps.
    fn tiles(&self) -> Markup {
        let mut outlines = String::new();
        let mut breaks = String::new();
        for piece in &self.axis.pieces {
            match piece {
                Piece::Tile { x, .. } => {
                    let _ = write!(outlines, "M{x} 0h{TILE}v{HEIGHT}h-{TILE}z");
                }
                Piece::Gap { x, .. } => {
                    for edge in [*x, x + piece.width()] {
                        let _ = write!(breaks, "M{edge} 0l-3 8 6 8-6 8 6 8-6 8 3 8");
                    }
                }
            }
        }
        html! {
            path.e d=(outlines) {} path.z d=(breaks) {}
            @for piece in &self.axis.pieces {
                @if let Piece::Gap { regions, x, .. } = piece {
                    text.g x=(x + piece.width() / 2) y="20" { (about(regions.end - regions.start)) }
                }
            }
        }
    }

    /// The mapped ranges.
    fn map(&self, map: &MemoryMap) -> Markup {
        let mut paths: Vec<(&str, String)> = Vec::new();
        for (range, state) in &map.extents {
            let class = states::class(*state);
            let index = match paths.iter().position(|(known, _)| *known == class) {
                Some(index) => index,
                None => {
                    paths.push((class, String::new()));
                    paths.len() - 1
                }
            };
            cells::outline(
                &mut paths[index].1,
                &self.axis,
                range.start().gfn()..range.end().gfn(),
            );
        }
        html! {
            @for (class, path) in &paths { @if !path.is_empty() { path class=(class) d=(path) {} } }
            @for piece in &self.axis.pieces {
                @if let Piece::Gap { regions, x, alike } = piece {
                    text.g x=(x + piece.width() / 2) y="36" { (in_gap(map, regions.start, *alike)) }
                }
            }
        }
    }

    /// Private memory that was mapped before and is not any more.
    fn gone(&self, before: &MemoryMap, after: &MemoryMap) -> Markup {
        let mut path = String::new();
        for (range, state) in &before.extents {
            if !states::is_private(*state) {
                continue;
            }
            let mut at = range.start();
            let kept = after
                .extents
                .iter()
                .filter(|(_, state)| states::is_private(*state) || *state == RegionState::Unknown)
                .filter_map(|(kept, _)| kept.intersect(*range));
            for kept in kept {
                cells::outline(
                    &mut path,
                    &self.axis,
                    at.gfn()..kept.start().gfn().max(at.gfn()),
                );
                at = kept.end();
            }
            cells::outline(
                &mut path,
                &self.axis,
                at.gfn()..range.end().gfn().max(at.gfn()),
            );
        }
        html! { @if !path.is_empty() { path.gone d=(path) {} } }
    }

    fn bracket(&self, name: &str, range: GpaRange, y: u64) -> Markup {
        let place = Place::new(self.album.memory);
        let label = format!("{name} {}", place.range(range));
        match self.axis.span(range) {
            Some((left, right)) => {
                let (top, bottom) = (y + 13, y + 19);
                // Names of narrow ranges near the right end would leave the picture.
                let room = self.width().saturating_sub(left);
                let flush = label.len() as u64 * 6 > room;
                html! {
                    path.k data-at=(range) d=(format!("M{left} {bottom}V{top}H{right}V{bottom}")) {}
                    text.k.end[flush] x=(if flush { right } else { left }) y=(y + 10) { (label) }
                }
            }
            None => html! {
                text.k.end x=(self.width()) y=(y + 10) { (label) ", outside test memory \u{2192}" }
            },
        }
    }

    fn splits(&self, frame: &StepPicture) -> Vec<Split> {
        let mut splits = Vec::new();
        let expected: Vec<Gpa> = frame
            .expected
            .split_leaves
            .iter()
            .map(|leaf| leaf.gpa)
            .collect();
        let mut add = |gpa: Gpa, kind: SplitKind| {
            if let Some(x) = self.axis.tile_of(gpa.gfn() / PAGES) {
                splits.push(Split { gpa, x, kind });
            }
        };
        for gpa in &expected {
            let kind = match &frame.did_split {
                None => SplitKind::Unseen,
                Some(found) if found.contains(gpa) => SplitKind::Right,
                Some(_) => SplitKind::Missing,
            };
            add(*gpa, kind);
        }
        // Racing splits are judged by number, not by leaf.
        let other = if frame.races {
            SplitKind::Raced
        } else {
            SplitKind::Extra
        };
        for gpa in frame.did_split.iter().flatten() {
            if !expected.contains(gpa) {
                add(*gpa, other);
            }
        }
        splits
    }

    fn content(&self, frame: &StepPicture) -> Markup {
        let mut right = String::new();
        let mut drawn: Option<(u64, u64)> = None;
        for span in frame.content.iter().filter(|span| span.right) {
            let Some((from, to)) = self.axis.span(span.range) else {
                continue;
            };
            drawn = match drawn {
                Some((start, end)) if from <= end + CELL => Some((start, end.max(to))),
                Some((start, end)) => {
                    let _ = write!(right, "M{start} 6H{end}v3H{start}z");
                    Some((from, to))
                }
                None => Some((from, to)),
            };
        }
        if let Some((start, end)) = drawn {
            let _ = write!(right, "M{start} 6H{end}v3H{start}z");
        }
        html! {
            @if !right.is_empty() { path.ok d=(right) {} }
            @for span in frame.content.iter().filter(|span| !span.right) {
                @if let Some((left, right)) = self.axis.span(span.range) {
                    rect.bad data-at=(span.range) x=(left) y="2" width=(right - left) height="10" {
                        title { (self.place(span.range)) ": " (span.found) }
                    }
                }
            }
        }
    }

    /// Text alternative of the picture.
    fn in_words(&self, frame: &StepPicture, changes: bool) -> String {
        let place = Place::new(self.album.memory);
        let mut text = match &frame.after {
            Some(map) if frame.bad => format!("Memory as predicted: {}. ", in_words(map, &place)),
            Some(_) if !changes => "Memory stays as it was. ".to_owned(),
            Some(map) => format!("Memory afterwards: {}. ", in_words(map, &place)),
            None => "Not judged. ".to_owned(),
        };
        for split in self.splits(frame) {
            let _ = write!(
                text,
                "Leaf at {} {}. ",
                place.offset(split.gpa),
                split.kind.words()
            );
        }
        for span in frame.content.iter().filter(|span| !span.right) {
            let _ = write!(text, "{} holds {}. ", place.range(span.range), span.found);
        }
        text.truncate(text.trim_end().len());
        text
    }
}

/// The name of a row.
fn row(y: u64, name: &str) -> Markup {
    html! { text.r y=(y + HEIGHT / 2 + 4) { (name) } }
}

fn at(y: u64, inner: Markup) -> Markup {
    html! { g transform=(format!("translate(0 {y})")) { (inner) } }
}

fn extents(map: &MemoryMap) -> impl Iterator<Item = GpaRange> {
    map.extents.iter().map(|(range, _)| *range)
}

fn leaf_range(gpa: Gpa) -> Option<GpaRange> {
    GpaRange::with_len(gpa.align_down(PageLevel::Size2M), PageLevel::Size2M.bytes())
}

/// Size of a gap, in the shortest form.
fn about(regions: u64) -> String {
    let bytes = regions.saturating_mul(PageLevel::Size2M.bytes());
    let exact = size(bytes);
    if exact.len() <= 6 {
        return exact;
    }
    let (shift, unit) = [(40, "T"), (30, "G"), (20, "M")]
        .into_iter()
        .find(|(shift, _)| bytes >> shift > 0)
        .unwrap_or((20, "M"));
    format!("~{:.1}{unit}", bytes as f64 / (1u64 << shift) as f64)
}

/// Common state of all regions of a gap.
fn in_gap(map: &MemoryMap, region: u64, alike: bool) -> &'static str {
    if !alike {
        return "many";
    }
    let first = Gpa::from_gfn(region * PAGES);
    let state = map
        .extents
        .iter()
        .find(|(range, _)| range.contains(first))
        .map_or(RegionState::Empty, |(_, state)| *state);
    match state {
        RegionState::Empty => "empty",
        RegionState::LeafPending | RegionState::PagePending => "pending",
        RegionState::LeafAccepted | RegionState::PageAccepted => "accepted",
        RegionState::TableFree => "tables",
        RegionState::Shared | RegionState::SharedMapped => "shared",
        RegionState::Unknown => "open",
    }
}

/// A map in words, shortened.
fn in_words(map: &MemoryMap, place: &Place) -> String {
    const MOST: usize = 8;
    if map.extents.is_empty() {
        return "empty".to_owned();
    }
    let mut parts: Vec<String> = map
        .extents
        .iter()
        .take(MOST)
        .map(|(range, state)| format!("{} {}", place.range(*range), states::words(*state)))
        .collect();
    if map.extents.len() > MOST || map.cut {
        parts.push("and more".to_owned());
    }
    parts.join(", ")
}
