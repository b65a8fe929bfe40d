//! `tdxlab soak`: repeats scenarios to find false alarms, also on a busy machine.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use clap::Args;
use tdxlab_host::Host;
use tdxlab_host_soft::sim::SimHost;
use tdxlab_host_soft::soft::SoftHost;
use tdxlab_journal::Verdict;
use tdxlab_plan::{TdxModule, op_words};

use super::error::CliError;
use super::options::{self, HostName, Scenarios};
use super::{exit, load, output, signals};
use crate::select::{self, Played};
use crate::soak::{self, Bad, SoakError, Soaked, Told};

/// Time between two lines that say how far it is.
const QUIET: Duration = Duration::from_secs(10);

/// Runs scenarios again and again with random seeds, and says what did not pass and how to run it
/// again. Nothing may: exits with 1 where anything failed, with 70 where anything was not judged.
#[derive(Args, Debug)]
pub(super) struct Soak {
    #[command(flatten)]
    scenarios: Scenarios,
    /// Where guests run
    #[arg(long, value_enum, default_value = "sim")]
    host: HostName,
    /// Designs to follow (soft, sim) or to expect (tdx), one round after the other
    #[arg(
        long,
        value_name = "D,D",
        value_delimiter = ',',
        default_value = "headtail"
    )]
    design: Vec<String>,
    /// TDX module that a host of software plays: 1.5.01, 1.5.25, 1.5.34 or 2.0.18; a scenario may need
    /// another
    #[arg(long, value_name = "V")]
    module: Option<TdxModule>,
    /// Run all scenarios N times
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..))]
    times: u64,
    /// Load all CPUs meanwhile, and run QEMU at a low priority (soft)
    #[arg(long)]
    load: bool,
    /// Nice value of QEMU's processes under load (soft)
    #[arg(long, value_name = "N", default_value_t = 19, requires = "load",
          value_parser = clap::value_parser!(i32).range(1..=19))]
    nice: i32,
    /// Scenarios run in parallel; by default one per CPU
    #[arg(long, short, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    jobs: Option<u16>,
    /// Time limit of a single operation; a guest that exceeds it counts as hung
    #[arg(long, value_name = "SECONDS", default_value_t = 120,
          value_parser = clap::value_parser!(u64).range(1..=86400))]
    patience: u64,
}

impl Soak {
    pub(super) fn execute(self) -> Result<u8, CliError> {
        let designs = self
            .design
            .iter()
            .map(|name| options::design(name))
            .collect::<Result<Vec<_>, _>>()?;
        let host = self.host()?;
        let seed = self.scenarios.seed.unwrap_or_else(rand::random);
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        let interrupt = signals::install()?;
        output::note(format!(
            "soak on {} with --seed {seed}{}",
            host.kind().name(),
            if self.load { ", under load" } else { "" }
        ));
        let last = Mutex::new(Instant::now());
        let soaked = soak::Soak {
            plans: &|seed| {
                let which = Scenarios {
                    seed: Some(seed),
                    ..self.scenarios.clone()
                };
                load::items_for(&which, host.kind())
            },
            host: host.as_ref(),
            designs: &designs,
            times: self.times,
            seed,
            jobs: self.jobs.map_or(processors, usize::from),
            load: if self.load { processors } else { 0 },
            patience: Duration::from_secs(self.patience),
            interrupt,
            watcher: &|told| match told {
                Told::Bad(bad) => output::note(self.describe(bad)),
                Told::Round(round, seed, design) => {
                    let Ok(mut last) = last.lock() else { return };
                    if last.elapsed() >= QUIET {
                        *last = Instant::now();
                        output::note(format!(
                            "round {} of {}: seed {seed}, design {}",
                            round + 1,
                            self.times,
                            design.name
                        ));
                    }
                }
            },
        }
        .run()
        .map_err(|error| match error {
            SoakError::Plans(error) => error,
            SoakError::Folder(error) => error.into(),
        })?;
        output::say(summary(&soaked, host.as_ref()));
        Ok(if interrupt.is_raised() {
            exit::INTERRUPTED
        } else if count(&soaked, Verdict::Fail) > 0 {
            exit::FAILED
        } else if count(&soaked, Verdict::Error) > 0 {
            exit::LAB
        } else if soaked.passed == 0 {
            exit::SKIPPED
        } else {
            exit::PASSED
        })
    }

    fn host(&self) -> Result<Box<dyn Host>, CliError> {
        let played = Played {
            fault: None,
            module: self.module,
        };
        Ok(match self.host {
            HostName::Sim => Box::new(played.on_sim(SimHost::in_memory())),
            HostName::Soft if self.load => {
                Box::new(played.on_soft(SoftHost::find()?.with_nice(self.nice)))
            }
            other => select::select_with(other.into(), played)?.host,
        })
    }

    /// What did not pass, and how to see it again.
    fn describe(&self, bad: &Bad) -> String {
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
            format!("{:?}", self.host).to_lowercase(),
            bad.design.name,
            self.module
                .map_or(String::new(), |module| format!(" --module {module}")),
            bad.seed
        ));
        lines.join("\n")
    }
}

fn count(soaked: &Soaked, verdict: Verdict) -> usize {
    let which = soaked.bad.iter().filter(|bad| bad.verdict == verdict);
    which.count()
}

fn summary(soaked: &Soaked, host: &dyn Host) -> String {
    let failed = count(soaked, Verdict::Fail);
    let unjudged = count(soaked, Verdict::Error);
    let seconds = soaked.took.as_secs_f64();
    format!(
        "{} rounds on {}: {} plans passed, {failed} failed, {unjudged} not judged, {} skipped; {} \
         steps in {seconds:.1} s",
        soaked.rounds,
        host.kind().name(),
        soaked.passed,
        soaked.skipped,
        soaked.steps,
    )
}
