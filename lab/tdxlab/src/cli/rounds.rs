//! `tdxlab run --repeat`: the same scenarios several times, in a report or, by the thousand, without.

use std::num::NonZeroU32;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use clap::Args;
use rand::{RngCore, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tdxlab_host::Host;
use tdxlab_journal::Verdict;
use tdxlab_plan::{Design, HostKind, HostProfile, Repeat, op_words, repeat};
use tdxlab_run::TestCase;

use super::error::CliError;
use super::options::Scenarios;
use super::{exit, load, output, signals};
use tdxlab_launch::rounds::{Bad, Rounds, RoundsDone, RoundsError, Told};
use tdxlab_launch::select::{Played, Selected};

/// Time between two lines that say how far it is.
const QUIET: Duration = Duration::from_secs(10);

/// Most scenarios of one report.
const MOST: usize = 100_000;

/// Options of a run that does its scenarios several times.
#[derive(Args, Clone, Debug)]
pub(super) struct Repeated {
    /// Run all scenarios N times, for the spread of their times or to see what fails now and then
    #[arg(long, value_name = "N", conflicts_with = "resume")]
    repeat: Option<NonZeroU32>,
    /// Draw other seeds for every repeat
    #[arg(long, requires = "repeat")]
    reseed: bool,
    /// With --repeat: judge in memory, print what does not pass, and write no report; draws other seeds
    /// for every repeat, and goes through several designs in turn
    #[arg(long, requires = "repeat", conflicts_with_all = [
        "out", "keep_going", "fail_fast", "require", "quiet", "keep", "allow_log", "shard", "confirm",
        "fault", "lava", "ktap", "bisect", "reseed"])]
    pub(super) no_report: bool,
    /// Load all CPUs meanwhile, and run QEMU at a low priority (soft)
    #[arg(long)]
    pub(super) load: bool,
    /// Nice value of QEMU's processes under load (soft)
    #[arg(long, value_name = "N", default_value_t = 19, requires = "load",
          value_parser = clap::value_parser!(i32).range(1..=19))]
    nice: i32,
}

impl Repeated {
    /// How often, and whether with other seeds; `None` for a run that does everything once.
    pub(super) fn asked(&self, seed: Option<u64>) -> Option<Repeat> {
        let times = self.repeat?;
        let reseed = self.reseed.then(|| seed.unwrap_or_else(rand::random));
        (times.get() > 1 || self.reseed).then_some(Repeat { times, reseed })
    }

    /// The nice value of QEMU, if it shall have one.
    pub(super) fn nice(&self) -> Option<i32> {
        self.load.then_some(self.nice)
    }

    /// Threads that keep processors busy.
    pub(super) fn busy(&self) -> usize {
        match self.load {
            true => processors(),
            false => 0,
        }
    }
}

/// Guests at the same time: as many as were asked for, else as many as the host and this machine take.
pub(super) fn jobs(asked: Option<u16>, host: HostProfile) -> usize {
    asked.map_or(host.jobs(processors()), usize::from)
}

fn processors() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// The plans of a run, round after round.
pub(super) fn items(
    scenarios: &Scenarios,
    host: HostKind,
    repeat: Option<Repeat>,
) -> Result<Vec<TestCase>, CliError> {
    let Some(Repeat { times, reseed }) = repeat else {
        return load::items_for(scenarios, host);
    };
    let mut seeds = reseed.map(ChaCha8Rng::seed_from_u64);
    let mut all = Vec::new();
    let mut round_of = Vec::new();
    for round in 0..times.get() {
        match &mut seeds {
            Some(seeds) => {
                let which = Scenarios {
                    seed: Some(seeds.next_u64()),
                    ..scenarios.clone()
                };
                round_of = load::items_for(&which, host)?;
            }
            None if round == 0 => round_of = load::items_for(scenarios, host)?,
            None => {}
        }
        if all.len() + round_of.len() > MOST {
            return Err(CliError::usage(
                format!("{times} repeats are more than the {MOST} scenarios that a report holds"),
                "fewer repeats or scenarios; --no-report does any number",
            ));
        }
        all.extend(round_of.iter().cloned().map(|mut item| {
            item.plan.name = repeat::named(&item.plan.name, round);
            item
        }));
    }
    Ok(all)
}

/// A run without a report.
pub(super) struct InMemory<'a> {
    pub(super) scenarios: &'a Scenarios,
    pub(super) repeated: &'a Repeated,
    pub(super) played: Played,
    pub(super) selected: Selected,
    pub(super) designs: Vec<&'static Design>,
    pub(super) jobs: Option<u16>,
    pub(super) patience: Duration,
}

impl InMemory<'_> {
    /// Nothing may fail: exits with 1 where anything did, with 70 where anything was not judged.
    pub(super) fn execute(self) -> Result<u8, CliError> {
        let played = self.played;
        let kind = self.selected.host.kind();
        let host = self.selected.host;
        let seed = self.scenarios.seed.unwrap_or_else(rand::random);
        let times = self.repeated.repeat.map_or(1, NonZeroU32::get);
        let interrupt = signals::install()?;
        output::note(format!(
            "{times} rounds on {} with --seed {seed}{}",
            kind.name(),
            if self.repeated.load {
                ", under load"
            } else {
                ""
            }
        ));
        let again = |bad: &Bad| describe(bad, kind, played);
        let last = Mutex::new(Instant::now());
        let done = Rounds {
            plans: &|seed| {
                let which = Scenarios {
                    seed: Some(seed),
                    ..self.scenarios.clone()
                };
                load::items_for(&which, kind)
            },
            host: host.as_ref(),
            designs: &self.designs,
            times: u64::from(times),
            seed,
            jobs: jobs(self.jobs, host.profile()),
            load: self.repeated.busy(),
            patience: self.patience,
            interrupt,
            watcher: &|told| match told {
                Told::Bad(bad) => output::note(again(bad)),
                Told::Round(round, seed, design) => {
                    let Ok(mut last) = last.lock() else { return };
                    if last.elapsed() >= QUIET {
                        *last = Instant::now();
                        output::note(format!(
                            "round {} of {times}: seed {seed}, design {}",
                            round + 1,
                            design.name
                        ));
                    }
                }
            },
        }
        .run()
        .map_err(|error| match error {
            RoundsError::Plans(error) => error,
            RoundsError::Folder(error) => error.into(),
        })?;
        output::say(summary(&done, host.as_ref()));
        Ok(if interrupt.is_raised() {
            exit::INTERRUPTED
        } else if count(&done, Verdict::Fail) > 0 {
            exit::FAILED
        } else if count(&done, Verdict::Error) > 0 {
            exit::LAB
        } else if done.passed == 0 {
            exit::SKIPPED
        } else {
            exit::PASSED
        })
    }
}

/// What did not pass, and how to see it again.
fn describe(bad: &Bad, host: HostKind, played: Played) -> String {
    let plan = &bad.item.plan;
    let place = bad.step.and_then(|step| {
        let action = &plan.steps.get(step - 1)?.action;
        Some(format!(
            ", step {step}: {}",
            op_words::action(action, &plan.guest)
        ))
    });
    let file = bad
        .item
        .scenario
        .as_ref()
        .map_or(String::new(), |path| path.display().to_string());
    let mut lines = vec![format!(
        "{} {}{}",
        bad.verdict,
        plan.name,
        place.unwrap_or_default()
    )];
    lines.extend(bad.said.iter().take(8).map(|said| format!("  {said}")));
    lines.push(format!(
        "  again: tdxlab run {file} --host {} --design {}{} --seed {}",
        host.name(),
        bad.design.name,
        played
            .module
            .map_or(String::new(), |module| format!(" --module {module}")),
        bad.seed
    ));
    lines.join("\n")
}

fn count(done: &RoundsDone, verdict: Verdict) -> usize {
    let which = done.bad.iter().filter(|bad| bad.verdict == verdict);
    which.count()
}

fn summary(done: &RoundsDone, host: &dyn Host) -> String {
    let failed = count(done, Verdict::Fail);
    let unjudged = count(done, Verdict::Error);
    let seconds = done.took.as_secs_f64();
    format!(
        "{} rounds on {}: {} plans passed, {failed} failed, {unjudged} not judged, {} skipped; {} \
         steps in {seconds:.1} s",
        done.rounds,
        host.kind().name(),
        done.passed,
        done.skipped,
        done.steps,
    )
}
