//! One guest, judged step by step against the predictor.
//!
//! What the runner does with files, journal and progress, without any of them: fast enough for
//! hundreds of thousands of random sequences.

use std::path::PathBuf;
use std::time::Duration;

use tdxlab::host::sim::SimHost;
use tdxlab::host::{BootOptions, Host, Session};
use tdxlab::plan::{Action, Guest};
use tdxlab::predict::{Design, Predictor};
use tdxlab::run::{AllowList, Evidence, Judge, Verdict};
use tdxlab::witness::Sample;

/// A booted guest, its predictor and its judge.
pub struct Trial {
    session: Box<dyn Session>,
    predictor: Predictor,
    judge: Judge,
    before: Sample,
    seed: u64,
}

impl Trial {
    /// Boots `guest` under `design`, in process.
    pub fn boot(design: &str, guest: &Guest, seed: u64) -> Result<Trial, String> {
        Trial::boot_on(&SimHost::in_memory(), design, guest, seed, PathBuf::new())
    }

    /// Boots `guest` under `design` on a host that keeps its files in `folder`.
    pub fn boot_on(
        host: &dyn Host,
        design: &str,
        guest: &Guest,
        seed: u64,
        folder: PathBuf,
    ) -> Result<Trial, String> {
        let rules = Design::named(design).ok_or_else(|| format!("no design {design}"))?;
        let options = BootOptions {
            design: design.to_owned(),
            seed,
            folder,
            patience: Duration::from_secs(10),
        };
        let mut session = host
            .boot(guest, &options)
            .map_err(|error| format!("boot: {error}"))?;
        let before = session.sample();
        Ok(Trial {
            session,
            predictor: Predictor::new(rules, guest),
            judge: Judge::new(AllowList::default()),
            before,
            seed,
        })
    }

    /// The guest, to do things to it that nobody judges.
    pub fn session(&mut self) -> &mut dyn Session {
        self.session.as_mut()
    }

    /// Does one step and judges it. `Ok(false)` where the TD is dead, as it had to be. A step that
    /// the predictor refuses to judge is not done. The error tells what was expected and found.
    pub fn step(&mut self, action: &Action) -> Result<bool, String> {
        let mut predictor = self.predictor.clone();
        let Ok(expected) = predictor.step(action) else {
            return Ok(true);
        };
        self.predictor = predictor;
        let observed = match action {
            Action::One(op) => {
                let reads: Vec<_> = expected.reads.iter().map(|read| read.range).collect();
                self.session.perform(op, &reads).map(|one| vec![vec![one]])
            }
            Action::Parallel(branches) => {
                let branches: Vec<_> = branches.iter().map(|branch| branch.0.as_slice()).collect();
                self.session.perform_parallel(&branches, self.seed)
            }
        }
        .map_err(|error| format!("{action:?}: {error}"))?;
        let after = self.session.sample();
        let judgement = self.judge.step(&Evidence {
            action,
            expected: &expected,
            observed: &observed,
            before: &self.before,
            after: &after,
        });
        self.before = after;
        if judgement.verdict == Verdict::Pass {
            return Ok(expected.td_alive);
        }
        let findings: Vec<_> = judgement.findings.iter().map(ToString::to_string).collect();
        Err(format!(
            "{action:?}: {}: {}",
            judgement.verdict,
            findings.join("; ")
        ))
    }
}
