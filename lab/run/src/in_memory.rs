//! Runs plans in sequence on a host and judges them in memory: no journal, no report, no evidence.
//!
//! For running thousands of plans where only the verdicts matter: which witness catches a fault,
//! and whether a plan ever fails without a fault.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use tdxlab_host::Host;
use tdxlab_journal::folder::{FolderError, RunFolder};
use tdxlab_journal::journal::PlanId;
use tdxlab_journal::verdict::Verdict;
use tdxlab_judge::{AllowList, HostOracle};
use tdxlab_plan::Design;
use tdxlab_plan::needs::HostAndDesign;
use tdxlab_qemu::interrupt::Interrupt;
use tdxlab_qemu::scratch::Scratch;

use super::context::{KeepEvidence, NoProgress, RunContext, TestCase};
use super::hooks::NoHooks;
use super::outcome::{Outcome, PANICKED, PATIENCE};
use super::sink::{MemorySink, PlanResult};

/// A host, a design, and room for the files that a guest needs while it lives.
pub struct InMemoryRunner<'a> {
    host: &'a dyn Host,
    design: &'static Design,
    interrupt: &'a Interrupt,
    patience: Duration,
    folder: RunFolder,
    _room: Scratch,
}

impl<'a> InMemoryRunner<'a> {
    /// On a host, under a design. Guests end with the process's interrupt.
    pub fn new(
        host: &'a dyn Host,
        design: &'static Design,
    ) -> Result<InMemoryRunner<'a>, FolderError> {
        let room = Scratch::new().map_err(|source| FolderError::Write {
            path: std::env::temp_dir(),
            source,
        })?;
        Ok(InMemoryRunner {
            host,
            design,
            interrupt: Interrupt::of_process(),
            patience: PATIENCE,
            folder: RunFolder::create(room.path())?,
            _room: room,
        })
    }

    /// The same, where no operation may take longer than this.
    #[must_use]
    pub fn with_patience(self, patience: Duration) -> InMemoryRunner<'a> {
        InMemoryRunner { patience, ..self }
    }

    /// Runs a plan to its end, by the same steps and the same judge as every other run.
    pub fn run(&self, item: &TestCase) -> PlanResult {
        let sink = MemorySink::default();
        let design = self.design;
        let lab = RunContext {
            host: self.host,
            offer: HostAndDesign {
                host: self.host.profile(),
                design,
            },
            oracle: &HostOracle::maker(self.host.profile(), design),
            journal: &sink,
            folder: &self.folder,
            allowed_log: AllowList::default(),
            interrupt: self.interrupt,
            patience: self.patience,
            keep: KeepEvidence::Nothing,
            watcher: &NoProgress,
            hooks: &NoHooks,
        };
        let broken = |reason: &str| Outcome {
            verdict: Verdict::Error,
            reason: Some(reason.to_owned()),
            took: Duration::ZERO,
            interrupted: false,
            fault_reached: None,
        };
        let outcome = match catch_unwind(AssertUnwindSafe(|| lab.execute(0, PlanId(0), item, true)))
        {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(error)) => broken(&error.to_string()),
            Err(_) => broken(PANICKED),
        };
        sink.close(outcome)
    }
}
