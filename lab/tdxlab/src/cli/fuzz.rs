//! `tdxlab fuzz`: random scenarios, and the smallest one that fails.

mod kept;

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use serde_json::json;
use tdxlab_faults::Fault;
use tdxlab_fuzz as fuzz;
use tdxlab_fuzz::{Budget, ENDS, Fuzz, FuzzProgress, Outcome, Target};
use tdxlab_host::Host;
use tdxlab_host_soft::sim::SimHost;
use tdxlab_journal::folder::write_whole;
use tdxlab_plan::{HostKind, HostProfile, Races};
use tdxlab_qemu::scratch::Scratch;
use tdxlab_report::terminal::count;

use self::kept::Kept;
use super::error::CliError;
use super::options::{self, HostName, PlayedModule};
use super::{exit, output, progress, rounds, signals};
use tdxlab_launch::select::{self, Choice, Played};

/// Runs random scenarios that are chosen for what was exercised least, confirms and shrinks the
/// first that fails, and leaves it as a scenario file.
#[derive(Args, Debug)]
pub(super) struct FuzzCommand {
    /// Where guests run; by default, and by auto, sim [env: TDXLAB_HOST]
    #[arg(long, value_enum)]
    host: Option<HostName>,
    /// Design to follow or to expect; by default headtail, on tdx and kvm as detected
    #[arg(long, value_name = "D")]
    design: Option<String>,
    #[command(flatten)]
    played: PlayedModule,
    /// RNG seed; random by default
    #[arg(long, value_name = "S")]
    seed: Option<u64>,
    /// Stop after this time, such as 90s, 10m or 2h; one minute by default
    #[arg(long = "for", value_name = "TIME", value_parser = duration, conflicts_with = "count")]
    time: Option<Duration>,
    /// Stop after N scenarios
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    /// Scenarios run in parallel; by default one per CPU, on tdx and kvm one at a time
    #[arg(long, short, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    jobs: Option<u16>,
    /// Seed a fault into the host; `tdxlab faults` lists them
    #[arg(long, value_name = "F")]
    fault: Option<String>,
    /// Parent directory for reports
    #[arg(long, value_name = "DIR", default_value = "reports")]
    out: PathBuf,
}

/// A time with its unit.
fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("`{text}` is no time: 90s, 10m and 2h are");
    let units = [('s', 1), ('m', 60), ('h', 3600)];
    let (number, unit) = units
        .iter()
        .find_map(|(name, unit)| Some((text.strip_suffix(*name)?, *unit)))
        .ok_or_else(wrong)?;
    let number: u64 = number.parse().map_err(|_| wrong())?;
    number
        .checked_mul(unit)
        .filter(|seconds| *seconds > 0)
        .map(Duration::from_secs)
        .ok_or_else(wrong)
}

impl FuzzCommand {
    pub(super) fn execute(mut self) -> Result<u8, CliError> {
        self.host = options::or_environment(self.host, "TDXLAB_HOST")?;
        let asked = self.design.as_deref().map(options::design).transpose()?;
        let fault = options::fault(self.fault.as_deref())?;
        if let Some(design) = asked {
            check(Target {
                host: HostProfile::of(self.kind()),
                design,
            })?;
        }
        let (host, why) = self.host(fault)?;
        let kind = host.kind();
        let design = options::design_for(asked, host.as_ref());
        let target = Target {
            host: host.profile(),
            design,
        };
        let interrupt = signals::install()?;
        let seed = self.seed.unwrap_or_else(rand::random);
        let folder = self.folder(seed)?;
        let room = Scratch::new().map_err(|source| CliError::System {
            doing: "making a temporary folder".to_owned(),
            source,
        })?;
        let budget = match (self.time, self.count) {
            (_, Some(count)) => Budget::Plans(count),
            (time, None) => Budget::Time(time.unwrap_or(Duration::from_secs(60))),
        };
        let progress = Arc::new(FuzzProgress::default());
        let campaign = Fuzz {
            host: host.as_ref(),
            design,
            seed,
            budget,
            jobs: rounds::jobs(self.jobs, host.profile()),
            candidates: fuzz::CANDIDATES,
            interrupt,
            folder: room.path(),
            progress: &progress,
        };
        output::note(format!(
            "host {} ({why}); design {}; seed {seed}; {} at a time",
            kind.name(),
            design.name,
            campaign.jobs
        ));
        for line in remarks(host.as_ref()) {
            output::note(line);
        }
        let outcome = {
            let _ticker = progress::Ticker::start(&progress, budget);
            campaign.run()?
        };
        output::say(fuzz::chart(&outcome.coverage, target));
        let summary = summary(&outcome, campaign.jobs, target);
        output::say(&summary);
        let kept = outcome.found.as_ref();
        let kept = kept.map(|found| Kept::of(found, &campaign, self.played.module, &folder));
        let head = format!("Design {}, host {}, seed {seed}.", design.name, kind.name());
        let mut text = format!("# Random scenarios\n\n{head}\n\n{summary}\n\n");
        text += "Each cell: classes of alignment of both ends that came, of those that can; and how \
                 often in all. `-` is a hole, `.` cannot be.\n\n";
        text += &fuzz::markdown(&outcome.coverage, target);
        // Said before it is written, which may fail.
        if let Some(kept) = &kept {
            output::say(&kept.story);
            text += &format!("\n{}\n", kept.story);
        }
        if let Some(error) = &outcome.broken {
            output::note(format!("another worker could not go on: {error}"));
        }
        let json = format!("{:#}\n", json(&outcome, &campaign, target));
        let written = kept
            .as_ref()
            .map_or(Ok(()), |kept| kept.write(&folder))
            .and_then(|()| write_whole(&folder.join("fuzz.md"), text.as_bytes()))
            .and_then(|()| write_whole(&folder.join("fuzz.json"), json.as_bytes()));
        match written {
            Ok(()) => output::say(format!("report: {}", folder.display())),
            Err(error) if kept.is_some() => {
                output::note(format!("what was found is only above: {error}"));
            }
            Err(error) => return Err(error.into()),
        }
        Ok(match &outcome.found {
            Some(found) if found.failure.verdict == tdxlab_journal::Verdict::Error => exit::LAB,
            Some(_) => exit::FAILED,
            None if interrupt.is_raised() => exit::INTERRUPTED,
            None => exit::PASSED,
        })
    }

    fn kind(&self) -> HostKind {
        self.host.and_then(HostName::kind).unwrap_or(HostKind::Sim)
    }

    /// Where guests run, and why there.
    fn host(&self, fault: Option<&'static Fault>) -> Result<(Box<dyn Host>, String), CliError> {
        let played = Played {
            fault,
            module: self.played.module,
            nice: None,
        };
        let why = match self.host.and_then(HostName::kind) {
            None => "default of fuzz: most steps a second",
            Some(_) => "--host sim",
        };
        if self.kind() == HostKind::Sim {
            let host = played.on(SimHost::in_memory());
            return Ok((Box::new(host), why.to_owned()));
        }
        let selected = select::select_with(Choice::Only(self.kind()), played)?;
        Ok((selected.host, selected.why))
    }

    /// The folder of this hunt.
    fn folder(&self, seed: u64) -> Result<PathBuf, CliError> {
        let now = jiff::Timestamp::now().strftime("%Y%m%dT%H%M%SZ");
        let folder = self.out.join(format!("fuzz-{now}-{seed:x}"));
        fs::create_dir_all(&folder).map_err(|source| CliError::System {
            doing: format!("making {}", folder.display()),
            source,
        })?;
        Ok(folder)
    }
}

fn json(outcome: &Outcome, campaign: &Fuzz<'_>, target: Target) -> serde_json::Value {
    let mut reached = Vec::new();
    let mut holes = Vec::new();
    for (row, operation) in target.chart().operations().iter().enumerate() {
        for (state, name) in target.chart().states().iter().enumerate() {
            for alignment in target.alignments(row, state) {
                let ends = (ENDS[alignment / ENDS.len()], ENDS[alignment % ENDS.len()]);
                match outcome.coverage.count(row, state, alignment) {
                    0 => holes.push(json!([operation, name, ends.0, ends.1])),
                    count => reached.push(json!([operation, name, ends.0, ends.1, count])),
                }
            }
        }
    }
    let found = outcome.found.as_ref();
    json!({
        "version": 1,
        "tdxlab": env!("CARGO_PKG_VERSION"),
        "host": campaign.host.kind().name(),
        "design": campaign.design.name,
        "fault": campaign.host.fault().map(|fault| fault.name),
        "seed": campaign.seed,
        "jobs": campaign.jobs,
        "scenarios": outcome.plans,
        "steps": outcome.steps,
        "micros": u64::try_from(outcome.took.as_micros()).unwrap_or(u64::MAX),
        "columns": ["operation", "state", "start", "end", "count"],
        "reached": reached,
        "holes": holes,
        "failure": found.map(|found| json!({
            "failed": found.again,
            "of": found.runs,
            "what": found.shrunk.failure.to_string(),
            "witnesses": found.shrunk.failure.witnesses,
            "steps_drawn": found.plan.steps.len(),
            "steps": found.shrunk.plan.steps.len(),
            "set_up": fuzz::setup(&found.shrunk.plan),
            "scenario": "scenario.yaml",
            "replay": "replay.json",
        })),
    })
}

/// Whether such plans can be drawn for this host and design.
fn check(target: Target) -> Result<(), CliError> {
    let name = target.design.name;
    match (target.host.plain, target.design.is_plain()) {
        (true, false) => Err(CliError::usage(
            format!("design {name} is one of TDs"),
            "random scenarios on kvm are about plain VMs: leave --design away",
        )),
        (false, true) => Err(CliError::usage(
            format!("design {name} is one of plain VMs"),
            "random scenarios on tdx, soft and sim are about the private memory of TDs: stock, v3, \
             v5, headtail",
        )),
        _ => Ok(()),
    }
}

/// What is not drawn on this host and why, and the cost of a failure there.
fn remarks(host: &dyn Host) -> Vec<String> {
    let profile = host.profile();
    let mut lines = Vec::new();
    if profile.fixed_slots {
        lines.push(
            "left out: prefault, slots of another layout, and conversions that race".to_owned(),
        );
    }
    if profile.plain {
        lines.push("left out: races, which plain VMs have none of".to_owned());
        lines
            .push("left out: transparent huge pages, whose size is the kernel's choice".to_owned());
        lines.extend(
            fuzz::left_out(host)
                .into_iter()
                .map(|why| format!("left out: hugetlb pages of 2M; {why}")),
        );
    }
    if profile.races == Races::Started {
        lines.push(format!(
            "a failure is run again {} times and shrunk with at most {} guests: each takes a boot",
            fuzz::CONFIRMATIONS,
            fuzz::most_guests(profile)
        ));
    }
    lines
}

fn summary(outcome: &Outcome, jobs: usize, target: Target) -> String {
    let can = target.combinations();
    let rate = outcome.steps as f64 / outcome.took.as_secs_f64().max(1e-6);
    format!(
        "{}, {} in {:.1} s: {rate:.0} steps/s with {}; {} of {can} combinations reached",
        count(
            usize::try_from(outcome.plans).unwrap_or(usize::MAX),
            "scenario"
        ),
        count(usize::try_from(outcome.steps).unwrap_or(usize::MAX), "step"),
        outcome.took.as_secs_f64(),
        count(jobs, "job"),
        outcome.coverage.reached()
    )
}
