//! A plan in a guest that it shares: what is written down while it runs, and once its guest has gone.

use std::time::{Duration, Instant};

use tdxlab_host::Session;
use tdxlab_journal::Ending;
use tdxlab_journal::journal::{Event, JournalError, PlanId, SharedGuest};
use tdxlab_journal::verdict::Verdict;
use tdxlab_judge::PlanJudge;
use tdxlab_judge::oracle::Oracle;

use super::context::{RunContext, TestCase};
use super::outcome::{Outcome, micros};
use super::plan_run::{PlanRun, Stop};

/// A plan that has come to its last step, or as far as it can.
pub(super) struct Attempt<'a> {
    run: PlanRun<'a>,
    judge: PlanJudge<Box<dyn Oracle>>,
    /// The verdict of its steps.
    pub(super) verdict: Verdict,
    reason: Option<String>,
    /// Whether the TD is dead.
    pub(super) dead: bool,
    took: Duration,
    /// What was seen when its guest had gone; `None` where it did not go in good order.
    pub(super) ending: Option<Ending>,
}

impl Attempt<'_> {
    /// Why it did not pass.
    pub(super) fn why(&self) -> String {
        self.run.why(self.reason.as_deref())
    }
}

/// Runs a plan in a guest that is there already, up to its last step. `booting` is what was spent on the
/// guest for it.
pub(super) fn attempt<'a>(
    lab: &'a RunContext<'a>,
    worker: usize,
    (id, item): (PlanId, &'a TestCase),
    session: &mut dyn Session,
    (guest, booting): (SharedGuest, Duration),
) -> Result<Attempt<'a>, JournalError> {
    let started = Instant::now();
    lab.begin(worker, id, item)?;
    lab.journal.write(&Event::Booted {
        plan: id,
        micros: micros(booting),
        shared: Some(guest),
        guests_before: session.guests_before(),
    })?;
    let mut run = PlanRun::new(lab, worker, id, &item.plan);
    let mut judge = run.judge();
    let reason = match run.judge_all(session, &mut judge) {
        Ok(()) => None,
        Err(Stop::Reason(reason)) => Some(reason),
        Err(Stop::Journal(error)) => return Err(error),
    };
    run.fault_reached = session.fault_reached();
    let verdict = match reason {
        Some(_) => run.verdict.and(Verdict::Error),
        None => run.verdict,
    };
    Ok(Attempt {
        dead: run.dead,
        run,
        judge,
        verdict,
        reason,
        took: booting + started.elapsed(),
        ending: None,
    })
}

/// Writes down how a plan ended that passed, once its guest has gone. `None` where what the guest left
/// behind makes it a suspect: it must be run again.
pub(super) fn conclude(
    lab: &RunContext<'_>,
    plan: PlanId,
    attempt: Attempt<'_>,
) -> Result<Option<Outcome>, JournalError> {
    let Some(ending) = attempt.ending else {
        return Ok(None);
    };
    let judgement = attempt.judge.end(&ending);
    if judgement.verdict != Verdict::Pass {
        return Ok(None);
    }
    lab.journal.write(&Event::Ended {
        plan,
        ending,
        judgement,
    })?;
    let outcome = Outcome {
        verdict: attempt.verdict,
        reason: attempt.reason,
        took: attempt.took,
        interrupted: false,
        fault_reached: attempt.run.fault_reached,
    };
    lab.journal.write(&Event::PlanEnded {
        plan,
        verdict: outcome.verdict,
        reason: None,
        micros: micros(outcome.took),
        evidence: None,
        fault_reached: outcome.fault_reached,
    })?;
    Ok(Some(outcome))
}
