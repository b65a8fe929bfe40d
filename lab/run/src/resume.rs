//! Continues an interrupted run.
//!
//! The journal holds the head of the run and the finished plans. Those are kept; a plan that was
//! running is started again, and its earlier events are superseded. Plans that were started are in the
//! journal, too: they must be the same now, or half of the run would be of other scenarios.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use miette::Diagnostic;
use tdxlab_journal::journal::{self, Event, Journal, JournalError, PlanId, RunStarted};
use tdxlab_journal::reader::JournalReader;
use tdxlab_plan::linux::{LinuxPlan, LinuxStep};
use tdxlab_plan::{Plan, Step, op_words};
use thiserror::Error;

/// A run as far as its journal goes.
#[derive(Debug)]
pub struct Resumable {
    /// Head of the run.
    pub head: RunStarted,
    /// For each plan, whether it is finished.
    pub finished: Vec<bool>,
    /// Whether all plans are.
    pub complete: bool,
    /// When the last event was written, in microseconds since the run started.
    last_at: u64,
    path: PathBuf,
    /// The plans that were started, as they were.
    started: BTreeMap<u32, Started>,
}

/// A plan that was started.
#[derive(Debug)]
enum Started {
    /// On a host of the lab.
    Plan(Plan),
    /// In a Linux guest.
    Linux(LinuxPlan),
}

/// A plan as it is now.
#[derive(Clone, Copy, Debug)]
pub enum AnyPlan<'a> {
    /// On a host of the lab.
    Plan(&'a Plan),
    /// In a Linux guest.
    Linux(&'a LinuxPlan),
}

/// Why a run cannot be resumed.
#[derive(Debug, Error, Diagnostic)]
pub enum ResumeError {
    /// Its journal is no journal.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Journal(#[from] JournalError),
    /// The scenarios are not those of the run any more.
    #[error("the scenarios have changed since {run} was started: {what}")]
    #[diagnostic(
        code(resume::changed),
        help("put the scenarios back as they were, or start a new run")
    )]
    Changed {
        /// Name of the run.
        run: String,
        /// The property that changed.
        what: String,
    },
}

impl Resumable {
    /// Reads the journal of a run.
    pub fn of(folder: &Path) -> Result<Resumable, ResumeError> {
        let path = folder.join(journal::FILE);
        let mut recording = JournalReader::open(&path)?;
        let head = recording.head().clone();
        let mut finished = vec![false; head.plans.len()];
        let mut last_at = 0;
        let mut started = BTreeMap::new();
        while let Some(line) = recording.next_line()? {
            last_at = line.at.max(last_at);
            match line.event {
                Event::PlanEnded { plan, .. } | Event::PlanSkipped { plan, .. } => {
                    if let Some(place) = finished.get_mut(plan.0 as usize) {
                        *place = true;
                    }
                }
                Event::PlanStarted { plan, body, .. } => {
                    started.insert(plan.0, Started::Plan(body));
                }
                Event::LinuxStarted { plan, body, .. } => {
                    started.insert(plan.0, Started::Linux(body));
                }
                Event::RunStarted(_)
                | Event::LinuxStep { .. }
                | Event::Booted { .. }
                | Event::Controlled { .. }
                | Event::StepStarted { .. }
                | Event::StepObserved { .. }
                | Event::StepJudged { .. }
                | Event::Ended { .. }
                | Event::FailedShared { .. }
                | Event::Confirmed { .. }
                | Event::RunEnded { .. } => {}
            }
        }
        Ok(Resumable {
            complete: finished.iter().all(|done| *done),
            finished,
            head,
            last_at,
            path,
            started,
        })
    }

    /// The plans that are left, with their places in the run. `items` are all plans as they are
    /// now; they must be those the run was started with.
    pub fn left<T>(
        &self,
        items: Vec<T>,
        plan_of: impl for<'a> Fn(&'a T) -> AnyPlan<'a>,
    ) -> Result<Vec<(PlanId, T)>, ResumeError> {
        let changed = |what: String| ResumeError::Changed {
            run: self.head.run.clone(),
            what,
        };
        if items.len() != self.head.plans.len() {
            return Err(changed(format!(
                "there were {} plans, now there are {}",
                self.head.plans.len(),
                items.len()
            )));
        }
        for (id, (item, name)) in (0..).zip(items.iter().zip(&self.head.plans)) {
            let plan = plan_of(item);
            if plan.name() != name {
                return Err(changed(format!("{name} is now {}", plan.name())));
            }
            if let Some(what) = self.started.get(&id).and_then(|was| plan.differs(was)) {
                return Err(changed(format!("of {name}, {what}")));
            }
        }
        Ok(items
            .into_iter()
            .enumerate()
            .filter(|(index, _)| !self.finished[*index])
            .map(|(index, item)| (PlanId(u32::try_from(index).unwrap_or(u32::MAX)), item))
            .collect())
    }

    /// The journal, to be continued. Half a line at its end is cut off.
    pub fn journal(&self) -> Result<Journal, JournalError> {
        Journal::resume(&self.path, self.last_at)
    }
}

impl<'a> From<&'a Plan> for AnyPlan<'a> {
    fn from(plan: &'a Plan) -> AnyPlan<'a> {
        AnyPlan::Plan(plan)
    }
}

impl<'a> From<&'a LinuxPlan> for AnyPlan<'a> {
    fn from(plan: &'a LinuxPlan) -> AnyPlan<'a> {
        AnyPlan::Linux(plan)
    }
}

impl AnyPlan<'_> {
    fn name(&self) -> &str {
        match self {
            AnyPlan::Plan(plan) => &plan.name,
            AnyPlan::Linux(plan) => &plan.name,
        }
    }

    /// What is not as it was when the plan was started. Its description and the lines of its file may be:
    /// they do nothing.
    fn differs(&self, was: &Started) -> Option<String> {
        match (was, self) {
            (Started::Plan(was), AnyPlan::Plan(is)) => plan_differs(was, is),
            (Started::Linux(was), AnyPlan::Linux(is)) => linux_differs(was, is),
            (Started::Plan(_), AnyPlan::Linux(_)) | (Started::Linux(_), AnyPlan::Plan(_)) => {
                Some("the kind of its guest is another".to_owned())
            }
        }
    }
}

fn plan_differs(was: &Plan, is: &Plan) -> Option<String> {
    let parts = [
        ("guest", was.guest != is.guest),
        ("needs", was.needs != is.needs),
        ("seed", was.seed != is.seed),
    ];
    let same = |was: &Step, is: &Step| was.action == is.action && was.expect == is.expect;
    let words = |step: &Step| op_words::action(&step.action, &is.guest);
    part(&parts).or_else(|| steps_differ(&was.steps, &is.steps, same, words))
}

fn linux_differs(was: &LinuxPlan, is: &LinuxPlan) -> Option<String> {
    let parts = [
        ("guest", was.guest != is.guest || was.td != is.td),
        ("seed", was.seed != is.seed),
    ];
    let same = |was: &LinuxStep, is: &LinuxStep| was.op == is.op;
    let words = |step: &LinuxStep| step.op.text();
    part(&parts).or_else(|| steps_differ(&was.steps, &is.steps, same, words))
}

/// The first part that is another.
fn part(parts: &[(&str, bool)]) -> Option<String> {
    let (name, _) = parts.iter().find(|(_, differs)| *differs)?;
    Some(format!("the {name} changed"))
}

/// The first step that is another.
fn steps_differ<S>(
    was: &[S],
    is: &[S],
    same: impl Fn(&S, &S) -> bool,
    words: impl Fn(&S) -> String,
) -> Option<String> {
    let mut pairs = (1..).zip(was.iter().zip(is));
    if let Some((number, (old, new))) = pairs.find(|(_, (old, new))| !same(old, new)) {
        let (old, new) = (words(old), words(new));
        return Some(match old == new {
            true => format!("step {number} has another `expect`: {new}"),
            false => format!("step {number} was: {old}; it is now: {new}"),
        });
    }
    let (was, is) = (was.len(), is.len());
    (was != is).then(|| format!("there were {was} steps, now there are {is}"))
}

#[cfg(test)]
mod tests;
