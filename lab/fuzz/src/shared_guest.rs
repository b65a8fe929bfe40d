//! Many plans in one guest, since booting takes longer than most plans.
//!
//! In a TD each has a window of memory, reset by converting all of it to shared and back, and a
//! hole. In a plain VM all use the same memory, reset by a hole. Now and then a TD is special
//! (slots, an initial image, a gigabyte) and runs one plan.

use std::ops::ControlFlow;
use std::path::Path;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tdxlab_host::{Host, HostError};
use tdxlab_plan::addr::{Gpa, GpaRange, PageLevel};
use tdxlab_plan::{
    Action, Backing, Design, Guest, HostProfile, LOW_BASE, Op, Plan, Side, Step, VcpuId,
};
use tdxlab_predict::{Baseline, Predictor};

use super::coverage::Coverage;
use super::coverage_model::CoverageModel;
use super::draw::Draw;
use super::harness::{Failure, Harness, Orders, Part, Stepped};
use super::plain::PlainDraw;
use super::reductions::rebase;
use super::steps::{plan, step};

/// Memory of one plan.
const WINDOW: u64 = 4 * PageLevel::Size2M.bytes();

/// Plans in one TD.
const WINDOWS: u64 = 64;

/// Plans in one plain VM, so that the next soon has other pages behind its memory.
const PLAIN_PLANS: u64 = 16;

/// One TD in so many is special.
const SPECIAL_EVERY: u32 = 3;

/// A guest with room for many plans.
pub(super) struct Windows {
    bench: Harness,
    guest: Guest,
    kind: Kind,
    host: HostProfile,
    /// Races are drawn from this and their place in all that was done in this guest.
    seed: u64,
    next: u64,
    /// All that was done in this guest before the plan that runs.
    past: Vec<Step>,
    dead: bool,
}

/// Use of a guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// A TD with a window for every plan.
    Windowed,
    /// A TD for one plan.
    Single,
    /// A plain VM.
    Plain,
}

/// Result of a plan.
pub(super) struct Run {
    pub(super) steps: u64,
    pub(super) failed: Option<FailingPlan>,
}

/// A failure, and the plans that may reproduce it.
#[derive(Debug)]
pub(super) struct FailingPlan {
    /// How the plan failed, with the step counted in it.
    pub(super) failure: Failure,
    /// The plan alone.
    pub(super) plan: Plan,
    /// The same with all that was done in the guest up to there, the step counted from the boot.
    pub(super) history: Option<(Failure, Plan)>,
}

/// Draws the steps of one plan.
enum Drawing {
    Td(Box<Draw>),
    Plain(Box<PlainDraw>),
}

impl Drawing {
    fn steps(&mut self) -> usize {
        match self {
            Drawing::Td(draw) => draw.steps(),
            Drawing::Plain(draw) => draw.steps(),
        }
    }

    fn step(&mut self, predictor: &Predictor, coverage: &mut Coverage) -> Action {
        match self {
            Drawing::Td(draw) => draw.step(predictor, coverage),
            Drawing::Plain(draw) => draw.step(predictor, coverage),
        }
    }

    fn last_look(&self) -> Vec<Action> {
        match self {
            Drawing::Td(draw) => vec![draw.last_look()],
            Drawing::Plain(draw) => draw.last_look(),
        }
    }
}

/// Continue, or end the plan: with a failure, or without one because its TD is dead.
type Flow<T> = ControlFlow<Option<Failure>, T>;

impl Windows {
    /// Boots a guest for plans with such seeds. `backings` are the possible backings of a plain VM.
    pub(super) fn boot(
        host: &dyn Host,
        design: &Design,
        seed: u64,
        backings: &[Backing],
        folder: &Path,
    ) -> Result<Windows, HostError> {
        let (kind, guest) = furnished(host.profile(), seed, backings);
        let bench = Harness::boot(host, design, &guest, seed, folder)?;
        Ok(Windows {
            bench,
            guest,
            kind,
            host: host.profile(),
            seed,
            next: 0,
            past: Vec::new(),
            dead: false,
        })
    }

    /// Whether it is full.
    pub(super) fn is_full(&self) -> bool {
        let most = match self.kind {
            Kind::Windowed => WINDOWS,
            Kind::Plain => PLAIN_PLANS,
            Kind::Single => 1,
        };
        self.dead || self.next >= most
    }

    /// Draws and runs the plan with this seed, and puts its memory back.
    pub(super) fn run(&mut self, seed: u64, coverage: &mut Coverage) -> Run {
        let window = self.window();
        self.next += 1;
        let mut drawing = match self.kind {
            Kind::Windowed => {
                let draw = Draw::new(seed, window, &self.guest, self.host);
                Drawing::Td(Box::new(draw))
            }
            // What its guest was drawn from comes first.
            Kind::Single => Drawing::Td(Box::new(Draw::with_guest(self.seed, self.host).0)),
            Kind::Plain => Drawing::Plain(Box::new(PlainDraw::new(seed, &self.guest))),
        };
        let mut steps: Vec<Step> = Vec::new();
        let failed = self.judge(&mut drawing, window, &mut steps, coverage);
        let count = steps.len() as u64;
        let failed = failed.map(|failure| self.suspect(failure, &steps, window));
        self.past.append(&mut steps);
        Run {
            steps: count,
            failed,
        }
    }

    /// Where the next plan has its memory.
    fn window(&self) -> GpaRange {
        let start = Gpa::new(LOW_BASE.as_u64() + self.next * WINDOW);
        match self.kind {
            Kind::Windowed => GpaRange::with_len(start, WINDOW).unwrap_or_default(),
            Kind::Single | Kind::Plain => self.guest.memory,
        }
    }

    fn judge(
        &mut self,
        drawing: &mut Drawing,
        window: GpaRange,
        steps: &mut Vec<Step>,
        coverage: &mut Coverage,
    ) -> Option<Failure> {
        match self.play(drawing, window, steps, coverage) {
            ControlFlow::Break(end) => end,
            ControlFlow::Continue(()) => self.left(window).map(|left| {
                let text =
                    format!("memory that was put back is not empty by the predictor: {left}");
                Failure::error(Part::Memory, steps.len().saturating_sub(1), text)
            }),
        }
    }

    /// The steps of a plan, a last look, and those that put its memory back.
    fn play(
        &mut self,
        drawing: &mut Drawing,
        window: GpaRange,
        steps: &mut Vec<Step>,
        coverage: &mut Coverage,
    ) -> Flow<()> {
        for _ in 0..drawing.steps() {
            let action = drawing.step(self.bench.predictor(), coverage);
            self.step(action, steps)?;
        }
        for look in drawing.last_look() {
            self.step(look, steps)?;
        }
        for action in self.back(window) {
            if !self.step(action, steps)? {
                // Memory that cannot be reset is not used again.
                self.dead = true;
                return ControlFlow::Break(None);
            }
        }
        ControlFlow::Continue(())
    }

    /// Does a step and records it, unless it cannot be predicted. The step of a failure counts
    /// within the plan.
    fn step(&mut self, action: Action, steps: &mut Vec<Step>) -> Flow<bool> {
        let stepped = self.bench.step(&action);
        if stepped != Stepped::Refused {
            steps.push(step(action));
        }
        match stepped {
            Stepped::Refused => ControlFlow::Continue(false),
            Stepped::Passed { alive: true } => ControlFlow::Continue(true),
            Stepped::Passed { alive: false } => {
                self.dead = true;
                ControlFlow::Break(None)
            }
            Stepped::Failed(failure) => ControlFlow::Break(Some(Failure {
                step: steps.len() - 1,
                ..failure
            })),
        }
    }

    /// Operations that reset a window. Each is judged, and no page is left afterwards.
    fn back(&self, window: GpaRange) -> Vec<Action> {
        let convert = |to| Op::Convert {
            range: window,
            to,
            vcpu: VcpuId(0),
        };
        let punch = Op::Punch { range: window };
        let ops = match self.kind {
            Kind::Windowed => vec![convert(Side::Shared), convert(Side::Private), punch],
            Kind::Plain => vec![punch],
            Kind::Single => Vec::new(),
        };
        ops.into_iter().map(Action::One).collect()
    }

    /// What is left in memory after a reset, by the predictor. In a plain VM, the last hole has
    /// shown that no page is populated.
    fn left(&self, window: GpaRange) -> Option<String> {
        let predictor = self.bench.predictor();
        match self.kind {
            Kind::Windowed => {
                let left = predictor.baseline();
                (left != Baseline::default()).then(|| format!("{left:?}"))
            }
            Kind::Plain => {
                let left = predictor.state_map(window, 1);
                (!left.is_empty()).then(|| format!("{left:?}"))
            }
            Kind::Single => None,
        }
    }

    /// The plan whose `steps` ended in a failure, alone and with all steps before it.
    fn suspect(&self, failure: Failure, steps: &[Step], window: GpaRange) -> FailingPlan {
        let before = u32::try_from(self.past.len()).unwrap_or(u32::MAX);
        let orders: Orders = self.bench.orders().clone();
        let own = orders.range(before..);
        let own = own.map(|(step, order)| (step - before, order.clone()));
        // Races of the plan alone are drawn from the same seeds as here.
        let seed = self.seed.wrapping_add(u64::from(before));
        let mut alone = plan(self.guest.clone(), seed, steps.to_vec());
        if self.kind == Kind::Windowed {
            let memory = GpaRange::with_len(LOW_BASE, WINDOW).unwrap_or_default();
            alone.guest = Guest {
                memory,
                slots: Guest::over(memory).slots,
                ..alone.guest
            };
            let offset = window.start().as_u64() - LOW_BASE.as_u64();
            rebase(&mut alone, |range| {
                let down = |gpa: Gpa| gpa.as_u64().checked_sub(offset).map(Gpa::new);
                GpaRange::new(down(range.start())?, down(range.end())?)
            });
        }
        let history = (before > 0).then(|| {
            let all = self.past.iter().chain(steps).cloned().collect();
            let failure = Failure {
                step: self.past.len() + failure.step,
                orders: orders.clone(),
                ..failure.clone()
            };
            (failure, plan(self.guest.clone(), self.seed, all))
        });
        FailingPlan {
            failure: Failure {
                orders: own.collect(),
                ..failure
            },
            plan: alone,
            history,
        }
    }

    /// Ends the guest. Its teardown is of all plans that ran in it: what fails there is a plan of all
    /// their steps.
    pub(super) fn end(self) -> Option<FailingPlan> {
        let failure = self.bench.end()?;
        Some(FailingPlan {
            failure,
            plan: plan(self.guest, self.seed, self.past),
            history: None,
        })
    }
}

/// A guest to begin with, drawn from the seed of its first plan.
fn furnished(host: HostProfile, seed: u64, backings: &[Backing]) -> (Kind, Guest) {
    if CoverageModel::of(host) == CoverageModel::Plain {
        return (Kind::Plain, PlainDraw::guest(seed, backings));
    }
    // Another sequence than that of the plan's steps.
    let mut random = ChaCha8Rng::seed_from_u64(!seed);
    if random.random_ratio(1, SPECIAL_EVERY) {
        return (Kind::Single, Draw::with_guest(seed, host).1);
    }
    let memory = GpaRange::with_len(LOW_BASE, WINDOWS * WINDOW).unwrap_or_default();
    let guest = Guest {
        vcpus: 2,
        sept_ve_disable: random.random_ratio(1, 8),
        ..Guest::over(memory)
    };
    (Kind::Windowed, guest)
}

#[cfg(test)]
mod tests;
