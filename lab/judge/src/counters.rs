//! Page counters, populated pages, exits, and S-EPT entries: numbers against intervals.

use tdxlab_journal::PageCounters;
use tdxlab_journal::verdict::{Finding, FindingKind, Witness};
use tdxlab_plan::Expectation;
use tdxlab_plan::names::Unsigned;

use super::findings::{Evidence, Findings};

/// Changes of `pages_4k`, `pages_2m`, `pages_1g`, by each source, and the sources by each other.
pub(super) fn pages(evidence: &Evidence<'_>, findings: &mut Findings) {
    let sources = [
        (
            Witness::Debugfs,
            &evidence.before.debugfs,
            &evidence.after.debugfs,
        ),
        (
            Witness::QueryStats,
            &evidence.before.query_stats,
            &evidence.after.query_stats,
        ),
    ];
    let mut changes = Vec::new();
    for (witness, before, after) in sources {
        if let Some((before, after)) = findings.both(witness, before, after) {
            let change = Change::between(before, after);
            change.judge(witness, evidence.expected, findings);
            changes.push((witness, change, after));
        }
    }
    if let [(_, debugfs, now), (other, query_stats, also_now)] = changes[..] {
        if debugfs != query_stats {
            findings.find(Finding {
                kind: FindingKind::Disagreement,
                ..Finding::wrong(
                    other,
                    format!("{debugfs}, as debugfs says"),
                    query_stats.to_string(),
                )
            });
        } else if let Some(finding) = disagreement(now, also_now) {
            findings.find(finding);
        }
    }
}

/// Both sources read the same counters, so that they change alike is not enough: of another VM's
/// counters, or of frozen ones, that holds too.
pub(crate) fn disagreement(debugfs: &PageCounters, query_stats: &PageCounters) -> Option<Finding> {
    let shown = |counters: &PageCounters| {
        format!(
            "pages_4k {}, pages_2m {}, pages_1g {}",
            counters.pages_4k, counters.pages_2m, counters.pages_1g
        )
    };
    (debugfs != query_stats).then(|| Finding {
        kind: FindingKind::Disagreement,
        ..Finding::wrong(
            Witness::QueryStats,
            format!("{}, as debugfs says", shown(debugfs)),
            shown(query_stats),
        )
    })
}

/// Change of the three page counters over a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Change {
    pages_4k: i64,
    pages_2m: i64,
    pages_1g: i64,
}

impl Change {
    fn between(before: &PageCounters, after: &PageCounters) -> Change {
        Change {
            pages_4k: difference(before.pages_4k, after.pages_4k),
            pages_2m: difference(before.pages_2m, after.pages_2m),
            pages_1g: difference(before.pages_1g, after.pages_1g),
        }
    }

    fn judge(self, witness: Witness, expected: &Expectation, findings: &mut Findings) {
        let levels = [
            ("pages_4k", expected.pages.pages_4k, self.pages_4k),
            ("pages_2m", expected.pages.pages_2m, self.pages_2m),
            ("pages_1g", expected.pages.pages_1g, self.pages_1g),
        ];
        for (name, expected, found) in levels {
            if !expected.contains(found) {
                findings.find(Finding::wrong(
                    witness,
                    format!("{name} {expected}"),
                    format!("{found:+}"),
                ));
            }
        }
    }
}

impl std::fmt::Display for Change {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "pages_4k {:+}, pages_2m {:+}, pages_1g {:+}",
            self.pages_4k, self.pages_2m, self.pages_1g
        )
    }
}

/// Populated pages of the guest_memfd. The prediction is absolute, so an error would be found
/// again at every later step; `drift` is what earlier steps have answered for. Returns the new one.
pub(super) fn populated(evidence: &Evidence<'_>, drift: i64, findings: &mut Findings) -> i64 {
    let Some(&found) = findings.one(Witness::Populated, &evidence.after.populated) else {
        return drift;
    };
    let expected = evidence.expected.populated;
    let found = i64::try_from(found).unwrap_or(i64::MAX);
    if expected.contains(found.saturating_sub(drift)) {
        return drift;
    }
    let carried = match drift {
        0 => String::new(),
        _ => format!(" ({drift:+} from an earlier step)"),
    };
    findings.find(Finding::wrong(
        Witness::Populated,
        format!("{} populated 4K pages{carried}", Unsigned(expected)),
        found.to_string(),
    ));
    match expected.single() {
        Some(expected) => found.saturating_sub(expected),
        None => drift,
    }
}

/// EPT violations, by type.
pub(super) fn exits(evidence: &Evidence<'_>, findings: &mut Findings) {
    let readings = (&evidence.before.exits, &evidence.after.exits);
    let Some((before, after)) = findings.both(Witness::Exits, readings.0, readings.1) else {
        return;
    };
    let kinds = [
        (
            "ACCEPT exits",
            evidence.expected.accept_exits,
            difference(before.accept, after.accept),
        ),
        (
            "access exits",
            evidence.expected.access_exits,
            difference(before.access, after.access),
        ),
    ];
    for (name, expected, found) in kinds {
        if !expected.contains(found) {
            findings.find(Finding::wrong(
                Witness::Exits,
                format!("{} {name}", Unsigned(expected)),
                found.to_string(),
            ));
        }
    }
}

/// S-EPT entries visited to decide splits, if the design promises a bound.
pub(super) fn entries(evidence: &Evidence<'_>, findings: &mut Findings) {
    let Some(limit) = evidence.expected.entries_at_most else {
        return;
    };
    let counts: Option<Vec<u64>> = evidence
        .observed
        .iter()
        .flatten()
        .map(|observed| observed.entries_looked_at)
        .collect();
    let Some(counts) = counts else {
        findings.missing(
            Witness::Entries,
            "this host cannot count the S-EPT entries it looks at",
        );
        return;
    };
    findings.heard(Witness::Entries);
    let found = counts.into_iter().fold(0, u64::saturating_add);
    if found > limit {
        findings.find(Finding::wrong(
            Witness::Entries,
            format!("at most {limit} entries looked at"),
            found.to_string(),
        ));
    }
}

fn difference(before: u64, after: u64) -> i64 {
    i64::try_from(i128::from(after) - i128::from(before)).unwrap_or(i64::MAX)
}
