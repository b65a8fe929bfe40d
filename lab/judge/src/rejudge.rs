//! Judges a recorded run again, without a host: the evidence is replayed, not the machine.
//!
//! All input comes from the journal: plans, observations, witnesses. Predictions are recomputed,
//! under any design, so that a journal of a remote TDX host can be examined on a laptop. The result
//! is a new run, with a journal and reports.

use std::collections::BTreeMap;
use std::path::Path;

use miette::Diagnostic;
use tdxlab_journal::folder::{FolderError, RunFolder};
use tdxlab_journal::journal::{self, Event, Journal, JournalError, PlanId, RunStarted};
use tdxlab_journal::reader::JournalReader;
use tdxlab_journal::verdict::Verdict;
use tdxlab_journal::{Observed, REJUDGED_FACT, Sample, after_rehearsal};
use tdxlab_plan::needs::{self, HostAndDesign};
use tdxlab_plan::{Design, Expectation, HostProfile, Plan, TdxModule, WrongPlan};
use thiserror::Error;

use super::oracle::HostOracle;
use super::recorded_reads::{self, Read};
use crate::kernel_log::AllowList;
use crate::plan_judge::PlanJudge;

/// Why a run cannot be judged again.
#[derive(Debug, Error, Diagnostic)]
pub enum RejudgeError {
    /// Its journal cannot be read.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Journal(#[from] JournalError),
    /// The new run cannot be written.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Folder(#[from] FolderError),
    /// The recorded design is none that this tdxlab knows.
    #[error("the run was recorded under design `{design}`, which this tdxlab does not know")]
    #[diagnostic(
        code(judge::design),
        help("say by which design to judge it: --design D")
    )]
    Design {
        /// Name of the design.
        design: String,
    },
    /// A plan in the journal is none that could have been run.
    #[error("{plan}: the plan cannot have been run: {wrong}")]
    #[diagnostic(
        code(judge::plan),
        help("the journal was changed since tdxlab wrote it: take the original")
    )]
    Plan {
        /// Name of the plan.
        plan: String,
        /// The error in it.
        wrong: WrongPlan,
    },
}

/// Judges the run in a journal under `design` and for a TDX module, or as recorded, and leaves a new run
/// below `reports`.
pub fn rejudge(
    mut recording: JournalReader,
    design: Option<&'static Design>,
    module: Option<TdxModule>,
    allowed_log: AllowList,
    reports: &Path,
) -> Result<RunFolder, RejudgeError> {
    let mut head = recording.head().clone();
    if module.is_some() {
        head.profile = Some(HostProfile {
            module,
            ..head.profile()
        });
    }
    let design = match design.or_else(|| Design::named(&head.design)) {
        Some(design) => design,
        None => {
            return Err(RejudgeError::Design {
                design: head.design,
            });
        }
    };
    let folder = RunFolder::create(reports)?;
    let journal = folder.journal()?;
    let mut bench = Bench {
        offer: HostAndDesign {
            host: head.profile(),
            design,
        },
        allowed_log,
        journal: &journal,
        cases: BTreeMap::new(),
        verdict: Verdict::Skip,
    };
    journal.write(&Event::RunStarted(renamed(&head, design, &folder)))?;
    while let Some(line) = recording.next_line()? {
        bench.take(line.at, line.event)?;
    }
    Ok(folder)
}

fn renamed(head: &RunStarted, design: &Design, folder: &RunFolder) -> RunStarted {
    let mut facts = head.facts.clone();
    facts.push((
        REJUDGED_FACT.to_owned(),
        format!("run {}, recorded under design {}", head.run, head.design),
    ));
    RunStarted {
        version: journal::VERSION,
        tdxlab: env!("CARGO_PKG_VERSION").to_owned(),
        run: folder.name().to_owned(),
        started: folder.started().to_string(),
        command: std::env::args().collect(),
        host_reason: after_rehearsal(&facts, "recorded there".to_owned()),
        facts,
        design: design.name.to_owned(),
        // Resuming is impossible: there is no recording of the missing steps.
        merged: vec![head.run.clone()],
        ..head.clone()
    }
}

/// All plans of the run.
struct Bench<'a> {
    offer: HostAndDesign,
    allowed_log: AllowList,
    journal: &'a Journal,
    cases: BTreeMap<PlanId, Case>,
    verdict: Verdict,
}

/// State of one plan.
struct Case {
    plan: Plan,
    judge: PlanJudge<HostOracle>,
    /// The current step, and its new prediction.
    step: Option<(u32, Expectation)>,
    verdict: Verdict,
    /// Why it is not judged any further.
    closed: Option<Option<String>>,
}

impl Bench<'_> {
    fn take(&mut self, at: u64, event: Event) -> Result<(), RejudgeError> {
        match event {
            Event::RunStarted(_) => Ok(()),
            Event::PlanStarted {
                plan,
                scenario,
                body,
            } => {
                tdxlab_plan::check(&body).map_err(|wrong| RejudgeError::Plan {
                    plan: body.name.clone(),
                    wrong,
                })?;
                if let Some(need) = needs::unmet(&body, &self.offer) {
                    self.cases.remove(&plan);
                    let about = body.about;
                    return self.write(at, &Event::PlanSkipped { plan, about, need });
                }
                let case = Case::new(&body, self.offer, self.allowed_log.clone());
                self.cases.insert(plan, case);
                self.write(
                    at,
                    &Event::PlanStarted {
                        plan,
                        scenario,
                        body,
                    },
                )
            }
            Event::LinuxStarted { plan, body, .. } => {
                self.cases.remove(&plan);
                let need = "needs its Linux guest: what that showed is kept in words".to_owned();
                let about = body.about;
                self.write(at, &Event::PlanSkipped { plan, about, need })
            }
            Event::PlanSkipped { plan, .. } => {
                self.cases.remove(&plan);
                self.write(at, &event)
            }
            Event::RunEnded {
                interrupted, facts, ..
            } => {
                let verdict = self.verdict;
                self.write(
                    at,
                    &Event::RunEnded {
                        verdict,
                        interrupted,
                        facts,
                    },
                )
            }
            event => {
                let case = event.plan().and_then(|plan| self.cases.get_mut(&plan));
                let Some(case) = case else {
                    return Ok(());
                };
                let events = case.take(event);
                for event in &events {
                    if let Event::PlanEnded { verdict, .. } = event {
                        self.verdict = self.verdict.and(*verdict);
                    }
                    self.write(at, event)?;
                }
                Ok(())
            }
        }
    }

    fn write(&self, at: u64, event: &Event) -> Result<(), RejudgeError> {
        Ok(self.journal.write_at(at, event)?)
    }
}

impl Case {
    fn new(plan: &Plan, offer: HostAndDesign, allowed_log: AllowList) -> Case {
        Case {
            plan: plan.clone(),
            judge: PlanJudge::new(
                HostOracle::of_plan(offer.host, offer.design, plan),
                &plan.guest,
                allowed_log,
            ),
            step: None,
            verdict: Verdict::Pass,
            closed: None,
        }
    }

    /// The events that replace a recorded event.
    fn take(&mut self, event: Event) -> Vec<Event> {
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
                // A step that was begun and not observed is where the host gave up.
                let reason = match self.closed.take() {
                    Some(closed) => closed,
                    None => reason,
                };
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
                self.verdict = self.verdict.and(control.judgement.verdict);
                if let Some(reason) = control.reason() {
                    self.closed = Some(Some(format!("positive control: {reason}")));
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
                std::iter::once(observed).chain(judged).collect()
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

    fn begin(&mut self, plan: PlanId, step: u32, recorded: Expectation) -> Vec<Event> {
        let Some(body) = self.plan.steps.get(step as usize) else {
            return Vec::new();
        };
        let number = u64::from(step) + 1;
        match self.judge.expect(&body.action) {
            Ok(mut expected) => {
                match recorded_reads::adapt(&mut expected, &recorded) {
                    Read::Alike => {}
                    Read::Untouched(range) => {
                        self.closed = Some(Some(format!(
                            "step {number}: under this design the guest had to find {range} gone, \
                             and it was not asked to look there"
                        )));
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
                self.closed = Some(Some(format!("step {number}: nobody can foresee it: {why}")));
                Vec::new()
            }
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
        let (begun, expected) = self.step.take()?;
        let action = &self.plan.steps.get(step as usize)?.action;
        if begun != step {
            return None;
        }
        let judgement = self.judge.step(action, &expected, observed, sample)?;
        self.verdict = self.verdict.and(judgement.verdict);
        let dead = observed.iter().flatten().any(|one| one.death.is_some());
        if judgement.verdict == Verdict::Error {
            self.closed = Some(Some(format!("step {} could not be judged", step + 1)));
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
