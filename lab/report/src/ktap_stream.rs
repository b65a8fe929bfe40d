//! KTAP during a run, in the form of the kernel's test scripts.
//!
//! Subtests of a test must be contiguous, but plans may run in parallel, and one may be run again in a guest
//! of its own before it has a result. So a plan is printed as a whole once it is over, as in `results.ktap`.

use std::fmt::Write;

use tdxlab_journal::journal::{Event, PlanId};

use super::build::Builder;
use super::ends::RunEnd;
use super::ktap::render_scenario;
use super::model::VerdictCounts;

/// Events to lines of KTAP.
#[derive(Default)]
pub struct KtapStream {
    builder: Builder,
    /// Plans that have no result yet, with their names.
    waiting: Vec<(PlanId, String)>,
    counts: VerdictCounts,
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
        let mut out = String::new();
        match event {
            Event::PlanSkipped { plan, .. } | Event::PlanEnded { plan, .. } => {
                let is_it = |(waiting, _): &(PlanId, String)| waiting == plan;
                if let Some(place) = self.waiting.iter().position(is_it) {
                    let (plan, name) = self.waiting.remove(place);
                    self.print(&mut out, plan, &name, RunEnd::Done);
                }
            }
            Event::RunEnded {
                interrupted,
                stopped,
                ..
            } => {
                let is_bad = || self.counts.fail + self.counts.error > 0;
                let how = RunEnd::of(*interrupted, *stopped, is_bad);
                self.finish(&mut out, how);
            }
            _ => {}
        }
        out
    }

    fn print(&mut self, out: &mut String, plan: PlanId, name: &str, how: RunEnd) {
        let scenario = self.builder.scenario(plan, name, how);
        self.counts.add(scenario.verdict);
        render_scenario(out, self.counts.total(), &scenario);
    }

    /// Plans the run did not reach or finish, and the totals in kselftest's format.
    fn finish(&mut self, out: &mut String, how: RunEnd) {
        for (plan, name) in std::mem::take(&mut self.waiting) {
            self.print(out, plan, &name, how);
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
    }
}
