//! Runs one plan on one guest: control, steps, evidence.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use tdxlab_host::{BootOptions, HostError, Session};
use tdxlab_journal::folder::{FolderError, RunFolder, write_whole};
use tdxlab_journal::interleaving::Interleaving;
use tdxlab_journal::journal::{Event, JournalError, PlanId};
use tdxlab_journal::replay::{self, Replay, ReplayOrigin, Signature};
use tdxlab_journal::verdict::Verdict;
use tdxlab_journal::{Ending, Observed, Sample, klog};
use tdxlab_judge::PlanJudge;
use tdxlab_judge::oracle::Oracle;
use tdxlab_plan::{Action, Expectation, MemoryMap, Plan, needs};

use super::context::{RunContext, TestCase};
use super::hooks::StepContext;
use super::outcome::{Outcome, micros, with_help};
use super::perform;
use super::sink::skip;

/// Why a plan could not be judged to the end.
pub(super) enum Stop {
    /// The host or the lab could not do its part.
    Reason(String),
    /// The journal cannot be written.
    Journal(JournalError),
}

impl From<JournalError> for Stop {
    fn from(error: JournalError) -> Stop {
        Stop::Journal(error)
    }
}

impl From<HostError> for Stop {
    fn from(error: HostError) -> Stop {
        Stop::Reason(with_help(&error))
    }
}

impl From<FolderError> for Stop {
    fn from(error: FolderError) -> Stop {
        Stop::Reason(error.to_string())
    }
}

impl RunContext<'_> {
    /// Runs a plan in a guest of its own, or skips it if a need is not met. Any failure is an outcome;
    /// an error means that it could not be recorded.
    ///
    /// If not `fresh`, the QEMU may be one that had guests before. What does not pass there is run
    /// again in a new one, and the results there count.
    pub fn execute(
        &self,
        worker: usize,
        id: PlanId,
        item: &TestCase,
        fresh: bool,
    ) -> Result<Outcome, JournalError> {
        let started = Instant::now();
        let plan = &item.plan;
        let unmet = needs::unmet(plan, &self.offer).or_else(|| self.host.unmet(&plan.guest));
        if let Some(need) = unmet {
            return skip(self.journal, id, &plan.about, need, started.elapsed());
        }
        self.begin(worker, id, item)?;
        let mut plan_run = PlanRun::new(self, worker, id, plan);
        let reason = match plan_run.run(fresh) {
            Ok(()) => None,
            Err(Stop::Reason(reason)) => Some(reason),
            Err(Stop::Journal(error)) => return Err(error),
        };
        // A failure that was seen stays one. Anything else that an interrupt cuts off is left
        // without an end in the journal, so that `--resume` runs it again.
        let interrupted =
            reason.is_some() && self.interrupt.is_raised() && plan_run.verdict != Verdict::Fail;
        if interrupted {
            let _ = fs::remove_dir_all(plan_run.path());
            return Ok(Outcome {
                verdict: Verdict::Error,
                reason,
                took: started.elapsed(),
                interrupted,
                fault_reached: plan_run.fault_reached,
            });
        }
        if reason.is_some() {
            plan_run.verdict = plan_run.verdict.and(Verdict::Error);
        }
        if !fresh && plan_run.is_suspect(plan_run.verdict) {
            let outcome = self.execute(worker, id, item, true)?;
            self.journal.write(&Event::FailedShared {
                plan: id,
                guest: None,
                verdict: plan_run.verdict,
                why: plan_run.why(reason.as_deref()),
            })?;
            return Ok(outcome);
        }
        let evidence = plan_run.tidy();
        let outcome = Outcome {
            verdict: plan_run.verdict,
            reason,
            took: started.elapsed(),
            interrupted,
            fault_reached: plan_run.fault_reached,
        };
        self.journal.write(&Event::PlanEnded {
            plan: id,
            verdict: outcome.verdict,
            reason: outcome.reason.clone(),
            micros: micros(outcome.took),
            evidence,
            fault_reached: outcome.fault_reached,
        })?;
        Ok(outcome)
    }
}

/// One plan on its way.
pub(super) struct PlanRun<'a> {
    lab: &'a RunContext<'a>,
    worker: usize,
    id: PlanId,
    plan: &'a Plan,
    pub(super) verdict: Verdict,
    /// Witnesses before and after each step, as text for people.
    samples: String,
    /// The order of steps that raced.
    orders: BTreeMap<u32, Interleaving>,
    /// Its failure, if any.
    pub(super) signature: Signature,
    /// Whether a seeded fault has made the host do anything otherwise.
    pub(super) fault_reached: Option<bool>,
    /// Whether the TD has died.
    pub(super) dead: bool,
    /// Guests that its QEMU had before.
    guests_before: u32,
    /// Relative to the run's folder.
    folder: PathBuf,
}

impl<'a> PlanRun<'a> {
    /// Before its guest boots.
    pub(super) fn new(
        lab: &'a RunContext<'a>,
        worker: usize,
        id: PlanId,
        plan: &'a Plan,
    ) -> PlanRun<'a> {
        PlanRun {
            lab,
            worker,
            id,
            plan,
            verdict: Verdict::Pass,
            samples: String::new(),
            orders: BTreeMap::new(),
            signature: Signature::passing(),
            fault_reached: None,
            dead: false,
            guests_before: 0,
            folder: RunFolder::of_plan(id, &plan.name),
        }
    }

    /// The judge of its steps.
    pub(super) fn judge(&self) -> PlanJudge<Box<dyn Oracle>> {
        PlanJudge::new(
            (self.lab.oracle)(self.plan),
            &self.plan.guest,
            self.lab.allowed_log.clone(),
        )
    }
}

impl PlanRun<'_> {
    /// Why it did not pass, in words; `reason` if it was not judged to the end.
    pub(super) fn why(&self, reason: Option<&str>) -> String {
        if let Some(reason) = reason {
            return reason.to_owned();
        }
        let Signature {
            step, witnesses, ..
        } = &self.signature;
        let who: Vec<&str> = witnesses.iter().map(|witness| witness.name()).collect();
        match step {
            Some(step) => format!("step {step}, {}", who.join(", ")),
            None => who.join(", "),
        }
    }

    /// Whether a verdict may come from what earlier guests left in the QEMU.
    fn is_suspect(&self, verdict: Verdict) -> bool {
        self.guests_before > 0 && verdict != Verdict::Pass
    }

    fn run(&mut self, fresh: bool) -> Result<(), Stop> {
        let folder = self.path();
        // An earlier runner that was killed may have left this folder.
        if folder.exists() {
            let _ = fs::remove_dir_all(&folder);
        }
        if self.lab.host.keeps_files() {
            fs::create_dir_all(&folder).map_err(|source| FolderError::Write {
                path: folder.clone(),
                source,
            })?;
        }
        let mut judge = self.judge();
        let booting = Instant::now();
        let mut session = self.lab.host.boot(
            &self.plan.guest,
            &BootOptions {
                design: self.lab.offer.design.name.to_owned(),
                module: self.plan.needs.module,
                seed: self.plan.seed,
                folder,
                patience: self.lab.patience,
                fresh,
            },
        )?;
        self.guests_before = session.guests_before();
        let judged = self
            .booted(booting.elapsed())
            .and_then(|()| self.judge_all(session.as_mut(), &mut judge));
        let so_far = match &judged {
            Ok(()) => self.verdict,
            Err(_) => self.verdict.and(Verdict::Error),
        };
        // A suspect leaves its evidence when it is run again.
        let counts = !self.is_suspect(so_far);
        if counts && self.lab.keep.keeps(so_far) {
            self.leave_evidence(session.as_mut());
        }
        if counts && so_far != Verdict::Pass && !self.lab.interrupt.is_raised() {
            let folder = self.path();
            self.lab.hooks.failed(self.plan, &folder, session.as_mut());
        }
        self.fault_reached = session.fault_reached();
        let ending = session.end().map_err(Stop::from);
        let killed = ending.as_ref().ok().and_then(killed_for_memory);
        let ended = ending.and_then(|ending| self.judge_end(&judge, ending));
        match (judged, killed) {
            (Err(Stop::Reason(reason)), Some(line)) => {
                Err(Stop::Reason(format!("{reason}; the kernel said: {line}")))
            }
            (judged, _) => judged.and(ended),
        }
    }

    /// Judges the teardown of the guest: a plan whose steps all passed may still fail.
    fn judge_end(
        &mut self,
        judge: &PlanJudge<Box<dyn Oracle>>,
        ending: Ending,
    ) -> Result<(), Stop> {
        let judgement = judge.end(&ending);
        self.verdict = self.verdict.and(judgement.verdict);
        self.signature.add_end(self.plan, &judgement);
        // Where there is a fault, what the end shows is its doing; it was asked before the end.
        if judgement.verdict == Verdict::Fail {
            self.fault_reached = self.fault_reached.map(|_| true);
        }
        if judgement.verdict != Verdict::Pass {
            let text = serde_json::to_string_pretty(&ending).unwrap_or_default();
            let _ = writeln!(self.samples, "# after the end\n{text}");
        }
        let event = Event::Ended {
            plan: self.id,
            ending,
            judgement,
        };
        Ok(self.lab.journal.write(&event)?)
    }

    fn booted(&self, took: Duration) -> Result<(), Stop> {
        Ok(self.lab.journal.write(&Event::Booted {
            plan: self.id,
            micros: micros(took),
            shared: None,
            guests_before: self.guests_before,
        })?)
    }

    /// The positive control, and all steps.
    pub(super) fn judge_all(
        &mut self,
        session: &mut dyn Session,
        judge: &mut PlanJudge<Box<dyn Oracle>>,
    ) -> Result<(), Stop> {
        let mut map = judge.map();
        self.control(session, judge, map.clone())?;
        for (number, step) in self.plan.steps.iter().enumerate() {
            if self.lab.interrupt.is_raised() {
                return Err(HostError::Interrupted.into());
            }
            let index = u32::try_from(number).unwrap_or(u32::MAX);
            let expected = judge.expect(&step.action, &step.expect).map_err(|why| {
                Stop::Reason(format!("step {}: nobody can foresee it: {why}", number + 1))
            })?;
            if let Some(sample) = judge.before() {
                self.lab.hooks.before_step(&StepContext {
                    plan: self.plan,
                    step: number,
                    expected: &expected,
                    map: &map,
                    sample,
                });
            }
            if self.lab.interrupt.is_raised() {
                return Err(HostError::Interrupted.into());
            }
            self.lab.watcher.step_started(self.worker, number);
            self.lab.journal.write(&Event::StepStarted {
                plan: self.id,
                step: index,
                expected: expected.clone(),
            })?;
            let (observed, after) = self.perform(session, &step.action, &expected, index)?;
            let judgement = judge.step(&step.action, &expected, &observed, after);
            let judgement = judgement.expect("the positive control came first");
            if let Some(sample) = judge.before() {
                self.note(&format!("after step {}", number + 1), sample);
            }
            self.verdict = self.verdict.and(judgement.verdict);
            self.signature.add(index, &judgement);
            self.lab.hooks.judged(self.plan, number, &judgement);
            let cannot_go_on = judgement.verdict == Verdict::Error;
            map = judge.map();
            self.lab.journal.write(&Event::StepJudged {
                plan: self.id,
                step: index,
                judgement,
                map: map.clone(),
            })?;
            if cannot_go_on {
                return Err(Stop::Reason(format!(
                    "step {} could not be judged",
                    number + 1
                )));
            }
            if observed.iter().flatten().any(|o| o.death.is_some()) {
                self.dead = true;
                return self.after_death(number);
            }
        }
        Ok(())
    }

    fn control(
        &mut self,
        session: &mut dyn Session,
        judge: &mut PlanJudge<Box<dyn Oracle>>,
        map: MemoryMap,
    ) -> Result<(), Stop> {
        let done = perform::control(session, &self.plan.guest, judge)?;
        self.note("before the positive control", &done.before);
        self.note("after the positive control", &done.after);
        self.verdict = self.verdict.and(done.control.judgement.verdict);
        let dead = done.observed.death.is_some();
        let reason = done.control.reason();
        self.lab.journal.write(&Event::Controlled {
            plan: self.id,
            before: done.before,
            after: done.after,
            observed: done.observed,
            judgement: done.control.judgement,
            distrusted: done.control.distrusted,
            map,
        })?;
        match reason {
            Some(reason) => Err(Stop::Reason(format!("positive control: {reason}"))),
            None if dead => Err(Stop::Reason(
                "positive control: the TD died before the first step".to_owned(),
            )),
            None => Ok(()),
        }
    }

    /// Does a step and records its results.
    fn perform(
        &mut self,
        session: &mut dyn Session,
        action: &Action,
        expected: &Expectation,
        step: u32,
    ) -> Result<(Vec<Vec<Observed>>, Sample), Stop> {
        let order = self.lab.hooks.order(self.id, step as usize);
        let seed = (self.plan.seed, step);
        let performed = perform::step(session, action, expected, seed, order)?;
        let interleaving = performed.interleaving.clone();
        self.orders.extend(interleaving.map(|order| (step, order)));
        let event = Event::StepObserved {
            plan: self.id,
            step,
            observed: performed.observed,
            sample: session.sample(),
            interleaving: performed.interleaving,
        };
        self.lab.journal.write(&event)?;
        match event {
            Event::StepObserved {
                observed, sample, ..
            } => Ok((observed, sample)),
            _ => unreachable!("made above"),
        }
    }

    /// A TD that died does no further steps.
    fn after_death(&self, step: usize) -> Result<(), Stop> {
        let left = self.plan.steps.len() - (step + 1);
        if left == 0 || self.verdict == Verdict::Fail {
            return Ok(());
        }
        Err(Stop::Reason(format!(
            "the TD died in step {}, {left} steps could not be done",
            step + 1
        )))
    }

    fn note(&mut self, when: &str, sample: &Sample) {
        let text = serde_json::to_string_pretty(sample).unwrap_or_default();
        let _ = writeln!(self.samples, "# {when}\n{text}");
    }

    fn path(&self) -> PathBuf {
        self.lab.folder.path().join(&self.folder)
    }

    /// Writes the evidence. A failure to write does not change the verdict.
    fn leave_evidence(&self, session: &mut dyn Session) {
        let folder = self.path();
        let _ = fs::create_dir_all(&folder);
        for (name, content) in session.evidence() {
            // Names are the host's: only the last component is used.
            if let Some(name) = Path::new(&name).file_name() {
                let _ = write_whole(&folder.join(name), &content);
            }
        }
    }

    /// Removes the plan's folder, or completes it if it holds evidence. Returns its path in that
    /// case.
    fn tidy(&self) -> Option<PathBuf> {
        let folder = self.path();
        if !self.lab.keep.keeps(self.verdict) {
            if folder.exists() {
                let _ = fs::remove_dir_all(&folder);
            }
            return None;
        }
        let _ = fs::create_dir_all(&folder);
        let _ = write_whole(&folder.join(replay::FILE), &self.replay().to_text());
        if !self.samples.is_empty() {
            let _ = write_whole(&folder.join("samples.txt"), self.samples.as_bytes());
        }
        Some(self.folder.clone())
    }
}

impl PlanRun<'_> {
    /// The plan as it was run, to be run again.
    fn replay(&self) -> Replay {
        Replay {
            recorded: Some(ReplayOrigin {
                tdxlab: env!("CARGO_PKG_VERSION").to_owned(),
                run: self.lab.folder.name().to_owned(),
                host: self.lab.host.kind(),
                design: self.lab.offer.design.name.to_owned(),
                module: self.lab.offer.host.module,
                fault: self.lab.host.fault().map(|fault| fault.name),
                allowed_log: self.lab.allowed_log.texts().to_vec(),
                ended: Some(Signature {
                    verdict: self.verdict,
                    ..self.signature.clone()
                }),
            }),
            plan: self.plan.clone(),
            orders: self.orders.clone(),
        }
    }
}

/// The kernel's line about a QEMU that it ended for want of memory.
fn killed_for_memory(ending: &Ending) -> Option<String> {
    let lines = ending.kernel_log.left()?;
    let of_qemu = |line: &&String| line.contains("(qemu") && klog::oom_victim(line).is_some();
    lines.iter().find(of_qemu).cloned()
}
