//! Many plans in one guest: each has a part of memory of its own, which is put back by a conversion
//! of all of it, there and back, and a hole. Booting takes longer than most plans.

use std::path::Path;

use super::bench::{Bench, Failure, Stepped};
use super::coverage::Coverage;
use super::draw::Draw;
use super::simpler::rebase;
use crate::addr::{Gpa, GpaRange, PageLevel};
use crate::host::{Host, HostError};
use crate::plan::{
    Action, Generation, Guest, LOW_BASE, Needs, Op, Plan, Side, Step, VERSION, VcpuId,
};
use crate::predict::{Baseline, Design};

/// Memory of one plan.
const WINDOW: u64 = 4 * PageLevel::Size2M.bytes();

/// Plans in one guest.
const WINDOWS: u64 = 64;

/// A guest with room for many plans.
pub(super) struct Windows {
    bench: Bench,
    guest: Guest,
    next: u64,
    /// All that was done in this guest before the plan that runs.
    past: Vec<Step>,
}

/// What came of a plan.
pub(super) struct Run {
    pub(super) steps: u64,
    /// A failure, the plan by itself, and all that was done in the guest up to there.
    pub(super) failed: Option<(Failure, Plan, Plan)>,
}

impl Windows {
    pub(super) fn boot(
        host: &dyn Host,
        design: &Design,
        seed: u64,
        folder: &Path,
    ) -> Result<Windows, HostError> {
        let memory = GpaRange::with_len(LOW_BASE, WINDOWS * WINDOW).unwrap_or_default();
        let guest = guest(memory);
        let bench = Bench::boot(host, design, &guest, seed, folder)?;
        Ok(Windows {
            bench,
            guest,
            next: 0,
            past: Vec::new(),
        })
    }

    /// Whether there is no room for another plan.
    pub(super) fn is_full(&self) -> bool {
        self.next >= WINDOWS
    }

    /// Draws and runs the plan with this seed, and puts its memory back.
    pub(super) fn run(&mut self, seed: u64, coverage: &mut Coverage) -> Run {
        let start = Gpa::new(LOW_BASE.as_u64() + self.next * WINDOW);
        let window = GpaRange::with_len(start, WINDOW).unwrap_or_default();
        self.next += 1;
        self.bench.begin(seed);
        let mut draw = Draw::new(seed, window, self.guest.vcpus);
        let mut steps: Vec<Step> = Vec::new();
        let mut failed = None;
        let drawn = draw.steps();
        for index in 0..=drawn {
            let action = if index < drawn {
                draw.step(self.bench.predictor(), coverage)
            } else {
                draw.last_look()
            };
            let stepped = self.bench.step(&action);
            if stepped == Stepped::Refused {
                continue;
            }
            steps.push(step(action));
            if let Stepped::Failed(failure) = stepped {
                failed = Some(failure);
                break;
            }
        }
        if failed.is_none() {
            failed = self.put_back(window, &mut steps);
        }
        let count = steps.len() as u64;
        let failed = failed.map(|failure| {
            let mut alone = self.plan(seed, steps.clone());
            alone.guest = guest(GpaRange::with_len(LOW_BASE, WINDOW).unwrap_or_default());
            rebase(&mut alone, |range| {
                let down = |gpa: Gpa| gpa.as_u64().checked_sub(start.as_u64() - LOW_BASE.as_u64());
                GpaRange::new(Gpa::new(down(range.start())?), Gpa::new(down(range.end())?))
            });
            let mut all = self.past.clone();
            all.extend(steps.clone());
            (failure, alone, self.plan(seed, all))
        });
        self.past.append(&mut steps);
        Run {
            steps: count,
            failed,
        }
    }

    /// Takes everything out of a window; every step is judged, and at rest nothing is left.
    fn put_back(&mut self, window: GpaRange, steps: &mut Vec<Step>) -> Option<Failure> {
        let convert = |to| Op::Convert {
            range: window,
            to,
            vcpu: VcpuId(0),
        };
        let back = [
            convert(Side::Shared),
            convert(Side::Private),
            Op::Punch { range: window },
        ];
        for op in back {
            let action = Action::One(op);
            let stepped = self.bench.step(&action);
            steps.push(step(action));
            if let Stepped::Failed(failure) = stepped {
                return Some(failure);
            }
        }
        let left = self.bench.predictor().baseline();
        let nothing = Baseline {
            pages_4k: 0,
            pages_2m: 0,
            populated: 0,
        };
        (left != nothing).then(|| Failure {
            step: steps.len() - 1,
            verdict: crate::run::Verdict::Error,
            witnesses: Vec::new(),
            text: format!("memory that was put back is not empty by the predictor: {left:?}"),
        })
    }

    fn plan(&self, seed: u64, steps: Vec<Step>) -> Plan {
        plan(self.guest.clone(), seed, steps)
    }

    /// Ends the guest.
    pub(super) fn end(self) -> Result<(), HostError> {
        self.bench.end()
    }
}

fn guest(memory: GpaRange) -> Guest {
    Guest {
        vcpus: 2,
        ..Guest::over(memory)
    }
}

fn step(action: Action) -> Step {
    Step {
        line: 0,
        action,
        expect: Default::default(),
    }
}

/// A plan of drawn steps. Fills are numbered anew, as a scenario would number them.
pub(super) fn plan(guest: Guest, seed: u64, steps: Vec<Step>) -> Plan {
    let mut plan = Plan {
        version: VERSION,
        name: format!("fuzz/{seed:016x}"),
        about: "Drawn at random.".to_owned(),
        seed,
        needs: Needs::default(),
        guest,
        steps,
    };
    let mut fills = 0;
    for step in &mut plan.steps {
        number(&mut step.action, &mut fills);
    }
    plan
}

/// Gives every fill of a step the generation after that of the fill before; `fills` is the last.
pub(super) fn number(action: &mut Action, fills: &mut u16) {
    for op in action.ops_mut() {
        if let Op::Fill { generation, .. } = op {
            *fills = *fills % Generation::MAX.get() + 1;
            *generation = Generation::new(*fills).unwrap_or(Generation::MAX);
        }
    }
}
