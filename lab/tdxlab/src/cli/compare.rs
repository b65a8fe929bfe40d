//! `tdxlab compare`: the same scenarios under several designs, side by side.
//!
//! Every scenario is run under every design that meets its needs, on the `sim` host, and judged;
//! the comparison is of observations, not of predictions.

use std::path::Path;

use clap::{Args, ValueEnum};
use console::style;
use tdxlab_host_soft::sim::SimHost;
use tdxlab_plan::Design;
use tdxlab_plan::text::Micros;
use tdxlab_qemu::interrupt::Interrupt;
use tdxlab_qemu::scratch::Scratch;
use tdxlab_report::terminal::{count, paint};
use tdxlab_report::{FindingReport, Report, ScenarioReport, StepReport, table};
use tdxlab_run::{NoProgress, PoolOptions, TestCase};

use super::error::CliError;
use super::options::{self, PlayedModule, Scenarios};
use super::report::exit_code;
use super::{compare_kernel, exit, load, output, signals};
use tdxlab_launch::select::Played;
use tdxlab_launch::spec::RunSpec;

/// Widest table where the terminal does not say how wide it is.
const WIDTH: u16 = 80;

/// A design, and the result of the scenario under it.
type Column<'a> = (&'a str, &'a ScenarioReport);

/// Runs scenarios under several designs, on sim, and shows what differs: splits, S-EPT entries
/// looked at, leaves zapped, what the guest sees.
///
/// With --host rehearsal, the holes of the scenarios are punched into a TD that has no guest, on KVM's own
/// code: entries looked at, counted in the kernel; time with mmu_lock held; time of the whole hole.
#[derive(Args, Debug)]
pub(super) struct Compare {
    #[command(flatten)]
    scenarios: Scenarios,
    /// The designs; without any, v3,v5,headtail, or walk,headtail with --host rehearsal
    #[arg(long, value_name = "D,D", value_delimiter = ',')]
    designs: Vec<String>,
    #[command(flatten)]
    played: PlayedModule,
    /// Where they are compared
    #[arg(long, value_enum, default_value = "sim")]
    host: CompareHost,
    /// Show steps in which nothing differs too
    #[arg(long)]
    all: bool,
}

/// A host that follows any design.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum CompareHost {
    /// The software KVM and TDX module, with an in-process guest
    Sim,
    /// KVM's own code in an emulated machine: what each hole costs it, over what the plan maps and over
    /// memory that is mapped whole
    Rehearsal,
}

/// The designs that are compared on sim where none are named.
const DESIGNS: [&str; 3] = ["v3", "v5", "headtail"];

impl Compare {
    pub(super) fn execute(self) -> Result<u8, CliError> {
        if self.host == CompareHost::Rehearsal {
            options::of_sim_only(&[
                ("--module", self.played.module.is_some()),
                ("--all", self.all),
            ])?;
            return compare_kernel::compare(&self.scenarios, &self.designs);
        }
        let names: Vec<&str> = match self.designs.as_slice() {
            [] => DESIGNS.to_vec(),
            some => some.iter().map(String::as_str).collect(),
        };
        let designs = names
            .into_iter()
            .map(options::design)
            .collect::<Result<Vec<_>, _>>()?;
        let items = load::items(load::load(&self.scenarios)?);
        let folder = Scratch::new().map_err(|source| CliError::System {
            doing: "making a temporary folder".to_owned(),
            source,
        })?;
        let interrupt = signals::install()?;
        let played = Played {
            module: self.played.module,
            ..Played::default()
        };
        let host = played.on(SimHost::in_memory());
        let reports = designs
            .iter()
            .map(|design| run(&items, design, &host, interrupt, folder.path()))
            .collect::<Result<Vec<_>, _>>()?;
        let names: Vec<&str> = designs.iter().map(|design| design.name).collect();
        output::say(format!(
            "host sim{}; designs {}; `*` marks what differs\n",
            match self.played.module {
                Some(module) => format!(", TDX module {module}"),
                None => String::new(),
            },
            names.join(", ")
        ));
        for index in 0..items.len() {
            let columns: Vec<Column<'_>> = reports
                .iter()
                .zip(&names)
                .filter_map(|(report, name)| Some((*name, report.scenarios.get(index)?)))
                .collect();
            self.show(&columns);
        }
        let codes = reports.iter().map(|report| exit_code(report, false));
        // One design that ran is a result.
        let ran = codes.clone().filter(|code| *code != exit::SKIPPED).max();
        Ok(ran.or(codes.max()).unwrap_or(exit::PASSED))
    }

    fn show(&self, columns: &[Column<'_>]) {
        let Some((_, first)) = columns.first() else {
            return;
        };
        output::say(style(&first.name).bold());
        let about = columns
            .iter()
            .find(|(_, scenario)| !scenario.about.is_empty());
        if let Some((_, scenario)) = about {
            output::say(format!("  {}", scenario.about));
        }
        let ran = |scenario: &ScenarioReport| !scenario.steps.is_empty();
        for (design, scenario) in columns.iter().filter(|(_, scenario)| !ran(scenario)) {
            let reason = scenario.reason.as_deref().unwrap_or("no reason given");
            output::say(format!("  {} {design}: {reason}", paint(scenario.verdict)));
        }
        let columns: Vec<Column<'_>> = columns.iter().copied().filter(|one| ran(one.1)).collect();
        let verdicts: Vec<String> = columns
            .iter()
            .map(|(design, scenario)| {
                let verdict = paint(scenario.verdict);
                format!("{design} {verdict} in {}", Micros(scenario.micros))
            })
            .collect();
        if !verdicts.is_empty() {
            output::say(format!("  {}", verdicts.join(", ")));
        }
        self.steps(&columns);
        output::say("");
    }

    /// A table for each step in which something differs.
    fn steps(&self, columns: &[Column<'_>]) {
        let Some((_, longest)) = columns.iter().max_by_key(|(_, one)| one.steps.len()) else {
            return;
        };
        let mut alike = 0;
        for (index, step) in longest.steps.iter().enumerate() {
            let rows = rows(columns, index);
            if columns.len() > 1 && !self.all && rows.iter().all(|row| !row.differs()) {
                alike += 1;
                continue;
            }
            output::say(format!("  step {}: {}", step.number, step.action));
            let names = columns.iter().map(|(design, _)| *design);
            let mut table = table::within(WIDTH, std::iter::once("").chain(names));
            for row in rows {
                let mark = if row.differs() { "*" } else { " " };
                let cells = row
                    .cells
                    .into_iter()
                    .map(|cell| cell.unwrap_or("-".to_owned()));
                table.add_row(std::iter::once(format!("{mark} {}", row.what)).chain(cells));
            }
            output::say(table.trim_fmt());
        }
        if alike > 0 {
            let what = if alike == longest.steps.len() {
                "step"
            } else {
                "more step"
            };
            output::say(format!("  no difference in {}", count(alike, what)));
        }
    }
}

/// One observation under each design; `None` if unknown.
struct Row {
    what: &'static str,
    cells: Vec<Option<String>>,
}

impl Row {
    fn differs(&self) -> bool {
        self.cells.windows(2).any(|pair| pair[0] != pair[1])
    }
}

/// Observations of the step at `index`; those unknown under all designs are left out.
fn rows(columns: &[Column<'_>], index: usize) -> Vec<Row> {
    type Of = fn(&StepReport) -> Option<String>;
    let all: [(&'static str, Of); 8] = [
        ("splits", |step| step.numbers.splits.map(|n| n.to_string())),
        ("entries looked at", |step| {
            step.numbers.entries_looked_at.map(|n| n.to_string())
        }),
        ("leaves zapped", |step| {
            step.numbers.leaves_zapped.map(|n| n.to_string())
        }),
        ("ACCEPT exits", |step| {
            step.numbers.accept_exits.map(|n| n.to_string())
        }),
        ("pages_4k", |step| {
            step.numbers.pages_4k.map(|n| format!("{n:+}"))
        }),
        ("pages_2m", |step| {
            step.numbers.pages_2m.map(|n| format!("{n:+}"))
        }),
        ("guest and host see", |step| {
            (!step.seen.is_empty()).then(|| step.seen.join("\n"))
        }),
        ("contradicts", |step| {
            let said = |one: &FindingReport| format!("{}: {}", one.witness, one.found);
            let findings: Vec<String> = step.findings.iter().map(said).collect();
            (!findings.is_empty()).then(|| findings.join("\n"))
        }),
    ];
    all.into_iter()
        .map(|(what, of)| Row {
            what,
            cells: columns
                .iter()
                .map(|(_, scenario)| of(scenario.steps.get(index)?))
                .collect(),
        })
        .filter(|row| row.cells.iter().any(Option::is_some))
        .collect()
}

fn run(
    items: &[TestCase],
    design: &'static Design,
    host: &SimHost,
    interrupt: &Interrupt,
    below: &Path,
) -> Result<Report, CliError> {
    let jobs = std::thread::available_parallelism().map_or(1, usize::from);
    let finished = RunSpec {
        host_reason: "compare runs on sim".to_owned(),
        drive: PoolOptions {
            jobs,
            fail_fast: false,
            confirm: 0,
            share: false,
        },
        interrupt,
        ..RunSpec::new(items, host, design, &NoProgress)
    }
    .run(&below.join(design.name))?;
    Ok(finished.report)
}
