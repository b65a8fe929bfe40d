//! `tdxlab replay`: repeats a recorded plan exactly.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use tdxlab_journal::interleaving::Interleaving;
use tdxlab_journal::replay::{self, Replay, ReplayOrigin, Signature};
use tdxlab_journal::{Verdict, journal};
use tdxlab_judge::AllowList;
use tdxlab_plan::{Action, Design, HostKind, HostProfile, Plan, Races, Step, TdxModule};
use tdxlab_report::terminal;
use tdxlab_run::{PATIENCE, TestCase};

use super::error::CliError;
use super::options::{self, HostName};
use super::replayer::Replayer;
use super::report::exit_code;
use super::{output, progress, signals};
use tdxlab_launch::select::{self, Played, Selected};
use tdxlab_launch::spec::{FinishedRun, RunSpec};

/// Runs a recorded plan again: the same operations in the same order with the same seeds, and
/// races in the order in which they went.
#[derive(Args, Debug)]
pub(super) struct ReplayCommand {
    /// A replay file, or the folder of a run or of one scenario in it
    #[arg(value_name = "FILE|DIR", default_value = "reports/latest")]
    what: PathBuf,
    /// Replay this scenario of the run; by default what did not pass, or all if all did
    #[arg(long, value_name = "NAME")]
    scenario: Option<String>,
    /// Stop after this step, counted from 1
    #[arg(long, value_name = "STEP", value_parser = clap::value_parser!(u32).range(1..))]
    until: Option<u32>,
    /// Stop before each step; show memory, counters and what the step must show, then its verdict
    #[arg(long)]
    step: bool,
    /// Replay N times and report how often it fails
    #[arg(long, value_name = "N", default_value_t = 1, conflicts_with_all = ["step", "hold"],
          value_parser = clap::value_parser!(u32).range(1..=100_000))]
    times: u32,
    /// Where guests run; by default where they ran
    #[arg(long, value_enum)]
    host: Option<HostName>,
    /// Design to follow or to expect; by default the recorded one
    #[arg(long, value_name = "D")]
    design: Option<String>,
    /// TDX module that a host of software plays, as for `run`; by default the recorded one
    #[arg(long, value_name = "V")]
    module: Option<TdxModule>,
    /// Fault to seed into the host; by default the recorded one, `none` for none
    #[arg(long, value_name = "F")]
    fault: Option<String>,
    /// File of kernel log texts to allow, one per line; by default the recorded ones
    #[arg(long, value_name = "FILE")]
    allow_log: Option<PathBuf>,
    /// Keep the guest after a failure, say how to attach, and wait for Enter or a signal
    #[arg(long)]
    hold: bool,
    /// Parent directory for reports
    #[arg(long, value_name = "DIR", default_value = "reports")]
    out: PathBuf,
    /// Time limit of a single operation; a guest that exceeds it counts as hung
    #[arg(long, value_name = "SECONDS", default_value_t = PATIENCE.as_secs(),
          value_parser = clap::value_parser!(u64).range(1..=86400))]
    patience: u64,
}

impl ReplayCommand {
    pub(super) fn execute(self) -> Result<u8, CliError> {
        let mut replays = load(&self.what, self.scenario.as_deref())?;
        if let Some(until) = self.until {
            let longest = replays.iter().map(|replay| replay.plan.steps.len()).max();
            if until as usize > longest.unwrap_or(0) {
                return Err(CliError::usage(
                    format!("there is no step {until}"),
                    format!(
                        "{} what is replayed",
                        match longest.unwrap_or(0) {
                            0 => "there are no steps in".to_owned(),
                            last => format!("{last} is the last step of"),
                        }
                    ),
                ));
            }
            for replay in &mut replays {
                replay.plan.steps.truncate(until as usize);
                replay.orders.retain(|step, _| *step < until);
            }
        }
        let design = self.design(&replays[0])?;
        let selected = self.select(&replays[0])?;
        let kind = selected.host.kind();
        for replay in &mut replays {
            if let Some(recorded) = &replay.recorded
                && recorded.host != kind
                && let Some(line) = elsewhere(&replay.plan, recorded.host, selected.host.profile())
            {
                output::note(line);
                replay.orders.clear();
            }
        }
        let allowed_log = self.allowed_log(&replays[0])?;
        let items: Vec<TestCase> = replays
            .iter()
            .flat_map(|replay| std::iter::repeat_n(replay, self.times as usize))
            .map(|replay| TestCase {
                plan: replay.plan.clone(),
                scenario: None,
            })
            .collect();
        let interrupt = signals::install()?;
        output::note(format!(
            "replaying {} on host {}; design {}",
            terminal::count(replays.len(), "scenario"),
            kind.name(),
            design.name
        ));
        let hooks = Replayer::new(
            &replays,
            self.times as usize,
            self.step,
            self.hold,
            interrupt,
        );
        // Progress bars would overwrite the dialogue.
        let talks = self.step || self.hold;
        let watcher = progress::watcher(items.len(), 1, talks);
        let mut finished = RunSpec {
            host_reason: format!("{}, for a replay", selected.why),
            patience: Duration::from_secs(self.patience),
            allowed_log,
            interrupt,
            hooks: &hooks,
            ..RunSpec::new(&items, selected.host.as_ref(), design, watcher.as_ref())
        }
        .run(&self.out)?;
        output::print(terminal::summary(&finished.report, &finished.folder));
        for line in self.reliability(&replays, &finished)? {
            output::say(line);
        }
        finished.whole()?;
        Ok(exit_code(&finished.report, false))
    }

    /// The design given, else the recorded one. A bare plan has none.
    fn design(&self, replay: &Replay) -> Result<&'static Design, CliError> {
        let recorded = replay.recorded.as_ref().map(|recorded| &recorded.design);
        match self.design.as_ref().or(recorded) {
            Some(name) => options::design(name),
            None => {
                output::note("the file knows no design; headtail it is, unless --design says else");
                options::design("headtail")
            }
        }
    }

    fn select(&self, replay: &Replay) -> Result<Selected, CliError> {
        let recorded = replay.recorded.as_ref();
        let host = self.host.unwrap_or_else(|| match recorded {
            Some(recorded) => HostName::from(recorded.host),
            None => HostName::Auto,
        });
        let fault = match self.fault.as_deref() {
            Some("none") => None,
            Some(name) => Some(name),
            None => recorded.and_then(|recorded| recorded.fault.as_deref()),
        };
        // A real machine has a module of its own.
        let played = |recorded: &ReplayOrigin| {
            let software = match host.kind() {
                Some(kind) => kind.is_software(),
                None => false,
            };
            recorded.module.filter(|_| software)
        };
        let played = Played {
            module: self.module.or_else(|| recorded.and_then(played)),
            ..Played::from(options::fault(fault)?)
        };
        Ok(match self.hold {
            true => select::select_to_hold(host.into(), played)?,
            false => select::select_with(host.into(), played)?,
        })
    }

    /// The allowed kernel log lines: those given, else the recorded ones.
    fn allowed_log(&self, replay: &Replay) -> Result<AllowList, CliError> {
        let recorded = replay.recorded.as_ref();
        let recorded = recorded.map_or(&[][..], |recorded| &recorded.allowed_log);
        options::allow_list_or(self.allow_log.as_deref(), recorded)
    }

    /// How often each plan ended as recorded, and whether races followed the recorded order. What was
    /// interrupted does not count.
    fn reliability(
        &self,
        replays: &[Replay],
        finished: &FinishedRun,
    ) -> Result<Vec<String>, CliError> {
        let again = replay::all(&finished.folder.join(journal::FILE))?;
        let mut lines = Vec::new();
        for replay in replays {
            let name = &replay.plan.name;
            let of_plan = |run: &&Replay| run.plan.name == *name;
            let mut runs: Vec<&Replay> = again.iter().filter(of_plan).collect();
            if runs.is_empty() {
                // The plan was skipped, or the run ended before it.
                continue;
            }
            let scenarios = finished.report.scenarios.iter();
            let (unfinished, ended): (Vec<_>, Vec<_>) = scenarios
                .filter(|scenario| scenario.name == *name)
                .partition(|scenario| scenario.unfinished);
            // One runs after the other, so that the one which did not come to its end is the last.
            runs.truncate(ended.len());
            match runs.is_empty() {
                true => lines.push(format!("{name}: interrupted")),
                false => lines.extend(self.outcome(replay, &runs, unfinished.is_empty())),
            }
        }
        Ok(lines)
    }

    /// The same of one plan, of the replays that came to their end; `complete` if all did.
    fn outcome(&self, replay: &Replay, runs: &[&Replay], complete: bool) -> Vec<String> {
        let ends: Vec<&Signature> = runs
            .iter()
            .filter_map(|run| run.recorded.as_ref()?.ended.as_ref())
            .collect();
        let failed = ends.iter().filter(|end| end.verdict == Verdict::Fail);
        let mut lines = vec![format!(
            "{}: failed {} of {}{}",
            replay.plan.name,
            failed.count(),
            terminal::count(ends.len(), "replay"),
            match complete {
                true => "",
                false => "; then interrupted",
            }
        )];
        let recorded = replay.recorded.as_ref().and_then(|r| r.ended.as_ref());
        if let Some(recorded) = recorded
            && self.until.is_none()
        {
            let same = ends.iter().filter(|end| **end == recorded).count();
            lines.push(format!("  recorded: {recorded}; {same} ended like that"));
        }
        lines.extend(orders(replay, runs, self.until.is_none()));
        lines
    }
}

/// Remark on the races of a plan recorded on another host; empty if it has none.
fn elsewhere(plan: &Plan, recorded: HostKind, here: HostProfile) -> Option<String> {
    let races = |step: &Step| matches!(step.action, Action::Parallel(_));
    plan.steps.iter().any(races).then(|| {
        let now = match here.races {
            Races::Drawn => "the seed draws their order anew",
            Races::Started => "branches start together, and go as they like",
        };
        format!(
            "{}: its races were recorded on {}; on {} {now}",
            plan.name,
            recorded.name(),
            here.kind.name()
        )
    })
}

/// For each race, how often it followed the recorded turns, or how close operations came to their
/// recorded start, and the result.
fn orders(replay: &Replay, runs: &[&Replay], whole: bool) -> Vec<String> {
    let ended = |replay: &Replay| replay.recorded.as_ref().and_then(|r| r.ended.clone());
    let mut lines = Vec::new();
    for (step, order) in &replay.orders {
        let taken: Vec<(&Replay, &Interleaving)> = runs
            .iter()
            .filter_map(|run| Some((*run, run.orders.get(step)?)))
            .collect();
        let count = terminal::count(taken.len(), "replay");
        if order.starts.is_empty() {
            let same = taken.iter().filter(|(_, one)| one.is_same_order(order));
            lines.push(format!(
                "  step {}: the race took the recorded order in {} of {count}",
                step + 1,
                same.count()
            ));
            continue;
        }
        let apart = taken.iter().map(|(_, one)| one.apart(order));
        let offsets = match apart
            .collect::<Option<Vec<_>>>()
            .map(|apart| apart.into_iter().max())
        {
            Some(Some(most)) => format!("the same start offsets, within {} us", most.as_micros()),
            _ => "not all of the operations were started again".to_owned(),
        };
        let alike = taken.iter().filter(|(run, _)| ended(run) == ended(replay));
        let alike = match whole && ended(replay).is_some() {
            true => format!("; ended alike in {} of {count}", alike.count()),
            false => String::new(),
        };
        lines.push(format!("  step {}: {offsets}{alike}", step + 1));
    }
    lines
}

/// The replays to run: at least one.
fn load(what: &Path, scenario: Option<&str>) -> Result<Vec<Replay>, CliError> {
    let journal = what.join(journal::FILE);
    if journal.exists() {
        return Ok(replay::from_journal(&journal, scenario)?);
    }
    if what.file_name().is_some_and(|name| name == journal::FILE) {
        return Ok(replay::from_journal(what, scenario)?);
    }
    if scenario.is_some() {
        return Err(CliError::usage(
            format!("{} is no run, so it has no scenarios", what.display()),
            "--scenario goes with the folder of a run",
        ));
    }
    let file = match what.join(replay::FILE) {
        inside if what.is_dir() => inside,
        _ => what.to_owned(),
    };
    Ok(vec![replay::read(&file)?])
}
