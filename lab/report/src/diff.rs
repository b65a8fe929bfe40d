//! Compares two runs: changed verdicts and numbers, new and missing scenarios.
//!
//! Times vary from run to run: one has changed where it lies beyond the spread that the repeats of both
//! runs show (`run --repeat`), and is not compared where there are too few. Counters do not vary: on
//! equal host and design the same scenario gives the same numbers, unless its steps race.

use std::collections::BTreeMap;
use std::fmt;

use tdxlab_journal::verdict::Verdict;
use tdxlab_journal::{ONE_SHOT, REHEARSAL_FACT, REJUDGED_FACT};
use tdxlab_plan::repeat;
use tdxlab_plan::text::Micros;

use super::cost::Spread;
use super::ends::what_cut;
use super::{Confirmation, Numbers, Report, ScenarioReport, terminal};

/// Repeats that a scenario needs in either run before its times are compared.
const REPEATS: usize = 3;

/// Differences in the later run.
#[derive(Clone, Debug, Default)]
pub struct Diff {
    /// Differences between the runs themselves: host, design, kernel.
    pub runs: Vec<String>,
    /// The run that the later one judges again, if it is a re-judgement.
    pub rejudged: Option<String>,
    /// How many scenarios of the later run have no result, because it did not come to its end.
    pub unfinished: usize,
    /// How many of those the earlier run has a result of: nobody knows whether it is worse now.
    pub lost: usize,
    /// What ended it before, in words that follow `which`.
    pub ended_by: &'static str,
    /// Scenarios whose verdict changed.
    pub verdicts: Vec<VerdictChange>,
    /// Scenarios whose numbers changed.
    pub numbers: Vec<NumberChange>,
    /// Scenarios whose times changed by more than their repeats differ.
    pub times: Vec<NumberChange>,
    /// Whether there was a scenario with repeats enough to compare its times.
    pub times_compared: bool,
    /// Scenarios that only the later run has, with their verdicts.
    pub new: Vec<(String, Verdict)>,
    /// Scenarios that only the earlier run has.
    pub gone: Vec<String>,
}

/// Another verdict than before.
#[derive(Clone, Debug)]
pub struct VerdictChange {
    /// The scenario.
    pub name: String,
    /// Earlier verdict.
    pub before: Verdict,
    /// Later verdict.
    pub after: Verdict,
    /// Result of running it again.
    pub confirmed: Option<Confirmation>,
    /// Failures of the later run, if any.
    pub why: Option<String>,
}

/// Another number than before.
#[derive(Clone, Debug)]
pub struct NumberChange {
    /// The scenario.
    pub name: String,
    /// Which number, and of which step.
    pub what: String,
    /// Earlier value.
    pub before: String,
    /// Later value.
    pub after: String,
}

/// How bad a change of verdict is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Weight {
    /// It is no worse than before.
    Better,
    /// It is worse, and was so again when it was run again.
    Regression,
    /// It is worse, and no other run of it was judged.
    Suspect,
    /// It was worse once, and passed whenever it was run again and judged.
    Flaky,
}

impl VerdictChange {
    /// How bad it is. Only a failure can come and go: a skip has a reason that stays.
    pub fn weight(&self) -> Weight {
        if badness(self.after) <= badness(self.before) {
            return Weight::Better;
        }
        match &self.confirmed {
            _ if self.after == Verdict::Skip => Weight::Regression,
            None | Some(Confirmation { times: 0, .. }) => Weight::Suspect,
            Some(Confirmation { failed: 0, .. }) => Weight::Flaky,
            Some(_) => Weight::Regression,
        }
    }
}

/// A scenario that is not run any more is worse than one that passes, and better than one that fails.
const fn badness(verdict: Verdict) -> u8 {
    match verdict {
        Verdict::Pass => 0,
        Verdict::Skip => 1,
        Verdict::Error => 2,
        Verdict::Fail => 3,
    }
}

impl Diff {
    /// Compares an earlier and a later run.
    pub fn between(before: &Report, after: &Report) -> Diff {
        let mut diff = Diff {
            runs: runs(before, after),
            rejudged: after.rejudged().map(str::to_owned),
            ended_by: what_cut(after),
            ..Diff::default()
        };
        let mut earlier: BTreeMap<&str, &ScenarioReport> = before
            .scenarios
            .iter()
            .map(|scenario| (scenario.name.as_str(), scenario))
            .collect();
        let alike = before.host == after.host && before.design == after.design;
        let exact = after.host.is_software();
        for scenario in &after.scenarios {
            let old = earlier.remove(scenario.name.as_str());
            // A repeat that the earlier run has not is one of the same scenario.
            let old = old.or_else(|| first_of(before, &scenario.name));
            if scenario.unfinished {
                diff.unfinished += 1;
                let had_result =
                    |old: &ScenarioReport| !old.unfinished && old.verdict != Verdict::Skip;
                diff.lost += usize::from(old.is_some_and(had_result));
                // The one that a killed run was at may have killed it, so its error is told like any. It
                // is never better than before: what it would have come to is not known.
                let no_worse =
                    |old: &ScenarioReport| badness(scenario.verdict) <= badness(old.verdict);
                if scenario.verdict == Verdict::Skip || old.is_some_and(no_worse) {
                    continue;
                }
            }
            match old {
                None => diff.new.push((scenario.name.clone(), scenario.verdict)),
                Some(old) if old.verdict != scenario.verdict => diff.verdicts.push(VerdictChange {
                    name: scenario.name.clone(),
                    before: old.verdict,
                    after: scenario.verdict,
                    confirmed: scenario.confirmed,
                    why: why(scenario),
                }),
                Some(old) => diff.numbers.extend(numbers(old, scenario, alike, exact)),
            }
        }
        let there = |name: &&str| first_of(after, name).is_none();
        diff.gone = earlier
            .into_keys()
            .filter(there)
            .map(str::to_owned)
            .collect();
        if alike {
            diff.compare_times(before, after);
        }
        diff
    }

    fn compare_times(&mut self, before: &Report, after: &Report) {
        let (before, after) = (times(before), times(after));
        for (name, new) in after {
            let Some(old) = before.get(name).filter(|old| old.repeats >= REPEATS) else {
                continue;
            };
            if new.repeats < REPEATS {
                continue;
            }
            self.times_compared = true;
            if (new.median - old.median).abs() > old.width() + new.width() {
                let said = |time: &Spread| {
                    let (min, max) = (Micros(time.min as u64), Micros(time.max as u64));
                    format!("{} ({min} to {max})", Micros(time.median as u64))
                };
                self.times.push(NumberChange {
                    name: name.to_owned(),
                    what: "time".to_owned(),
                    before: said(old),
                    after: said(&new),
                });
            }
        }
    }

    /// Whether the later run is worse, or may be: a regression or a suspect, a scenario that is gone or
    /// that it did not come to, or a new one that fails.
    pub fn is_worse(&self) -> bool {
        self.lost > 0
            || !self.gone.is_empty()
            || self
                .verdicts
                .iter()
                .any(|change| matches!(change.weight(), Weight::Regression | Weight::Suspect))
            || self
                .new
                .iter()
                .any(|(_, verdict)| matches!(verdict, Verdict::Fail | Verdict::Error))
    }

    /// Whether there are no differences.
    pub fn is_empty(&self) -> bool {
        self.runs.is_empty()
            && self.rejudged.is_none()
            && self.unfinished == 0
            && self.verdicts.is_empty()
            && self.numbers.is_empty()
            && self.times.is_empty()
            && self.new.is_empty()
            && self.gone.is_empty()
    }
}

/// The first step of a scenario that did not pass, with the finding, or what else there is.
fn why(scenario: &ScenarioReport) -> Option<String> {
    match scenario.first_bad_step() {
        Some(step) => Some(terminal::brief(scenario, step)),
        None if scenario.is_bad() => scenario.why().into_iter().next(),
        None => scenario.reason.clone(),
    }
}

fn runs(before: &Report, after: &Report) -> Vec<String> {
    let mut changes = Vec::new();
    let mut compare = |name: &str, old: &str, new: &str| {
        if old != new {
            changes.push(format!("{name}: {old} -> {new}"));
        }
    };
    compare("host", before.host.name(), after.host.name());
    compare("design", &before.design, &after.design);
    compare("tdxlab", &before.tdxlab, &after.tdxlab);
    let rehearsal = |report: &Report| if report.is_rehearsal() { "yes" } else { "no" };
    compare(REHEARSAL_FACT, rehearsal(before), rehearsal(after));
    for fact in &after.facts {
        if [REHEARSAL_FACT, REJUDGED_FACT, ONE_SHOT].contains(&fact.name.as_str()) {
            continue;
        }
        let old = before.fact(&fact.name).unwrap_or("-");
        compare(&fact.name, old, &fact.value);
    }
    changes
}

/// The scenario of a run that goes by this name, whichever repeat of it is meant.
fn first_of<'a>(report: &'a Report, name: &str) -> Option<&'a ScenarioReport> {
    let base = repeat::base(name);
    report.scenarios.iter().find(|one| one.name == base)
}

/// Times of the scenarios that passed, over their repeats.
fn times(report: &Report) -> BTreeMap<&str, Spread> {
    let mut times: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
    for scenario in &report.scenarios {
        if scenario.verdict == Verdict::Pass {
            let known = times.entry(repeat::base(&scenario.name)).or_default();
            known.push(scenario.micros as f64);
        }
    }
    let spread = |(name, times)| Some((name, Spread::of(times)?));
    times.into_iter().filter_map(spread).collect()
}

/// `exact` hosts count the same exits and kicks every time; on others the interrupts of the machine are
/// among them.
fn numbers(
    before: &ScenarioReport,
    after: &ScenarioReport,
    alike: bool,
    exact: bool,
) -> Vec<NumberChange> {
    let mut changes = Vec::new();
    let mut add = |what: String, old: String, new: String| {
        changes.push(NumberChange {
            name: after.name.clone(),
            what,
            before: old,
            after: new,
        });
    };
    for (old_step, step) in before.steps.iter().zip(&after.steps) {
        let races = step.action.starts_with("in parallel");
        if !alike || races || old_step.action != step.action {
            continue;
        }
        if let (Some(old), Some(new)) = (&old_step.boot, &step.boot) {
            for (old, new) in old.counts().into_iter().zip(new.counts()) {
                if old.value != new.value {
                    let what = format!("step {}, {}", step.number, new.what);
                    add(what, said(wide(old.value)), said(wide(new.value)));
                }
            }
        }
        let all = |(what, of): &Number| (*what, of(&old_step.numbers), of(&step.numbers));
        // Of costs, what both runs have seen.
        let costs = EXACT_COSTS.iter().filter(|_| exact).chain(&COSTS);
        let costs = costs
            .map(all)
            .filter(|(_, old, new)| old.is_some() && new.is_some());
        for (what, old, new) in COUNTED.iter().map(all).chain(costs) {
            if old != new {
                let what = format!("step {}, {what}", step.number);
                add(what, said(old), said(new));
            }
        }
    }
    changes
}

fn said(value: Option<i128>) -> String {
    value.map_or("not seen".to_owned(), |value| value.to_string())
}

/// A number of a step, with its name.
type Number = (&'static str, fn(&Numbers) -> Option<i128>);

/// What the step did.
const COUNTED: [Number; 9] = [
    ("splits", |n| wide(n.splits)),
    ("pages_4k", |n| wide(n.pages_4k)),
    ("pages_2m", |n| wide(n.pages_2m)),
    ("pages_1g", |n| wide(n.pages_1g)),
    ("populated", |n| wide(n.populated)),
    ("ACCEPT exits", |n| wide(n.accept_exits)),
    ("access exits", |n| wide(n.access_exits)),
    ("entries looked at", |n| wide(n.entries_looked_at)),
    ("leaves zapped", |n| wide(n.leaves_zapped)),
];

/// What it cost, where hosts are exact.
const EXACT_COSTS: [Number; 2] = [
    ("exits", |n| wide(n.exits)),
    ("TLB kicks", |n| wide(n.tlb_kicks)),
];

/// What it cost on any host.
const COSTS: [Number; 5] = [
    ("hypercalls", |n| wide(n.vmcalls)),
    ("pages AUGed at 4K", |n| wide(n.auged_4k)),
    ("pages AUGed at 2M", |n| wide(n.auged_2m)),
    ("pages AUGed at 1G", |n| wide(n.auged_1g)),
    ("shared pages outside the guest_memfd", |n| {
        wide(n.shared_apart)
    }),
];

fn wide(value: Option<impl Into<i128>>) -> Option<i128> {
    value.map(Into::into)
}

impl fmt::Display for Diff {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(rejudged) = &self.rejudged {
            writeln!(
                f,
                "the later run re-judges {rejudged}; nothing was run again"
            )?;
        }
        for change in &self.runs {
            writeln!(f, "the runs differ in {change}")?;
        }
        for change in &self.verdicts {
            let word = match change.weight() {
                Weight::Better => "better    ",
                Weight::Regression => "REGRESSION",
                Weight::Suspect if self.rejudged.is_some() => "worse     ",
                Weight::Suspect => "suspect   ",
                Weight::Flaky => "flaky     ",
            };
            write!(
                f,
                "{word}  {}: {} -> {}",
                change.name, change.before, change.after
            )?;
            match &change.confirmed {
                Some(Confirmation { times: 0, .. }) => {
                    writeln!(f, "; not confirmed, no run of it again came to a verdict")?;
                }
                Some(again) => writeln!(
                    f,
                    "; failed {} of {} times it was run again",
                    again.failed, again.times
                )?,
                // Only failures are run again.
                None if change.after == Verdict::Fail && self.rejudged.is_none() => {
                    writeln!(f, "; not confirmed (run with --confirm 3)")?;
                }
                None => writeln!(f)?,
            }
            if let Some(why) = &change.why {
                writeln!(f, "            {why}")?;
            }
        }
        if self.unfinished > 0 {
            let scenarios = terminal::count(self.unfinished, "scenario");
            write!(
                f,
                "not run     {scenarios} of the later run, which {}",
                self.ended_by
            )?;
            match self.lost {
                0 => writeln!(f)?,
                lost => writeln!(f, "; {lost} of them had a result before")?,
            }
        }
        for (name, verdict) in &self.new {
            writeln!(f, "new         {name}: {verdict}")?;
        }
        for name in &self.gone {
            writeln!(f, "gone        {name}")?;
        }
        for change in self.numbers.iter().chain(&self.times) {
            writeln!(
                f,
                "changed     {}, {}: {} -> {}",
                change.name, change.what, change.before, change.after
            )?;
        }
        if self.is_empty() {
            writeln!(f, "no difference")?;
        }
        if !self.times_compared && self.rejudged.is_none() {
            writeln!(
                f,
                "times       not compared: that needs {REPEATS} repeats in both runs (run --repeat {REPEATS})"
            )?;
        }
        Ok(())
    }
}
