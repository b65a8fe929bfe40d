//! Draws guests and steps. Of a few steps that are drawn, the one is taken that comes to the rarest
//! combination of state, operation and alignment.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::coverage::{self, Coverage, RACE, States};
use super::places;
use super::window;
use crate::addr::{Gpa, GpaRange, PageLevel};
use crate::plan::{
    AccessKind, Action, Branch, Generation, Gone, Guest, LOW_BASE, OnVe, Op, Side, Size, Slot,
    VcpuId,
};
use crate::predict::Predictor;

/// Steps drawn for each that is taken.
const CANDIDATES: usize = 3;

/// One in so many ranges is long where every page of it takes its time.
const LONG_EVERY: u32 = 64;

/// Bytes of test memory of a drawn guest: a head, something between, a tail, and a bit.
const WINDOW: u64 = 3 * PageLevel::Size2M.bytes() + 3 * PageLevel::Size4K.bytes();

/// Draws everything of one plan.
#[derive(Debug)]
pub struct Draw {
    random: ChaCha8Rng,
    window: GpaRange,
    vcpus: u16,
    fills: u16,
}

/// A step and what it would come to.
struct Candidate {
    action: Action,
    touched: Vec<(usize, States, GpaRange)>,
}

impl Draw {
    /// For the plan with this seed, in this part of a guest's memory.
    pub fn new(seed: u64, window: GpaRange, vcpus: u16) -> Draw {
        Draw {
            random: ChaCha8Rng::seed_from_u64(seed),
            window,
            vcpus,
            fills: 0,
        }
    }

    /// For the plan with this seed, and a guest of its own for it.
    pub fn with_guest(seed: u64) -> (Draw, Guest) {
        let window = GpaRange::with_len(LOW_BASE, WINDOW).unwrap_or_default();
        let mut draw = Draw::new(seed, window, 3);
        let guest = draw.guest();
        (draw, guest)
    }

    /// How many steps the plan shall have.
    pub fn steps(&mut self) -> usize {
        self.random.random_range(6..=30)
    }

    fn guest(&mut self) -> Guest {
        let window = self.window;
        let page = PageLevel::Size4K.bytes();
        let image = match self.random.random_range(0..6) {
            0 => vec![places::range(&mut self.random, window)],
            _ => Vec::new(),
        };
        // Slots: one; one whose file offset is off by a page; two that meet off a 2M boundary; two
        // that lie the other way round in the file.
        let two = |cut: u64, first: u64, second: u64| {
            let at = Gpa::new(window.start().as_u64() + cut);
            let slot = |range, gmem_offset| Slot { range, gmem_offset };
            match (
                GpaRange::new(window.start(), at),
                GpaRange::new(at, window.end()),
            ) {
                (Some(low), Some(high)) => vec![slot(low, first), slot(high, second)],
                _ => Vec::new(),
            }
        };
        let one = |gmem_offset| {
            vec![Slot {
                range: window,
                gmem_offset,
            }]
        };
        let odd = 3 * (1 << 20) + page;
        let slots = match self.random.random_range(0..12) {
            0 => one(page),
            1 => two(odd, 0, odd),
            2 => two(2 << 20, window.bytes() - (2 << 20) + page, 0),
            _ => one(0),
        };
        Guest {
            memory: window,
            vcpus: self.vcpus,
            sept_ve_disable: self.random.random_ratio(1, 8),
            slots,
            image,
            backing: None,
        }
    }

    /// The next step, chosen for what `coverage` has seen least. Counts it as seen.
    pub fn step(&mut self, predictor: &Predictor, coverage: &mut Coverage) -> Action {
        let mut best: Option<(u64, Candidate)> = None;
        for _ in 0..CANDIDATES {
            let candidate = self.candidate(predictor);
            let touched = candidate.touched.iter();
            let rarity = touched
                .map(|(row, states, range)| coverage.rarest(*row, *states, *range))
                .min()
                .unwrap_or(u64::MAX);
            if best.as_ref().is_none_or(|(least, _)| rarity < *least) {
                best = Some((rarity, candidate));
            }
        }
        let chosen = match best {
            Some((_, chosen)) => chosen,
            None => self.candidate(predictor),
        };
        for (row, states, range) in chosen.touched {
            coverage.add(row, states, range);
        }
        let mut action = chosen.action;
        window::number(&mut action, &mut self.fills);
        action
    }

    /// Looks at everything: what any step before may have spoiled shows at last.
    pub fn last_look(&self) -> Action {
        Action::One(Op::Verify {
            range: self.window,
            gone: Gone::Skip,
            side: Side::Private,
            vcpu: VcpuId(0),
        })
    }

    fn candidate(&mut self, predictor: &Predictor) -> Candidate {
        let window = self.window;
        let touched = |op: &Op, row: usize| {
            op.range()
                .map(|range| (row, States::of(predictor, range, window), range))
        };
        if self.random.random_ratio(1, 24) {
            let branches = self.race();
            let ops = branches.iter().flat_map(|branch| &branch.0);
            return Candidate {
                touched: ops.filter_map(|op| touched(op, RACE)).collect(),
                action: Action::Parallel(branches),
            };
        }
        let op = self.op();
        Candidate {
            touched: touched(&op, coverage::row(&op)).into_iter().collect(),
            action: Action::One(op),
        }
    }

    fn race(&mut self) -> Vec<Branch> {
        let mut branches = Vec::new();
        for vcpu in 0..2 {
            let mut ops = Vec::new();
            for _ in 0..self.random.random_range(1..=2) {
                ops.push(self.guest_op(VcpuId(vcpu), true));
            }
            branches.push(Branch(ops));
        }
        if self.random.random_ratio(1, 2) {
            branches.remove(0);
            let op = self.host_op();
            branches.push(Branch(vec![op]));
        }
        branches
    }

    fn op(&mut self) -> Op {
        if self.random.random_ratio(1, 4) {
            self.host_op()
        } else {
            let vcpu = VcpuId(self.random.random_range(0..self.vcpus.max(1)));
            self.guest_op(vcpu, false)
        }
    }

    /// A range for an operation that goes page by page: short, so that the next interesting thing
    /// comes soon. Now and then a long one.
    fn short(&mut self) -> GpaRange {
        if self.random.random_ratio(1, LONG_EVERY) {
            return self.range();
        }
        places::short(&mut self.random, self.window)
    }

    fn range(&mut self) -> GpaRange {
        if self.random.random_ratio(1, 6)
            && let Some(regions) = places::regions(&mut self.random, self.window)
        {
            return regions;
        }
        places::range(&mut self.random, self.window)
    }

    fn host_op(&mut self) -> Op {
        match self.random.random_range(0..6) {
            0 => Op::Prefault {
                range: self.short(),
            },
            1 => Op::Allocate {
                range: self.range(),
            },
            _ => Op::Punch {
                range: self.range(),
            },
        }
    }

    fn guest_op(&mut self, vcpu: VcpuId, races: bool) -> Op {
        let range = self.short();
        let side = match self.random.random_range(0..4) {
            0 => Side::Shared,
            _ => Side::Private,
        };
        match self.random.random_range(0..19) {
            0..6 => self.accept(vcpu),
            6..8 => Op::Touch {
                range,
                stride: PageLevel::Size4K,
                access: match self.random.random() {
                    true => AccessKind::Read,
                    false => AccessKind::Write,
                },
                side,
                on_ve: match self.random.random() {
                    true => OnVe::Skip,
                    false => OnVe::Accept,
                },
                vcpu,
            },
            8..11 => Op::Fill {
                // What nobody has filled, nobody sees go.
                range: match self.random.random_ratio(1, 8) {
                    true => self.range(),
                    false => range,
                },
                generation: Generation::MAX,
                side,
                vcpu,
            },
            11..14 if !races => Op::Verify {
                range,
                gone: match self.random.random_range(0..4) {
                    0 => Gone::Skip,
                    1 => Gone::Every,
                    _ => Gone::Ends,
                },
                side,
                vcpu,
            },
            14 => Op::Probe {
                range,
                stride: PageLevel::Size4K,
                vcpu,
            },
            _ => Op::Convert {
                range: self.range(),
                to: match self.random.random() {
                    true => Side::Shared,
                    false => Side::Private,
                },
                vcpu,
            },
        }
    }

    fn accept(&mut self, vcpu: VcpuId) -> Op {
        let size = match self.random.random_range(0..10) {
            0..3 => Size::Size4K,
            3..8 => Size::Size2M,
            _ => Size::Linux,
        };
        let range = match size {
            Size::Size2M => self.range(),
            _ => self.short(),
        };
        let whole = places::widen(range, PageLevel::Size2M, self.window);
        match (size, whole) {
            (Size::Size2M, Some(range)) => Op::Accept { range, size, vcpu },
            (Size::Size2M, None) => Op::Accept {
                range,
                size: Size::Size4K,
                vcpu,
            },
            _ => Op::Accept { range, size, vcpu },
        }
    }
}
