//! `tdxlab fuzz`: random scenarios, and the smallest one that fails.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use serde_json::json;
use tdxlab_faults::Fault;
use tdxlab_fuzz as fuzz;
use tdxlab_fuzz::{Budget, ENDS, Found, Fuzz, FuzzProgress, Outcome, Target};
use tdxlab_host::Host;
use tdxlab_host_soft::sim::SimHost;
use tdxlab_journal::folder::write_whole;
use tdxlab_journal::replay::{Replay, ReplayOrigin, Signature};
use tdxlab_plan::{HostKind, HostProfile, Races, TdxModule};
use tdxlab_report::terminal::count;
use tdxlab_scenario as scenario;

use super::error::CliError;
use super::options::{self, HostName, PlayedModule};
use super::{exit, output, progress, rounds, signals};
use tdxlab_launch::select::{self, Played};

/// Runs random scenarios that are chosen for what was exercised least, confirms and shrinks the
/// first that fails, and leaves it as a scenario file.
#[derive(Args, Debug)]
pub(super) struct FuzzCommand {
    /// Where guests run; auto is sim
    #[arg(long, value_enum, default_value = "auto", env = "TDXLAB_HOST")]
    host: HostName,
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
    #[arg(long, value_name = "N")]
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
    pub(super) fn execute(self) -> Result<u8, CliError> {
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
        let room = tempfile::tempdir().map_err(|source| CliError::System {
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
        let story = outcome
            .found
            .as_ref()
            .map(|found| keep(found, &campaign, self.played.module, &folder))
            .transpose()?;
        let head = format!("Design {}, host {}, seed {seed}.", design.name, kind.name());
        let mut text = format!("# Random scenarios\n\n{head}\n\n{summary}\n\n");
        text += "Each cell: classes of alignment of both ends that came, of those that can; and how \
                 often in all. `-` is a hole, `.` cannot be.\n\n";
        text += &fuzz::markdown(&outcome.coverage, target);
        if let Some(story) = &story {
            output::say(story);
            text += &format!("\n{story}\n");
        }
        write_whole(&folder.join("fuzz.md"), text.as_bytes())?;
        let json = json(&outcome, &campaign, target);
        write_whole(&folder.join("fuzz.json"), format!("{json:#}\n").as_bytes())?;
        output::say(format!("report: {}", folder.display()));
        Ok(match &outcome.found {
            Some(found) if found.failure.verdict == tdxlab_journal::Verdict::Error => exit::LAB,
            Some(_) => exit::FAILED,
            None if interrupt.is_raised() => exit::INTERRUPTED,
            None => exit::PASSED,
        })
    }

    fn kind(&self) -> HostKind {
        match self.host {
            HostName::Tdx => HostKind::Tdx,
            HostName::Kvm => HostKind::Kvm,
            HostName::Soft => HostKind::Soft,
            HostName::Auto | HostName::Sim => HostKind::Sim,
        }
    }

    /// Where guests run, and why there.
    fn host(&self, fault: Option<&'static Fault>) -> Result<(Box<dyn Host>, String), CliError> {
        let played = Played {
            fault,
            module: self.played.module,
            nice: None,
        };
        let why = match self.host {
            HostName::Auto => "default of fuzz: most steps a second",
            _ => "--host sim",
        };
        if self.kind() == HostKind::Sim {
            let host = played.on(SimHost::in_memory());
            return Ok((Box::new(host), why.to_owned()));
        }
        let selected = select::select_with(self.host.into(), played)?;
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

/// Writes a failing plan as scenario and as replay file; returns a description.
fn keep(
    found: &Found,
    campaign: &Fuzz<'_>,
    module: Option<TdxModule>,
    folder: &Path,
) -> Result<String, CliError> {
    let failure = &found.shrunk.failure;
    let witness = failure.witnesses.first().map_or("lab", |w| w.name());
    let slug: String = witness
        .to_lowercase()
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() { c } else { '-' })
        .collect();
    let name = format!("fuzz/{slug}-{:08x}", found.plan.seed & 0xffff_ffff);
    let about = format!("Found at random with seed {}: {failure}.", found.plan.seed);
    let mut plan = found.shrunk.plan.clone();
    // A file with such a touch says on which module it can be predicted.
    if plan.has_same_rip() {
        plan.needs.module = module.or(campaign.host.profile().module);
    }
    let text = fuzz::scenario(&plan, campaign.design, &name, &about);
    let path = folder.join("scenario.yaml");
    write_whole(&path, text.as_bytes())?;
    plan.name = name;
    plan.about = about;
    // A replay boots what the plan needs, whatever the host plays otherwise.
    plan.needs.module = module;
    replay(plan, failure, campaign, &folder.join("replay.json"))?;
    let mut drawn = found.plan.clone();
    drawn.needs.module = module;
    replay(drawn, &found.failure, campaign, &folder.join("drawn.json"))?;
    let same = fails_alike(&path, found, campaign);
    let mut story = format!(
        "failure: {}\nreproduced {}/{}; shrunk from {} to {} in {}\n",
        failure,
        found.again,
        fuzz::CONFIRMATIONS,
        found.plan.steps.len(),
        count(found.shrunk.plan.steps.len(), "step"),
        count(found.shrunk.tried, "attempt"),
    );
    story += &format!("\n{text}\n");
    story += match same {
        true => "to see it fail again:\n  ",
        false => "scenario.yaml does not fail when run from the file; the replay does:\n",
    };
    let fault = campaign
        .host
        .fault()
        .map_or(String::new(), |fault| format!(" --fault {}", fault.name));
    let played = module.map_or(String::new(), |module| format!(" --module {module}"));
    if same {
        story += &format!(
            "tdxlab run {} --host {} --design {}{fault}{played}\n",
            path.display(),
            campaign.host.kind().name(),
            campaign.design.name
        );
    }
    // The folder of a hunt is no run, so `reports/latest` stays with the last run.
    story += &format!("  tdxlab replay {}", folder.join("replay.json").display());
    Ok(story)
}

fn replay(
    plan: tdxlab_plan::Plan,
    failure: &fuzz::Failure,
    campaign: &Fuzz<'_>,
    path: &Path,
) -> Result<(), CliError> {
    let step = u32::try_from(failure.step + 1).ok();
    let replay = Replay {
        recorded: Some(ReplayOrigin {
            tdxlab: env!("CARGO_PKG_VERSION").to_owned(),
            run: "fuzz".to_owned(),
            host: campaign.host.kind(),
            design: campaign.design.name.to_owned(),
            module: campaign.host.profile().module,
            fault: campaign.host.fault().map(|fault| fault.name.to_owned()),
            allowed_log: Vec::new(),
            ended: Some(Signature {
                verdict: failure.verdict,
                step,
                witnesses: failure.witnesses.iter().copied().collect(),
            }),
        }),
        plan,
        orders: failure.orders.clone(),
    };
    Ok(write_whole(path, &replay.to_text())?)
}

/// Whether the scenario file, read back, fails like the plan it was made of.
fn fails_alike(path: &Path, found: &Found, campaign: &Fuzz<'_>) -> bool {
    let plans = scenario::load(path).and_then(|file| {
        let plans = scenario::expand(&file, None)?;
        for plan in &plans {
            scenario::check(plan, &file)?;
        }
        Ok(plans)
    });
    let Ok([plan]) = plans.as_deref() else {
        return false;
    };
    let room = tempfile::tempdir_in(campaign.folder);
    let folder = room.as_ref().map_or(campaign.folder, |room| room.path());
    // `tdxlab run` follows no recorded order.
    let free = fuzz::Orders::new();
    let again = fuzz::attempt(campaign.host, campaign.design, plan, &free, folder);
    again.is_some_and(|again| again.is_like(&found.failure))
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
            "of": fuzz::CONFIRMATIONS,
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
            "a failure is run again {} times and shrunk with at most {} tries: each boots a guest",
            fuzz::CONFIRMATIONS,
            fuzz::most_tries(profile)
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
