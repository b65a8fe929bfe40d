//! Pages that the dirty log names: all that were written, and no other.

use tdxlab_journal::Reading;
use tdxlab_journal::verdict::{Finding, Witness};
use tdxlab_plan::RangeSet;

use super::findings::{Evidence, Findings};

/// Compares the pages that were logged with those that must and may be.
pub(super) fn pages(evidence: &Evidence<'_>, findings: &mut Findings) {
    let Some(expected) = &evidence.expected.logged else {
        return;
    };
    let mut named = RangeSet::default();
    let mut readings = 0;
    for (_, observed) in evidence.pairs() {
        let unread = Reading::missing("this host does not show which pages are logged");
        let reading = observed.logged.as_ref().unwrap_or(&unread);
        let Some(ranges) = findings.one(Witness::DirtyLog, reading) else {
            return;
        };
        named.extend(ranges.iter().copied());
        readings += 1;
    }
    if readings == 0 {
        return;
    }
    let must: RangeSet = expected.must.iter().copied().collect();
    let mut legal = must.clone();
    legal.extend(expected.may.iter().copied());
    for range in must.without(&named) {
        findings.find(
            Finding::wrong(
                Witness::DirtyLog,
                "logged: it was written for the first time since logging began",
                "not logged",
            )
            .at(range),
        );
    }
    for range in named.without(&legal) {
        findings.find(
            Finding::wrong(Witness::DirtyLog, "not logged: nobody wrote it", "logged").at(range),
        );
    }
}
