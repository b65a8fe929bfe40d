//! Split events: their number, and the leaves.

use std::collections::BTreeMap;

use tdxlab_journal::SplitEvent;
use tdxlab_journal::verdict::{Finding, Witness};
use tdxlab_plan::Expectation;
use tdxlab_plan::names::Unsigned;
use tdxlab_protocol::addr::{Gpa, PageLevel};

use super::findings::{Evidence, Findings};

/// Compares the events since the previous sample with the leaves that had to split.
pub(super) fn events(evidence: &Evidence<'_>, findings: &mut Findings) {
    let Some(events) = findings.one(Witness::Splits, &evidence.after.splits) else {
        return;
    };
    let expected = evidence.expected;
    let (done, failed): (Vec<&SplitEvent>, Vec<&SplitEvent>) =
        events.iter().partition(|event| event.errno == 0);
    for event in failed {
        findings.find(leaf_finding(
            event.gpa,
            event.level,
            "a split that succeeds".to_owned(),
            format!(
                "{} (thread {})",
                tdxlab_plan::names::Errno(event.errno),
                event.tid
            ),
        ));
    }
    let count = i64::try_from(done.len()).unwrap_or(i64::MAX);
    if !expected.splits.contains(count) {
        findings.find(Finding::wrong(
            Witness::Splits,
            format!("{} splits", Unsigned(expected.splits)),
            count.to_string(),
        ));
    }
    if expected.splits.single().is_some() {
        leaves(expected, &done, findings);
    }
}

/// Each leaf that had to split did so once, and no other did.
fn leaves(expected: &Expectation, done: &[&SplitEvent], findings: &mut Findings) {
    let mut seen: BTreeMap<(Gpa, u8), u64> = BTreeMap::new();
    for event in done {
        *seen.entry((event.gpa, event.level)).or_default() += 1;
    }
    for leaf in &expected.split_leaves {
        match seen.remove(&(leaf.gpa, leaf.level.kvm())) {
            Some(1) => {}
            found => findings.find(leaf_finding(
                leaf.gpa,
                leaf.level.kvm(),
                "one split of this leaf".to_owned(),
                found.map_or_else(|| "none".to_owned(), |count| count.to_string()),
            )),
        }
    }
    let all_listed = expected.splits.single() == i64::try_from(expected.split_leaves.len()).ok();
    if all_listed {
        for ((gpa, level), count) in seen {
            findings.find(leaf_finding(
                gpa,
                level,
                "no split of this leaf".to_owned(),
                count.to_string(),
            ));
        }
    }
}

fn leaf_finding(gpa: Gpa, kvm_level: u8, expected: String, found: String) -> Finding {
    let finding = Finding::wrong(Witness::Splits, expected, found);
    match kvm_level
        .checked_sub(1)
        .and_then(PageLevel::from_tdx)
        .filter(|level| gpa.align_down(*level).checked_add(level.bytes()).is_some())
    {
        Some(level) => finding.at(gpa.page(level)),
        None => Finding {
            found: format!("{} (level {kvm_level} at {gpa})", finding.found),
            ..finding
        },
    }
}
