//! A whole run: folder, journal, plans, report.

use std::path::{Path, PathBuf};
use std::time::Duration;

use miette::Diagnostic;
use tdxlab_host::Host;
use tdxlab_journal::folder::{FolderError, RunFolder};
use tdxlab_journal::journal::{self, Journal, JournalError, Part, PlanId, RunStarted};
use tdxlab_judge::{AllowList, HostOracle};
use tdxlab_plan::needs::HostAndDesign;
use tdxlab_plan::{Design, Repeat};
use tdxlab_qemu::interrupt::Interrupt;
use tdxlab_report as report;
use tdxlab_report::Report;
use tdxlab_run::hooks::{Hooks, NoHooks};
use tdxlab_run::{Both, EventSink, PATIENCE, PoolOptions, Resumable};
use tdxlab_run::{KeepEvidence, Progress, RunContext, TestCase};
use thiserror::Error;

/// Parameters of a run.
pub struct RunSpec<'a> {
    /// The plans.
    pub items: &'a [TestCase],
    /// The host that runs the guests.
    pub host: &'a dyn Host,
    /// Why there, for the report.
    pub host_reason: String,
    /// The design, emulated or expected.
    pub design: &'static Design,
    /// How to go through the plans.
    pub drive: PoolOptions,
    /// Kernel log lines that may pass.
    pub allowed_log: AllowList,
    /// Longest a single operation may take.
    pub patience: Duration,
    /// Keep the evidence of passing plans too.
    pub keep: bool,
    /// Seed that overrides those of the scenarios, for the report.
    pub seed: Option<u64>,
    /// Scenario files and folders given; none for the default set.
    pub paths: Vec<PathBuf>,
    /// Which part of a larger run the plans are.
    pub part: Option<Part>,
    /// How often every scenario is among the plans, if more than once.
    pub repeat: Option<Repeat>,
    /// Stops the run.
    pub interrupt: &'a Interrupt,
    /// Receives progress.
    pub watcher: &'a dyn Progress,
    /// Called around each step.
    pub hooks: &'a dyn Hooks,
    /// Gets every event once it is in the journal.
    pub listener: Option<&'a dyn EventSink>,
}

/// A run that is over.
#[derive(Debug)]
pub struct FinishedRun {
    /// Its report.
    pub report: Report,
    /// Where its files are.
    pub folder: PathBuf,
    /// Why one of them could not be written, to be said after all that can be shown.
    pub unwritten: Option<FolderError>,
}

impl FinishedRun {
    /// Makes every report of a run that is in its folder.
    ///
    /// # Errors
    ///
    /// Its journal cannot be read.
    pub fn of(folder: &RunFolder) -> Result<FinishedRun, RunError> {
        let report =
            report::from_journal(&folder.path().join(journal::FILE)).map_err(FolderError::from)?;
        Ok(FinishedRun::told(report, folder).written())
    }

    fn told(report: Report, folder: &RunFolder) -> FinishedRun {
        FinishedRun {
            report,
            folder: folder.path().to_owned(),
            unwritten: None,
        }
    }

    fn written(self) -> FinishedRun {
        FinishedRun {
            unwritten: report::write_all(&self.report, &self.folder).err(),
            ..self
        }
    }

    /// Whether all its files are there.
    ///
    /// # Errors
    ///
    /// The first that could not be written.
    pub fn whole(&mut self) -> Result<(), FolderError> {
        self.unwritten.take().map_or(Ok(()), Err)
    }
}

/// Why there is no complete report.
#[derive(Debug, Error, Diagnostic)]
pub enum RunError {
    /// No folder, no journal, or a file in it could not be written.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Folder(#[from] FolderError),
    /// The journal could not be completed. Its content so far is kept.
    #[error("{error}")]
    #[diagnostic(forward(error))]
    CutOff {
        /// The cause.
        error: JournalError,
        /// Results so far, if any.
        so_far: Option<Box<FinishedRun>>,
    },
}

impl<'a> RunSpec<'a> {
    /// With everything but the plans, host and design as usual.
    pub fn new(
        items: &'a [TestCase],
        host: &'a dyn Host,
        design: &'static Design,
        watcher: &'a dyn Progress,
    ) -> RunSpec<'a> {
        RunSpec {
            items,
            host,
            host_reason: "requested".to_owned(),
            design,
            drive: PoolOptions {
                jobs: 1,
                fail_fast: false,
                confirm: 0,
                share: false,
            },
            allowed_log: AllowList::default(),
            patience: PATIENCE,
            keep: false,
            seed: None,
            paths: Vec::new(),
            part: None,
            repeat: None,
            interrupt: Interrupt::of_process(),
            watcher,
            hooks: &NoHooks,
            listener: None,
        }
    }

    /// Runs everything, below `reports`, and writes every report file.
    pub fn run(self, reports: &Path) -> Result<FinishedRun, RunError> {
        let folder = RunFolder::create(reports)?;
        let journal = folder.begin(self.head(&folder))?;
        let all: Vec<(PlanId, &TestCase)> = (0..).map(PlanId).zip(self.items).collect();
        let outcome = self.go(&folder, &journal, &all);
        finish(outcome, &folder, &journal)
    }

    /// Continues the run in `folder`; the plans are those it has left, with their positions.
    pub fn resume(
        self,
        folder: &Path,
        progress: &Resumable,
        places: &[PlanId],
    ) -> Result<FinishedRun, RunError> {
        let started = progress.head.started.parse().unwrap_or_default();
        let folder = RunFolder::existing(folder, &progress.head.run, started);
        let journal = progress.journal().map_err(FolderError::from)?;
        let left: Vec<(PlanId, &TestCase)> = places.iter().copied().zip(self.items).collect();
        let outcome = self.go(&folder, &journal, &left);
        finish(outcome, &folder, &journal)
    }

    fn go(
        &self,
        folder: &RunFolder,
        journal: &Journal,
        items: &[(PlanId, &TestCase)],
    ) -> Result<(), JournalError> {
        let design = self.design;
        let both = self.listener.map(|listener| Both(journal, listener));
        let sink: &dyn EventSink = match &both {
            Some(both) => both,
            None => journal,
        };
        let lab = RunContext {
            host: self.host,
            offer: HostAndDesign {
                host: self.host.profile(),
                design,
            },
            oracle: &HostOracle::maker(self.host.profile(), design),
            journal: sink,
            folder,
            allowed_log: self.allowed_log.clone(),
            interrupt: self.interrupt,
            patience: self.patience,
            keep: if self.keep {
                KeepEvidence::Everything
            } else {
                KeepEvidence::Failures
            },
            watcher: self.watcher,
            hooks: self.hooks,
        };
        tdxlab_run::run_some(items, &lab, self.drive)?;
        Ok(())
    }

    /// Facts about the host. A seeded fault is a fact, too, so that every report shows it.
    fn facts(&self) -> Vec<(String, String)> {
        let mut facts = self.host.facts();
        if let Some(fault) = self.host.fault() {
            let value = format!("{}: {}", fault.name, fault.wrong);
            facts.push(("seeded fault".to_owned(), value));
        }
        if let Some(misfit) = self.host.misfit(self.design) {
            facts.push(("DESIGN MISMATCH".to_owned(), misfit));
        }
        facts
    }

    fn head(&self, folder: &RunFolder) -> RunStarted {
        RunStarted {
            host_reason: self.host_reason.clone(),
            facts: self.facts(),
            fault: self.host.fault(),
            design: self.design.name.to_owned(),
            seed: self.seed,
            jobs: self.drive.jobs,
            plans: self
                .items
                .iter()
                .map(|item| item.plan.name.clone())
                .collect(),
            paths: self.paths.clone(),
            allowed_log: self.allowed_log.texts().to_vec(),
            part: self.part.clone(),
            repeat: self.repeat,
            ..folder.head(self.host.kind(), self.host.profile())
        }
    }
}

/// Makes the report of the journal, even if it could not be completed.
fn finish(
    outcome: Result<(), JournalError>,
    folder: &RunFolder,
    journal: &Journal,
) -> Result<FinishedRun, RunError> {
    let finished = report::from_journal(journal.path());
    let finished = finished.map(|report| FinishedRun::told(report, folder));
    match (outcome, finished) {
        (Ok(()), Ok(finished)) => Ok(finished.written()),
        (Ok(()), Err(error)) => Err(RunError::CutOff {
            error,
            so_far: None,
        }),
        (Err(error), finished) => Err(RunError::CutOff {
            error,
            so_far: finished.ok().map(Box::new),
        }),
    }
}
