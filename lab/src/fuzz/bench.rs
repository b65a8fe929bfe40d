//! A guest, its predictor and its judge, without files and journal: what the executor does, step by
//! step and in the same order, so that a plan that fails here fails there.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::time::Duration;

use crate::host::{BootOptions, Host, HostError, Session};
use crate::plan::{Action, Guest, Plan};
use crate::predict::{Design, Predictor};
use crate::run::{AllowList, Evidence, Judge, Judgement, PANICKED, Verdict, Witness, control};
use crate::witness::Sample;

/// Longest a single operation of a random plan may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// A booted guest, its predictor and its judge.
pub struct Bench {
    session: Box<dyn Session>,
    predictor: Predictor,
    judge: Judge,
    before: Sample,
    seed: u64,
    steps: u32,
}

/// What came of a step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stepped {
    /// The predictor cannot foresee it; nothing was done.
    Refused,
    /// As predicted; whether the TD lives on.
    Passed {
        /// Whether it does.
        alive: bool,
    },
    /// Not as predicted.
    Failed(Failure),
}

/// How a plan failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The step, from 0.
    pub step: usize,
    /// `fail` or `error`.
    pub verdict: Verdict,
    /// Who said so, the first one first.
    pub witnesses: Vec<Witness>,
    /// What the first one said.
    pub text: String,
}

impl Failure {
    /// An error of the lab or the host.
    fn error(step: usize, text: String) -> Failure {
        Failure {
            step,
            verdict: Verdict::Error,
            witnesses: Vec::new(),
            text,
        }
    }

    /// The lab panicked at it.
    pub(super) fn panicked(step: usize) -> Failure {
        Failure::error(step, PANICKED.to_owned())
    }

    fn judged(step: usize, judgement: &Judgement) -> Failure {
        let mut witnesses: Vec<Witness> = Vec::new();
        for finding in &judgement.findings {
            if !witnesses.contains(&finding.witness) {
                witnesses.push(finding.witness);
            }
        }
        let first = judgement.findings.first();
        Failure {
            step,
            verdict: judgement.verdict,
            witnesses,
            text: first.map_or("nobody could judge it".to_owned(), ToString::to_string),
        }
    }

    /// Whether it is the same failure as `other`: the same verdict, and who noticed `other` first
    /// notices this one too.
    pub fn is_like(&self, other: &Failure) -> bool {
        self.verdict == other.verdict
            && match other.witnesses.first() {
                Some(witness) => self.witnesses.contains(witness),
                None => self.witnesses.is_empty(),
            }
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{} in step {}: {}",
            self.verdict,
            self.step + 1,
            self.text
        )
    }
}

impl Bench {
    /// Boots a guest and does the positive control, which is where a run begins.
    pub fn boot(
        host: &dyn Host,
        design: &Design,
        guest: &Guest,
        seed: u64,
        folder: &Path,
    ) -> Result<Bench, HostError> {
        let options = BootOptions {
            design: design.name.to_owned(),
            seed,
            folder: folder.to_owned(),
            patience: PATIENCE,
        };
        let mut session = host.boot(guest, &options)?;
        session.sample();
        session.perform(&control::operation(guest), &[])?;
        Ok(Bench::over(session, design, guest, seed))
    }

    /// Goes on from here with a guest that was booted for `design`.
    pub fn over(mut session: Box<dyn Session>, design: &Design, guest: &Guest, seed: u64) -> Bench {
        Bench {
            before: session.sample(),
            session,
            predictor: Predictor::new(design, guest),
            judge: Judge::new(AllowList::default()),
            seed,
            steps: 0,
        }
    }

    /// The guest, to do things to it that nobody judges.
    pub fn session(&mut self) -> &mut dyn Session {
        self.session.as_mut()
    }

    /// What the guest's memory must be like now.
    pub fn predictor(&self) -> &Predictor {
        &self.predictor
    }

    /// From the next step on, steps count from 0 again and races are drawn from another seed.
    pub fn begin(&mut self, seed: u64) {
        self.seed = seed;
        self.steps = 0;
    }

    /// Does one step and judges it.
    pub fn step(&mut self, action: &Action) -> Stepped {
        let step = self.steps as usize;
        match self.judge(action) {
            Ok(None) => Stepped::Refused,
            Ok(Some((judgement, alive))) => match judgement.verdict {
                Verdict::Pass => Stepped::Passed { alive },
                _ => Stepped::Failed(Failure::judged(step, &judgement)),
            },
            Err(error) => Stepped::Failed(Failure::error(step, error.to_string())),
        }
    }

    /// Does one step and gives the whole judgement, and whether the TD had to live on; `None` where
    /// the predictor cannot foresee it and nothing was done.
    ///
    /// # Errors
    ///
    /// The host could not do it.
    pub fn judge(&mut self, action: &Action) -> Result<Option<(Judgement, bool)>, HostError> {
        let mut predictor = self.predictor.clone();
        let Ok(expected) = predictor.step(action) else {
            return Ok(None);
        };
        self.predictor = predictor;
        let seed = self.seed.wrapping_add(u64::from(self.steps));
        self.steps += 1;
        let observed = match action {
            Action::One(op) => {
                let reads: Vec<_> = expected.reads.iter().map(|read| read.range).collect();
                vec![vec![self.session.perform(op, &reads)?]]
            }
            Action::Parallel(branches) => {
                let branches: Vec<_> = branches.iter().map(|branch| branch.0.as_slice()).collect();
                self.session.perform_parallel(&branches, seed)?
            }
        };
        let after = self.session.sample();
        let judgement = self.judge.step(&Evidence {
            action,
            expected: &expected,
            observed: &observed,
            before: &self.before,
            after: &after,
        });
        self.before = after;
        Ok(Some((judgement, expected.td_alive)))
    }

    /// Ends the guest.
    pub fn end(self) -> Result<(), HostError> {
        self.session.end()
    }
}

/// Runs a plan in a guest of its own; how it failed, if it did. A plan that nobody can foresee, or
/// that goes on after the TD's death, does not fail.
pub fn attempt(host: &dyn Host, design: &Design, plan: &Plan, folder: &Path) -> Option<Failure> {
    let tried = catch_unwind(AssertUnwindSafe(|| {
        let mut bench = match Bench::boot(host, design, &plan.guest, plan.seed, folder) {
            Ok(bench) => bench,
            Err(error) => return Some(Failure::error(0, error.to_string())),
        };
        for step in &plan.steps {
            match bench.step(&step.action) {
                Stepped::Passed { alive: true } => {}
                Stepped::Passed { alive: false } | Stepped::Refused => return None,
                Stepped::Failed(failure) => return Some(failure),
            }
        }
        let _ = bench.end();
        None
    }));
    tried.unwrap_or_else(|_| Some(Failure::panicked(plan.steps.len().saturating_sub(1))))
}
