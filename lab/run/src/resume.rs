//! Continues an interrupted run.
//!
//! The journal holds the head of the run and the finished plans. Those are kept; a plan that was
//! running is started again, and its earlier events are superseded.

use std::path::{Path, PathBuf};

use miette::Diagnostic;
use tdxlab_journal::journal::{self, Event, Journal, JournalError, PlanId, RunStarted};
use tdxlab_journal::reader::JournalReader;
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
        while let Some(line) = recording.next_line()? {
            last_at = line.at.max(last_at);
            if let Event::PlanEnded { plan, .. } | Event::PlanSkipped { plan, .. } = line.event
                && let Some(place) = finished.get_mut(plan.0 as usize)
            {
                *place = true;
            }
        }
        Ok(Resumable {
            complete: finished.iter().all(|done| *done),
            finished,
            head,
            last_at,
            path,
        })
    }

    /// The plans that are left, with their places in the run. `items` are all plans as they are
    /// now; they must be those the run was started with.
    pub fn left<T>(
        &self,
        items: Vec<T>,
        name_of: impl Fn(&T) -> &str,
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
        for (item, name) in items.iter().zip(&self.head.plans) {
            if name_of(item) != name {
                return Err(changed(format!("{name} is now {}", name_of(item))));
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
