//! One guest, judged step by step against the predictor.
//!
//! What the runner does with files, journal and progress, without any of them: fast enough for
//! hundreds of thousands of random sequences.

use std::path::PathBuf;
use std::time::Duration;

use tdxlab::fuzz::Harness;
use tdxlab::host::{BootOptions, Host, Session};
use tdxlab::host_soft::sim::SimHost;
use tdxlab::journal::Verdict;
use tdxlab::plan::{Action, Design, Guest};

/// A booted guest, its predictor and its judge.
pub struct InMemoryRunner {
    bench: Harness,
    seed: u64,
}

impl InMemoryRunner {
    /// Boots `guest` under `design`, in process.
    pub fn boot(design: &str, guest: &Guest, seed: u64) -> Result<InMemoryRunner, String> {
        InMemoryRunner::boot_on(&SimHost::in_memory(), design, guest, seed, PathBuf::new())
    }

    /// Boots `guest` under `design` on a host that keeps its files in `folder`.
    pub fn boot_on(
        host: &dyn Host,
        design: &str,
        guest: &Guest,
        seed: u64,
        folder: PathBuf,
    ) -> Result<InMemoryRunner, String> {
        let rules = Design::named(design).ok_or_else(|| format!("no design {design}"))?;
        let options = BootOptions {
            design: design.to_owned(),
            module: None,
            seed,
            folder,
            patience: Duration::from_secs(10),
        };
        let session = host
            .boot(guest, &options)
            .map_err(|error| format!("boot: {error}"))?;
        Ok(InMemoryRunner {
            bench: Harness::over(session, rules, guest, seed),
            seed,
        })
    }

    /// The guest, to do things to it that nobody judges.
    pub fn session(&mut self) -> &mut dyn Session {
        self.bench.session()
    }

    /// Does one step and judges it. `Ok(false)` where the TD is dead, as it had to be. A step that
    /// the predictor refuses to judge is not done. The error tells what was expected and found.
    pub fn step(&mut self, action: &Action) -> Result<bool, String> {
        // Every race of a trial is drawn from the same seed.
        self.bench.begin(self.seed);
        let judged = self.bench.judge(action);
        let Some((judgement, alive)) = judged.map_err(|error| format!("{action:?}: {error}"))?
        else {
            return Ok(true);
        };
        if judgement.verdict == Verdict::Pass {
            return Ok(alive);
        }
        let findings: Vec<_> = judgement.findings.iter().map(ToString::to_string).collect();
        Err(format!(
            "{action:?}: {}: {}",
            judgement.verdict,
            findings.join("; ")
        ))
    }
}
