//! Draws guests and steps of plain VMs: ordinary memory, holes in it, logging of dirty pages.
//!
//! Memory is of 4K pages or of hugetlb pages of 2M. Transparent huge pages are left out: the kernel
//! decides on the size of a folio.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tdxlab_host::Host;
use tdxlab_plan::addr::{GpaRange, PageLevel};
use tdxlab_plan::{Action, Backing, Generation, Gone, Guest, LOW_BASE, OnVe, Op, Side, VcpuId};
use tdxlab_predict::Predictor;

use super::coverage::{Coverage, States};
use super::coverage_model::CoverageModel;
use super::draw::{self, CANDIDATES, Candidate};
use super::{places, steps};

/// Test memory of a drawn guest.
const MEMORY: u64 = 4 * PageLevel::Size2M.bytes();

/// Possible backings.
const BACKINGS: [Backing; 2] = [Backing::Small, Backing::Hugetlb2M];

/// A guest with this behind its memory.
fn guest(backing: Backing) -> Guest {
    let memory = GpaRange::with_len(LOW_BASE, MEMORY).unwrap_or_default();
    Guest {
        vcpus: 2,
        backing: Some(backing),
        ..Guest::over(memory)
    }
}

/// Backings available on this machine.
pub(super) fn backings(host: &dyn Host) -> Vec<Backing> {
    let can = |backing: &Backing| host.unmet(&guest(*backing)).is_none();
    BACKINGS.into_iter().filter(can).collect()
}

/// Why a kind of memory that would be drawn is left out on this machine.
pub fn left_out(host: &dyn Host) -> Vec<String> {
    let why = |backing| host.unmet(&guest(backing));
    BACKINGS.into_iter().filter_map(why).collect()
}

/// Draws everything of one plan.
#[derive(Debug)]
pub(super) struct PlainDraw {
    random: ChaCha8Rng,
    memory: GpaRange,
    vcpus: u16,
    fills: u16,
    logging: bool,
    stopped: bool,
}

impl PlainDraw {
    /// A guest for plans with such a seed, with one of these behind its memory.
    pub(super) fn guest(seed: u64, backings: &[Backing]) -> Guest {
        // Another sequence than that of the plan's steps.
        let mut random = ChaCha8Rng::seed_from_u64(!seed);
        let index = random.random_range(0..backings.len().max(1));
        guest(backings.get(index).copied().unwrap_or(Backing::Small))
    }

    /// For the plan with this seed, in a guest with untouched memory.
    pub(super) fn new(seed: u64, guest: &Guest) -> PlainDraw {
        PlainDraw {
            random: ChaCha8Rng::seed_from_u64(seed),
            memory: guest.memory,
            vcpus: guest.vcpus,
            fills: 0,
            logging: false,
            stopped: false,
        }
    }

    /// How many steps the plan shall have.
    pub(super) fn steps(&mut self) -> usize {
        self.random.random_range(6..=30)
    }

    /// The next step, chosen for what `coverage` has seen least. Counts it as seen.
    pub(super) fn step(&mut self, predictor: &Predictor, coverage: &mut Coverage) -> Action {
        let mut action = draw::rarest(CANDIDATES, coverage, || self.candidate(predictor));
        steps::number(&mut action, &mut self.fills);
        match action {
            Action::One(Op::DirtyLog { on }) => self.logging = on,
            Action::One(Op::Stop) => self.stopped = true,
            Action::One(Op::Cont) => self.stopped = false,
            _ => {}
        }
        action
    }

    /// Last steps of a plan: a check of all memory, with running vCPUs and no dirty logging.
    pub(super) fn last_look(&self) -> Vec<Action> {
        let look = Op::Verify {
            range: self.memory,
            gone: Gone::Skip,
            side: Side::Private,
            vcpu: VcpuId(0),
        };
        let go = self.stopped.then_some(Op::Cont);
        let quiet = self.logging.then_some(Op::DirtyLog { on: false });
        let ops = go.into_iter().chain([look]).chain(quiet);
        ops.map(Action::One).collect()
    }

    fn candidate(&mut self, predictor: &Predictor) -> Candidate {
        let op = self.op();
        // An operation on the whole VM covers all of its memory.
        let range = op.range().unwrap_or(self.memory);
        let states = States::of_plain(predictor, range, self.memory, self.logging);
        Candidate {
            touched: vec![(CoverageModel::Plain.row(&op), states, range)],
            action: Action::One(op),
        }
    }

    fn op(&mut self) -> Op {
        match self.random.random_range(0..16) {
            0 => Op::DirtyLog { on: !self.logging },
            1 if self.stopped => Op::Cont,
            1 => Op::Stop,
            2..5 => Op::Punch {
                range: self.range(),
            },
            5 => Op::Allocate {
                range: self.range(),
            },
            _ if self.stopped => match self.random.random() {
                true => Op::Cont,
                false => Op::Punch {
                    range: self.range(),
                },
            },
            6..10 => self.touch(),
            10..13 => Op::Fill {
                range: self.range(),
                generation: Generation::MAX,
                side: Side::Private,
                vcpu: self.vcpu(),
            },
            _ => Op::Verify {
                range: self.range(),
                gone: Gone::Skip,
                side: Side::Private,
                vcpu: self.vcpu(),
            },
        }
    }

    fn touch(&mut self) -> Op {
        let range = self.range();
        let whole = match self.random.random_ratio(1, 4) {
            true => places::widen(range, PageLevel::Size2M, self.memory),
            false => None,
        };
        let (range, stride) = match whole {
            Some(whole) => (whole, PageLevel::Size2M),
            None => (range, PageLevel::Size4K),
        };
        Op::Touch {
            range,
            stride,
            access: draw::access(&mut self.random),
            side: Side::Private,
            on_ve: OnVe::Skip,
            same_rip: false,
            vcpu: self.vcpu(),
        }
    }

    fn vcpu(&mut self) -> VcpuId {
        VcpuId(self.random.random_range(0..self.vcpus.max(1)))
    }

    fn range(&mut self) -> GpaRange {
        let whole = match self.random.random_ratio(1, 6) {
            true => places::regions(&mut self.random, self.memory),
            false => None,
        };
        whole.unwrap_or_else(|| places::range(&mut self.random, self.memory))
    }
}
