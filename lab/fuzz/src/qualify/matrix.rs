//! The scenarios and witnesses that caught each fault.

use std::cmp::Reverse;
use std::path::PathBuf;
use std::time::Duration;

use serde::Serialize;
use tdxlab_faults::Fault;
use tdxlab_journal::Witness;
use tdxlab_plan::HostKind;

/// A plan that failed under a fault.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Catch {
    /// Its place among the plans.
    #[serde(skip)]
    pub plan: usize,
    /// Name of the plan.
    #[serde(rename = "plan")]
    pub name: String,
    /// Its scenario file.
    pub file: Option<PathBuf>,
    /// Line of the step in it.
    pub line: u32,
    /// The seed it ran with; its own, but for a race that was given several chances.
    pub seed: u64,
    /// The first step that failed, from 1; `None` for the positive control.
    pub step: Option<usize>,
    /// The step in words.
    pub action: String,
    /// Witnesses that contradicted the prediction of that step.
    pub witnesses: Vec<Witness>,
    /// Witnesses that contradicted later steps, which may be consequences.
    pub later: Vec<Witness>,
    /// Their findings.
    pub findings: Vec<String>,
}

/// A plan without a verdict under a fault, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Unjudged {
    /// Name of the plan.
    pub plan: String,
    /// The reason.
    pub reason: String,
}

/// Result of one fault.
#[derive(Clone, Debug)]
pub struct Row {
    /// The fault.
    pub fault: &'static Fault,
    /// Plans that were run under it.
    pub plans: usize,
    /// Plans in which the fault changed the host's behaviour.
    pub reached: usize,
    /// Those that caught it.
    pub catches: Vec<Catch>,
    /// Those that could not be judged.
    pub unjudged: Vec<Unjudged>,
    /// How long it took.
    pub took: Duration,
}

impl Row {
    pub(super) fn new(fault: &'static Fault) -> Row {
        Row {
            fault,
            plans: 0,
            reached: 0,
            catches: Vec::new(),
            unjudged: Vec::new(),
            took: Duration::ZERO,
        }
    }

    /// Text in place of a scenario, if the fault was not caught.
    pub fn escape(&self) -> &'static str {
        match self.reached {
            0 => "not reached",
            _ => "not caught",
        }
    }

    /// The best catch. `None` if the fault escaped.
    pub fn best(&self) -> Option<&Catch> {
        self.ranked().next()
    }

    /// All catches, best first: by the expected main witness, the number of other expected
    /// witnesses, the number of witnesses, and the fewest steps.
    pub fn ranked(&self) -> impl Iterator<Item = &Catch> {
        let mut ranked: Vec<&Catch> = self.catches.iter().collect();
        ranked.sort_by_key(|one| {
            (
                Reverse(self.is_expected(one)),
                Reverse(self.expected_of(one)),
                Reverse(one.witnesses.len()),
                one.step,
                one.plan,
            )
        });
        ranked.into_iter()
    }

    /// The catch of this plan.
    pub fn caught(&self, plan: usize) -> Option<&Catch> {
        self.catches.iter().find(|one| one.plan == plan)
    }

    /// How many witnesses speak that one would expect to notice.
    pub fn expected_of(&self, catch: &Catch) -> usize {
        let speaks =
            |witness: &&Witness| catch.witnesses.contains(witness) || catch.later.contains(witness);
        self.fault.witnesses.iter().filter(speaks).count()
    }

    /// Whether the witness speaks that one would expect to notice first.
    pub fn is_expected(&self, catch: &Catch) -> bool {
        let first = self.fault.witnesses.first();
        first.is_some_and(|first| catch.witnesses.contains(first))
    }
}

/// Results of all faults.
#[derive(Clone, Debug)]
pub struct Matrix {
    /// The host that ran the guests.
    pub host: HostKind,
    /// Every fault that was tried, in the order of the catalogue.
    pub rows: Vec<Row>,
    /// Faults that were not tried because of an interrupt.
    pub untried: usize,
    /// How long it took.
    pub took: Duration,
}

impl Matrix {
    /// Faults that were not caught.
    pub fn escaped(&self) -> impl Iterator<Item = &Row> {
        self.rows.iter().filter(|row| row.catches.is_empty())
    }

    /// Faults that something caught, but never by the witness one would expect: what failed may have
    /// failed for another reason.
    pub fn unexpected(&self) -> impl Iterator<Item = &Row> {
        self.rows
            .iter()
            .filter(|row| row.best().is_some_and(|best| !row.is_expected(best)))
    }

    /// Faults caught at one step by two witnesses or more.
    pub fn by_two_witnesses(&self) -> usize {
        self.count(|catch, _| catch.witnesses.len() >= 2)
    }

    /// Faults caught by the witness one would expect.
    pub fn as_expected(&self) -> usize {
        self.count(|catch, row| row.is_expected(catch))
    }

    fn count(&self, holds: impl Fn(&Catch, &Row) -> bool) -> usize {
        let holds = |row: &&Row| row.best().is_some_and(|best| holds(best, row));
        self.rows.iter().filter(holds).count()
    }
}
