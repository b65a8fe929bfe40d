//! Fault by fault, what caught it.

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
    /// Its name.
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
    /// What the step does.
    pub action: String,
    /// Who contradicted the prediction of that step.
    pub witnesses: Vec<Witness>,
    /// Who contradicted that of later steps, which may have gone wrong because of it.
    pub later: Vec<Witness>,
    /// What they said.
    pub findings: Vec<String>,
}

/// A plan that says nothing about a fault, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Unjudged {
    /// Its name.
    pub plan: String,
    /// Why.
    pub reason: String,
}

/// What came of one fault.
#[derive(Clone, Debug)]
pub struct Row {
    /// The fault.
    pub fault: &'static Fault,
    /// Plans that were run under it.
    pub plans: usize,
    /// Those of them in which it made a difference to what the host does.
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

    /// What it says in place of a scenario, where nothing caught the fault.
    pub fn escape(&self) -> &'static str {
        match self.reached {
            0 => "not reached",
            _ => "not caught",
        }
    }

    /// What catches the fault best. `None` where it escaped.
    pub fn best(&self) -> Option<&Catch> {
        self.ranked().next()
    }

    /// What catches the fault, best first: by the witness one would expect first, by as many of the
    /// others as one would expect, by as many at all, after as few steps as possible.
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

    /// What this plan caught.
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

/// What came of all faults.
#[derive(Clone, Debug)]
pub struct Matrix {
    /// Where guests ran.
    pub host: HostKind,
    /// Every fault that was tried, in the order of the catalogue.
    pub rows: Vec<Row>,
    /// Faults that were not tried because somebody stopped it.
    pub untried: usize,
    /// How long it took.
    pub took: Duration,
}

impl Matrix {
    /// Faults that nothing caught.
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
