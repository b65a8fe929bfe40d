//! `tdxlab compare`: the same scenarios under several designs, side by side.
//!
//! Every scenario is run under every design that meets its needs, on the `sim` host, and judged;
//! what is compared is what was seen, not what was predicted.

use std::path::Path;

use clap::Args;
use comfy_table::Cell;
use tdxlab_host_soft::sim::SimHost;
use tdxlab_journal::Verdict;
use tdxlab_plan::Design;
use tdxlab_plan::text::Micros;
use tdxlab_qemu::interrupt::Interrupt;
use tdxlab_report::{Report, ScenarioReport, StepReport, table};
use tdxlab_run::{NoProgress, PoolOptions, TestCase};

use super::error::CliError;
use super::options::{self, Scenarios};
use super::report::exit_code;
use super::{exit, load, output, signals};
use crate::spec::RunSpec;

/// Runs scenarios under several designs, on sim, and shows what differs: splits, S-EPT entries
/// looked at, leaves zapped, what the guest sees.
#[derive(Args, Debug)]
pub(super) struct Compare {
    #[command(flatten)]
    scenarios: Scenarios,
    /// The designs
    #[arg(
        long,
        value_name = "D,D",
        value_delimiter = ',',
        default_value = "v3,v5,headtail"
    )]
    designs: Vec<String>,
    /// Show steps in which nothing differs too
    #[arg(long)]
    all: bool,
}

impl Compare {
    pub(super) fn execute(self) -> Result<u8, CliError> {
        let designs = self
            .designs
            .iter()
            .map(|name| options::design(name))
            .collect::<Result<Vec<_>, _>>()?;
        let items = load::items(load::load(&self.scenarios)?);
        let folder = tempfile::tempdir().map_err(|source| CliError::System {
            doing: "making a temporary folder".to_owned(),
            source,
        })?;
        let interrupt = signals::install()?;
        let reports = designs
            .iter()
            .map(|design| run(&items, design, interrupt, folder.path()))
            .collect::<Result<Vec<_>, _>>()?;
        let mut code = exit::PASSED;
        for report in &reports {
            code = match exit_code(report, false) {
                exit::SKIPPED => code,
                other => code.max(other),
            };
        }
        for index in 0..items.len() {
            let columns: Vec<&ScenarioReport> = reports
                .iter()
                .filter_map(|report| report.scenarios.get(index))
                .collect();
            self.show(&columns, &designs);
        }
        Ok(code)
    }

    fn show(&self, columns: &[&ScenarioReport], designs: &[&Design]) {
        let Some(first) = columns.iter().find(|scenario| !scenario.steps.is_empty()) else {
            return;
        };
        let names = designs.iter().map(|design| design.name);
        let mut table = table::table(std::iter::once("step").chain(names));
        for (index, step) in first.steps.iter().enumerate() {
            let seen: Vec<String> = columns
                .iter()
                .map(|scenario| scenario.steps.get(index).map_or_else(String::new, cell))
                .collect();
            let alike = seen.windows(2).all(|pair| pair[0] == pair[1]);
            if alike && !self.all && seen.len() > 1 {
                continue;
            }
            let mut row = vec![Cell::new(format!("{} {}", step.number, step.action))];
            row.extend(seen.into_iter().map(Cell::new));
            table.add_row(row);
        }
        let mut last = vec![Cell::new("verdict")];
        last.extend(columns.iter().map(|scenario| {
            let text = match (&scenario.reason, scenario.verdict) {
                (Some(reason), Verdict::Skip | Verdict::Error) => {
                    format!("{}: {reason}", scenario.verdict)
                }
                _ => format!("{} in {}", scenario.verdict, Micros(scenario.micros)),
            };
            Cell::new(text)
        }));
        table.add_row(last);
        output::say(format!("{}\n  {}\n{table}\n", first.name, first.about));
    }
}

/// What was seen of a step.
fn cell(step: &StepReport) -> String {
    let numbers = &step.numbers;
    let mut parts = Vec::new();
    let mut number = |name: &str, value: Option<u64>| {
        if let Some(value) = value {
            parts.push(format!("{name} {value}"));
        }
    };
    number("splits", numbers.splits);
    number("entries", numbers.entries_looked_at);
    number("zaps", numbers.leaves_zapped);
    number("ACCEPT exits", numbers.accept_exits);
    let pages = (numbers.pages_4k, numbers.pages_2m);
    if let (Some(small), Some(large)) = pages {
        parts.push(format!("4K {small:+}, 2M {large:+}"));
    }
    parts.extend(step.seen.iter().cloned());
    parts.extend(
        step.findings
            .iter()
            .map(|finding| format!("! {}: {}", finding.witness, finding.found)),
    );
    parts.join("\n")
}

fn run(
    items: &[TestCase],
    design: &'static Design,
    interrupt: &Interrupt,
    below: &Path,
) -> Result<Report, CliError> {
    let jobs = std::thread::available_parallelism().map_or(1, usize::from);
    let finished = RunSpec {
        host_reason: "designs are compared on sim".to_owned(),
        drive: PoolOptions {
            jobs,
            fail_fast: false,
            confirm: 0,
        },
        interrupt,
        ..RunSpec::new(items, &SimHost::new(), design, &NoProgress)
    }
    .run(&below.join(design.name))?;
    Ok(finished.report)
}
