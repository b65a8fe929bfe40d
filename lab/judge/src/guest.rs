//! Results of the guest's calls: ACCEPT, probe, MapGPA.
//!
//! Results and prediction are both run-length coded, and compared run by run.

use tdxlab_journal::verdict::{Finding, Witness};
use tdxlab_plan::names::{Status, VmcallStatus};
use tdxlab_plan::{Op, Size};
use tdxlab_protocol::addr::{Gpa, GpaRange, PageLevel};
use tdxlab_protocol::message::Run;

use super::findings::{Evidence, Findings};
use super::segments::{Aligned, Segment, zip_segments};

/// Results that are impossible in a guest: of another command, outside the range, or with a status
/// that no TDX module has.
pub(super) fn plausible(evidence: &Evidence<'_>, findings: &mut Findings) {
    for (op, observed) in evidence.pairs() {
        for run in &observed.runs {
            if let Some(why) = lie(op, run) {
                findings.find(Finding::impossible(
                    witness_of(run),
                    why,
                    format!("{run:x?} (numbers in hexadecimal)"),
                ));
            }
        }
    }
}

fn witness_of(run: &Run) -> Witness {
    match run {
        Run::Accept { .. } => Witness::Status,
        Run::Access { .. } => Witness::Access,
        Run::Content { .. } => Witness::Content,
        Run::MapGpa { .. } => Witness::MapGpa,
        Run::Probe { .. } => Witness::Probe,
    }
}

/// Why `run` is impossible.
fn lie(op: &Op, run: &Run) -> Option<String> {
    let (range, step, start, count) = match (op, run) {
        (
            Op::Accept { range, size, .. },
            Run::Accept {
                start,
                level,
                count,
                status,
            },
        ) => {
            if !Status(*status).is_known() {
                return Some("a status of the TDX module".to_owned());
            }
            let asked = match size {
                Size::Size4K => Some(PageLevel::Size4K),
                Size::Size2M => Some(PageLevel::Size2M),
                Size::Size1G => Some(PageLevel::Size1G),
                Size::Linux => None,
            };
            if asked.is_some_and(|asked| asked != *level) {
                return Some(format!("ACCEPTs of the size asked for ({size:?})"));
            }
            (range, *level, start, count)
        }
        (
            Op::Release { range, level, .. },
            Run::Accept {
                start,
                level: found,
                count,
                status,
            },
        ) => {
            if !Status(*status).is_known() {
                return Some("a status of the TDX module".to_owned());
            }
            if found != level {
                return Some(format!("RELEASEs of the size asked for ({level})"));
            }
            (range, *level, start, count)
        }
        (Op::Touch { range, stride, .. }, Run::Access { start, count, .. }) => {
            (range, *stride, start, count)
        }
        (Op::Fill { range, .. }, Run::Access { start, count, .. })
        | (Op::Verify { range, .. }, Run::Content { start, count, .. }) => {
            (range, PageLevel::Size4K, start, count)
        }
        (
            Op::Probe { range, stride, .. },
            Run::Probe {
                start,
                count,
                status,
                ..
            },
        ) => {
            if !Status(*status).is_known() {
                return Some("a status of the TDX module".to_owned());
            }
            (range, *stride, start, count)
        }
        (Op::Convert { .. }, Run::MapGpa { .. }) => return None,
        _ => return Some("a result of the command that was given".to_owned()),
    };
    let possible = inside(*range, *start, *count, step);
    (!possible).then(|| format!("results between {} and {}", range.start(), range.end()))
}

/// Whether it is not empty, and each of its steps begins inside `range`.
fn inside(range: GpaRange, start: Gpa, count: u32, step: PageLevel) -> bool {
    let last = u64::from(count)
        .checked_sub(1)
        .and_then(|steps| steps.checked_mul(step.bytes()))
        .and_then(|bytes| start.checked_add(bytes));
    last.is_some_and(|last| range.contains(start) && range.contains(last))
}

/// Status of every ACCEPT, in the order the guest made them.
pub(super) fn statuses(evidence: &Evidence<'_>, findings: &mut Findings) {
    let found: Vec<Segment<Accept>> = evidence
        .runs()
        .filter_map(|run| match run {
            Run::Accept {
                start,
                level,
                count,
                status,
            } => Some(Accept::segment(*start, *level, u64::from(*count), *status)),
            _ => None,
        })
        .collect();
    match &evidence.expected.statuses {
        Some(expected) => {
            let expected: Vec<Segment<Accept>> = expected
                .iter()
                .map(|run| Accept::segment(run.start, run.level, run.count, run.status))
                .collect();
            in_order(&expected, &found, evidence.death().is_some(), findings);
        }
        None => among(&evidence.expected.legal_statuses, &found, findings),
    }
}

/// One ACCEPT and its answer.
#[derive(Clone, Copy)]
struct Accept {
    level: PageLevel,
    status: u64,
}

impl Accept {
    fn segment(start: Gpa, level: PageLevel, count: u64, status: u64) -> Segment<Accept> {
        Segment {
            start,
            step: level.bytes(),
            count,
            value: Accept { level, status },
        }
    }
}

impl std::fmt::Display for Accept {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ({} ACCEPT)", Status(self.status), self.level)
    }
}

/// A dead guest stops reporting, so only its results up to then are compared.
fn in_order(
    expected: &[Segment<Accept>],
    found: &[Segment<Accept>],
    dead: bool,
    findings: &mut Findings,
) {
    for meeting in zip_segments(expected, found) {
        let finding =
            |expected: String, found: String| Finding::wrong(Witness::Status, expected, found);
        match meeting {
            Aligned::Both(both) => {
                findings.heard(Witness::Status);
                let (want, have) = both.value;
                if want.status != have.status {
                    findings.find(finding(want.to_string(), have.to_string()).at(both.range()));
                }
            }
            Aligned::Parted(want, have) => findings.find(
                finding(
                    format!("{} at {}", want.value, want.start),
                    format!("{} at {}", have.value, have.start),
                )
                .at(have.range()),
            ),
            Aligned::First(want) if !dead => findings.find(
                finding(want.value.to_string(), "no further ACCEPT".to_owned()).at(want.range()),
            ),
            Aligned::First(_) => return,
            Aligned::Second(have) => findings.find(
                finding("no further ACCEPT".to_owned(), have.value.to_string()).at(have.range()),
            ),
        }
    }
}

/// Where the step races, each status must be one of those that are legal.
fn among(legal: &[u64], found: &[Segment<Accept>], findings: &mut Findings) {
    for run in found {
        findings.heard(Witness::Status);
        if !legal.contains(&run.value.status) {
            let names: Vec<String> = legal.iter().map(|s| Status(*s).to_string()).collect();
            findings.find(
                Finding::wrong(
                    Witness::Status,
                    format!("one of {}", names.join(", ")),
                    run.value.to_string(),
                )
                .at(run.range()),
            );
        }
    }
}

/// Results of TDG.MEM.PAGE.ATTR.RD.
pub(super) fn probes(evidence: &Evidence<'_>, findings: &mut Findings) {
    let Some(expected) = &evidence.expected.probes else {
        return;
    };
    let expected: Vec<Segment<Attributes>> = expected
        .iter()
        .map(|run| Segment {
            start: run.start,
            step: run.stride.bytes(),
            count: run.count,
            value: Attributes {
                status: 0,
                level: run.level.tdx(),
                pending: run.pending,
            },
        })
        .collect();
    let found: Vec<Segment<Attributes>> = evidence
        .pairs()
        .flat_map(|(op, observed)| observed.runs.iter().map(move |run| (op, run)))
        .filter_map(|(op, run)| match (op, run) {
            (
                Op::Probe { stride, .. },
                Run::Probe {
                    start,
                    count,
                    status,
                    level,
                    pending,
                    ..
                },
            ) => Some(Segment {
                start: *start,
                step: stride.bytes(),
                count: u64::from(*count),
                value: Attributes {
                    status: *status,
                    level: *level,
                    pending: *pending,
                },
            }),
            _ => None,
        })
        .collect();
    for meeting in zip_segments(&expected, &found) {
        let (want, have, range) = match meeting {
            Aligned::Both(both) => {
                findings.heard(Witness::Probe);
                (
                    both.value.0.to_string(),
                    both.value.1.to_string(),
                    both.range(),
                )
            }
            Aligned::First(_) if evidence.death().is_some() => return,
            Aligned::First(want) => (want.value.to_string(), "no answer".into(), want.range()),
            Aligned::Parted(want, have) => (
                format!("an answer for {}", want.start),
                have.value.to_string(),
                have.range(),
            ),
            Aligned::Second(have) => (
                "no further probe".into(),
                have.value.to_string(),
                have.range(),
            ),
        };
        if want != have {
            findings.find(Finding::wrong(Witness::Probe, want, have).at(range));
        }
    }
}

/// Attributes read by a probe.
#[derive(Clone, Copy)]
struct Attributes {
    status: u64,
    level: u8,
    pending: bool,
}

impl std::fmt::Display for Attributes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.status != 0 {
            return Status(self.status).fmt(f);
        }
        let state = if self.pending { "pending" } else { "accepted" };
        match PageLevel::from_tdx(self.level) {
            Some(level) => write!(f, "{state} {level}"),
            None => write!(f, "{state} at level {}", self.level),
        }
    }
}

/// R10 of MapGPA.
pub(super) fn map_gpa(evidence: &Evidence<'_>, findings: &mut Findings) {
    let Some(expected) = evidence.expected.map_gpa else {
        return;
    };
    let stopped = evidence.expected.map_gpa_stopped_at;
    for (op, observed) in evidence.pairs() {
        let Op::Convert { range, .. } = op else {
            continue;
        };
        let result = observed.runs.iter().find_map(|run| match run {
            Run::MapGpa {
                status, stopped_at, ..
            } => Some((*status, *stopped_at)),
            _ => None,
        });
        match result {
            Some((status, stopped_at))
                if status == expected && stopped.is_none_or(|gpa| gpa == stopped_at) =>
            {
                findings.heard(Witness::MapGpa);
            }
            Some((status, stopped_at)) => {
                findings.heard(Witness::MapGpa);
                findings.find(
                    Finding::wrong(
                        Witness::MapGpa,
                        match stopped {
                            Some(gpa) => format!("{}, stopped at {gpa}", VmcallStatus(expected)),
                            None => VmcallStatus(expected).to_string(),
                        },
                        format!("{}, stopped at {stopped_at}", VmcallStatus(status)),
                    )
                    .at(*range),
                );
            }
            None if evidence.death().is_some() => {}
            None => findings.find(
                Finding::impossible(
                    Witness::MapGpa,
                    VmcallStatus(expected).to_string(),
                    "no answer",
                )
                .at(*range),
            ),
        }
    }
}
