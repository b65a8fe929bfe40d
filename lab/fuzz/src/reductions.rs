//! Simpler variants of a plan, and the order by simplicity.

use std::collections::{BTreeMap, BTreeSet};

use tdxlab_plan::addr::{Gpa, GpaRange, PageLevel};
use tdxlab_plan::{Action, Branch, Gone, OnVe, Op, Plan, Side, Size, Slot, VcpuId};

use super::ops::weight;

const PAGE: u64 = PageLevel::Size4K.bytes();
const REGION: u64 = PageLevel::Size2M.bytes();

/// Size of a plan, for shrinking. Compared field by field, most important first; smaller is better.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Cost {
    operations: usize,
    races: usize,
    vcpus: u16,
    guest: usize,
    levels: u32,
    pages: u64,
    memory: u64,
    unround: u32,
    offsets: u64,
}

/// Size of a plan, for shrinking. Smaller is better.
pub(super) fn cost(plan: &Plan) -> Cost {
    let base = plan.guest.memory.start();
    let races = plan
        .steps
        .iter()
        .filter(|step| matches!(step.action, Action::Parallel(_)));
    let ranges = || all_ops(plan).filter_map(Op::range);
    let offsets = || {
        ranges().flat_map(|range| {
            [range.start(), range.end()].map(|gpa| gpa.checked_sub(base).unwrap_or(0) / PAGE)
        })
    };
    let guest = &plan.guest;
    Cost {
        operations: all_ops(plan).count(),
        races: races.count(),
        vcpus: guest.vcpus,
        guest: guest.slots.len()
            + guest.image.len()
            + usize::from(guest.sept_ve_disable)
            + usize::from(guest.slots.iter().any(|slot| slot.gmem_offset != 0)),
        levels: all_ops(plan).map(weight).sum(),
        pages: ranges().map(GpaRange::pages_4k).sum(),
        memory: guest.memory.pages_4k(),
        // A boundary of 2M has none, one of 1M one, one of 4K nine.
        unround: offsets()
            .map(|pages| 9u32.saturating_sub(pages.trailing_zeros()))
            .sum(),
        offsets: offsets().sum(),
    }
}

fn all_ops(plan: &Plan) -> impl Iterator<Item = &Op> {
    plan.steps.iter().flat_map(|step| step.action.ops())
}

fn all_ops_mut(plan: &mut Plan) -> impl Iterator<Item = &mut Op> {
    plan.steps.iter_mut().flat_map(|step| step.action.ops_mut())
}

/// Plans that may be simpler, those that leave out most first.
pub(super) fn candidates(plan: &Plan) -> Vec<Plan> {
    let mut made = Vec::new();
    fewer_steps(plan, &mut made);
    plainer_races(plan, &mut made);
    plainer_guest(plan, &mut made);
    on_first_vcpu(plan, &mut made);
    plainer_ops(plan, &mut made);
    moved(plan, &mut made);
    made
}

/// Without a stretch of steps, long stretches first.
fn fewer_steps(plan: &Plan, made: &mut Vec<Plan>) {
    let mut length = plan.steps.len() / 2;
    while length > 0 {
        for start in (0..plan.steps.len()).step_by(length) {
            let mut fewer = plan.clone();
            fewer
                .steps
                .drain(start..(start + length).min(plan.steps.len()));
            made.push(fewer);
        }
        length /= 2;
    }
}

/// Races with fewer branches or operations, or none: one operation after the other.
fn plainer_races(plan: &Plan, made: &mut Vec<Plan>) {
    for (index, step) in plan.steps.iter().enumerate() {
        let Action::Parallel(branches) = &step.action else {
            continue;
        };
        let replaced = |actions: Vec<Action>| {
            let mut plan = plan.clone();
            let steps = actions.into_iter().map(|action| tdxlab_plan::Step {
                line: 0,
                action,
                expect: Default::default(),
            });
            plan.steps.splice(index..=index, steps);
            plan
        };
        let mut in_order: Vec<&Branch> = branches.iter().collect();
        for _ in 0..2 {
            let ops = in_order.iter().flat_map(|branch| branch.0.clone());
            made.push(replaced(ops.map(Action::One).collect()));
            in_order.reverse();
        }
        for (which, branch) in branches.iter().enumerate() {
            if branches.len() > 2 {
                let mut fewer = branches.clone();
                fewer.remove(which);
                made.push(replaced(vec![Action::Parallel(fewer)]));
            }
            for op in 0..branch.0.len() {
                if branch.0.len() > 1 {
                    let mut fewer = branches.clone();
                    fewer[which].0.remove(op);
                    made.push(replaced(vec![Action::Parallel(fewer)]));
                }
            }
        }
    }
}

fn plainer_guest(plan: &Plan, made: &mut Vec<Plan>) {
    let guest = &plan.guest;
    let mut change = |edit: &dyn Fn(&mut Plan)| {
        let mut other = plan.clone();
        edit(&mut other);
        made.push(other);
    };
    // As many vCPUs as race, numbered from 0; else as many as do anything.
    let racing = plan.steps.iter().map(|step| match &step.action {
        Action::One(_) => 1,
        Action::Parallel(branches) => branches
            .iter()
            .filter(|branch| branch.0.iter().any(|op| op.vcpu().is_some()))
            .count()
            .max(1),
    });
    let racing = u16::try_from(racing.max().unwrap_or(1)).unwrap_or(u16::MAX);
    if racing < guest.vcpus {
        change(&|plan| {
            plan.guest.vcpus = racing;
            renumber(plan);
        });
    }
    let used: BTreeSet<VcpuId> = all_ops(plan).filter_map(Op::vcpu).collect();
    let count = u16::try_from(used.len().max(1)).unwrap_or(u16::MAX);
    if racing < count && count < guest.vcpus {
        change(&|plan| {
            plan.guest.vcpus = count;
            let places: BTreeMap<VcpuId, VcpuId> =
                used.iter().copied().zip((0..).map(VcpuId)).collect();
            for op in all_ops_mut(plan) {
                if let Some(place) = op.vcpu().and_then(|vcpu| places.get(&vcpu)) {
                    op.set_vcpu(*place);
                }
            }
        });
    }
    // An idle vCPU may matter: it must be kicked, too.
    let idle = guest.vcpus.saturating_sub(1);
    if count < idle && used.iter().all(|vcpu| vcpu.0 < idle) {
        change(&|plan| plan.guest.vcpus = idle);
    }
    if guest.sept_ve_disable {
        change(&|plan| plan.guest.sept_ve_disable = false);
    }
    for index in 0..guest.image.len() {
        change(&|plan| {
            plan.guest.image.remove(index);
        });
    }
    let plain = vec![Slot {
        range: guest.memory,
        gmem_offset: 0,
    }];
    if guest.slots != plain {
        change(&|plan| plan.guest.slots.clone_from(&plain));
    }
    // Only the memory that is touched, in whole regions.
    let end = all_ops(plan)
        .filter_map(Op::range)
        .map(GpaRange::end)
        .chain(guest.image.iter().map(|range| range.end()))
        .max();
    if let Some(end) = end.and_then(|end| end.align_up(PageLevel::Size2M))
        && let Some(memory) = GpaRange::new(guest.memory.start(), end)
        && guest.slots == plain
    {
        change(&|plan| {
            plan.guest.memory = memory;
            plan.guest.slots = vec![Slot {
                range: memory,
                gmem_offset: 0,
            }];
        });
    }
}

/// One operation that does not race on the first vCPU.
fn on_first_vcpu(plan: &Plan, made: &mut Vec<Plan>) {
    for (index, step) in plan.steps.iter().enumerate() {
        if let Action::One(op) = &step.action
            && op.vcpu().is_some_and(|vcpu| vcpu.0 > 0)
        {
            let mut other = plan.clone();
            other.steps[index]
                .action
                .ops_mut()
                .for_each(|op| op.set_vcpu(VcpuId(0)));
            made.push(other);
        }
    }
}

/// Puts every operation on the lowest vCPU that is free for it.
fn renumber(plan: &mut Plan) {
    for step in &mut plan.steps {
        match &mut step.action {
            Action::One(op) => op.set_vcpu(VcpuId(0)),
            Action::Parallel(branches) => {
                let mut next = 0;
                for branch in branches {
                    let mut guest = false;
                    for op in &mut branch.0 {
                        guest |= op.vcpu().is_some();
                        op.set_vcpu(VcpuId(next));
                    }
                    next += u16::from(guest);
                }
            }
        }
    }
}

/// Simplifies each operation alone: plainer, shorter, moved.
fn plainer_ops(plan: &Plan, made: &mut Vec<Plan>) {
    let count = all_ops(plan).count();
    for index in 0..count {
        let Some(op) = all_ops(plan).nth(index) else {
            continue;
        };
        let mut others = plainer(op);
        // A plain VM has no ACCEPT.
        if plan.guest.backing.is_none() {
            others.extend(accepts(op));
        }
        if let Some(range) = op.range() {
            let level = match op {
                Op::Accept {
                    size: Size::Size2M, ..
                } => PageLevel::Size2M,
                _ => PageLevel::Size4K,
            };
            for shorter in ranges(range, level, plan.guest.memory) {
                let mut other = op.clone();
                other.set_range(shorter);
                others.push(other);
            }
        }
        for other in others {
            let mut changed = plan.clone();
            if let Some(place) = all_ops_mut(&mut changed).nth(index) {
                *place = other;
            }
            made.push(changed);
        }
    }
}

fn plainer(op: &Op) -> Vec<Op> {
    let mut others = Vec::new();
    let mut other = |edit: &dyn Fn(&mut Op)| {
        let mut changed = op.clone();
        edit(&mut changed);
        if changed != *op {
            others.push(changed);
        }
    };
    for smaller in [Size::Size4K, Size::Size2M] {
        other(&|op| {
            if let Op::Accept { size, .. } = op {
                *size = smaller;
            }
        });
    }
    for less in [Gone::Skip, Gone::Ends] {
        other(&|op| {
            if let Op::Verify { gone, .. } = op {
                *gone = less;
            }
        });
    }
    other(&|op| match op {
        Op::Touch { side, .. } | Op::Fill { side, .. } | Op::Verify { side, .. } => {
            *side = Side::Private;
        }
        _ => {}
    });
    other(&|op| {
        if let Op::Touch { on_ve, .. } = op {
            *on_ve = OnVe::Skip;
        }
    });
    other(&|op| {
        if let Op::Touch { same_rip, .. } = op {
            *same_rip = false;
        }
    });
    others
}

/// ACCEPTs that map the same memory, in place of what maps it on the way to something else.
fn accepts(op: &Op) -> Vec<Op> {
    if matches!(
        op,
        Op::Accept { .. } | Op::Release { .. } | Op::Punch { .. } | Op::Convert { .. }
    ) {
        return Vec::new();
    }
    let Some(range) = op.range() else {
        return Vec::new();
    };
    let vcpu = op.vcpu().unwrap_or(VcpuId(0));
    let first = range.start().page(PageLevel::Size2M);
    let all = range.end().align_up(PageLevel::Size2M);
    let all = all.and_then(|end| GpaRange::new(first.start(), end));
    let large = [Some(first), all].into_iter().flatten();
    let accept = |range, size| Op::Accept { range, size, vcpu };
    large
        .map(|range| accept(range, Size::Size2M))
        .chain([accept(range, Size::Size4K)])
        .collect()
}

/// Ranges that are shorter, or rounder, or nearer to the start of memory.
fn ranges(range: GpaRange, level: PageLevel, memory: GpaRange) -> Vec<GpaRange> {
    let (start, end) = (range.start().as_u64(), range.end().as_u64());
    let (base, unit) = (memory.start().as_u64(), level.bytes());
    let middle = (start + range.bytes() / 2) / unit * unit;
    let boundary = (start / REGION + 1) * REGION;
    let mut ends = vec![
        (start, middle),
        (middle, end),
        (start, start + unit),
        (end - unit, end),
        (start + unit, end),
        (start, end - unit),
        (start, boundary),
        (boundary, end),
        (start / REGION * REGION, end),
        (start, end / REGION * REGION),
        (start, (end / REGION + 1) * REGION),
    ];
    // The same length, moved.
    let length = end - start;
    for shift in [REGION, REGION / 2, 1 << 16] {
        let rounder = start / shift * shift;
        ends.push((rounder, rounder + length));
    }
    ends.push((base, base + length));
    ends.into_iter()
        .filter(|(start, end)| start < end && start % unit == 0 && end % unit == 0)
        .filter_map(|(start, end)| GpaRange::new(Gpa::new(start), Gpa::new(end)))
        .filter(|other| *other != range && memory.contains_range(*other))
        .collect()
}

/// Everything a region or more nearer to the start of memory.
fn moved(plan: &Plan, made: &mut Vec<Plan>) {
    let base = plan.guest.memory.start();
    let Some(first) = all_ops(plan)
        .filter_map(Op::range)
        .map(GpaRange::start)
        .min()
    else {
        return;
    };
    let offset = first.checked_sub(base).unwrap_or(0) / REGION * REGION;
    for by in [offset, REGION] {
        if by == 0 || by > offset || !plan.guest.image.is_empty() {
            continue;
        }
        let mut nearer = plan.clone();
        let down = |gpa: Gpa| Gpa::new(gpa.as_u64() - by);
        rebase(&mut nearer, |range| {
            GpaRange::new(down(range.start()), down(range.end()))
        });
        made.push(nearer);
    }
}

/// Moves every operation of a plan by `place`.
pub(super) fn rebase(plan: &mut Plan, place: impl Fn(GpaRange) -> Option<GpaRange>) {
    for op in all_ops_mut(plan) {
        if let Some(range) = op.range().and_then(&place) {
            op.set_range(range);
        }
    }
}
