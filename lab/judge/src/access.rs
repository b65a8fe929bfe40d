//! Outcomes of the guest's accesses.

use tdxlab_journal::verdict::{Finding, Witness};
use tdxlab_plan::names::Status;
use tdxlab_plan::{AccessOutcome, Op, Side};
use tdxlab_protocol::addr::{Gpa, GpaRange, PageLevel};
use tdxlab_protocol::message::{Access, Run};

use super::findings::{Evidence, Findings};
use super::segments::{Aligned, Segment, zip_segments};

/// Compares the outcome of every access with the prediction. Shared accesses have no prediction:
/// they complete.
pub(super) fn outcomes(evidence: &Evidence<'_>, findings: &mut Findings) {
    for (op, observed) in evidence.pairs() {
        let Some(walked) = Walked::of(op) else {
            continue;
        };
        let found: Vec<Segment<Access>> = observed
            .runs
            .iter()
            .filter_map(|run| match run {
                Run::Access {
                    start,
                    count,
                    outcome,
                } => Some(walked.segment(*start, u64::from(*count), *outcome)),
                _ => None,
            })
            .collect();
        match (&evidence.expected.accesses, walked.side) {
            // The expectation is a list over addresses: for two operations of a race at one place,
            // it does not tell which is which.
            (Some(_), Side::Private) if meets_another(op, evidence) => {
                any_order(&found, AccessOutcome::Either, evidence, findings);
            }
            (Some(expected), Side::Private) => {
                let expected: Vec<_> = expected
                    .iter()
                    .filter_map(|(extent, outcome)| walked.within(*extent, *outcome))
                    .collect();
                let dead = evidence.death().is_some();
                in_order(&expected, &found, dead, evidence, findings);
            }
            (None, Side::Private) => any_order(&found, AccessOutcome::Either, evidence, findings),
            (_, Side::Shared) => any_order(&found, AccessOutcome::Done, evidence, findings),
        }
    }
}

/// Whether another access of the same step touches the same memory.
fn meets_another(op: &Op, evidence: &Evidence<'_>) -> bool {
    let Some(walked) = Walked::of(op) else {
        return false;
    };
    evidence
        .pairs()
        .filter(|(other, _)| !std::ptr::eq(*other, op))
        .filter_map(|(other, _)| Walked::of(other))
        .any(|other| other.range.overlaps(walked.range))
}

/// How an operation walks through memory.
struct Walked {
    range: GpaRange,
    step: u64,
    side: Side,
}

impl Walked {
    fn of(op: &Op) -> Option<Walked> {
        match op {
            Op::Touch {
                range,
                stride,
                side,
                ..
            } => Some(Walked {
                range: *range,
                step: stride.bytes(),
                side: *side,
            }),
            Op::Fill { range, side, .. } => Some(Walked {
                range: *range,
                step: PageLevel::Size4K.bytes(),
                side: *side,
            }),
            _ => None,
        }
    }

    fn segment<T>(&self, start: Gpa, count: u64, value: T) -> Segment<T> {
        Segment {
            start,
            step: self.step,
            count,
            value,
        }
    }

    /// The accesses in `extent`; `None` if there are none.
    fn within<T>(&self, extent: GpaRange, value: T) -> Option<Segment<T>> {
        let extent = extent.intersect(self.range)?;
        let base = self.range.start();
        let first = extent.start().checked_sub(base)?.div_ceil(self.step);
        let last = extent.end().checked_sub(base)?.div_ceil(self.step);
        let start = base.checked_add(first.checked_mul(self.step)?)?;
        (first < last).then(|| self.segment(start, last - first, value))
    }
}

fn in_order(
    expected: &[Segment<AccessOutcome>],
    found: &[Segment<Access>],
    dead: bool,
    evidence: &Evidence<'_>,
    findings: &mut Findings,
) {
    for meeting in zip_segments(expected, found) {
        match meeting {
            Aligned::Both(both) => {
                findings.heard(Witness::Access);
                let (want, have) = both.value;
                if !fits(want, have, evidence) {
                    findings.find(
                        Finding::wrong(Witness::Access, wanted(want), seen(have)).at(both.range()),
                    );
                }
            }
            Aligned::First(_) if dead => return,
            Aligned::First(want) => findings.find(
                Finding::impossible(Witness::Access, wanted(want.value), "no answer")
                    .at(want.range()),
            ),
            Aligned::Parted(want, have) => findings.find(
                Finding::impossible(
                    Witness::Access,
                    format!("an access at {}", want.start),
                    format!("one at {}: {}", have.start, seen(have.value)),
                )
                .at(have.range()),
            ),
            Aligned::Second(have) => findings.find(
                Finding::impossible(Witness::Access, "no further access", seen(have.value))
                    .at(have.range()),
            ),
        }
    }
}

fn any_order(
    found: &[Segment<Access>],
    want: AccessOutcome,
    evidence: &Evidence<'_>,
    findings: &mut Findings,
) {
    for have in found {
        findings.heard(Witness::Access);
        if !fits(want, have.value, evidence) {
            findings.find(
                Finding::wrong(Witness::Access, wanted(want), seen(have.value)).at(have.range()),
            );
        }
    }
}

fn fits(want: AccessOutcome, have: Access, evidence: &Evidence<'_>) -> bool {
    match (want, have) {
        (AccessOutcome::Done, Access::Done)
        | (AccessOutcome::Ve, Access::Ve)
        | (AccessOutcome::Accepted, Access::Accepted)
        | (AccessOutcome::Either, Access::Done | Access::Ve | Access::Accepted) => true,
        (AccessOutcome::Either, Access::AcceptFailed { status }) => {
            evidence.expected.legal_statuses.contains(&status)
        }
        _ => false,
    }
}

fn wanted(outcome: AccessOutcome) -> String {
    match outcome {
        AccessOutcome::Done => "the access completes".to_owned(),
        AccessOutcome::Ve => "#VE".to_owned(),
        AccessOutcome::Accepted => "#VE, ACCEPT, then the access completes".to_owned(),
        AccessOutcome::Either => "the access completes or raises #VE".to_owned(),
    }
}

fn seen(outcome: Access) -> String {
    match outcome {
        Access::Done => "it completed".to_owned(),
        Access::Ve => "#VE".to_owned(),
        Access::Accepted => "#VE, ACCEPT, then it completed".to_owned(),
        Access::AcceptFailed { status } => {
            format!("#VE, then ACCEPT said {}", Status(status))
        }
        Access::StrangeVe { reason, gpa } => {
            format!("#VE with exit reason {reason} for {gpa}, which is not this access")
        }
    }
}
