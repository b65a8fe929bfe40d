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
    /// It is worse, and not confirmed by another run.
    Suspect,
    /// It was worse once, and never when it was run again.
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
            None => Weight::Suspect,
            Some(confirmation) if confirmation.failed == 0 => Weight::Flaky,
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
            match old.or_else(|| first_of(before, &scenario.name)) {
                _ if scenario.unfinished => diff.unfinished += 1,
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

    /// Whether the later run is worse: a regression or a suspect, a scenario that is gone, or a
    /// new one that fails.
    pub fn is_worse(&self) -> bool {
        !self.gone.is_empty()
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

/// The reason of a scenario, or its first step that did not pass, with the finding.
fn why(scenario: &ScenarioReport) -> Option<String> {
    match scenario.first_bad_step() {
        Some(step) => Some(terminal::brief(step)),
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
        let old = before.facts.iter().find(|old| old.name == fact.name);
        compare(&fact.name, old.map_or("-", |old| &old.value), &fact.value);
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
                let wide = |value: Option<u64>| said(value.map(i128::from));
                if old.value != new.value {
                    let what = format!("step {}, {}", step.number, new.what);
                    add(what, wide(old.value), wide(new.value));
                }
            }
        }
        let counted = pairs(&old_step.numbers, &step.numbers);
        let costs = costs(&old_step.numbers, &step.numbers, exact);
        for (what, old, new) in counted.into_iter().chain(costs) {
            if old != new {
                add(
                    format!("step {}, {what}", step.number),
                    said(old),
                    said(new),
                );
            }
        }
    }
    changes
}

fn said(value: Option<i128>) -> String {
    value.map_or("not seen".to_owned(), |value| value.to_string())
}

type Pair = (&'static str, Option<i128>, Option<i128>);

fn pairs(old: &Numbers, new: &Numbers) -> [Pair; 9] {
    let wide = |value: Option<u64>| value.map(i128::from);
    let change = |value: Option<i64>| value.map(i128::from);
    [
        ("splits", wide(old.splits), wide(new.splits)),
        ("pages_4k", change(old.pages_4k), change(new.pages_4k)),
        ("pages_2m", change(old.pages_2m), change(new.pages_2m)),
        ("pages_1g", change(old.pages_1g), change(new.pages_1g)),
        ("populated", wide(old.populated), wide(new.populated)),
        (
            "ACCEPT exits",
            wide(old.accept_exits),
            wide(new.accept_exits),
        ),
        (
            "access exits",
            wide(old.access_exits),
            wide(new.access_exits),
        ),
        (
            "entries looked at",
            wide(old.entries_looked_at),
            wide(new.entries_looked_at),
        ),
        (
            "leaves zapped",
            wide(old.leaves_zapped),
            wide(new.leaves_zapped),
        ),
    ]
}

/// What it cost, as far as both runs have seen it.
fn costs(old: &Numbers, new: &Numbers, exact: bool) -> Vec<Pair> {
    let always = [
        ("hypercalls", old.vmcalls, new.vmcalls),
        ("pages AUGed at 4K", old.auged_4k, new.auged_4k),
        ("pages AUGed at 2M", old.auged_2m, new.auged_2m),
        ("pages AUGed at 1G", old.auged_1g, new.auged_1g),
        (
            "shared pages outside the guest_memfd",
            old.shared_apart,
            new.shared_apart,
        ),
    ];
    let if_exact = [
        ("exits", old.exits, new.exits),
        ("TLB kicks", old.tlb_kicks, new.tlb_kicks),
    ];
    let all = if_exact.into_iter().filter(|_| exact).chain(always);
    all.filter(|(_, old, new)| old.is_some() && new.is_some())
        .map(|(what, old, new)| (what, old.map(i128::from), new.map(i128::from)))
        .collect()
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
                Some(again) => writeln!(
                    f,
                    "; failed {} of {} times it was run again",
                    again.failed, again.times
                )?,
                None if change.weight() == Weight::Suspect && self.rejudged.is_none() => {
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
            writeln!(
                f,
                "not run     {scenarios} of the later run, which {}",
                self.ended_by
            )?;
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
