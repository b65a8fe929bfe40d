//! What operations cost: exits, AUGs, TLB kicks and time, for each MiB, and how they grow with vCPUs.
//!
//! A row is a step of a scenario in a run, over all its repeats. Counts are what hosts have counted;
//! one that a host cannot see is "not seen", and never 0.
//!
//! | file | holds |
//! |---|---|
//! | `metric` | what is counted, and how a row has it |
//! | `fit` | a line through points, and how sure it is |
//! | `tables` | rows as text |
//! | `csv` | rows for programs |

pub mod csv;
mod fit;
mod metric;
pub mod tables;

use tdxlab_plan::{HostKind, repeat};
use thiserror::Error;

pub use self::fit::{Fit, fit};
pub use self::metric::{Metric, Spread};
use super::model::{Numbers, Report, StepWork};
use super::topic;

/// The folder of scenarios that are there to measure.
const TOPIC: &str = "cost";

/// Fewest points with different numbers of vCPUs for which growth is fitted.
const POINTS: usize = 3;

/// What the steps of several runs cost.
#[derive(Clone, Debug)]
pub struct Costs {
    /// The runs, in the order in which they were named.
    pub runs: Vec<CostRun>,
    /// Rows of one operation stand together, those of the same step next to each other.
    pub rows: Vec<Row>,
}

/// A run that is compared.
#[derive(Clone, Debug)]
pub struct CostRun {
    /// Its letter: `A` for the first.
    pub letter: String,
    /// Its name.
    pub name: String,
    /// Where guests ran.
    pub host: HostKind,
    /// The design played or expected.
    pub design: String,
    /// Its kernel, as the host has it.
    pub kernel: Option<String>,
    /// Whether a fixture played the TDX module.
    pub rehearsal: bool,
}

impl CostRun {
    /// What must be known of its times.
    pub fn times(&self) -> &'static str {
        match self.host {
            _ if self.rehearsal => "emulated: no processor and no TDX module takes part",
            HostKind::Soft => "emulated: QEMU's TCG runs the guest, and software is its KVM",
            HostKind::Sim => "emulated: guest, KVM and TDX module are one process",
            HostKind::Tdx | HostKind::Kvm => "those of this machine",
        }
    }
}

/// A step of a scenario in a run.
#[derive(Clone, Debug)]
pub struct Row {
    /// Place of the run.
    pub run: usize,
    /// The scenario, without its repeats.
    pub scenario: String,
    /// Number of the step.
    pub step: u32,
    /// What was done, how often side by side, to how much.
    pub work: StepWork,
    /// What was counted, once for each repeat.
    pub samples: Vec<Numbers>,
    /// How long it took, once for each repeat.
    pub micros: Vec<u64>,
}

impl Row {
    /// The operation with its level.
    pub fn label(&self) -> String {
        match &self.work.level {
            Some(level) => format!("{} {level}", self.work.operation),
            None => self.work.operation.clone(),
        }
    }

    /// How many MiB were worked on.
    pub fn mib(&self) -> f64 {
        self.work.bytes as f64 / f64::from(1 << 20)
    }

    /// What it counts of this, over all repeats; `None` where it was not seen in one of them.
    pub fn spread(&self, metric: Metric) -> Option<Spread> {
        Spread::of(self.values(metric)?)
    }

    /// The same for each MiB.
    pub fn per_mib(&self, metric: Metric) -> Option<Spread> {
        let mib = self.mib();
        let values = self.values(metric)?;
        Spread::of(values.into_iter().map(|value| value / mib).collect())
    }

    fn values(&self, metric: Metric) -> Option<Vec<f64>> {
        match metric {
            Metric::Micros => Some(self.micros.iter().map(|&micros| micros as f64).collect()),
            counted => {
                let of = |numbers| counted.of(numbers).map(|count| count as f64);
                self.samples.iter().map(of).collect()
            }
        }
    }
}

/// How the cost of an operation grows with the vCPUs that do it.
#[derive(Clone, Debug)]
pub struct Growth {
    /// Place of the run.
    pub run: usize,
    /// The scenario.
    pub scenario: String,
    /// The operation with its level.
    pub label: String,
    /// For each metric asked for, the exponent; `None` where it cannot be said.
    pub fits: Vec<Option<Fit>>,
}

/// Why there is nothing to show.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum Incomparable {
    /// Times and counts of these mean different things.
    #[error("runs cannot be compared: {0} and {1}")]
    Apart(String, String),
    /// What it cost says nothing of a kernel.
    #[error("run {0} cannot be compared: {1}")]
    Unfit(String, &'static str),
    /// No row at all.
    #[error("no run has a step whose cost can be compared{0}")]
    Nothing(String),
    /// The runs did different things.
    #[error("runs cannot be compared: {0} and {1} have no step in common")]
    NothingInCommon(String, String),
}

impl Costs {
    /// What the steps of these runs cost. Where one of them has scenarios that are there to measure,
    /// those are meant, else all; with `part`, those whose names contain it.
    ///
    /// # Errors
    ///
    /// The runs cannot be compared, or there is nothing to compare.
    pub fn over(reports: &[Report], part: Option<&str>) -> Result<Costs, Incomparable> {
        let runs: Vec<CostRun> = reports.iter().enumerate().map(run).collect();
        for (report, run) in reports.iter().zip(&runs) {
            if report.fault.is_some() {
                return Err(Incomparable::Unfit(
                    run.name.clone(),
                    "a fault was seeded into it",
                ));
            }
            if report.rejudged().is_some() {
                let what = "it judges another run again, and did nothing itself";
                return Err(Incomparable::Unfit(run.name.clone(), what));
            }
        }
        if let Some(other) = runs.iter().find(|run| kind(run) != kind(&runs[0])) {
            return Err(Incomparable::Apart(described(&runs[0]), described(other)));
        }
        let measuring = |name: &str| topic(name) == TOPIC;
        let any_measures = reports
            .iter()
            .flat_map(|report| &report.scenarios)
            .any(|scenario| measuring(&scenario.name));
        let wanted = |name: &str| match part {
            Some(part) => name.contains(part),
            None => !any_measures || measuring(name),
        };
        let mut rows = Vec::new();
        for (place, report) in reports.iter().enumerate() {
            add_rows(place, report, &wanted, &mut rows);
        }
        if rows.is_empty() {
            let more = match part {
                Some(part) => format!(", of a scenario with `{part}` in its name"),
                None => String::new(),
            };
            return Err(Incomparable::Nothing(more));
        }
        for place in 1..runs.len() {
            let keys = |run: usize| rows.iter().filter(move |row| row.run == run).map(key);
            if !keys(0).any(|key| keys(place).any(|other| other == key)) {
                let name = |place: usize| runs[place].name.clone();
                return Err(Incomparable::NothingInCommon(name(0), name(place)));
            }
        }
        rows.sort_by(|one, other| {
            let order = |row: &Row| (row.label(), row.scenario.clone(), row.step, row.run);
            order(one).cmp(&order(other))
        });
        Ok(Costs { runs, rows })
    }

    /// How costs for each MiB grow with vCPUs, for every operation that was done by enough different
    /// numbers of them.
    pub fn growth(&self, metrics: &[Metric]) -> Vec<Growth> {
        let mut growth: Vec<Growth> = Vec::new();
        for row in &self.rows {
            let label = row.label();
            let known = |one: &Growth| {
                (one.run, &one.scenario, &one.label) == (row.run, &row.scenario, &label)
            };
            if growth.iter().any(known) {
                continue;
            }
            let alike: Vec<&Row> = self
                .rows
                .iter()
                .filter(|other| other.run == row.run && other.scenario == row.scenario)
                .filter(|other| other.label() == label && other.work.vcpus > 0)
                .collect();
            let mut counts: Vec<u32> = alike.iter().map(|row| row.work.vcpus).collect();
            counts.sort_unstable();
            counts.dedup();
            if counts.len() < POINTS {
                continue;
            }
            growth.push(Growth {
                run: row.run,
                scenario: row.scenario.clone(),
                label,
                fits: metrics
                    .iter()
                    .map(|metric| fit_of(&alike, *metric))
                    .collect(),
            });
        }
        growth
    }
}

fn fit_of(rows: &[&Row], metric: Metric) -> Option<Fit> {
    let mut points = Vec::new();
    for row in rows {
        let vcpus = f64::from(row.work.vcpus);
        for value in row.values(metric)? {
            points.push((vcpus, value / row.mib()));
        }
    }
    fit(&points)
}

fn run((place, report): (usize, &Report)) -> CostRun {
    CostRun {
        letter: letter(place),
        name: report.run.clone(),
        host: report.host,
        design: report.design.clone(),
        kernel: report.fact("kernel").map(str::to_owned),
        rehearsal: report.is_rehearsal(),
    }
}

fn letter(place: usize) -> String {
    match u8::try_from(place) {
        Ok(place @ 0..26) => char::from(b'A' + place).to_string(),
        _ => format!("R{}", place + 1),
    }
}

const fn kind(run: &CostRun) -> (HostKind, bool) {
    (run.host, run.rehearsal)
}

fn described(run: &CostRun) -> String {
    let rehearsed = if run.rehearsal { ", rehearsed" } else { "" };
    format!("{} (on {}{rehearsed})", run.name, run.host.name())
}

fn key(row: &Row) -> (&str, u32, String) {
    (&row.scenario, row.step, row.label())
}

fn add_rows(run: usize, report: &Report, wanted: &dyn Fn(&str) -> bool, rows: &mut Vec<Row>) {
    let first = rows.len();
    for scenario in report.scenarios.iter().filter(|one| wanted(&one.name)) {
        let name = repeat::base(&scenario.name);
        for step in scenario.steps_of_plan() {
            let Some(work) = step.work.as_ref().filter(|work| work.bytes > 0) else {
                continue;
            };
            let Some(micros) = work.micros else {
                continue;
            };
            let mine = rows[first..].iter_mut().find(|row| {
                row.scenario == name && row.step == step.number && row.work.bytes == work.bytes
            });
            let row = match mine {
                Some(row) => row,
                None => {
                    rows.push(Row {
                        run,
                        scenario: name.to_owned(),
                        step: step.number,
                        work: work.clone(),
                        samples: Vec::new(),
                        micros: Vec::new(),
                    });
                    rows.last_mut().expect("it was pushed")
                }
            };
            row.samples.push(step.numbers);
            row.micros.push(micros);
        }
    }
}

#[cfg(test)]
mod tests;
