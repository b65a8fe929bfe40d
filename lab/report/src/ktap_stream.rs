//! KTAP during a run, in the form of the kernel's test scripts.
//!
//! Subtests of a test must be contiguous, but plans may run in parallel. So one plan is printed
//! while it runs, step by step; the lines of the others are buffered until it is done.

use std::collections::VecDeque;
use std::fmt::Write;

use tdxlab_journal::journal::{Event, PlanId};
use tdxlab_journal::verdict::Verdict;
use tdxlab_plan::{Plan, op_words};

use super::build::Builder;
use super::ends::{FAIL_FAST, INTERRUPTED};
use super::ktap::{description, render_result, render_step, render_steps};
use super::model::{ScenarioReport, VerdictCounts};

/// Events to lines of KTAP.
#[derive(Default)]
pub struct KtapStream {
    builder: Builder,
    /// Plans that have no result yet, with their names.
    waiting: Vec<(PlanId, String)>,
    /// Plans that have started and are not printed whole. The first is the one that is printed.
    open: VecDeque<Pending>,
    /// Number of results printed.
    printed: usize,
    counts: VerdictCounts,
}

/// The lines of a plan that are not printed yet.
struct Pending {
    plan: PlanId,
    text: String,
    ended: Option<Verdict>,
}

impl KtapStream {
    /// The head of a run of these plans.
    pub fn start(&mut self, plans: Vec<(PlanId, String)>) -> String {
        let count = plans.len();
        let places = plans.iter().map(|(plan, _)| plan.0 as usize + 1).max();
        self.builder = Builder::for_plans(places.unwrap_or(0));
        self.waiting = plans;
        match count {
            0 => "KTAP version 1\n1..0 # SKIP no scenario to run\n".to_owned(),
            _ => format!("KTAP version 1\n1..{count}\n"),
        }
    }

    /// The lines that can be printed after this event; often none.
    pub fn take(&mut self, event: &Event) -> String {
        self.builder.take(event.clone());
        match event {
            Event::PlanStarted { plan, .. } | Event::LinuxStarted { plan, .. } => {
                self.open.push_back(Pending::of(*plan));
                self.add(*plan, |known, _, out| {
                    render_steps(out, known.steps_planned)
                });
            }
            Event::PlanSkipped { plan, .. } => {
                self.open.push_back(Pending::of(*plan));
                self.end(*plan, Verdict::Skip);
            }
            Event::StepJudged { plan, step, .. } | Event::LinuxStep { plan, step, .. } => {
                self.add(*plan, |known, _, out| {
                    let judged = known.steps.iter().find(|one| one.number == step + 1);
                    if let Some(judged) = judged {
                        render_step(out, judged.number as usize, judged);
                    }
                })
            }
            Event::PlanEnded { plan, verdict, .. } => {
                self.add(*plan, unjudged);
                self.end(*plan, *verdict);
            }
            Event::RunEnded {
                interrupted: false,
                stopped: true,
                ..
            } => return self.finish(FAIL_FAST),
            Event::RunEnded { .. } => return self.finish(INTERRUPTED),
            _ => {}
        }
        self.printable()
    }

    /// Adds lines to a plan.
    fn add(
        &mut self,
        plan: PlanId,
        render: impl FnOnce(&ScenarioReport, Option<&Plan>, &mut String),
    ) {
        let pending = self.open.iter_mut().find(|pending| pending.plan == plan);
        if let (Some(pending), Some((known, planned))) = (pending, self.builder.known(plan)) {
            render(known, planned, &mut pending.text);
        }
    }

    fn end(&mut self, plan: PlanId, verdict: Verdict) {
        if let Some(pending) = self.open.iter_mut().find(|pending| pending.plan == plan) {
            pending.ended = Some(verdict);
        }
    }

    /// The lines of the first open plan, and of the next if that one is over.
    fn printable(&mut self) -> String {
        let mut out = String::new();
        while let Some(first) = self.open.front_mut() {
            out += &std::mem::take(&mut first.text);
            let (plan, Some(verdict)) = (first.plan, first.ended) else {
                break;
            };
            self.open.pop_front();
            self.printed += 1;
            self.counts.add(verdict);
            let place = self
                .waiting
                .iter()
                .position(|(waiting, _)| *waiting == plan);
            let name = place.map(|place| self.waiting.remove(place).1);
            if let (Some(name), Some((known, _))) = (name, self.builder.known(plan)) {
                render_result(&mut out, self.printed, &name, known);
            }
            self.builder.forget(plan);
        }
        out
    }

    /// Plans the run did not reach and why, and the totals in kselftest's format.
    fn finish(&mut self, why: &str) -> String {
        // An interrupted plan never ends, and must not block those that ended after it started.
        self.open.retain(|pending| pending.ended.is_some());
        let mut out = self.printable();
        for (_, name) in std::mem::take(&mut self.waiting) {
            self.printed += 1;
            self.counts.add(Verdict::Skip);
            let name = description(&name);
            let _ = writeln!(out, "ok {} {name} # SKIP {why}", self.printed);
        }
        let VerdictCounts {
            pass,
            fail,
            skip,
            error,
        } = self.counts;
        let _ = writeln!(
            out,
            "# Totals: pass:{pass} fail:{fail} xfail:0 xpass:0 skip:{skip} error:{error}"
        );
        out
    }
}

impl Pending {
    fn of(plan: PlanId) -> Pending {
        Pending {
            plan,
            text: String::new(),
            ended: None,
        }
    }
}

/// Steps that were announced and not judged: the one at which the plan ended, and those after it.
fn unjudged(known: &ScenarioReport, planned: Option<&Plan>, out: &mut String) {
    for step in known.steps.iter().filter(|step| step.verdict.is_none()) {
        render_step(out, step.number as usize, step);
    }
    for number in known.steps.len() + 1..=known.steps_planned {
        let planned = planned.and_then(|plan| Some((plan.steps.get(number - 1)?, &plan.guest)));
        let action = planned.map_or_else(
            || "step".to_owned(),
            |(step, guest)| description(&op_words::action(&step.action, guest)),
        );
        let _ = writeln!(out, "  ok {number} {action} # SKIP the scenario had ended");
    }
}
