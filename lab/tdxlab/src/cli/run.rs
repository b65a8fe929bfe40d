//! `tdxlab run`: runs scenarios and judges every step.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use tdxlab_faults::Fault;
use tdxlab_journal::journal::{Part, RunStarted};
use tdxlab_journal::{PlanId, Shard};
use tdxlab_judge::AllowList;
use tdxlab_plan::{Design, HostProfile, Repeat, TdxModule, repeat};
use tdxlab_report as report;
use tdxlab_report::{github, lava, terminal};
use tdxlab_run::{AnyPlan, EventSink, PATIENCE, PoolOptions, Resumable, TestCase};

use super::error::CliError;
use super::exit;
use super::ktap::KtapOnStdout;
use super::options::{self, HostName, PlayedModule, Scenarios};
use super::report::exit_code;
use super::rounds::{self, InMemory, Repeated};
use super::{output, progress, signals};
use tdxlab_launch::busy::Busy;
use tdxlab_launch::select::{self, Played, Selected};
use tdxlab_launch::spec::{FinishedRun, RunError, RunSpec};

/// Runs scenarios and judges every step.
#[derive(Args, Debug)]
pub(super) struct Run {
    #[command(flatten)]
    scenarios: Scenarios,
    /// Where guests run; auto by default [env: TDXLAB_HOST]
    #[arg(long, value_enum)]
    host: Option<HostName>,
    /// Design that the software KVM follows (soft, sim; default headtail), or that is expected (tdx;
    /// default: as detected); several, separated by commas, with --no-report
    #[arg(long, value_name = "D", value_delimiter = ',')]
    design: Vec<String>,
    #[command(flatten)]
    played: PlayedModule,
    /// Scenarios run in parallel; by default one per CPU, on tdx one at a time
    #[arg(long, short, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    jobs: Option<u16>,
    /// Parent directory for reports
    #[arg(long, value_name = "DIR", default_value = "reports")]
    out: PathBuf,
    /// Continue after a failure (default)
    #[arg(long, overrides_with = "fail_fast")]
    keep_going: bool,
    /// Start no further scenario after the first failure
    #[arg(long, overrides_with = "keep_going")]
    fail_fast: bool,
    /// Fail if this host is not usable, or if every scenario is skipped [env: TDXLAB_REQUIRE]
    #[arg(long, value_enum, value_name = "HOST")]
    require: Option<HostName>,
    /// Print failures only
    #[arg(long, short)]
    quiet: bool,
    /// Keep the evidence of passing scenarios too
    #[arg(long)]
    keep: bool,
    /// File of kernel log texts to allow, one per line
    #[arg(long, value_name = "FILE")]
    allow_log: Option<PathBuf>,
    /// Time limit of a single operation; a guest that exceeds it counts as hung
    #[arg(long, value_name = "SECONDS", default_value_t = PATIENCE.as_secs(),
          value_parser = clap::value_parser!(u64).range(1..=86400))]
    patience: u64,
    /// Run one shard, such as 3/8; `auto` reads the variables of GitLab, Slurm, Buildkite, CircleCI,
    /// Kubernetes Indexed Jobs and GitHub matrices [env: TDXLAB_SHARD]
    #[arg(long, value_name = "I/N", conflicts_with = "resume")]
    shard: Option<String>,
    /// Continue the run in this directory; finished scenarios are not run again, the others as they would
    /// have been: host, design, module, fault and allowed log lines are the recorded ones
    #[arg(long, value_name = "DIR", conflicts_with_all = ["paths", "seed", "out", "reseed"])]
    resume: Option<PathBuf>,
    /// Rerun each failure N times, to see how reliably it fails
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=1000))]
    confirm: u32,
    /// Boot a guest in a new QEMU for every scenario; by default, scenarios that need the same guest
    /// share one where booting takes long (tdx, soft), guests share QEMUs (soft), and what does not
    /// pass is run again on its own
    #[arg(long)]
    fresh: bool,
    /// Seed a fault into the host (soft, sim); `tdxlab faults` lists them
    #[arg(long, value_name = "NAME", conflicts_with = "resume")]
    fault: Option<String>,
    #[command(flatten)]
    repeated: Repeated,
    /// Print LAVA signals at the end
    #[arg(long, conflicts_with = "ktap")]
    lava: bool,
    /// Print the results on stdout as KTAP, the kernel's test format, while they come
    #[arg(long)]
    ktap: bool,
    /// Exit as `git bisect run` wants it: 0 good, 1 bad, 125 cannot tell, from 128 on stop
    #[arg(long)]
    bisect: bool,
}

/// Plans and parameters of the run.
struct Task {
    design: &'static Design,
    selected: Selected,
    items: Vec<TestCase>,
    seed: Option<u64>,
    paths: Vec<PathBuf>,
    part: Option<Part>,
    repeat: Option<Repeat>,
    allowed_log: AllowList,
    /// The interrupted run: folder, state, and the positions of the plans in it.
    resumed: Option<(PathBuf, Resumable, Vec<PlanId>)>,
}

impl Task {
    /// What will be run, each plan with its place in the run.
    fn plans(&self) -> Vec<(PlanId, String)> {
        let names = self.items.iter().map(|item| item.plan.name.clone());
        match &self.resumed {
            Some((_, _, places)) => places.iter().copied().zip(names).collect(),
            None => (0..).map(PlanId).zip(names).collect(),
        }
    }
}

impl Run {
    pub(super) fn execute(mut self) -> Result<u8, CliError> {
        self.require = match self.repeated.no_report {
            true => None,
            false => options::or_environment(self.require, "TDXLAB_REQUIRE")?,
        };
        // Before anything is booted: a TDX host boots a TD to find out its design.
        let interrupt = signals::install()?;
        if self.repeated.no_report {
            return self.in_memory();
        }
        let task = match &self.resume {
            Some(folder) => self.resumed(folder)?,
            None => self.started()?,
        };
        if !self.quiet {
            output::note(format!(
                "host {}: {}; design {}: {}",
                task.selected.host.kind().name(),
                task.selected.why,
                task.design.name,
                task.design.about
            ));
        }
        let jobs = self.jobs(task.items.len(), task.selected.host.profile());
        let ktap = self.ktap.then(|| KtapOnStdout::new(task.plans()));
        let outcome = {
            let _busy = Busy::threads(self.repeated.busy());
            let watcher = progress::watcher(task.items.len(), jobs, self.quiet);
            let host = task.selected.host.as_ref();
            let spec = RunSpec {
                host_reason: task.selected.why.clone(),
                drive: PoolOptions {
                    jobs,
                    fail_fast: self.fail_fast,
                    confirm: self.confirm,
                    share: !self.fresh && !self.keep,
                },
                allowed_log: task.allowed_log.clone(),
                patience: Duration::from_secs(self.patience),
                keep: self.keep,
                seed: task.seed,
                paths: task.paths.clone(),
                part: task.part.clone(),
                repeat: task.repeat,
                interrupt,
                listener: ktap.as_ref().map(|ktap| ktap as &dyn EventSink),
                ..RunSpec::new(&task.items, host, task.design, watcher.as_ref())
            };
            match &task.resumed {
                Some((folder, progress, places)) => spec.resume(folder, progress, places),
                None => spec.run(&self.out),
            }
        };
        match outcome {
            Ok(mut finished) => {
                self.show(&finished);
                if self.lava {
                    output::print(lava::render(&finished.report));
                }
                if !self.ktap {
                    github_job(&finished.report)?;
                }
                finished.whole()?;
                let part = task.part.as_ref().filter(|_| !self.bisect);
                let must_run = self.require.is_some() && !self.bisect && part.is_none();
                match (exit_code(&finished.report, must_run), part) {
                    (exit::SKIPPED, Some(part)) => Ok(nothing_ran(part)),
                    (code, _) => Ok(code),
                }
            }
            Err(error) => {
                if let RunError::CutOff {
                    so_far: Some(finished),
                    ..
                } = &error
                {
                    self.show(finished);
                }
                Err(error.into())
            }
        }
    }

    fn show(&self, finished: &FinishedRun) {
        let text = if self.quiet {
            terminal::failures(&finished.report, &finished.folder)
        } else {
            terminal::summary(&finished.report, &finished.folder)
        };
        match self.ktap {
            true => output::note(text.trim_end()),
            false => output::print(text),
        }
    }

    /// A new run.
    fn started(&self) -> Result<Task, CliError> {
        let asked = match self.designs()?.as_slice() {
            [] => None,
            [one] => Some(*one),
            _ => {
                return Err(CliError::usage(
                    "a report is of one design",
                    "name one, or --no-report; `tdxlab compare` shows several side by side",
                ));
            }
        };
        let shard = self.shard()?;
        let allowed_log = options::allow_list(self.allow_log.as_deref())?;
        let fault = options::fault(self.fault.as_deref())?;
        let selected = self.select(self.host()?, self.played(fault, None))?;
        let repeat = self.repeated.asked(self.scenarios.seed);
        let all = rounds::items(&self.scenarios, selected.host.kind(), repeat)?;
        let of_plans = u32::try_from(all.len()).unwrap_or(u32::MAX);
        let (places, items): (Vec<u32>, Vec<TestCase>) = (0..)
            .zip(all)
            .filter(|(_, item)| shard.is_none_or(|shard| holds(shard, item)))
            .unzip();
        Ok(Task {
            design: options::design_for(asked, selected.host.as_ref()),
            selected,
            items,
            seed: self.scenarios.seed,
            paths: self.scenarios.paths.clone(),
            part: shard.map(|shard| Part {
                shard,
                of_plans,
                places,
            }),
            repeat,
            allowed_log,
            resumed: None,
        })
    }

    /// The rest of a run, as its journal says it was started.
    fn resumed(&self, folder: &Path) -> Result<Task, CliError> {
        let progress = Resumable::of(folder)?;
        let head = progress.head.clone();
        if !head.merged.is_empty() {
            return Err(CliError::usage(
                format!("{} is a merged run", folder.display()),
                "resume the runs it was merged from, and merge again",
            ));
        }
        if head.is_of_linux() {
            return Err(CliError::usage(
                format!("{} is a run of Linux guests", folder.display()),
                "resume it with `tdxlab linux --resume`",
            ));
        }
        self.contradicts(&head)?;
        let scenarios = Scenarios {
            paths: head.paths.clone(),
            seed: head.seed,
        };
        let part = head.part.as_ref();
        let items = rounds::items(&scenarios, head.host, head.repeat)?
            .into_iter()
            .filter(|item| part.is_none_or(|part| holds(part.shard, item)))
            .collect();
        let (places, items) = progress
            .left(items, |item: &TestCase| AnyPlan::from(&item.plan))?
            .into_iter()
            .unzip();
        let fault = options::fault(head.fault.as_ref().map(|fault| fault.name.as_str()))?;
        let allowed_log = options::allow_list_or(None, &head.allowed_log)?;
        let played = self.played(fault, head.profile().module);
        Ok(Task {
            design: options::design(&head.design)?,
            allowed_log,
            selected: self.select(HostName::from(head.host), played)?,
            items,
            seed: head.seed,
            paths: head.paths,
            part: head.part,
            repeat: head.repeat,
            resumed: Some((folder.to_owned(), progress, places)),
        })
    }

    /// What was given and is not what the run was started with: half of it would go by other rules.
    fn contradicts(&self, head: &RunStarted) -> Result<(), CliError> {
        let differs = |what: &str, recorded: &str| {
            CliError::usage(
                format!("{what} is not that of the run: {recorded}"),
                "leave it out; a run goes on as it was started",
            )
        };
        if self.host.is_some_and(|host| host.kind() != Some(head.host)) {
            return Err(differs("--host", head.host.name()));
        }
        if !self.design.is_empty() && self.design != [head.design.clone()] {
            return Err(differs("--design", &head.design));
        }
        let module = head.profile().module;
        if self.played.module.is_some() && self.played.module != module {
            let module = module.map_or("none".to_owned(), |module| module.to_string());
            return Err(differs("--module", &module));
        }
        if self.allow_log.is_some()
            && options::allow_list(self.allow_log.as_deref())?.texts() != head.allowed_log
        {
            let lines = format!("{} lines", head.allowed_log.len());
            return Err(differs("--allow-log", &lines));
        }
        Ok(())
    }

    /// Many rounds, judged in memory.
    fn in_memory(&self) -> Result<u8, CliError> {
        let played = self.played(None, None);
        let selected = self.select(self.host()?, played)?;
        let mut designs = self.designs()?;
        if designs.is_empty() {
            designs.push(options::design_for(None, selected.host.as_ref()));
        }
        InMemory {
            scenarios: &self.scenarios,
            repeated: &self.repeated,
            played,
            selected,
            designs,
            jobs: self.jobs,
            patience: Duration::from_secs(self.patience),
        }
        .execute()
    }

    fn host(&self) -> Result<HostName, CliError> {
        let host = options::or_environment(self.host, "TDXLAB_HOST")?;
        Ok(host.unwrap_or(HostName::Auto))
    }

    fn designs(&self) -> Result<Vec<&'static Design>, CliError> {
        self.design
            .iter()
            .map(|name| options::design(name))
            .collect()
    }

    /// Fault and module of a software host; `recorded` is the module of a run that is continued.
    fn played(&self, fault: Option<&'static Fault>, recorded: Option<TdxModule>) -> Played {
        Played {
            fault,
            module: self.played.module.or(recorded),
            nice: self.repeated.nice(),
        }
    }

    fn shard(&self) -> Result<Option<Shard>, CliError> {
        let named = std::env::var("TDXLAB_SHARD").ok();
        let shard = match self.shard.as_deref().or(named.as_deref()) {
            None | Some("") => return Ok(None),
            Some("auto") => Shard::from_environment(|name| std::env::var(name).ok()),
            Some(text) => text.parse(),
        };
        shard.map(Some).map_err(|error| {
            CliError::usage(error.to_string(), "--shard 3/8 is the third of eight parts")
        })
    }

    fn select(&self, host: HostName, played: Played) -> Result<Selected, CliError> {
        let selected = match self.require {
            None => select::select_with(host.into(), played)?,
            Some(required) => {
                let choice = match host {
                    HostName::Auto => required,
                    chosen => chosen,
                };
                let selected = select::select_with(choice.into(), played)?;
                if required != HostName::Auto && choice != required {
                    return Err(CliError::usage(
                        format!("--require {required:?} and --host {choice:?} cannot both be met")
                            .to_lowercase(),
                        "leave --host away, or require what is chosen",
                    ));
                }
                selected
            }
        };
        Ok(selected)
    }

    fn jobs(&self, plans: usize, host: HostProfile) -> usize {
        rounds::jobs(self.jobs, host).clamp(1, plans.max(1))
    }
}

/// Exit code of a shard of which nothing ran. That is no failure of its: whether any scenario of the
/// whole run ran shows when the shards are merged.
fn nothing_ran(part: &Part) -> u8 {
    output::note(&match part.places.len() {
        0 => format!("no scenario of this run belongs to shard {}", part.shard),
        _ => format!("nothing ran in shard {}; others may have", part.shard),
    });
    exit::PASSED
}

/// Whether a plan belongs to a shard. All repeats of a scenario stay together.
fn holds(shard: Shard, item: &TestCase) -> bool {
    shard.holds(repeat::base(&item.plan.name))
}

/// Annotations and a summary, where this is a step of a GitHub job.
fn github_job(report: &report::Report) -> Result<(), CliError> {
    if std::env::var_os("GITHUB_ACTIONS").is_none_or(|value| value != "true") {
        return Ok(());
    }
    output::print(github::annotations(report));
    let Some(path) = std::env::var_os("GITHUB_STEP_SUMMARY") else {
        return Ok(());
    };
    OpenOptions::new()
        .append(true)
        .create(true)
        .open(&path)
        .and_then(|mut file| file.write_all(github::summary(report).as_bytes()))
        .map_err(|source| CliError::System {
            doing: format!("writing the job summary to {}", path.display()),
            source,
        })
}
