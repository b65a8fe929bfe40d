//! Judges what a step did to the leaves of a TD: exactly where all is known, else by what must hold
//! whatever Linux does.

mod piece;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use tdxlab_journal::verdict::{Finding, Witness};
use tdxlab_journal::{PageCounters, Reading, SplitEvent};
use tdxlab_kernel::software_module::{Calls, LeafState, Sept};
use tdxlab_plan::Side;
use tdxlab_plan::addr::{Gpa, GpaRange, PageLevel};

use crate::court::Court;
use crate::host::Sample;
use crate::leaves::{Block, Change, Work, blocks_of};
use crate::ledger::Prediction;
use crate::observe::GuestAccount;

/// Firmware and its variables below 4 GiB, which `-m` does not count.
const FIRMWARE: u64 = 32 << 20;

/// Judges one step. `bytes`: memory of the guest.
pub(crate) fn judge(
    court: &mut Court,
    prediction: &Prediction,
    before: Option<&Sample>,
    after: &Sample,
    bytes: u64,
) {
    show(court, before, after);
    no_count_falls(court, before, after);
    let splits = read(court, Witness::Splits, &after.splits);
    let sept = read(court, Witness::Module, &after.sept);
    court.log(Witness::KernelLog, &after.complaints);
    for (witness, reading) in [
        (Witness::Debugfs, &after.counters),
        (Witness::QueryStats, &after.query_stats),
    ] {
        if let Some(counters) = read(court, witness, reading) {
            leaves_are_of_the_guest(court, witness, counters, bytes);
            if let Some(sept) = sept {
                same_leaves(court, witness, counters, sept);
            }
        }
    }
    if let Some(splits) = splits {
        once_each(court, splits);
        if let Some(sept) = sept {
            split_leaves_are_tables(court, splits, before, sept);
        }
        let work = work(before, after);
        let events = splits.iter().filter(|event| event.errno == 0).count() as u64;
        by_calls(court, before, after, events);
        if let Some(work) = work {
            court.equal(Witness::Splits, "split events", work.demoted, events);
            let reason = work.removed + work.accepted_4k > 0;
            if events > 0 && before.is_some() && !reason {
                let found = "a split, and nothing was converted or accepted at 4K";
                let finding = Finding::wrong(Witness::Splits, "no split", found);
                court.find(at_block(finding, splits[0].gpa));
            }
        }
    }
    let Some(before) = before else { return };
    match prediction {
        Prediction::Free => {}
        Prediction::Converts(ranges, _) => {
            for event in splits.into_iter().flatten() {
                let inside = ranges
                    .iter()
                    .any(|range| range.overlaps(leaf(event).page(PageLevel::Size2M)));
                if !inside {
                    let finding = Finding::wrong(Witness::Splits, "no split here", "one");
                    court.find(at_block(finding, event.gpa));
                }
            }
        }
        Prediction::Piece(bytes) => piece::judge(court, bytes, before, after),
        Prediction::Exact(ranges, to, change) => {
            let change = with_newly_accepted(change, before, after);
            exactly(court, &change, before, after);
            counters(court, ranges, *to, &change, before, after);
        }
    }
}

/// What must hold after the end of a guest.
pub(crate) const END: &str = "must hold: the VM is gone from KVM, with its leaves";

/// What is counted there.
pub(crate) const VMS: &str = "VMs of this QEMU in KVM";

/// Judges what is left of a guest that has ended.
pub(crate) fn judge_end(court: &mut Court, left: &Reading<u64>, complaints: &Reading<Vec<String>>) {
    if let Some(left) = read(court, Witness::Remains, left) {
        court.equal(Witness::Remains, VMS, 0, *left);
    }
    court.log(Witness::KernelLog, complaints);
}

/// Judges why a guest did not get on: a complaint of the host's kernel is KVM's own word for it.
/// Whether there was one.
pub(crate) fn judge_stop(court: &mut Court, complaints: &Reading<Vec<String>>) -> bool {
    let found = complaints.left();
    let complains = found.is_some_and(|complaints| !complaints.is_empty());
    if complains {
        court.log(Witness::KernelLog, complaints);
    }
    complains
}

/// Memory that Linux has is private and accepted, shared, or not accepted yet.
pub(crate) fn ram(court: &mut Court, guest: &GuestAccount, after: Option<&Sample>) {
    let sept = after.and_then(|after| after.sept.value());
    let (Some(sept), Some(unaccepted)) = (sept, guest.memory.unaccepted()) else {
        return;
    };
    let ram = guest.resources.iter();
    let ram = ram.filter(|resource| resource.depth == 0 && resource.name == "System RAM");
    let accepted: u64 = ram
        .flat_map(|resource| sept.within(resource.range))
        .filter(|leaves| leaves.state == LeafState::Mapped)
        .map(|leaves| leaves.range.bytes())
        .sum();
    match guest.ram.checked_sub(accepted + unaccepted) {
        Some(shared) => court.show(format!(
            "{} MiB of RAM accepted, {} MiB not yet, {} KiB shared",
            accepted >> 20,
            unaccepted >> 20,
            shared >> 10
        )),
        None => court.find(Finding::wrong(
            Witness::Module,
            format!(
                "Unaccepted and accepted memory of at most {} KiB together, which is all RAM",
                guest.ram >> 10
            ),
            format!(
                "{} KiB accepted by the S-EPT, {} KiB not yet by Linux",
                accepted >> 10,
                unaccepted >> 10
            ),
        )),
    }
}

/// What a reading says; without one, that it is missing.
fn read<'s, T>(court: &mut Court, witness: Witness, reading: &'s Reading<T>) -> Option<&'s T> {
    match reading {
        Reading::Read(value) => {
            court.hear(witness);
            Some(value)
        }
        Reading::Missing { reason } => {
            court.miss(witness, reason);
            None
        }
        Reading::Incomplete { reason, .. } => {
            let finding = Finding::impossible(witness, "a whole reading", reason);
            court.find(finding);
            None
        }
    }
}

fn work(before: Option<&Sample>, after: &Sample) -> Option<Work> {
    let now = after.calls.value()?;
    let none = Calls::default();
    let then = before.map_or(Some(&none), |before| before.calls.value())?;
    Work::between(then, now)
}

/// As many DEMOTEs by KVM's own calls as split events, also where the module hides what it does.
fn by_calls(court: &mut Court, before: Option<&Sample>, after: &Sample, events: u64) {
    let then = before.map_or(Some(0), |before| before.demotes.value().copied());
    match (then, &after.demotes) {
        (Some(then), Reading::Read(now)) => match now.checked_sub(then) {
            Some(made) => {
                court.show(format!("DEMOTEs by KVM's own calls: {made}"));
                court.equal(
                    Witness::Splits,
                    "split events, as KVM's calls of DEMOTE",
                    made,
                    events,
                );
            }
            None => {
                let found = format!("{now} DEMOTEs after {then}");
                let expected = "a count that only grows";
                court.find(Finding::impossible(Witness::Splits, expected, found));
            }
        },
        (_, Reading::Missing { reason } | Reading::Incomplete { reason, .. }) => {
            court.show(reason.clone());
        }
        (None, _) => {}
    }
}

/// What the module counts only grows.
fn no_count_falls(court: &mut Court, before: Option<&Sample>, after: &Sample) {
    let then = before.and_then(|before| before.calls.value());
    if let (Some(then), Some(now)) = (then, after.calls.value())
        && Work::between(then, now).is_none()
    {
        let found = format!("{now:?} after {then:?}");
        let expected = "counters that only grow";
        court.find(Finding::impossible(Witness::Module, expected, found));
    }
}

fn show(court: &mut Court, before: Option<&Sample>, after: &Sample) {
    if let Some(now) = after.counters.value() {
        let then = before.and_then(|before| before.counters.value());
        let since = |now: u64, then: Option<u64>| match then {
            Some(then) => format!("{now} ({:+})", i128::from(now) - i128::from(then)),
            None => now.to_string(),
        };
        court.show(format!(
            "pages_4k {}, pages_2m {}",
            since(now.pages_4k, then.map(|then| then.pages_4k)),
            since(now.pages_2m, then.map(|then| then.pages_2m))
        ));
    }
    if let Some(work) = work(before, after) {
        court.show(format!("module: {}", work.text()));
    }
}

/// The 2M leaf that an event is about.
fn leaf(event: &SplitEvent) -> Gpa {
    event.gpa.align_down(PageLevel::Size2M)
}

fn at_block(finding: Finding, gpa: Gpa) -> Finding {
    finding.at(gpa.align_down(PageLevel::Size2M).page(PageLevel::Size2M))
}

/// Leaves times size: no more than the guest's memory and its firmware.
fn leaves_are_of_the_guest(
    court: &mut Court,
    witness: Witness,
    counters: &PageCounters,
    bytes: u64,
) {
    let mapped = [
        (counters.pages_4k, PageLevel::Size4K),
        (counters.pages_2m, PageLevel::Size2M),
        (counters.pages_1g, PageLevel::Size1G),
    ];
    let mapped = mapped
        .iter()
        .map(|(count, level)| u128::from(*count) * u128::from(level.bytes()));
    let mapped: u128 = mapped.sum();
    if mapped > u128::from(bytes + FIRMWARE) {
        let expected = format!("leaves over at most {} MiB", (bytes + FIRMWARE) >> 20);
        court.find(Finding::wrong(
            witness,
            expected,
            format!("over {} MiB", mapped >> 20),
        ));
    }
}

/// KVM's private leaves are those of the S-EPT. Shared memory has leaves of 4K only: QEMU's memfd has
/// no larger pages.
fn same_leaves(court: &mut Court, witness: Witness, counters: &PageCounters, sept: &Sept) {
    let large = sept.count(PageLevel::Size2M);
    if counters.pages_2m != large {
        let expected = format!("pages_2m {large}, as the S-EPT (TDX module) has");
        let found = format!("pages_2m {} (KVM)", counters.pages_2m);
        court.find(Finding::wrong(witness, expected, found));
    }
    let small = sept.count(PageLevel::Size4K);
    if counters.pages_4k < small {
        let expected = format!("pages_4k of at least {small}, as the S-EPT (TDX module) has");
        let found = format!("pages_4k {} (KVM)", counters.pages_4k);
        court.find(Finding::wrong(witness, expected, found));
    }
}

/// Each leaf is split at most once, and splits of 2M leaves succeed.
fn once_each(court: &mut Court, splits: &[SplitEvent]) {
    let mut times: BTreeMap<Gpa, u32> = BTreeMap::new();
    for event in splits {
        if event.errno != 0 {
            let found = format!("a split that failed with errno {}", -event.errno);
            let finding = Finding::wrong(Witness::Splits, "splits that succeed", found);
            court.find(at_block(finding, event.gpa));
        } else {
            *times.entry(leaf(event)).or_default() += 1;
        }
    }
    for (gpa, times) in times {
        if times > 1 {
            let finding = Finding::wrong(
                Witness::Splits,
                "one split event of this leaf",
                format!("{times} split events (KVM)"),
            );
            court.find(at_block(finding, gpa));
        }
    }
}

/// Where KVM says that it split, the S-EPT has a table; where the S-EPT got one, KVM says so.
fn split_leaves_are_tables(
    court: &mut Court,
    splits: &[SplitEvent],
    before: Option<&Sample>,
    sept: &Sept,
) {
    for event in splits.iter().filter(|event| event.errno == 0) {
        let block = leaf(event);
        if Block::of(sept, block) == Block::Leaf {
            let finding = Finding::wrong(
                Witness::Module,
                "a table in the S-EPT, since KVM split this leaf",
                "a 2M leaf",
            );
            court.find(at_block(finding, block));
        }
    }
    let Some(Reading::Read(then)) = before.map(|before| &before.sept) else {
        return;
    };
    let leaves = then.leaves().iter();
    let small = leaves
        .filter(|leaves| leaves.level == PageLevel::Size2M)
        .flat_map(|leaves| sept.within(leaves.range))
        .filter(|small| small.level == PageLevel::Size4K);
    for block in small.flat_map(|small| blocks_of(small.range)) {
        if !splits.iter().any(|event| leaf(event) == block) {
            let finding = Finding::wrong(
                Witness::Splits,
                "a split event, since the S-EPT has a table where a leaf was",
                "none",
            );
            court.find(at_block(finding, block));
        }
    }
}

/// The same change with the memory that Linux accepted meanwhile for itself, by 2M: it may need some of
/// what it has not accepted yet for any request.
fn with_newly_accepted(change: &Change, before: &Sample, after: &Sample) -> Change {
    let mut change = change.clone();
    let (Reading::Read(then), Reading::Read(now)) = (&before.sept, &after.sept) else {
        return change;
    };
    for leaves in now.leaves() {
        if leaves.level != PageLevel::Size2M || leaves.state != LeafState::Mapped {
            continue;
        }
        for block in blocks_of(leaves.range) {
            let was_empty = then.within(block.page(PageLevel::Size2M)).next().is_none();
            if was_empty && !change.blocks.contains_key(&block) {
                change.work.augmented += 1;
                change.work.accepted_2m += 1;
                change.leaves_2m += 1;
                change.blocks.insert(block, Block::Leaf);
            }
        }
    }
    change
}

/// What the module did, the events, and the S-EPT.
fn exactly(court: &mut Court, change: &Change, before: &Sample, after: &Sample) {
    if let Some(found) = work(Some(before), after) {
        for ((name, expected), (_, found)) in change.work.parts().into_iter().zip(found.parts()) {
            court.equal(Witness::Module, name, expected, found);
        }
    }
    if let Reading::Read(splits) = &after.splits {
        for split in &change.splits {
            if !splits.iter().any(|event| leaf(event) == *split) {
                let finding = Finding::wrong(Witness::Splits, "this leaf split (KVM)", "no event");
                court.find(at_block(finding, *split));
            }
        }
        for event in splits {
            if !change.splits.contains(&leaf(event)) {
                let finding = Finding::wrong(Witness::Splits, "no split here (KVM)", "a split");
                court.find(at_block(finding, event.gpa));
            }
        }
    }
    let (Reading::Read(then), Reading::Read(now)) = (&before.sept, &after.sept) else {
        return;
    };
    for (at, expected) in &change.blocks {
        let found = Block::of(now, *at);
        if expected.shows_as(&found) {
            continue;
        }
        let mut text = format!("{} (S-EPT)", found.text());
        if let Some(page) = expected.first_difference(&found) {
            let gpa = Gpa::from_gfn(at.gfn() + page as u64);
            text += &format!(", which differs at {gpa}");
        }
        let finding = Finding::wrong(Witness::Module, expected.text(), text);
        court.find(at_block(finding, *at));
    }
    if let Some(range) = changed_elsewhere(then, now, change) {
        let finding = Finding::wrong(
            Witness::Module,
            "no change outside of what was converted",
            "other leaves in the S-EPT",
        );
        court.find(finding.at(range));
    }
}

/// The first place where the S-EPT has changed and had not to.
fn changed_elsewhere(then: &Sept, now: &Sept, change: &Change) -> Option<GpaRange> {
    let blocks = |sept: &Sept| {
        let mut found: BTreeMap<Gpa, Vec<_>> = BTreeMap::new();
        for leaves in sept.leaves() {
            for block in blocks_of(leaves.range) {
                let range = leaves.range.intersect(block.page(PageLevel::Size2M));
                let entry = found.entry(block).or_default();
                entry.push((range, leaves.level, leaves.state));
            }
        }
        found
    };
    let (then, now) = (blocks(then), blocks(now));
    let differs = |at: &&Gpa| then.get(at) != now.get(at) && !change.blocks.contains_key(at);
    let found = then.keys().chain(now.keys()).find(differs)?;
    Some(found.page(PageLevel::Size2M))
}

/// KVM's counters. Shared leaves are among them: they come when Linux touches shared pages, and go with
/// pages that become private.
fn counters(
    court: &mut Court,
    ranges: &[GpaRange],
    to: Side,
    change: &Change,
    before: &Sample,
    after: &Sample,
) {
    let pages: u64 = ranges.iter().map(|range| range.pages_4k()).sum();
    let gone = match to {
        Side::Shared => 0,
        Side::Private => pages.cast_signed(),
    };
    let readings = [
        (Witness::Debugfs, &before.counters, &after.counters),
        (Witness::QueryStats, &before.query_stats, &after.query_stats),
    ];
    for (witness, before, after) in readings {
        let (Some(before), Some(after)) = (before.value(), after.value()) else {
            continue;
        };
        let since = |after: u64, before: u64| after.cast_signed() - before.cast_signed();
        let large = since(after.pages_2m, before.pages_2m);
        if large != change.leaves_2m {
            court.find(Finding::wrong(
                witness,
                format!("pages_2m {:+} (KVM)", change.leaves_2m),
                format!("{large:+}"),
            ));
        }
        let shared = since(after.pages_4k, before.pages_4k) - change.leaves_4k;
        if shared < -gone {
            court.find(Finding::wrong(
                witness,
                format!(
                    "pages_4k {:+} of private memory (KVM), and no less than {:+} of shared",
                    change.leaves_4k, -gone
                ),
                format!("{:+}", since(after.pages_4k, before.pages_4k)),
            ));
        }
    }
}
