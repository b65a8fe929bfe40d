//! `tdxlab compare --host rehearsal`: what the holes of scenarios cost KVM's own code, design by design.

use std::time::Duration;

use tdxlab_host_kvm::tdx;
use tdxlab_host_kvm::tdx::terabytes::{self, Cost, Span};
use tdxlab_plan::addr::GpaRange;
use tdxlab_plan::{Guest, HostKind, Op, Plan, text};
use tdxlab_report::table;

use super::error::CliError;
use super::options::Scenarios;
use super::rehearse::Rehearse;
use super::{exit, load, output, signals};

/// What is compared where no designs are named: v3's way to find leaves against arithmetic, both with
/// holes of 4K.
const DESIGNS: [&str; 2] = ["walk", "headtail"];

/// Widest table where the terminal does not say how wide it is.
const WIDTH: u16 = 100;

/// Longest bar of the chart.
const BAR: f64 = 40.0;

/// A hole, and what is mapped around it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Trial {
    memory: u64,
    hole: Span,
    /// What the plan accepts before its hole.
    scattered: Vec<Span>,
}

/// One line of the table.
struct Line {
    hole: u64,
    memory: u64,
    mapped: &'static str,
    design: String,
    cost: Cost,
}

/// In the emulated machine: measures. Outside: boots one, with this very command in it.
pub(super) fn compare(scenarios: &Scenarios, designs: &[String]) -> Result<u8, CliError> {
    let designs = known(designs)?;
    let items = load::items_for(scenarios, HostKind::Tdx)?;
    let mut trials: Vec<Trial> = Vec::new();
    for trial in items.iter().filter_map(|item| trial(&item.plan)) {
        if !trials.contains(&trial) {
            trials.push(trial);
        }
    }
    if trials.is_empty() {
        return Err(CliError::usage(
            "none of the scenarios punches a hole".to_owned(),
            "scenarios/scale is made for this",
        ));
    }
    trials.sort_by_key(|trial| (trial.hole.bytes, trial.memory));
    if !tdx::is_rehearsal() {
        return Rehearse::of_this_program(std::env::args_os().skip(1)).execute();
    }
    let interrupt = signals::install()?;
    let mut lines = Vec::new();
    for trial in &trials {
        let all = Span {
            start: 0,
            bytes: trial.memory,
        };
        for (mapped, spans) in [("some", trial.scattered.as_slice()), ("all", &[all])] {
            for design in &designs {
                if interrupt.is_raised() {
                    return Ok(exit::INTERRUPTED);
                }
                let cost = terabytes::measure(design, trial.memory, spans, trial.hole)?;
                let (hole, memory) = (trial.hole.bytes, trial.memory);
                let line = Line {
                    hole,
                    memory,
                    mapped,
                    design: design.clone(),
                    cost,
                };
                output::note(line.said());
                lines.push(line);
            }
        }
    }
    show(&lines);
    Ok(exit::PASSED)
}

fn known(designs: &[String]) -> Result<Vec<String>, CliError> {
    if designs.is_empty() {
        return Ok(DESIGNS.map(str::to_owned).into());
    }
    let there: Vec<&str> = tdxlab_softtdx::designs()
        .iter()
        .map(|design| design.name)
        .collect();
    match designs.iter().find(|name| !there.contains(&name.as_str())) {
        None => Ok(designs.to_vec()),
        Some(name) => Err(CliError::usage(
            format!("KVM's modules have no design `{name}`"),
            format!("there is {}", there.join(", ")),
        )),
    }
}

/// The first hole of a plan, and what the plan accepts before it.
fn trial(plan: &Plan) -> Option<Trial> {
    let mut scattered = Vec::new();
    for op in plan.steps.iter().flat_map(|step| step.action.ops()) {
        match op {
            Op::Accept { range, .. } => scattered.push(span(&plan.guest, *range)),
            Op::Punch { range } => {
                return Some(Trial {
                    memory: plan.guest.memory.bytes(),
                    hole: span(&plan.guest, *range),
                    scattered,
                });
            }
            _ => {}
        }
    }
    None
}

fn span(guest: &Guest, range: GpaRange) -> Span {
    Span {
        start: range.start().as_u64() - guest.memory.start().as_u64(),
        bytes: range.bytes(),
    }
}

impl Line {
    fn cells(&self) -> [String; 8] {
        let Cost {
            leaves,
            entries,
            splits,
            locked,
            hole,
        } = self.cost;
        [
            text::size(self.hole),
            text::size(self.memory),
            format!("{} ({leaves})", self.mapped),
            self.design.clone(),
            entries.to_string(),
            splits.to_string(),
            millis(locked),
            millis(hole),
        ]
    }

    fn said(&self) -> String {
        let [hole, memory, mapped, design, entries, splits, locked, whole] = self.cells();
        format!(
            "{hole} of {memory}, {mapped} mapped, {design}: {entries} entries, {splits} splits, {locked} ms \
             under mmu_lock, {whole} ms the whole hole"
        )
    }
}

fn millis(time: Duration) -> String {
    format!("{:.3}", time.as_secs_f64() * 1000.0)
}

fn show(lines: &[Line]) {
    let header = [
        "hole",
        "of",
        "2M leaves mapped",
        "design",
        "entries",
        "splits",
        "ms locked",
        "ms in all",
    ];
    let mut table = table::within(WIDTH, header);
    for line in lines {
        table.add_row(line.cells());
    }
    output::say(table.trim_fmt());
    output::say("\nEntries looked at to split for the hole, on a logarithmic scale:\n");
    let most = lines.iter().map(|line| line.cost.entries).max();
    let longest = digits(most.unwrap_or(1)).max(1.0);
    for line in lines {
        let bar = (digits(line.cost.entries) / longest * BAR).round() as usize;
        let [hole, _, _, design, entries, ..] = line.cells();
        output::say(format!(
            "{hole:>8} {:4} {design:9} {} {entries}",
            line.mapped,
            "#".repeat(bar)
        ));
    }
    output::say(
        "\nTimes are those of an emulated machine. One folio stands for all memory of the TD.",
    );
}

fn digits(number: u64) -> f64 {
    (number.max(1) as f64).log10()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holes_of_the_scale_set_are_measured_over_what_they_map() {
        let scenarios = Scenarios {
            paths: vec!["scale/twelve-terabyte-hole".into()],
            seed: None,
        };
        let items = load::items_for(&scenarios, HostKind::Tdx).unwrap();
        let trial = trial(&items[0].plan).unwrap();
        assert_eq!((trial.memory, trial.hole.bytes), (16 << 40, 12 << 40));
        assert_eq!(trial.hole.start, (1 << 40) + (1 << 20));
        assert_eq!(trial.scattered.len(), 4);
        assert!(known(&["walk".to_owned(), "nothing".to_owned()]).is_err());
    }
}
