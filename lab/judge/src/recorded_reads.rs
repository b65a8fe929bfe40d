//! Re-judging under another design: maps the ranges that were read to those the new prediction asks
//! for.
//!
//! `verify` reads the accepted pages, which depend on the design. A recorded guest has read those
//! of the recorded design. Under another design, every page it read is judged, and no other.

use tdxlab_plan::{Content, Expectation, ReadPlan};
use tdxlab_protocol::addr::GpaRange;

/// How the ranges that were read relate to those of the new prediction.
pub(super) enum Read {
    /// All that matters was read.
    Alike,
    /// The guest had to touch missing memory here, which changes it; it did not.
    Untouched(GpaRange),
}

/// Restricts `expected` to the reads of the `recorded` expectation. A page that was read but that
/// the new prediction does not read must be gone: the predictor reads all accepted pages.
pub(super) fn adapt(expected: &mut Expectation, recorded: &Expectation) -> Read {
    let same = |one: &ReadPlan, other: &ReadPlan| one.range == other.range;
    let (new, old) = (&expected.reads, &recorded.reads);
    if new.len() == old.len() && new.iter().zip(old).all(|(one, other)| same(one, other)) {
        return Read::Alike;
    }
    let mut adapted: Vec<ReadPlan> = Vec::new();
    for was in old {
        let mut at = was.range.start();
        while at < was.range.end() {
            let rest = GpaRange::new(at, was.range.end()).unwrap_or_default();
            let next = new
                .iter()
                .filter_map(|plan| Some((plan.range.intersect(rest)?, plan.content)))
                .min_by_key(|(range, _)| range.start());
            let (range, content) = match next {
                Some((range, content)) if range.start() == at => (range, content),
                Some((range, _)) => (
                    GpaRange::new(at, range.start()).unwrap_or(rest),
                    Content::Gone,
                ),
                None => (rest, Content::Gone),
            };
            at = range.end();
            adapted.push(ReadPlan { range, content });
        }
    }
    let untouched = new
        .iter()
        .filter(|plan| plan.content == Content::Gone)
        .find_map(|plan| uncovered(plan.range, old));
    expected.reads = adapted;
    match untouched {
        Some(range) => Read::Untouched(range),
        None => Read::Alike,
    }
}

/// The first part of `range` that no read covers.
fn uncovered(range: GpaRange, reads: &[ReadPlan]) -> Option<GpaRange> {
    let mut at = range.start();
    while at < range.end() {
        match reads.iter().find(|read| read.range.contains(at)) {
            Some(read) => at = read.range.end(),
            None => return GpaRange::new(at, range.end()),
        }
    }
    None
}
