//! Pages that the dirty log names: all that were written, and no other.

use rangemap::RangeSet;
use tdxlab_journal::Reading;
use tdxlab_journal::verdict::{Finding, Witness};
use tdxlab_protocol::addr::{Gpa, GpaRange};

use super::findings::{Evidence, Findings};

/// Compares the pages that were logged with those that must and may be.
pub(super) fn pages(evidence: &Evidence<'_>, findings: &mut Findings) {
    let Some(expected) = &evidence.expected.logged else {
        return;
    };
    let mut named = RangeSet::new();
    let mut readings = 0;
    for (_, observed) in evidence.pairs() {
        let unread = Reading::missing("this host does not show which pages are logged");
        let reading = observed.logged.as_ref().unwrap_or(&unread);
        let Some(ranges) = findings.one(Witness::DirtyLog, reading) else {
            return;
        };
        insert(&mut named, ranges);
        readings += 1;
    }
    if readings == 0 {
        return;
    }
    let mut must = RangeSet::new();
    insert(&mut must, &expected.must);
    let mut legal = must.clone();
    insert(&mut legal, &expected.may);
    for range in without(&must, &named) {
        findings.find(
            Finding::wrong(
                Witness::DirtyLog,
                "logged: it was written for the first time since logging began",
                "not logged",
            )
            .at(range),
        );
    }
    for range in without(&named, &legal) {
        findings.find(
            Finding::wrong(Witness::DirtyLog, "not logged: nobody wrote it", "logged").at(range),
        );
    }
}

fn insert(set: &mut RangeSet<Gpa>, ranges: &[GpaRange]) {
    for range in ranges.iter().filter(|range| !range.is_empty()) {
        set.insert(range.start()..range.end());
    }
}

/// What is in `set` and not in `other`.
fn without(set: &RangeSet<Gpa>, other: &RangeSet<Gpa>) -> Vec<GpaRange> {
    let parts = set.iter().flat_map(|range| other.gaps(range));
    parts
        .filter_map(|part| GpaRange::new(part.start, part.end))
        .collect()
}
