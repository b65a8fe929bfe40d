//! Numbers of each scenario over several runs, oldest first.

use std::collections::BTreeMap;

use tdxlab_journal::verdict::Verdict;

use super::timeline::Pictures;
use super::{Report, ScenarioReport};

/// One value for each run; `None` where the run has none.
pub type Series = Vec<Option<u64>>;

/// What became of every scenario.
#[derive(Clone, Debug, Default)]
pub struct Trend {
    /// Names of the runs, oldest first; a rehearsal's says so.
    pub runs: Vec<String>,
    /// Scenarios, by name.
    pub scenarios: Vec<Line>,
}

/// One scenario over all runs.
#[derive(Clone, Debug)]
pub struct Line {
    /// Its name.
    pub name: String,
    /// What was said of it in each run.
    pub verdicts: Vec<Option<Verdict>>,
    /// How long it took, in microseconds.
    pub micros: Series,
    /// How many leaves split.
    pub splits: Series,
    /// How long its slowest hole took, in microseconds.
    pub hole_micros: Series,
}

impl Trend {
    /// Puts runs side by side. The order given does not matter: they are sorted by when they
    /// started.
    pub fn over(mut runs: Vec<(Report, Pictures)>) -> Trend {
        runs.sort_by(|(one, _), (other, _)| {
            (&one.started, &one.run).cmp(&(&other.started, &other.run))
        });
        let count = runs.len();
        let mut lines: BTreeMap<String, Line> = BTreeMap::new();
        for (place, (report, pictures)) in runs.iter().enumerate() {
            for (index, scenario) in report.scenarios.iter().enumerate() {
                let line = lines
                    .entry(scenario.name.clone())
                    .or_insert_with(|| Line::new(&scenario.name, count));
                line.verdicts[place] = Some(scenario.verdict);
                if scenario.verdict == Verdict::Skip {
                    continue;
                }
                line.micros[place] = Some(scenario.micros);
                line.splits[place] = splits(scenario);
                line.hole_micros[place] = slowest_hole(pictures, index);
            }
        }
        Trend {
            runs: runs.into_iter().map(|(report, _)| named(report)).collect(),
            scenarios: lines.into_values().collect(),
        }
    }
}

impl Line {
    fn new(name: &str, runs: usize) -> Line {
        Line {
            name: name.to_owned(),
            verdicts: vec![None; runs],
            micros: vec![None; runs],
            splits: vec![None; runs],
            hole_micros: vec![None; runs],
        }
    }
}

fn named(report: Report) -> String {
    if report.is_rehearsal() {
        format!("{} (REHEARSAL)", report.run)
    } else {
        report.run
    }
}

/// Splits of all steps; `None` where a step could not be counted.
pub(super) fn splits(scenario: &ScenarioReport) -> Option<u64> {
    if scenario.steps.is_empty() {
        return None;
    }
    scenario
        .steps_of_plan()
        .map(|step| step.numbers.splits)
        .sum()
}

fn slowest_hole(pictures: &Pictures, index: usize) -> Option<u64> {
    pictures
        .of(index)?
        .frames
        .iter()
        .flat_map(|frame| &frame.marks)
        .filter(|mark| mark.name == "punch")
        .filter_map(|mark| mark.micros)
        .max()
}
