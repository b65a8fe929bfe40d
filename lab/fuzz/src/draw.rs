//! Draws guests and steps. Of a few candidate steps, the one with the rarest combination of state,
//! operation and alignment is taken.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tdxlab_plan::addr::{Gpa, GpaRange, PageLevel};
use tdxlab_plan::{
    AccessKind, Action, Branch, Generation, Gone, Guest, HostProfile, LOW_BASE, OnVe, Op, Side,
    Size, Slot, SlotChange, VcpuId, VmmAnswer,
};
use tdxlab_predict::Predictor;

use super::coverage::{Coverage, States};
use super::coverage_model::{CoverageModel, RACE};
use super::{places, steps};

/// Steps drawn for each that is taken, as a rule.
pub const CANDIDATES: usize = 3;

/// One in so many ranges is long if each page takes time.
const LONG_EVERY: u32 = 64;

/// Bytes of test memory of a drawn guest: a head, something between, a tail, and a bit.
const WINDOW: u64 = 3 * PageLevel::Size2M.bytes() + 3 * PageLevel::Size4K.bytes();

/// The same in whole 2M regions, for a VMM that lays memory out itself.
const ROUND_WINDOW: u64 = 4 * PageLevel::Size2M.bytes();

/// One guest in so many has the gigabyte that an ACCEPT at 1G takes.
const GIGABYTE_EVERY: u32 = 16;

/// One step in so many is what devices and the VMM do, or a RELEASE.
const OTHERS_EVERY: u32 = 24;

/// Draws everything of one plan.
#[derive(Debug)]
pub struct Draw {
    random: ChaCha8Rng,
    window: GpaRange,
    memory: GpaRange,
    vcpus: u16,
    fills: u16,
    candidates: usize,
    /// Whether the host can do all that software can.
    all: bool,
    /// Slots that may go, and whether others may do what no one puts right again.
    slots: Vec<GpaRange>,
    others: bool,
    /// What was to be pinned last.
    pinned: Option<GpaRange>,
}

/// A step and its coverage.
pub(super) struct Candidate {
    pub(super) action: Action,
    pub(super) touched: Vec<(usize, States, GpaRange)>,
}

/// Of a few steps drawn by `draw`, the one with the lowest count in `coverage`, which is then
/// updated.
pub(super) fn rarest(
    candidates: usize,
    coverage: &mut Coverage,
    mut draw: impl FnMut() -> Candidate,
) -> Action {
    let mut chosen = draw();
    if candidates > 1 {
        let rarity = |candidate: &Candidate, coverage: &Coverage| {
            let touched = candidate.touched.iter();
            touched
                .map(|(row, states, range)| coverage.rarest(*row, *states, *range))
                .min()
                .unwrap_or(u64::MAX)
        };
        let mut least = rarity(&chosen, coverage);
        for _ in 1..candidates {
            let candidate = draw();
            let rarity = rarity(&candidate, coverage);
            if rarity < least {
                (least, chosen) = (rarity, candidate);
            }
        }
    }
    for (row, states, range) in chosen.touched {
        coverage.add(row, states, range);
    }
    chosen.action
}

impl Draw {
    /// For the plan with this seed, in this part of a guest's memory, on such a host.
    pub fn new(seed: u64, window: GpaRange, guest: &Guest, host: HostProfile) -> Draw {
        Draw {
            random: ChaCha8Rng::seed_from_u64(seed),
            window,
            memory: guest.memory,
            vcpus: guest.vcpus,
            fills: 0,
            candidates: CANDIDATES,
            all: !host.fixed_slots,
            slots: Vec::new(),
            others: false,
            pinned: None,
        }
    }

    /// For the plan with this seed, with a drawn guest, on this host.
    pub fn with_guest(seed: u64, host: HostProfile) -> (Draw, Guest) {
        let bytes = match host.fixed_slots {
            false => WINDOW,
            true => ROUND_WINDOW,
        };
        let window = GpaRange::with_len(LOW_BASE, bytes).unwrap_or_default();
        let mut guest = Guest {
            vcpus: 3,
            ..Guest::over(window)
        };
        let mut draw = Draw::new(seed, window, &guest, host);
        draw.furnish(&mut guest);
        draw.memory = guest.memory;
        draw.slots = guest.slots.iter().map(|slot| slot.range).collect();
        draw.others = host.kind.is_software();
        (draw, guest)
    }

    /// Sets the number of candidates per step: 1 for no preference.
    #[must_use]
    pub fn with_candidates(self, candidates: usize) -> Draw {
        Draw { candidates, ..self }
    }

    /// How many steps the plan shall have.
    pub fn steps(&mut self) -> usize {
        self.random.random_range(6..=30)
    }

    /// Adds an initial image, slots, SEPT_VE_DISABLE or much memory to a guest.
    fn furnish(&mut self, guest: &mut Guest) {
        let window = self.window;
        let page = PageLevel::Size4K.bytes();
        if self.random.random_range(0..6) == 0 {
            guest.image = vec![places::range(&mut self.random, window)];
        }
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
        let one = |range, gmem_offset| vec![Slot { range, gmem_offset }];
        let odd = 3 * (1 << 20) + page;
        match self.random.random_range(0..12) {
            0 if self.all => guest.slots = one(window, page),
            1 if self.all => guest.slots = two(odd, 0, odd),
            2 if self.all => {
                guest.slots = two(2 << 20, window.bytes() - (2 << 20) + page, 0);
            }
            _ if self.random.random_ratio(1, GIGABYTE_EVERY) => {
                let gigabyte = window.start().page(PageLevel::Size1G);
                guest.memory = gigabyte;
                guest.slots = one(gigabyte, 0);
            }
            _ => {}
        }
        guest.sept_ve_disable = self.random.random_ratio(1, 8);
    }

    /// The next step, chosen for what `coverage` has seen least. Counts it as seen.
    pub fn step(&mut self, predictor: &Predictor, coverage: &mut Coverage) -> Action {
        // Not on the chart, whose every combination can come: these hang on what was done before.
        if self.others && self.random.random_ratio(1, OTHERS_EVERY) {
            return Action::One(self.other_op());
        }
        let mut action = rarest(self.candidates, coverage, || self.candidate(predictor));
        steps::number(&mut action, &mut self.fills);
        action
    }

    /// Verifies all memory: damage by any earlier step shows at last.
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
            touched: touched(&op, CoverageModel::Td.row(&op))
                .into_iter()
                .collect(),
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

    /// What devices and the VMM do, pages that the guest gives back, touches by one instruction. Most of
    /// it is foreseen in some states only, and passed over in others.
    fn other_op(&mut self) -> Op {
        let range = self.short();
        let answers = [
            VmmAnswer::Serve,
            VmmAnswer::Serve,
            VmmAnswer::Delay,
            VmmAnswer::Refuse,
        ];
        match self.random.random_range(0..12) {
            0 => {
                self.pinned = Some(range);
                Op::Pin { range }
            }
            1 => Op::Unpin {
                range: self.pinned.unwrap_or(range),
            },
            2 | 3 if !self.slots.is_empty() => Op::Slot {
                range: self.slots[self.random.random_range(0..self.slots.len())],
                change: match self.random.random() {
                    true => SlotChange::Delete,
                    false => SlotChange::Add,
                },
            },
            4 => Op::Conversions {
                range: self.range(),
                answer: answers[self.random.random_range(0..answers.len())],
            },
            6 | 7 => Op::SetAttributes {
                range: self.range(),
                to: match self.random.random() {
                    true => Side::Shared,
                    false => Side::Private,
                },
            },
            5 => Op::Convert {
                range: self
                    .memory
                    .end()
                    .checked_add(PageLevel::Size2M.bytes() / 2)
                    .and_then(|end| GpaRange::new(range.start(), end))
                    .unwrap_or(range),
                to: match self.random.random() {
                    true => Side::Shared,
                    false => Side::Private,
                },
                vcpu: VcpuId(0),
            },
            8 => Op::DirtyLog {
                on: self.random.random(),
            },
            9 => Op::Touch {
                range: self.range(),
                stride: PageLevel::Size4K,
                access: access(&mut self.random),
                side: Side::Private,
                on_ve: OnVe::Skip,
                same_rip: true,
                vcpu: self.vcpu(),
            },
            _ => {
                let level = match self.random.random_ratio(1, 3) {
                    true => PageLevel::Size4K,
                    false => PageLevel::Size2M,
                };
                match places::widen(range, level, self.window) {
                    Some(range) => Op::Release {
                        range,
                        level,
                        vcpu: VcpuId(0),
                    },
                    None => Op::Release {
                        range,
                        level: PageLevel::Size4K,
                        vcpu: VcpuId(0),
                    },
                }
            }
        }
    }

    fn op(&mut self) -> Op {
        if self.random.random_ratio(1, 4) {
            self.host_op()
        } else {
            let vcpu = self.vcpu();
            self.guest_op(vcpu, false)
        }
    }

    fn vcpu(&mut self) -> VcpuId {
        VcpuId(self.random.random_range(0..self.vcpus.max(1)))
    }

    /// A range for an operation that proceeds page by page: mostly short, to save time. Now and
    /// then a long one.
    fn short(&mut self) -> GpaRange {
        if self.random.random_ratio(1, LONG_EVERY) {
            return self.range();
        }
        places::short(&mut self.random, self.window)
    }

    fn range(&mut self) -> GpaRange {
        if self.random.random_ratio(1, 8)
            && let Some(regions) = places::regions(&mut self.random, self.window)
        {
            return regions;
        }
        places::range(&mut self.random, self.window)
    }

    fn host_op(&mut self) -> Op {
        match self.random.random_range(0..6) {
            0 if self.all => Op::Prefault {
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
            6..8 => {
                let (range, stride) = self.strides(range);
                Op::Touch {
                    range,
                    stride,
                    access: access(&mut self.random),
                    side,
                    on_ve: match self.random.random() {
                        true => OnVe::Skip,
                        false => OnVe::Accept,
                    },
                    same_rip: false,
                    vcpu,
                }
            }
            8..11 => Op::Fill {
                // Losing unfilled memory is invisible, so prefer to fill first.
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
            14 => {
                let (range, stride) = self.strides(range);
                Op::Probe {
                    range,
                    stride,
                    vcpu,
                }
            }
            // Racing conversions cannot be predicted if the VMM maps converted memory.
            _ if races && !self.all => self.accept(vcpu),
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

    /// One access in each 4K page of a range, or now and then in each 2M or 1G page around it.
    fn strides(&mut self, range: GpaRange) -> (GpaRange, PageLevel) {
        let level = match self.random.random_range(0..16) {
            0 => PageLevel::Size1G,
            1..4 => PageLevel::Size2M,
            _ => return (range, PageLevel::Size4K),
        };
        let bounds = match level {
            PageLevel::Size1G => self.memory,
            _ => self.window,
        };
        match places::widen(range, level, bounds) {
            Some(range) => (range, level),
            None => (range, PageLevel::Size4K),
        }
    }

    fn accept(&mut self, vcpu: VcpuId) -> Op {
        let gigabyte = self.memory.start().page(PageLevel::Size1G);
        if self.memory.contains_range(gigabyte) && self.random.random_ratio(1, 8) {
            return Op::Accept {
                range: gigabyte,
                size: Size::Size1G,
                vcpu,
            };
        }
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

/// Loads as often as stores.
pub(super) fn access(random: &mut ChaCha8Rng) -> AccessKind {
    match random.random() {
        true => AccessKind::Read,
        false => AccessKind::Write,
    }
}
