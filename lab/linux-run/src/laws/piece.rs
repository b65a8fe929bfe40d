//! Memory that Linux takes in one piece, wherever it likes, and shares with its host, as for quotes: the
//! piece is found in the S-EPT, and then judged as a conversion of it.

use std::ops::RangeInclusive;

use tdxlab_journal::verdict::{Finding, Witness};
use tdxlab_kernel::software_module::{LeafState, Sept};
use tdxlab_plan::Side;
use tdxlab_plan::addr::{Gpa, GpaRange, PageLevel};

use super::{Change, Court, Sample, counters, exactly, with_newly_accepted};
use crate::leaves::Blocks;

/// Judges one piece of this size.
pub(super) fn judge(
    court: &mut Court,
    bytes: &RangeInclusive<u64>,
    before: &Sample,
    after: &Sample,
) {
    let (Some(then), Some(now)) = (before.sept.value(), after.sept.value()) else {
        // Without the S-EPT, a piece inside one leaf splits no more than that.
        let splits = after.splits.value();
        if let Some([_, second, ..]) = splits.map(Vec::as_slice) {
            let found = format!("another at {}", second.gpa);
            court.find(Finding::wrong(Witness::Splits, "at most one split", found));
        }
        return;
    };
    let gone = gone(then, now);
    let [range] = gone[..] else {
        court.find(Finding::wrong(
            Witness::Module,
            "memory shared in one piece",
            format!("{} pieces that are not private any more", gone.len()),
        ));
        return;
    };
    court.show(format!("{} KiB are shared at {range}", range.bytes() >> 10));
    let size = range.bytes();
    let is_piece = size.is_power_of_two() && range.start().as_u64().is_multiple_of(size);
    if !is_piece || !bytes.contains(&size) {
        let expected = format!(
            "a naturally aligned piece of {} to {} KiB shared",
            bytes.start() >> 10,
            bytes.end() >> 10
        );
        let found = format!("{} KiB", size >> 10);
        court.find(Finding::wrong(Witness::Module, expected, found).at(range));
        return;
    }
    let mut blocks = Blocks::default();
    let mut change = Change::default();
    blocks.learn(then, range);
    let converted = blocks.convert(range, Side::Shared, &mut change);
    converted.expect("its blocks were learnt");
    let change = with_newly_accepted(&change, before, after);
    exactly(court, &change, before, after);
    counters(court, &[range], Side::Shared, &change, before, after);
}

/// What was mapped and is not, run by run.
fn gone(then: &Sept, now: &Sept) -> Vec<GpaRange> {
    let mut runs: Vec<GpaRange> = Vec::new();
    let mapped = then.leaves().iter();
    for leaves in mapped.filter(|leaves| leaves.state == LeafState::Mapped) {
        let mut at = leaves.range.start();
        let still = now.within(leaves.range);
        let still = still.filter(|leaves| leaves.state == LeafState::Mapped);
        let mut push = |start: Gpa, end: Gpa| match runs.last_mut() {
            _ if start >= end => {}
            Some(last) if last.end() == start => {
                *last = GpaRange::new(last.start(), end).unwrap_or(*last);
            }
            _ => runs.extend(GpaRange::new(start, end)),
        };
        for kept in still {
            push(at, kept.range.start());
            at = kept.range.end();
        }
        push(at, leaves.range.end());
    }
    debug_assert!(runs.iter().all(|run| run.is_aligned(PageLevel::Size4K)));
    runs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_gone_is_found_over_leaves_and_tables() {
        let sept = |text: &str| Sept::parse(text).unwrap();
        let then = sept("0x0..0x400000 2M mapped 2\n0x400000..0x402000 4K mapped 2\n");
        let now = sept("0x0..0x1f0000 4K mapped 496\n0x200000..0x400000 2M mapped 1\n");
        let range = |start, end| GpaRange::new(Gpa::new(start), Gpa::new(end)).unwrap();
        assert_eq!(
            gone(&then, &now),
            [range(0x1f_0000, 0x20_0000), range(0x40_0000, 0x40_2000)]
        );
        assert_eq!(gone(&then, &then), []);
    }
}
