//! Judges a recorded run again, without a host: the evidence is replayed, not the machine.
//!
//! All input comes from the journal: plans, observations, witnesses. Predictions are recomputed,
//! under any design, so that a journal of a remote TDX host can be examined on a laptop. The result
//! is a new run, with a journal and reports.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use miette::Diagnostic;
use tdxlab_journal::as_text::command_line;
use tdxlab_journal::folder::{FolderError, RunFolder};
use tdxlab_journal::journal::{self, Event, JournalError, PlanId, RunStarted};
use tdxlab_journal::reader::JournalReader;
use tdxlab_journal::verdict::Verdict;
use tdxlab_journal::{REJUDGED_FACT, after_rehearsal};
use tdxlab_plan::needs::{self, HostAndDesign};
use tdxlab_plan::{Design, HostProfile, Plan, TdxModule, WrongPlan};
use thiserror::Error;

use crate::kernel_log::AllowList;
use crate::recorded_case::Case;

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
    head.allowed_log = allowed_log.texts().to_vec();
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
    let offer = HostAndDesign {
        host: head.profile(),
        design,
    };
    let mut bench = Bench::new(&head, offer, allowed_log);
    let journal = folder.begin(renamed(&head, design, &folder))?;
    while let Some(line) = recording.next_line()? {
        for event in bench.take(line.event)? {
            journal.write_at(line.at, &event)?;
        }
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
        command: command_line(),
        host_reason: after_rehearsal(&facts, "recorded there".to_owned()),
        facts,
        design: design.name.to_owned(),
        // Resuming is impossible: there is no recording of the missing steps.
        merged: vec![head.run.clone()],
        ..head.clone()
    }
}

/// All plans of the run.
pub(super) struct Bench {
    offer: HostAndDesign,
    allowed_log: AllowList,
    /// Plans that were started; `None` for those that are not judged again.
    cases: BTreeMap<PlanId, Option<Case>>,
    verdict: Verdict,
    /// Whether the recorded run had to stop at a plan that did not pass.
    is_fail_fast: bool,
    /// Whether there was such a plan.
    is_bad: bool,
}

impl Bench {
    pub(super) fn new(head: &RunStarted, offer: HostAndDesign, allowed_log: AllowList) -> Bench {
        Bench {
            offer,
            allowed_log,
            cases: BTreeMap::new(),
            verdict: Verdict::Skip,
            is_fail_fast: head.is_fail_fast(),
            // The run it was judged from may have had one that passes now.
            is_bad: head.is_rejudged(),
        }
    }

    /// The events that replace a recorded event.
    pub(super) fn take(&mut self, event: Event) -> Result<Vec<Event>, RejudgeError> {
        if let Event::PlanEnded { verdict, .. } = event {
            self.is_bad |= matches!(verdict, Verdict::Fail | Verdict::Error);
        }
        let events = match event {
            Event::RunStarted(_) => Vec::new(),
            Event::PlanStarted {
                plan,
                scenario,
                body,
            } => vec![self.start(plan, scenario, body)?],
            Event::LinuxStarted { plan, body, .. } => {
                let need = "needs its Linux guest: what that showed is kept in words".to_owned();
                let about = body.about;
                vec![self.skip(plan, about, need)]
            }
            Event::PlanSkipped { plan, about, need } => vec![self.skip(plan, about, need)],
            Event::RunEnded {
                interrupted,
                stopped,
                facts,
                ..
            } => vec![Event::RunEnded {
                verdict: self.verdict,
                interrupted,
                stopped: (stopped || self.is_fail_fast) && self.is_bad,
                facts,
            }],
            event => match event.plan().map(|plan| self.cases.get_mut(&plan)) {
                Some(Some(Some(case))) => case.take(event),
                Some(Some(None)) => Vec::new(),
                Some(None) | None => without_start(event).into_iter().collect(),
            },
        };
        for event in &events {
            if let Event::PlanEnded { verdict, .. } = event {
                self.verdict = self.verdict.and(*verdict);
            }
        }
        Ok(events)
    }

    fn start(
        &mut self,
        plan: PlanId,
        scenario: Option<PathBuf>,
        body: Plan,
    ) -> Result<Event, RejudgeError> {
        tdxlab_plan::check(&body).map_err(|wrong| RejudgeError::Plan {
            plan: body.name.clone(),
            wrong,
        })?;
        if let Some(need) = needs::unmet(&body, &self.offer) {
            return Ok(self.skip(plan, body.about, need));
        }
        let case = Case::new(&body, self.offer, self.allowed_log.clone());
        self.cases.insert(plan, Some(case));
        Ok(Event::PlanStarted {
            plan,
            scenario,
            body,
        })
    }

    fn skip(&mut self, plan: PlanId, about: String, need: String) -> Event {
        self.cases.insert(plan, None);
        Event::PlanSkipped { plan, about, need }
    }
}

/// What replaces an event of a plan that was never started: nothing of it can be judged. At its end that is
/// said, unless the lab panicked before the start, which has its own reason.
fn without_start(event: Event) -> Option<Event> {
    let Event::PlanEnded {
        plan,
        reason,
        micros,
        fault_reached,
        ..
    } = event
    else {
        return None;
    };
    let why = || "it has an end and no start in the journal".to_owned();
    Some(Event::PlanEnded {
        plan,
        verdict: Verdict::Error,
        reason: Some(reason.unwrap_or_else(why)),
        micros,
        evidence: None,
        fault_reached,
    })
}
