//! Receives the events of a run.

use std::time::Duration;

use parking_lot::Mutex;
use tdxlab_journal::journal::{Event, Journal, JournalError, PlanId};
use tdxlab_journal::verdict::{Judgement, MissingWitness, Verdict};

use crate::outcome::Outcome;

/// Receives the events of a run, from several threads.
pub trait EventSink: Sync {
    /// Receives one event. After an error the caller must stop: a later event would hide a gap.
    fn write(&self, event: &Event) -> Result<(), JournalError>;
}

impl EventSink for Journal {
    fn write(&self, event: &Event) -> Result<(), JournalError> {
        Journal::write(self, event)
    }
}

/// Skips a plan for a need that is not met, and writes that down. `took` is how long it took to see.
///
/// # Errors
///
/// The journal cannot be written.
pub fn skip(
    journal: &dyn EventSink,
    plan: PlanId,
    about: &str,
    need: String,
    took: Duration,
) -> Result<Outcome, JournalError> {
    journal.write(&Event::PlanSkipped {
        plan,
        about: about.to_owned(),
        need: need.clone(),
    })?;
    Ok(Outcome {
        verdict: Verdict::Skip,
        reason: Some(need),
        took,
        interrupted: false,
        fault_reached: None,
    })
}

/// Hands every event to the first, and once that has it, to the second.
pub struct Both<'a>(pub &'a dyn EventSink, pub &'a dyn EventSink);

impl EventSink for Both<'_> {
    fn write(&self, event: &Event) -> Result<(), JournalError> {
        self.0.write(event)?;
        self.1.write(event)
    }
}

/// Keeps the judgements of one plan in memory; drops all other events.
#[derive(Debug, Default)]
pub(super) struct MemorySink(Mutex<Kept>);

#[derive(Debug, Default)]
struct Kept {
    control: Option<Judgement>,
    distrusted: Vec<MissingWitness>,
    steps: Vec<Judgement>,
    end: Option<Judgement>,
}

impl MemorySink {
    /// The notes with how the plan ended.
    pub(super) fn close(self, outcome: Outcome) -> PlanResult {
        let said = self.0.into_inner();
        PlanResult {
            outcome,
            control: said.control,
            distrusted: said.distrusted,
            steps: said.steps,
            end: said.end,
        }
    }
}

impl EventSink for MemorySink {
    fn write(&self, event: &Event) -> Result<(), JournalError> {
        let mut sink = self.0.lock();
        match event {
            Event::Controlled {
                judgement,
                distrusted,
                ..
            } => {
                sink.control = Some(judgement.clone());
                sink.distrusted.clone_from(distrusted);
            }
            Event::StepJudged { judgement, .. } => sink.steps.push(judgement.clone()),
            Event::Ended { judgement, .. } => sink.end = Some(judgement.clone()),
            _ => {}
        }
        Ok(())
    }
}

/// A plan that was run and judged in memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlanResult {
    /// How the plan ended.
    pub outcome: Outcome,
    /// Judgement of the positive control; `None` if the plan ended before.
    pub control: Option<Judgement>,
    /// Counters that the positive control has shown not to count.
    pub distrusted: Vec<MissingWitness>,
    /// Judgements of all judged steps, in order.
    pub steps: Vec<Judgement>,
    /// Judgement of the teardown; `None` if there was none.
    pub end: Option<Judgement>,
}
