//! Each test changes one value a host or guest may get wrong, and checks which witness reports it.

use tdxlab_journal::{Finding, Judgement, Observed, Reading, Sample};
use tdxlab_plan::{Action, Expectation, Op};

mod content;
mod dirty_log;
mod guest;
mod host;
mod rejudge;

use tdxlab_journal::{ExitCounters, PageCounters, SplitEvent};
use tdxlab_plan::{Generation, Interval, PageDelta, SplitLeaf};
use tdxlab_protocol::addr::{Gpa, GpaRange, PageLevel};
use tdxlab_protocol::message::Run;

use super::*;

const BASE: u64 = 0x4000_0000;
const TWO_M: u64 = 2 << 20;

fn at(offset: u64, bytes: u64) -> GpaRange {
    GpaRange::with_len(Gpa::new(BASE + offset), bytes).unwrap()
}

fn fill(number: u16) -> Generation {
    Generation::new(number).unwrap()
}

fn sample(pages_4k: u64, pages_2m: u64) -> Sample {
    let pages = PageCounters {
        pages_4k,
        pages_2m,
        pages_1g: 0,
    };
    Sample {
        debugfs: Reading::Read(pages),
        query_stats: Reading::Read(pages),
        splits: Reading::Read(Vec::new()),
        populated: Reading::Read(1024),
        exits: Reading::Read(ExitCounters::default()),
        kernel_log: Reading::Read(Vec::new()),
    }
}

fn missing<T>() -> Reading<T> {
    Reading::Missing {
        reason: "not permitted".to_owned(),
    }
}

/// A hole from the middle of the first 2M leaf to its end, and everything about it as it must be.
struct Hole {
    action: Action,
    expected: Expectation,
    observed: Observed,
    before: Sample,
    after: Sample,
}

impl Hole {
    fn new() -> Hole {
        let mut after = sample(256, 1);
        after.splits = Reading::Read(vec![SplitEvent {
            gpa: Gpa::new(BASE),
            level: 2,
            errno: 0,
            tid: 7,
        }]);
        after.populated = Reading::Read(768);
        Hole {
            action: Action::One(Op::Punch {
                range: at(TWO_M / 2, TWO_M / 2),
            }),
            expected: Expectation {
                td_alive: true,
                splits: Interval::exactly(1),
                split_leaves: vec![SplitLeaf {
                    gpa: Gpa::new(BASE),
                    level: PageLevel::Size2M,
                }],
                pages: PageDelta {
                    pages_4k: Interval::exactly(256),
                    pages_2m: Interval::exactly(-1),
                    pages_1g: Interval::exactly(0),
                },
                populated: Interval::exactly(768),
                entries_at_most: Some(2),
                errnos: vec![0],
                ..Expectation::default()
            },
            observed: Observed {
                errno: Some(0),
                entries_looked_at: Some(2),
                ..Observed::default()
            },
            before: sample(0, 2),
            after,
        }
    }

    fn judge(&self) -> Judgement {
        Judge::default().step(&Evidence {
            action: &self.action,
            expected: &self.expected,
            observed: &[vec![self.observed.clone()]],
            before: &self.before,
            after: &self.after,
        })
    }
}

/// No witness but the guest.
fn quiet() -> Sample {
    Sample {
        debugfs: missing(),
        query_stats: missing(),
        splits: missing(),
        populated: missing(),
        exits: missing(),
        kernel_log: missing(),
    }
}

/// A guest command with the guest as the only witness.
fn guest(op: Op, expected: Expectation, runs: Vec<Run>) -> Judgement {
    Judge::default().step(&Evidence {
        action: &Action::One(op),
        expected: &Expectation {
            td_alive: true,
            ..expected
        },
        observed: &[vec![Observed {
            runs,
            ..Observed::default()
        }]],
        before: &quiet(),
        after: &quiet(),
    })
}

fn only_finding(judgement: &Judgement) -> &Finding {
    assert_eq!(judgement.findings.len(), 1, "{:#?}", judgement.findings);
    &judgement.findings[0]
}
