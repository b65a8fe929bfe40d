//! Numbers of each scenario over several runs, oldest first.

use std::collections::BTreeMap;

use tdxlab_journal::verdict::Verdict;
use tdxlab_plan::HostKind;

use super::timeline::Pictures;
use super::{Report, ScenarioReport};

/// One value for each run; `None` where the run has none.
pub type Series = Vec<Option<u64>>;

/// Which runs of a folder belong side by side.
#[derive(Clone, Debug, Default)]
pub struct Choice {
    /// Only runs on this host; by default that of the newest run.
    pub host: Option<HostKind>,
    /// Only runs under this design; by default that of the newest run.
    pub design: Option<String>,
    /// Take all runs that are not left out by name.
    pub all: bool,
}

/// Why a run is not shown beside others.
fn oddity(report: &Report) -> Option<&'static str> {
    let replay = report.command.get(1).is_some_and(|word| word == "replay");
    match () {
        () if report.fault.is_some() => Some("with a seeded fault"),
        () if report.rejudged().is_some() => Some("re-judged"),
        () if replay => Some("replayed"),
        () if report.interrupted || !report.complete => Some("interrupted"),
        () => None,
    }
}

impl Choice {
    /// The runs to be shown, and how many were left out for which reason.
    pub fn of<T>(
        &self,
        mut runs: Vec<(Report, T)>,
    ) -> (Vec<(Report, T)>, BTreeMap<&'static str, usize>) {
        let mut left_out = BTreeMap::new();
        let mut keep = |runs: &mut Vec<(Report, T)>,
                        why: &dyn Fn(&Report) -> Option<&'static str>| {
            runs.retain(|(report, _)| match why(report) {
                None => true,
                Some(why) => {
                    *left_out.entry(why).or_default() += 1;
                    false
                }
            });
        };
        if !self.all {
            keep(&mut runs, &oddity);
        }
        let newest = runs
            .iter()
            .max_by(|(one, _), (other, _)| one.started.cmp(&other.started));
        let mut host = self.host;
        let mut design = self.design.clone();
        if let Some((newest, _)) = newest.filter(|_| !self.all) {
            if self.design.is_none() {
                host = host.or(Some(newest.host));
            }
            if self.host.is_none() {
                design = design.or(Some(newest.design.clone()));
            }
        }
        keep(&mut runs, &|report| {
            let other = host.is_some_and(|host| host != report.host);
            other.then_some("on another host")
        });
        keep(&mut runs, &|report| {
            let other = design
                .as_ref()
                .is_some_and(|design| *design != report.design);
            other.then_some("under another design")
        });
        (runs, left_out)
    }
}

/// Results of every scenario over several runs.
#[derive(Clone, Debug, Default)]
pub struct Trend {
    /// Names of the runs, oldest first; rehearsals are marked.
    pub runs: Vec<String>,
    /// Scenarios, sorted by name.
    pub scenarios: Vec<Line>,
}

/// One scenario over all runs.
#[derive(Clone, Debug)]
pub struct Line {
    /// Name of the scenario.
    pub name: String,
    /// Verdict in each run; `None` where it did not run.
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
    report.run.clone() + report.rehearsal_mark(" (REHEARSAL)")
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
