//! One plan of a recorded run, judged again event by event.
//!
//! A verdict needs the evidence of every step: where the journal has lost some, the plan is an error that
//! names the step, and what was recorded after it is not judged.

use tdxlab_journal::journal::{Event, PlanId};
use tdxlab_journal::verdict::Verdict;
use tdxlab_journal::{Observed, Sample};
use tdxlab_plan::needs::HostAndDesign;
use tdxlab_plan::{Expectation, Plan};

use crate::kernel_log::AllowList;
use crate::oracle::HostOracle;
use crate::plan_judge::PlanJudge;
use crate::recorded_reads::{self, Read};

const NO_CONTROL: &str =
    "the positive control is not recorded, so that no step can be judged again";

/// State of one plan.
pub(super) struct Case {
    plan: Plan,
    judge: PlanJudge<HostOracle>,
    /// Whether the positive control was recorded.
    controlled: bool,
    /// The current step, and its new prediction.
    step: Option<(u32, Expectation)>,
    /// The step to come: all before it were judged.
    next: u32,
    /// Whether the TD was seen to die.
    dead: bool,
    /// Whether the end of its guest was recorded.
    guest_ended: bool,
    verdict: Verdict,
    /// Why it is not judged any further.
    closed: Option<Option<String>>,
}

impl Case {
    pub(super) fn new(plan: &Plan, offer: HostAndDesign, allowed_log: AllowList) -> Case {
        Case {
            plan: plan.clone(),
            judge: PlanJudge::new(
                HostOracle::of_plan(offer.host, offer.design, plan),
                &plan.guest,
                allowed_log,
            ),
            controlled: false,
            step: None,
            next: 0,
            dead: false,
            guest_ended: false,
            verdict: Verdict::Pass,
            closed: None,
        }
    }

    /// The events that replace a recorded event.
    pub(super) fn take(&mut self, event: Event) -> Vec<Event> {
        match event {
            Event::Booted { .. } | Event::FailedShared { .. } | Event::Confirmed { .. } => {
                vec![event]
            }
            Event::PlanEnded {
                plan,
                reason,
                micros,
                fault_reached,
                ..
            } => {
                let reason = self.why_not_whole(reason);
                if reason.is_some() {
                    self.verdict = self.verdict.and(Verdict::Error);
                }
                vec![Event::PlanEnded {
                    plan,
                    verdict: self.verdict,
                    reason,
                    micros,
                    evidence: None,
                    fault_reached,
                }]
            }
            // The end is recorded whatever preceded it.
            Event::Ended { plan, ending, .. } => {
                let judgement = self.judge.end(&ending);
                self.guest_ended = true;
                self.verdict = self.verdict.and(judgement.verdict);
                vec![Event::Ended {
                    plan,
                    ending,
                    judgement,
                }]
            }
            _ if self.closed.is_some() => Vec::new(),
            Event::Controlled {
                plan,
                before,
                after,
                observed,
                ..
            } => {
                let control = self.judge.control(&observed, &before, &after);
                self.controlled = true;
                self.verdict = self.verdict.and(control.judgement.verdict);
                if let Some(reason) = control.reason() {
                    self.close(format!("positive control: {reason}"));
                }
                vec![Event::Controlled {
                    plan,
                    before,
                    after,
                    observed,
                    judgement: control.judgement,
                    distrusted: control.distrusted,
                    map: self.judge.map(),
                }]
            }
            Event::StepStarted {
                plan,
                step,
                expected: recorded,
            } => self.begin(plan, step, recorded),
            Event::StepObserved {
                plan,
                step,
                observed,
                sample,
                interleaving,
            } => {
                let judged = self.judge_step(plan, step, &observed, sample.clone());
                let observed = Event::StepObserved {
                    plan,
                    step,
                    observed,
                    sample,
                    interleaving,
                };
                judged.map_or(Vec::new(), |judged| vec![observed, judged])
            }
            // Judged anew when the step was observed.
            Event::StepJudged { .. } => Vec::new(),
            // Of the run, or of plans that are not judged anew.
            Event::RunStarted(_)
            | Event::PlanSkipped { .. }
            | Event::PlanStarted { .. }
            | Event::LinuxStarted { .. }
            | Event::LinuxStep { .. }
            | Event::RunEnded { .. } => Vec::new(),
        }
    }

    fn close(&mut self, reason: String) {
        self.closed = Some(Some(reason));
    }

    /// Why the plan is not judged to its end: as recorded, or as found while it was judged again. A plan
    /// that came to its end must have left all that a verdict is made of.
    fn why_not_whole(&mut self, recorded: Option<String>) -> Option<String> {
        match self.closed.take() {
            Some(closed) => closed,
            // A step that was begun and not observed is where the host gave up.
            None => recorded.or_else(|| self.gap()),
        }
    }

    /// What is missing of a plan that came to its end.
    fn gap(&self) -> Option<String> {
        let left = self.plan.steps.len().saturating_sub(self.next as usize);
        if !self.controlled {
            Some(NO_CONTROL.to_owned())
        } else if left > 0 && !self.dead {
            Some(not_observed(self.next))
        } else if left > 0 && self.verdict != Verdict::Fail {
            // It was a failure under the recorded design.
            let last = self.next;
            Some(format!(
                "the TD died in step {last}, {left} steps could not be done"
            ))
        } else if !self.guest_ended {
            Some("what was left when its guest had gone is not recorded".to_owned())
        } else {
            None
        }
    }

    fn begin(&mut self, plan: PlanId, step: u32, recorded: Expectation) -> Vec<Event> {
        if let Some(why) = self.out_of_turn(step) {
            self.close(why);
            return Vec::new();
        }
        let number = u64::from(step) + 1;
        let Some(body) = self.plan.steps.get(step as usize) else {
            let all = self.plan.steps.len();
            self.close(format!("step {number} is recorded of a plan of {all}"));
            return Vec::new();
        };
        match self.judge.expect(&body.action, &body.expect) {
            Ok(mut expected) => {
                match recorded_reads::adapt(&mut expected, &recorded) {
                    Read::Alike => {}
                    Read::Untouched(range) => {
                        self.close(format!(
                            "step {number}: under this design the guest had to find {range} gone, \
                             and it was not asked to look there"
                        ));
                        return Vec::new();
                    }
                }
                let event = Event::StepStarted {
                    plan,
                    step,
                    expected: expected.clone(),
                };
                self.step = Some((step, expected));
                vec![event]
            }
            Err(why) => {
                self.close(format!("step {number}: nobody can foresee it: {why}"));
                Vec::new()
            }
        }
    }

    /// Why a step cannot begin here: what came before it is not in the journal, or it was done already.
    fn out_of_turn(&self, step: u32) -> Option<String> {
        if !self.controlled {
            return Some(NO_CONTROL.to_owned());
        }
        match (&self.step, step) {
            (Some((begun, _)), _) => Some(not_observed(*begun)),
            (None, step) if step > self.next => Some(not_observed(self.next)),
            (None, step) if step < self.next => Some(format!(
                "step {} is recorded twice, so that nobody knows which counts",
                u64::from(step) + 1
            )),
            (None, _) => None,
        }
    }

    /// The judgement of a step that was begun.
    fn judge_step(
        &mut self,
        plan: PlanId,
        step: u32,
        observed: &[Vec<Observed>],
        sample: Sample,
    ) -> Option<Event> {
        let begun = self.step.take().filter(|(begun, _)| *begun == step);
        let action = self.plan.steps.get(step as usize).map(|step| &step.action);
        let judged = begun.zip(action).and_then(|((_, expected), action)| {
            let judgement = self.judge.step(action, &expected, observed, sample)?;
            Some((expected, judgement))
        });
        let number = u64::from(step) + 1;
        let Some((expected, judgement)) = judged else {
            self.close(format!(
                "the start of step {number} is not recorded, so it cannot be judged again"
            ));
            return None;
        };
        self.next = step.saturating_add(1);
        self.verdict = self.verdict.and(judgement.verdict);
        let dead = observed.iter().flatten().any(|one| one.death.is_some());
        self.dead |= dead;
        if judgement.verdict == Verdict::Error {
            self.close(format!("step {number} could not be judged"));
        } else if !expected.td_alive && !dead {
            // Later events cannot be predicted: under this design the TD was dead.
            self.closed = Some(None);
        }
        Some(Event::StepJudged {
            plan,
            step,
            judgement,
            map: self.judge.map(),
        })
    }
}

fn not_observed(step: u32) -> String {
    let number = u64::from(step) + 1;
    format!("step {number} was not observed, so it cannot be judged again")
}
