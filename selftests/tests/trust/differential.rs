//! The predictor against the software host: random operations, judged step by step.
//!
//! Neither knows the other, so a difference is a mistake in one of them. Sequences are drawn by
//! proptest, which shrinks a failing one to the few operations that matter and prints it with its
//! seed. `TDXLAB_DIFFERENTIAL_CASES` sets how many sequences each design gets.

use proptest::prelude::*;
use proptest::test_runner::{Config, TestCaseError, TestRunner};
use rstest::rstest;
use tdxlab::addr::{Gpa, GpaRange, PageLevel};
use tdxlab::plan::{
    AccessKind, Action, Branch, Generation, Gone, Guest, LOW_BASE, OnVe, Op, Side, Size, Slot,
    VcpuId,
};
use tdxlab_selftests::trial::InMemoryRunner;

/// 2M regions of test memory: enough for a head, something between, and a tail.
const REGIONS: u64 = 3;

/// Sequences drawn for each design unless the environment says otherwise.
const CASES: u32 = 100_000;

/// A place in test memory: a 2M region and one of a few offsets in it that matter.
#[derive(Clone, Copy, Debug)]
struct Place {
    region: u64,
    corner: u8,
}

impl Place {
    fn gpa(self) -> Gpa {
        let page = PageLevel::Size4K.bytes();
        let region = PageLevel::Size2M.bytes();
        let offset = match self.corner {
            0..=3 => 0,
            4 => page,
            5 => region / 2,
            6 => region - page,
            _ => 7 * page,
        };
        Gpa::new(LOW_BASE.as_u64() + self.region * region + offset)
    }
}

fn place() -> impl Strategy<Value = Place> {
    (0..=REGIONS, 0..8_u8).prop_map(|(region, corner)| Place { region, corner })
}

/// A range inside test memory, never empty. Most are a few pages around a corner, since the guest
/// goes through every page of a long one.
fn range() -> impl Strategy<Value = GpaRange> {
    prop_oneof![1 => long_range(), 3 => short_range()]
}

fn short_range() -> impl Strategy<Value = GpaRange> {
    (place(), 1..9_u64, any::<bool>()).prop_map(|(place, pages, before)| {
        let page = PageLevel::Size4K.bytes();
        let back = if before { pages / 2 * page } else { 0 };
        let start = Gpa::new(place.gpa().as_u64() - back).max(LOW_BASE);
        let wanted = GpaRange::with_len(start, pages * page).expect("far from the top");
        wanted.intersect(memory()).unwrap_or_else(|| {
            let last = Gpa::new(memory().end().as_u64() - page);
            last.page(PageLevel::Size4K)
        })
    })
}

fn long_range() -> impl Strategy<Value = GpaRange> {
    let end_of_memory = memory().end();
    (place(), place()).prop_map(move |(a, b)| {
        let page = PageLevel::Size4K.bytes();
        let last = Gpa::new(end_of_memory.as_u64() - page);
        let start = a.gpa().min(b.gpa()).min(last);
        let end = a.gpa().max(b.gpa()).min(end_of_memory);
        let end = end.max(Gpa::new(start.as_u64() + page));
        GpaRange::new(start, end).expect("start was made the smaller")
    })
}

/// A range whose ends lie on 2M boundaries.
fn regions() -> impl Strategy<Value = GpaRange> {
    (0..REGIONS, 1..=REGIONS).prop_map(|(first, count)| {
        let region = PageLevel::Size2M.bytes();
        let count = count.min(REGIONS - first);
        let start = Gpa::new(LOW_BASE.as_u64() + first * region);
        GpaRange::with_len(start, count * region).expect("test memory is far from the top")
    })
}

fn memory() -> GpaRange {
    GpaRange::with_len(LOW_BASE, REGIONS * PageLevel::Size2M.bytes())
        .expect("test memory is far from the top")
}

fn vcpu() -> impl Strategy<Value = VcpuId> {
    (0..2_u16).prop_map(VcpuId)
}

fn side() -> impl Strategy<Value = Side> {
    prop_oneof![3 => Just(Side::Private), 1 => Just(Side::Shared)]
}

/// The generation is set later, by position.
const UNSET: Generation = Generation::MAX;

fn guest_op() -> impl Strategy<Value = Op> {
    let size = prop_oneof![
        3 => Just(Size::Size4K),
        4 => Just(Size::Size2M),
        1 => Just(Size::Size1G),
        2 => Just(Size::Linux)
    ];
    let access = prop_oneof![Just(AccessKind::Read), Just(AccessKind::Write)];
    let on_ve = prop_oneof![Just(OnVe::Skip), Just(OnVe::Accept)];
    let gone = prop_oneof![1 => Just(Gone::Skip), 2 => Just(Gone::Ends), 1 => Just(Gone::Every)];
    let stride = prop_oneof![1 => Just(PageLevel::Size4K), 2 => Just(PageLevel::Size2M)];
    prop_oneof![
        6 => (accept_range(), size, vcpu()).prop_map(|(range, size, vcpu)| Op::Accept {
            range: fit(range, size), size, vcpu
        }),
        2 => (range(), stride, access, side(), on_ve, vcpu()).prop_map(
            |(range, stride, access, side, on_ve, vcpu)| Op::Touch {
                range: fit_stride(range, stride), stride, access, side, on_ve, vcpu
            }
        ),
        3 => (range(), side(), vcpu()).prop_map(|(range, side, vcpu)| Op::Fill {
            range, generation: UNSET, side, vcpu
        }),
        3 => (range(), gone, side(), vcpu()).prop_map(|(range, gone, side, vcpu)| Op::Verify {
            range, gone, side, vcpu
        }),
        4 => (range(), side(), vcpu()).prop_map(|(range, to, vcpu)| Op::Convert { range, to, vcpu }),
        1 => (range(), vcpu()).prop_map(|(range, vcpu)| Op::Probe {
            range, stride: PageLevel::Size4K, vcpu
        }),
    ]
}

fn host_op() -> impl Strategy<Value = Op> {
    prop_oneof![
        4 => accept_range().prop_map(|range| Op::Punch { range }),
        1 => range().prop_map(|range| Op::Prefault { range }),
        1 => accept_range().prop_map(|range| Op::Allocate { range }),
    ]
}

fn accept_range() -> impl Strategy<Value = GpaRange> {
    prop_oneof![2 => range(), 1 => regions()]
}

/// Trims a range to what an ACCEPT of this size may be given.
fn fit(range: GpaRange, size: Size) -> GpaRange {
    match size {
        Size::Size2M => fit_stride(range, PageLevel::Size2M),
        Size::Size1G => {
            GpaRange::with_len(LOW_BASE, PageLevel::Size1G.bytes()).expect("far from the top")
        }
        Size::Size4K | Size::Linux => range,
    }
}

/// Widens a range to whole strides.
fn fit_stride(range: GpaRange, stride: PageLevel) -> GpaRange {
    let end = range.end().align_up(stride).expect("far from the top");
    GpaRange::new(range.start().align_down(stride), end).expect("widening keeps the order")
}

fn action() -> impl Strategy<Value = Action> {
    prop_oneof![
        12 => guest_op().prop_map(Action::One),
        5 => host_op().prop_map(Action::One),
        1 => (guest_op(), guest_op()).prop_map(|(a, b)| Action::Parallel(vec![
            Branch(vec![on(a, VcpuId(0))]),
            Branch(vec![on(b, VcpuId(1))]),
        ])),
        1 => (guest_op(), host_op()).prop_map(|(a, b)| Action::Parallel(vec![
            Branch(vec![on(a, VcpuId(0))]),
            Branch(vec![b]),
        ])),
    ]
}

/// The same operation on another vCPU; `verify` does not race, so it becomes a write access.
fn on(op: Op, who: VcpuId) -> Op {
    match op {
        Op::Accept { range, size, .. } => Op::Accept {
            range,
            size,
            vcpu: who,
        },
        Op::Touch {
            range,
            stride,
            access,
            side,
            on_ve,
            ..
        } => Op::Touch {
            range,
            stride,
            access,
            side,
            on_ve,
            vcpu: who,
        },
        Op::Fill {
            range,
            generation,
            side,
            ..
        } => Op::Fill {
            range,
            generation,
            side,
            vcpu: who,
        },
        Op::Verify { range, side, .. } => Op::Touch {
            range,
            stride: PageLevel::Size4K,
            access: AccessKind::Write,
            side,
            on_ve: OnVe::Skip,
            vcpu: who,
        },
        Op::Convert { range, to, .. } => Op::Convert {
            range,
            to,
            vcpu: who,
        },
        Op::Probe { range, stride, .. } => Op::Probe {
            range,
            stride,
            vcpu: who,
        },
        host => host,
    }
}

fn guest() -> impl Strategy<Value = Guest> {
    let image = prop_oneof![
        3 => Just(Vec::new()),
        1 => range().prop_map(|range| vec![range]),
    ];
    (
        slots(),
        prop_oneof![4 => Just(false), 1 => Just(true)],
        image,
    )
        .prop_map(|(slots, sept_ve_disable, image)| Guest {
            memory: memory(),
            vcpus: 2,
            sept_ve_disable,
            slots,
            image,
            backing: None,
        })
}

/// One slot; one whose file offset is off by a page; two that meet off a 2M boundary; two that lie
/// the other way round in the file.
fn slots() -> impl Strategy<Value = Vec<Slot>> {
    let whole = memory();
    let page = PageLevel::Size4K.bytes();
    let cut = |offset: u64| {
        let at = Gpa::new(LOW_BASE.as_u64() + offset);
        let low = GpaRange::new(whole.start(), at).expect("the cut lies inside");
        let high = GpaRange::new(at, whole.end()).expect("the cut lies inside");
        (low, high)
    };
    let (low_odd, high_odd) = cut(3 * (1 << 20) + page);
    let (low, high) = cut(2 << 20);
    prop_oneof![
        6 => Just(vec![Slot { range: whole, gmem_offset: 0 }]),
        1 => Just(vec![Slot { range: whole, gmem_offset: page }]),
        1 => Just(vec![
            Slot { range: low_odd, gmem_offset: 0 },
            Slot { range: high_odd, gmem_offset: low_odd.bytes() },
        ]),
        1 => Just(vec![
            Slot { range: low, gmem_offset: high.bytes() },
            Slot { range: high, gmem_offset: 0 },
        ]),
    ]
}

/// Gives every fill a generation of its own.
fn number_fills(actions: &mut [Action]) {
    let mut next = 1;
    let mut number = |op: &mut Op| {
        if let Op::Fill { generation, .. } = op {
            *generation = Generation::new(next).expect("far fewer fills than generations");
            next += 1;
        }
    };
    for action in actions {
        match action {
            Action::One(op) => number(op),
            Action::Parallel(branches) => {
                branches
                    .iter_mut()
                    .flat_map(|branch| &mut branch.0)
                    .for_each(&mut number);
            }
        }
    }
}

#[rstest]
fn predictor_and_software_host_agree(
    #[values("stock", "v3", "v5", "headtail")] design: &'static str,
) {
    let cases = std::env::var("TDXLAB_DIFFERENTIAL_CASES")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(CASES);
    let config = Config {
        cases,
        failure_persistence: None,
        ..Config::default()
    };
    let plans = (guest(), prop::collection::vec(action(), 1..9), any::<u64>());
    TestRunner::new(config)
        .run(&plans, |(guest, mut actions, seed)| {
            number_fills(&mut actions);
            let mut trial = InMemoryRunner::boot(design, &guest, seed)
                .map_err(|error| TestCaseError::fail(error.to_string()))?;
            for action in &actions {
                match trial.step(action) {
                    Ok(goes_on) if goes_on => {}
                    Ok(_) => break,
                    Err(story) => return Err(TestCaseError::fail(story)),
                }
            }
            Ok(())
        })
        .unwrap_or_else(|error| panic!("{design}: {error}"));
}
