//! A guest, its predictor and its judge, without files and journal. Goes through a plan as a run does, in
//! the same order: a plan that fails here fails there.

use std::collections::BTreeMap;
use std::mem::Discriminant;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::time::Duration;

use tdxlab_host::{BootOptions, Host, HostError, Session};
use tdxlab_journal::interleaving::Interleaving;
use tdxlab_journal::{Judgement, Verdict, Witness};
use tdxlab_judge::{AllowList, HostOracle, PlanJudge};
use tdxlab_plan::{Action, ConversionHoles, Design, Expect, Guest, Plan, Races};
use tdxlab_predict::Predictor;
use tdxlab_run::{PANICKED, perform};

/// Timeout of a single operation of a random plan on software hosts.
const PATIENCE: Duration = Duration::from_secs(20);

/// The order in which races took turns, by step.
pub type Orders = BTreeMap<u32, Interleaving>;

/// A booted guest, its predictor and its judge.
pub struct Harness {
    session: Box<dyn Session>,
    judge: PlanJudge<HostOracle>,
    seed: u64,
    steps: u32,
    orders: Orders,
    holes: ConversionHoles,
}

/// Result of a step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stepped {
    /// It cannot be predicted; it was not done.
    Refused,
    /// As predicted; whether the TD lives on.
    Passed {
        /// Whether the TD lives.
        alive: bool,
    },
    /// It differs from the prediction.
    Failed(Failure),
}

/// What failed. Failures of two kinds are never the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// A step, by its judgement.
    Step,
    /// The end of the guest, by what it left.
    End,
    /// The host, which could not do a step or the end: with this kind of error.
    Host(Discriminant<HostError>),
    /// The memory of a plan, which was put back and is not empty.
    Memory,
    /// The lab itself.
    Lab,
    /// The guest was not there at all. That is the machine's, whatever the plan.
    Boot,
}

/// How a plan failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// What failed.
    pub part: Part,
    /// The step, from 0; as many as there were steps for the end of the guest.
    pub step: usize,
    /// `fail` or `error`.
    pub verdict: Verdict,
    /// Witnesses of the findings, in order.
    pub witnesses: Vec<Witness>,
    /// Text of the first finding.
    pub text: String,
    /// The order in which races took turns up to there, where the host recorded it; steps from 0.
    pub orders: Orders,
}

impl Failure {
    /// An error that no judgement is behind.
    pub(super) fn error(part: Part, step: usize, text: String) -> Failure {
        Failure {
            part,
            step,
            verdict: Verdict::Error,
            witnesses: Vec::new(),
            text,
            orders: Orders::new(),
        }
    }

    /// The lab panicked at it.
    pub(super) fn panicked(step: usize) -> Failure {
        Failure::error(Part::Lab, step, PANICKED.to_owned())
    }

    fn of_host(step: usize, error: &HostError) -> Failure {
        let part = Part::Host(std::mem::discriminant(error));
        Failure::error(part, step, error.to_string())
    }

    fn judged(part: Part, step: usize, judgement: &Judgement) -> Failure {
        let mut witnesses: Vec<Witness> = Vec::new();
        for finding in &judgement.findings {
            if !witnesses.contains(&finding.witness) {
                witnesses.push(finding.witness);
            }
        }
        let first = judgement.findings.first();
        Failure {
            part,
            step,
            verdict: judgement.verdict,
            witnesses,
            text: first.map_or("nobody could judge it".to_owned(), ToString::to_string),
            orders: Orders::new(),
        }
    }

    /// Whether it is the same failure as `other`: the same verdict, of the same part, and the first
    /// witness of `other` is among its witnesses.
    pub fn is_like(&self, other: &Failure) -> bool {
        self.verdict == other.verdict
            && self.part == other.part
            && self.part != Part::Boot
            && match other.witnesses.first() {
                Some(witness) => self.witnesses.contains(witness),
                None => self.witnesses.is_empty(),
            }
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.part {
            Part::Boot => write!(f, "{} before the first step", self.verdict)?,
            Part::End => write!(f, "{} at the end of the guest", self.verdict)?,
            _ => write!(f, "{} in step {}", self.verdict, self.step + 1)?,
        }
        write!(f, ": {}", self.text)
    }
}

impl Harness {
    /// Boots a guest and does the positive control, which is where a run begins.
    ///
    /// # Errors
    ///
    /// It cannot be booted, or no counter counts.
    pub fn boot(
        host: &dyn Host,
        design: &Design,
        guest: &Guest,
        seed: u64,
        folder: &Path,
    ) -> Result<Harness, HostError> {
        let options = BootOptions {
            design: design.name.to_owned(),
            module: None,
            seed,
            folder: folder.to_owned(),
            patience: match host.profile().races {
                Races::Drawn => PATIENCE,
                Races::Started => tdxlab_run::PATIENCE,
            },
            fresh: true,
        };
        let mut session = host.boot(guest, &options)?;
        let profile = host.profile();
        let oracle = HostOracle::new(profile, design, guest, None);
        let mut judge = PlanJudge::new(oracle, guest, AllowList::default());
        let done = perform::control(session.as_mut(), guest, &mut judge)?;
        let wrong = done.control.judgement.findings.first();
        // A seeded fault may show already here, and is found out by the steps.
        let wrong = wrong.filter(|_| host.fault().is_none());
        if let Some(reason) = done.control.reason().or(wrong.map(ToString::to_string)) {
            return Err(HostError::NotUsable {
                host: host.kind(),
                reason: format!("positive control: {reason}"),
                advice: "see `tdxlab doctor`".to_owned(),
            });
        }
        // The VMM of a software host outlives what it is refused.
        let holes = match profile.kind.is_software() {
            true => ConversionHoles::default(),
            false => ConversionHoles::of(design),
        };
        Ok(Harness::new(session, judge, seed, holes))
    }

    fn new(
        session: Box<dyn Session>,
        judge: PlanJudge<HostOracle>,
        seed: u64,
        holes: ConversionHoles,
    ) -> Harness {
        Harness {
            session,
            judge,
            seed,
            steps: 0,
            orders: Orders::new(),
            holes,
        }
    }

    /// The guest, for operations that are not judged.
    pub fn session(&mut self) -> &mut dyn Session {
        self.session.as_mut()
    }

    /// From the next step on, steps count from 0 again and races are drawn from another seed.
    pub fn begin(&mut self, seed: u64) {
        self.seed = seed;
        self.steps = 0;
    }

    /// The predictor, with the expected state of memory.
    pub fn predictor(&self) -> &Predictor {
        self.judge.oracle().predictor()
    }

    /// Steps done so far.
    pub fn steps(&self) -> u32 {
        self.steps
    }

    /// The order in which races took turns so far, where the host recorded it; steps count from 0.
    pub fn orders(&self) -> &Orders {
        &self.orders
    }

    /// Does one step and judges it.
    pub fn step(&mut self, action: &Action) -> Stepped {
        let step = self.steps as usize;
        match self.judge(action) {
            Ok(None) => Stepped::Refused,
            Ok(Some((judgement, alive))) => match judgement.verdict {
                Verdict::Pass => Stepped::Passed { alive },
                _ => Stepped::Failed(Failure::judged(Part::Step, step, &judgement)),
            },
            Err(error) => Stepped::Failed(Failure::of_host(step, &error)),
        }
    }

    /// Does one step and returns the judgement, and whether the TD had to live on; `None` if the
    /// step cannot be predicted and was not done.
    ///
    /// # Errors
    ///
    /// The host could not do it.
    pub fn judge(&mut self, action: &Action) -> Result<Option<(Judgement, bool)>, HostError> {
        // The predictor takes what it foresees for done, so that it comes last.
        let mut holes = self.holes.clone();
        if !action.ops().all(|op| holes.allow(op)) {
            return Ok(None);
        }
        let Ok(expected) = self.judge.expect(action, &Expect::default()) else {
            return Ok(None);
        };
        self.holes = holes;
        let step = self.steps;
        self.steps += 1;
        let session = self.session.as_mut();
        let done = perform::step(session, action, &expected, (self.seed, step), None)?;
        self.orders
            .extend(done.interleaving.map(|order| (step, order)));
        let after = self.session.sample();
        let judgement = self.judge.step(action, &expected, &done.observed, after);
        Ok(judgement.map(|judgement| (judgement, expected.td_alive)))
    }

    /// Ends the guest; returns a failure found in the teardown.
    pub fn end(self) -> Option<Failure> {
        let after = self.steps as usize;
        let failure = match self.session.end() {
            Ok(ending) => {
                let judgement = self.judge.end(&ending);
                if judgement.verdict == Verdict::Pass {
                    return None;
                }
                Failure::judged(Part::End, after, &judgement)
            }
            Err(error) => Failure::of_host(after, &error),
        };
        Some(Failure {
            orders: self.orders,
            ..failure
        })
    }
}

/// Runs a plan in a new guest; returns its failure, if any. A plan that cannot be predicted, or
/// that continues after the TD's death, does not fail. Races follow `orders` if given and supported
/// by the host.
pub fn attempt(
    host: &dyn Host,
    design: &Design,
    plan: &Plan,
    orders: &Orders,
    folder: &Path,
) -> Option<Failure> {
    let tried = catch_unwind(AssertUnwindSafe(|| {
        let mut bench = match Harness::boot(host, design, &plan.guest, plan.seed, folder) {
            Ok(bench) => bench,
            Err(error) => return Some(Failure::error(Part::Boot, 0, error.to_string())),
        };
        for (step, index) in plan.steps.iter().zip(0..) {
            if let Some(order) = orders.get(&index) {
                bench.session.follow(order);
            }
            match bench.step(&step.action) {
                Stepped::Passed { alive: true } => {}
                // The end of a guest that was killed is judged like any other.
                Stepped::Passed { alive: false } if bench.steps as usize == plan.steps.len() => {}
                Stepped::Passed { alive: false } | Stepped::Refused => return None,
                Stepped::Failed(failure) => {
                    let orders = std::mem::take(&mut bench.orders);
                    return Some(Failure { orders, ..failure });
                }
            }
        }
        bench.end()
    }));
    tried.unwrap_or_else(|_| Some(Failure::panicked(plan.steps.len().saturating_sub(1))))
}

#[cfg(test)]
mod tests {
    use tdxlab_host_soft::sim::SimHost;
    use tdxlab_plan::addr::{GpaRange, PageLevel};
    use tdxlab_plan::{AccessKind, LOW_BASE, OnVe, Op, Side, Size, VcpuId};

    use super::*;

    /// The predictor must not take a conversion for done that is not.
    #[test]
    fn a_step_that_would_end_the_vmm_is_not_done_and_changes_nothing() {
        let design = Design::named("v5-attributes").unwrap();
        let memory = GpaRange::with_len(LOW_BASE, 4 * PageLevel::Size2M.bytes()).unwrap();
        let guest = Guest::over(memory);
        let host = SimHost::in_memory();
        let mut bench = Harness::boot(&host, design, &guest, 1, Path::new("/tmp")).unwrap();
        bench.holes = ConversionHoles::of(design);
        let vcpu = VcpuId(0);
        // KVM_EXIT_MEMORY_FAULT, on which the VMM converts the page.
        let touch = Op::Touch {
            range: LOW_BASE.page(PageLevel::Size4K),
            stride: PageLevel::Size4K,
            access: AccessKind::Write,
            side: Side::Shared,
            on_ve: OnVe::Skip,
            same_rip: false,
            vcpu,
        };
        assert_eq!(bench.step(&Action::One(touch)), Stepped::Refused);
        let accept = Op::Accept {
            range: LOW_BASE.page(PageLevel::Size2M),
            size: Size::Size2M,
            vcpu,
        };
        let passed = Stepped::Passed { alive: true };
        assert_eq!(bench.step(&Action::One(accept)), passed);
    }

    #[test]
    fn failures_of_two_kinds_are_never_the_same() {
        let error = |waited| HostError::GuestSilent {
            doing: "a step".to_owned(),
            waited: Duration::from_secs(waited),
        };
        let silent = Failure::of_host(3, &error(1));
        assert!(silent.is_like(&Failure::of_host(0, &error(2))));
        assert!(!silent.is_like(&Failure::of_host(3, &HostError::Interrupted)));
        assert!(!silent.is_like(&Failure::panicked(3)));
        let boot = || Failure::error(Part::Boot, 0, "no QEMU".to_owned());
        assert!(!silent.is_like(&boot()) && !boot().is_like(&boot()));
    }
}
