//! Journal to [`Report`]. A truncated journal yields all it contains.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use tdxlab_journal::content::wanted as wanted_content;
use tdxlab_journal::journal::{Event, JournalError, PlanId, RunStarted};
use tdxlab_journal::reader::JournalReader;
use tdxlab_journal::verdict::{Finding, Judgement, MissingWitness, Verdict};
use tdxlab_journal::{ContentSpan, Observed, PageCounters, Reading, Sample};
use tdxlab_plan::addr::GpaRange;
use tdxlab_plan::linux::LinuxPlan;
use tdxlab_plan::{Expectation, Plan, op_words, text as words};

use super::ends::{RunEnd, cut_off, no_start, not_run};
use super::model::{
    Confirmation, ContentReport, ControlReport, Fact, FindingReport, Numbers, Report,
    ScenarioReport, StepReport, VERSION, VerdictCounts,
};
use super::observed::seen;
use super::work;

/// Name of the extra step for findings during the teardown of the guest.
const END: &str = "end of the guest";

/// Reads a journal.
pub fn from_journal(path: &Path) -> Result<Report, JournalError> {
    from_recording(JournalReader::open(path)?)
}

/// Reads a journal from wherever it is.
pub fn from_recording(mut recording: JournalReader) -> Result<Report, JournalError> {
    let mut builder = Builder::new(recording.head());
    while let Some(line) = recording.next_line()? {
        builder.last_at = builder.last_at.max(line.at);
        builder.take(line.event);
    }
    Ok(builder.finish(recording.head().clone()))
}

/// Takes the events of a journal, in order.
#[derive(Default)]
pub(super) struct Builder {
    plans: Vec<Option<Draft>>,
    last_at: u64,
    end: Option<End>,
    facts_at_end: Vec<Fact>,
}

/// What the last line of a journal says.
struct End {
    verdict: Verdict,
    interrupted: bool,
    stopped: bool,
}

/// A scenario with events in the journal.
struct Draft {
    report: ScenarioReport,
    plan: Option<Plan>,
    /// Whether the journal has its start, without which nobody knows its steps.
    has_start: bool,
    /// The plan, if it is for a Linux guest.
    linux: Option<LinuxPlan>,
    /// Witnesses before the next step, without those that are ignored.
    before: Option<Sample>,
    distrusted: Vec<MissingWitness>,
    ended: bool,
}

impl Builder {
    fn new(head: &RunStarted) -> Builder {
        Builder::for_plans(head.plans.len())
    }

    /// An empty builder for a run of this many plans.
    pub(super) fn for_plans(plans: usize) -> Builder {
        Builder {
            plans: (0..plans).map(|_| None).collect(),
            ..Builder::default()
        }
    }

    /// The scenario of a plan, as a run that ended in this way reports it. What was known of it is dropped.
    pub(super) fn scenario(&mut self, plan: PlanId, name: &str, how: RunEnd) -> ScenarioReport {
        match self.plans.get_mut(plan.0 as usize).and_then(Option::take) {
            Some(draft) => draft.finish(name, how),
            None => not_run(Draft::new(String::new()).named(name), how),
        }
    }

    /// The draft of a plan; `None` where the journal names a plan that the run does not have.
    fn draft(&mut self, plan: PlanId) -> Option<&mut Draft> {
        self.plans.get_mut(plan.0 as usize)?.as_mut()
    }

    /// The draft of a plan that must have started: where the journal has lost that, one of a plan that
    /// nobody knows.
    fn draft_or_lost(&mut self, plan: PlanId) -> Option<&mut Draft> {
        let place = self.plans.get_mut(plan.0 as usize)?;
        Some(place.get_or_insert_with(|| Draft::new(String::new())))
    }

    fn open(&mut self, plan: PlanId, draft: Draft) {
        if let Some(place) = self.plans.get_mut(plan.0 as usize) {
            *place = Some(draft);
        }
    }

    pub(super) fn take(&mut self, event: Event) {
        match event {
            Event::RunStarted(_) => {}
            Event::PlanSkipped { plan, about, need } => {
                let mut draft = Draft::new(about);
                draft.report.verdict = Verdict::Skip;
                draft.report.reason = Some(need);
                draft.has_start = true;
                draft.ended = true;
                self.open(plan, draft);
            }
            Event::PlanStarted {
                plan,
                scenario,
                body,
            } => {
                let mut draft = Draft::started(&body.about, scenario, body.steps.len());
                draft.plan = Some(body);
                self.open(plan, draft);
            }
            Event::LinuxStarted {
                plan,
                scenario,
                body,
            } => {
                let mut draft = Draft::started(&body.about, scenario, body.steps.len());
                draft.linux = Some(body);
                self.open(plan, draft);
            }
            Event::PlanEnded {
                plan,
                verdict,
                reason,
                micros,
                evidence,
                fault_reached,
            } => {
                if let Some(draft) = self.draft_or_lost(plan) {
                    draft.ended = true;
                    draft.report.verdict = verdict;
                    draft.report.reason = reason;
                    draft.report.micros = micros;
                    draft.report.evidence = evidence.map(|path| path.display().to_string());
                    draft.report.fault_reached = fault_reached;
                }
            }
            Event::Confirmed {
                plan,
                times,
                failed,
            } => {
                if let Some(draft) = self.draft(plan) {
                    draft.report.confirmed = Some(Confirmation { times, failed });
                }
            }
            Event::FailedShared {
                plan,
                guest,
                verdict,
                why,
            } => {
                if let Some(draft) = self.draft(plan) {
                    let place = match guest {
                        Some(guest) => {
                            format!("in guest {}, after {} others", guest.guest, guest.before)
                        }
                        None => "in a QEMU that had other guests before".to_owned(),
                    };
                    draft.report.failed_shared = Some(format!("{verdict} {place}: {why}"));
                }
            }
            Event::RunEnded {
                verdict,
                interrupted,
                stopped,
                facts,
            } => {
                self.end = Some(End {
                    verdict,
                    interrupted,
                    stopped,
                });
                self.facts_at_end = facts_of(facts);
            }
            event => {
                if let Some(draft) = event.plan().and_then(|plan| self.draft_or_lost(plan)) {
                    draft.take(event);
                }
            }
        }
    }

    /// What the end of the run makes of plans that have none. Where a run is judged again, the plan that did
    /// not pass may pass now.
    fn how_it_ended(&self, head: &RunStarted) -> RunEnd {
        let Some(end) = &self.end else {
            return RunEnd::Killed;
        };
        let bad = |draft: &Draft| draft.ended && draft.report.is_bad();
        let is_bad = || self.plans.iter().flatten().any(bad) || head.is_rejudged();
        RunEnd::of(end.interrupted, end.stopped || head.is_fail_fast(), is_bad)
    }

    fn finish(mut self, head: RunStarted) -> Report {
        let mut counts = VerdictCounts::default();
        let mut judged = Verdict::Skip;
        let how = self.how_it_ended(&head);
        let scenarios: Vec<ScenarioReport> = (0..)
            .map(PlanId)
            .zip(&head.plans)
            .map(|(plan, name)| {
                let scenario = self.scenario(plan, name, how);
                counts.add(scenario.verdict);
                judged = judged.and(scenario.verdict);
                scenario
            })
            .collect();
        Report {
            version: VERSION,
            tdxlab: head.tdxlab,
            run: head.run,
            started: head.started,
            command: head.command,
            host: head.host,
            host_reason: head.host_reason,
            facts: facts_of(head.facts),
            facts_at_end: self.facts_at_end,
            fault: head.fault,
            design: head.design,
            seed: head.seed,
            jobs: head.jobs,
            verdict: match &self.end {
                Some(end) => end.verdict.and(judged),
                None => judged.and(Verdict::Error),
            },
            complete: how != RunEnd::Killed,
            interrupted: how == RunEnd::Interrupted,
            micros: self.last_at,
            counts,
            scenarios,
        }
    }
}

fn facts_of(facts: Vec<(String, String)>) -> Vec<Fact> {
    let named = |(name, value)| Fact { name, value };
    facts.into_iter().map(named).collect()
}

impl Draft {
    /// Of a plan that runs.
    fn started(about: &str, scenario: Option<PathBuf>, steps: usize) -> Draft {
        let mut draft = Draft::new(about.to_owned());
        draft.report.file = scenario.map(|path| path.display().to_string());
        draft.report.steps_planned = steps;
        draft.has_start = true;
        draft
    }

    /// Of a plan of which the journal has no start.
    fn new(about: String) -> Draft {
        Draft {
            report: ScenarioReport::unknown(about),
            plan: None,
            has_start: false,
            linux: None,
            before: None,
            distrusted: Vec::new(),
            ended: false,
        }
    }

    fn take(&mut self, event: Event) {
        match event {
            Event::Booted {
                micros,
                shared,
                guests_before,
                ..
            } => {
                self.report.boot_micros = Some(micros);
                self.report.shared_guest = shared;
                self.report.guests_before = guests_before;
            }
            Event::Controlled {
                after,
                judgement,
                distrusted,
                ..
            } => {
                self.distrusted = distrusted.clone();
                self.before = Some(after.without(&self.distrusted));
                self.report.control = Some(ControlReport {
                    verdict: judgement.verdict,
                    findings: judgement.findings.iter().map(finding).collect(),
                    distrusted,
                });
            }
            Event::StepStarted { step, expected, .. } => self.step_started(step, &expected),
            Event::LinuxStep {
                step,
                expected,
                seen,
                judgement,
                micros,
                boot,
                ..
            } => {
                let planned = self.linux.as_ref();
                let planned = planned.and_then(|plan| plan.steps.get(step as usize));
                if let (Some(planned), Some(number)) = (planned, step.checked_add(1)) {
                    let action = planned.op.text();
                    let mut report = step_report(number, planned.line, action, expected);
                    report.seen = seen;
                    report.micros = micros;
                    report.boot = boot.map(|boot| *boot);
                    judged(&mut report, judgement);
                    self.report.steps.push(report);
                }
            }
            Event::StepObserved {
                step,
                observed,
                sample,
                ..
            } => {
                let after = sample.without(&self.distrusted);
                let before = self.before.replace(after.clone());
                if let Some(step) = self.step(step) {
                    step.numbers = numbers(&observed, before.as_ref(), &after);
                    step.seen = seen(&observed);
                    let micros = observed.iter().flatten().map(|o| o.micros);
                    step.micros = micros.fold(0, u64::saturating_add);
                    if let Some(work) = &mut step.work {
                        work.micros = work::micros(&observed);
                    }
                }
            }
            Event::StepJudged {
                step, judgement, ..
            } => {
                if let Some(step) = self.step(step) {
                    judged(step, judgement);
                }
            }
            Event::Ended { judgement, .. } if judgement.verdict != Verdict::Pass => {
                let planned = u32::try_from(self.report.steps_planned).unwrap_or(u32::MAX);
                let mut end = StepReport::begun(planned.saturating_add(1), END.to_owned());
                judged(&mut end, judgement);
                self.report.steps.push(end);
            }
            _ => {}
        }
    }

    fn step_started(&mut self, step: u32, expected: &Expectation) {
        let (Some(plan), Some(number)) = (&self.plan, step.checked_add(1)) else {
            return;
        };
        let Some(planned) = plan.steps.get(step as usize) else {
            return;
        };
        self.report.steps.push(StepReport {
            work: work::of(&planned.action),
            line: planned.line,
            expected: words::expectation(expected),
            ..StepReport::begun(number, op_words::action(&planned.action, &plan.guest))
        });
    }

    fn step(&mut self, step: u32) -> Option<&mut StepReport> {
        let number = step.checked_add(1)?;
        self.report
            .steps
            .iter_mut()
            .rev()
            .find(|step| step.number == number)
    }

    fn named(mut self, name: &str) -> ScenarioReport {
        self.report.name = name.to_owned();
        self.report
    }

    fn finish(self, name: &str, how: RunEnd) -> ScenarioReport {
        let (has_start, ended) = (self.has_start, self.ended);
        let scenario = self.named(name);
        match (has_start, ended) {
            (false, _) => no_start(scenario, ended),
            (true, false) => cut_off(scenario, how),
            (true, true) => scenario,
        }
    }
}

/// A step that was begun.
fn step_report(number: u32, line: u32, action: String, expected: Vec<String>) -> StepReport {
    StepReport {
        line,
        expected,
        ..StepReport::begun(number, action)
    }
}

fn judged(step: &mut StepReport, judgement: Judgement) {
    step.verdict = Some(judgement.verdict);
    step.findings = judgement.findings.iter().map(finding).collect();
    step.findings_omitted = judgement.findings_omitted;
    step.heard = judgement.heard;
    step.missing = judgement.missing;
    step.content = judgement.content.iter().map(content).collect();
    step.content_omitted = judgement.spans_omitted;
}

fn finding(finding: &Finding) -> FindingReport {
    FindingReport {
        witness: finding.witness,
        kind: finding.kind,
        at: finding.at.map(|range| range.to_string()),
        expected: finding.expected.clone(),
        found: finding.found.clone(),
    }
}

fn content(span: &ContentSpan) -> ContentReport {
    ContentReport {
        range: span.range.to_string(),
        bytes: span.range.bytes(),
        expected: wanted_content(span.expected),
        found: span.found.to_string(),
        right: span.right,
    }
}

pub(super) fn numbers(
    observed: &[Vec<Observed>],
    before: Option<&Sample>,
    after: &Sample,
) -> Numbers {
    let pages = before.and_then(|before| {
        both(&before.debugfs, &after.debugfs)
            .or_else(|| both(&before.query_stats, &after.query_stats))
    });
    let page = |of: fn(&PageCounters) -> u64| {
        let (before, after) = pages?;
        i64::try_from(i128::from(of(after)) - i128::from(of(before))).ok()
    };
    let exits = before.and_then(|before| both(&before.exits, &after.exits));
    Numbers {
        splits: after
            .splits
            .value()
            .map(|events| events.iter().filter(|event| event.errno == 0).count() as u64),
        pages_4k: page(|pages| pages.pages_4k),
        pages_2m: page(|pages| pages.pages_2m),
        pages_1g: page(|pages| pages.pages_1g),
        populated: after.populated.value().copied(),
        accept_exits: exits.and_then(|(before, after)| after.accept.checked_sub(before.accept)),
        access_exits: exits.and_then(|(before, after)| after.access.checked_sub(before.access)),
        entries_looked_at: sum(observed, |o| o.entries_looked_at),
        leaves_zapped: sum(observed, |o| o.leaves_zapped),
        logged: sum(observed, |o| {
            let pages = o.logged.as_ref()?.value()?.iter().copied();
            Some(pages.map(GpaRange::pages_4k).sum())
        }),
        exits: sum(observed, |o| o.cost.exits),
        vmcalls: sum(observed, |o| o.cost.vmcalls),
        auged_4k: sum(observed, |o| o.cost.auged_4k),
        auged_2m: sum(observed, |o| o.cost.auged_2m),
        auged_1g: sum(observed, |o| o.cost.auged_1g),
        tlb_kicks: sum(observed, |o| o.cost.kicks),
        shared_apart: shared_apart(observed),
    }
}

/// The largest that an operation has left; each sees all of the guest's.
fn shared_apart(observed: &[Vec<Observed>]) -> Option<u64> {
    let left = observed
        .iter()
        .flatten()
        .filter_map(|o| o.cost.shared_apart);
    left.max()
}

fn both<'a, T>(before: &'a Reading<T>, after: &'a Reading<T>) -> Option<(&'a T, &'a T)> {
    Some((before.value()?, after.value()?))
}

/// `None` where no operation could say; otherwise the sum over those that could.
fn sum(observed: &[Vec<Observed>], of: fn(&Observed) -> Option<u64>) -> Option<u64> {
    observed
        .iter()
        .flatten()
        .filter_map(of)
        .reduce(u64::saturating_add)
}

/// The topic of a scenario: its name up to the first slash.
pub fn topic(name: &str) -> &str {
    name.split_once('/').map_or("other", |(topic, _)| topic)
}

/// How many scenarios each topic (the part of the name before the first slash) has, by verdict.
pub fn by_topic(report: &Report) -> BTreeMap<&str, (VerdictCounts, u64)> {
    let mut topics: BTreeMap<&str, (VerdictCounts, u64)> = BTreeMap::new();
    for scenario in &report.scenarios {
        let topic = topic(&scenario.name);
        let (counts, micros) = topics.entry(topic).or_default();
        counts.add(scenario.verdict);
        *micros += scenario.micros;
    }
    topics
}
