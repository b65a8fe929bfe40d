//! Memory that Linux takes in one piece, wherever it likes, and shares with its host, as for quotes: the
//! piece is found in the S-EPT, and then judged as a conversion of it.

use std::ops::RangeInclusive;

use tdxlab_journal::verdict::{Finding, Witness};
use tdxlab_plan::Side;

use super::{Change, Court, Sample, counters, exactly, with_newly_accepted};
use crate::leaves::{Blocks, gone};

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
