//! Checks that a plan could come from a scenario.
//!
//! Hosts and the predictor rely on what `scenario` ensures: ranges inside test memory, slots
//! without gaps, valid vCPUs, steps of bounded size. A plan from a file may have been edited, so
//! all of it is checked here.

use std::collections::BTreeSet;
use std::fmt;

use tdxlab_protocol::addr::{GpaRange, PageLevel};
use tdxlab_protocol::message::VcpuId;
use tdxlab_protocol::pattern::Generation;

use crate::expect::{Expect, ExpectTd};
use crate::limits::{
    LOW_END, MAX_ACTIONS, MAX_BRANCHES, MAX_IMAGE, MAX_OPERATIONS, MAX_SLOTS, MAX_VCPUS,
    WINDOW_BYTES,
};
use crate::op::{Action, Branch, GuestOp, HostOp, Kind, Op, VmOp};
use crate::plan::{Guest, HIGH_BASE, LOW_BASE, Plan};
use crate::plan_name;

/// How much of a name that is none is told.
const LONGEST_SHOWN: usize = 100;

/// An error in a plan, and its step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WrongPlan {
    /// The step, counted from 1; `None` for the guest, or the plan as a whole.
    pub step: Option<usize>,
    /// The error.
    pub what: String,
}

impl fmt::Display for WrongPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.step {
            Some(step) => write!(f, "step {step}: {}", self.what),
            None => f.write_str(&self.what),
        }
    }
}

/// Refuses a plan that no scenario could have made.
pub fn check(plan: &Plan) -> Result<(), WrongPlan> {
    let whole = |what| WrongPlan { step: None, what };
    words(plan).map_err(whole)?;
    guest(&plan.guest).map_err(whole)?;
    let mut operations = 0;
    let mut fills = BTreeSet::new();
    let mut dead = None;
    for (index, step) in plan.steps.iter().enumerate() {
        let wrong = |what| WrongPlan {
            step: Some(index + 1),
            what,
        };
        if let Some(step) = dead {
            return Err(wrong(format!(
                "it comes after step {step}, which kills the TD"
            )));
        }
        match &step.action {
            Action::One(op) => self::op(op, &plan.guest).map_err(wrong)?,
            Action::Parallel(branches) => parallel(branches, &plan.guest).map_err(wrong)?,
        }
        operations += step.action.ops().count();
        if operations > MAX_OPERATIONS {
            return Err(wrong(format!("more than {MAX_OPERATIONS} operations")));
        }
        generations(&step.action, &mut fills).map_err(wrong)?;
        expect(&step.expect, &step.action, &plan.guest).map_err(wrong)?;
        dead = (step.expect.td == Some(ExpectTd::Killed)).then_some(index + 1);
    }
    Ok(())
}

/// Name and description are words that may be printed, and there is something to do.
fn words(plan: &Plan) -> Result<(), String> {
    if !plan_name::is_of_plan(&plan.name) {
        let shown: String = plan.name.chars().take(LONGEST_SHOWN).collect();
        return Err(format!(
            "{shown:?} cannot be the name of a plan; names are such as `punch/edges[head,offset=4K]`"
        ));
    }
    let odd = |c: &char| c.is_control() && !matches!(c, '\n' | '\t');
    if let Some(letter) = plan.about.chars().find(odd) {
        return Err(format!(
            "`about` has the control character U+{:04X}; remove it",
            u32::from(letter)
        ));
    }
    match plan.steps.is_empty() {
        true => Err("it has no steps; a plan has at least one".to_owned()),
        false => Ok(()),
    }
}

/// Every fill has a generation of its own, else what is read does not say which fill wrote it.
fn generations(action: &Action, fills: &mut BTreeSet<Generation>) -> Result<(), String> {
    for op in action.ops() {
        if let Op::Fill { generation, .. } = op
            && !fills.insert(*generation)
        {
            return Err(format!(
                "a fill before it has generation {}, too; every fill has its own",
                generation.get()
            ));
        }
    }
    Ok(())
}

/// What the author expects can be of such a step at all. Whether it is right, only a predictor knows.
fn expect(expect: &Expect, action: &Action, guest: &Guest) -> Result<(), String> {
    if let Some((key, what)) = expect.misfits(action).first() {
        return Err(format!(
            "it expects `{key}`, which is about {what}, and makes none"
        ));
    }
    let kills = |op: &Op| {
        let part = op.kind();
        matches!(part, Kind::Guest(..)) && !matches!(op, Op::Convert { .. } | Op::Release { .. })
    };
    if expect.td == Some(ExpectTd::Killed) && (guest.backing.is_some() || !action.ops().any(kills))
    {
        return Err("it expects `td: killed`, and does nothing that kills a TD".to_owned());
    }
    if let Some(splits) = expect.splits
        && guest.backing.is_none()
        && splits > most_splits(action, guest)
    {
        return Err(format!(
            "it expects {splits} splits, and reaches {} leaves of 2M at most",
            most_splits(action, guest)
        ));
    }
    Ok(())
}

/// The leaves of 2M that `action` reaches: no leaf splits twice for one operation.
fn most_splits(action: &Action, guest: &Guest) -> u64 {
    let region = PageLevel::Size2M.bytes();
    let reached = |op: &Op| {
        let range = op.range().unwrap_or(guest.memory);
        range.end().as_u64().div_ceil(region) - range.start().as_u64() / region
    };
    action.ops().map(reached).sum()
}

fn guest(guest: &Guest) -> Result<(), String> {
    let memory = guest.memory;
    let base = memory.start();
    let low = base == LOW_BASE && memory.end().as_u64() <= LOW_END;
    if !(low || base == HIGH_BASE && memory.end().as_u64() <= WINDOW_BYTES) {
        return Err(format!(
            "test memory at {memory}; it starts at {LOW_BASE} and ends at or below {LOW_END:#x}, or \
             starts at {HIGH_BASE}"
        ));
    }
    whole_pages(memory, PageLevel::Size4K)?;
    if guest.vcpus == 0 || u32::from(guest.vcpus) > MAX_VCPUS {
        return Err(format!("{} vCPUs; from 1 to {MAX_VCPUS}", guest.vcpus));
    }
    slots(guest)?;
    let mut image = guest.image.clone();
    image.sort();
    for range in &image {
        inside(*range, PageLevel::Size4K, guest)?;
    }
    if let Some(pair) = image.windows(2).find(|pair| pair[0].overlaps(pair[1])) {
        return Err(format!("{} and {} of the image overlap", pair[0], pair[1]));
    }
    if image.iter().map(|range| range.bytes()).sum::<u64>() > MAX_IMAGE {
        return Err(format!("more than {MAX_IMAGE} bytes of initial image"));
    }
    Ok(())
}

fn slots(guest: &Guest) -> Result<(), String> {
    if guest.slots.len() > MAX_SLOTS {
        return Err(format!("{} memory slots", guest.slots.len()));
    }
    let mut next = guest.memory.start();
    let mut files: Vec<(u64, u64)> = Vec::new();
    for slot in &guest.slots {
        whole_pages(slot.range, PageLevel::Size4K)?;
        if slot.range.start() != next {
            return Err(format!("the slot at {} should start at {next}", slot.range));
        }
        next = slot.range.end();
        let end = slot.gmem_offset.saturating_add(slot.range.bytes());
        if !slot.gmem_offset.is_multiple_of(PageLevel::Size4K.bytes()) || end > WINDOW_BYTES {
            return Err(format!(
                "the slot at {} has offset {:#x} of the guest_memfd",
                slot.range, slot.gmem_offset
            ));
        }
        if files
            .iter()
            .any(|&(start, stop)| start < end && slot.gmem_offset < stop)
        {
            return Err(format!(
                "the slot at {} shares its part of the guest_memfd",
                slot.range
            ));
        }
        files.push((slot.gmem_offset, end));
    }
    if next != guest.memory.end() {
        return Err(format!("slots end at {next}, test memory does not"));
    }
    Ok(())
}

fn parallel(branches: &[Branch], guest: &Guest) -> Result<(), String> {
    if branches.len() < 2 || branches.len() > MAX_BRANCHES {
        return Err(format!(
            "{} branches; from 2 to {MAX_BRANCHES}",
            branches.len()
        ));
    }
    let mut taken: Vec<VcpuId> = Vec::new();
    for branch in branches {
        let Some(first) = branch.0.first() else {
            return Err("a branch without operations".to_owned());
        };
        let vcpu = first.vcpu();
        for op in &branch.0 {
            if matches!(op, Op::Verify { .. }) {
                return Err("`verify` cannot race".to_owned());
            }
            if matches!(op, Op::DirtyLog { .. }) && guest.backing.is_none() {
                return Err("`dirty_log` of a TD cannot race".to_owned());
            }
            if op.range().is_some_and(|range| {
                matches!(
                    op,
                    Op::Accept { .. } | Op::Convert { .. } | Op::Allocate { .. }
                ) && inside(range, PageLevel::Size4K, guest).is_err()
            }) {
                return Err("a range that leaves test memory cannot race".to_owned());
            }
            if op.vcpu() != vcpu {
                return Err("a branch that runs in several places".to_owned());
            }
            self::op(op, guest)?;
        }
        if let Some(vcpu) = vcpu {
            if taken.contains(&vcpu) {
                return Err(format!("two branches on vCPU {}", vcpu.0));
            }
            taken.push(vcpu);
        }
    }
    Ok(())
}

fn op(op: &Op, guest: &Guest) -> Result<(), String> {
    if let Some(vcpu) = op.vcpu()
        && vcpu.0 >= guest.vcpus
    {
        return Err(format!(
            "there is no vCPU {}: the guest has {}",
            vcpu.0, guest.vcpus
        ));
    }
    match op.kind() {
        Kind::Host(HostOp::Punch(range) | HostOp::SetAttributes(range, _)) => of_file(range, guest),
        Kind::Host(HostOp::Allocate(range)) if guest.backing.is_none() => {
            of_file(range, guest)?;
            few(range, PageLevel::Size4K)
        }
        Kind::Guest(_, GuestOp::Convert { range, .. }) => from_memory(range, guest),
        Kind::Guest(_, GuestOp::Accept { range, size }) => {
            whole_pages(range, size.smallest())?;
            from_memory(range, guest)?;
            few(range, size.smallest())
        }
        Kind::Host(part) if part.is_for_software() && guest.backing.is_some() => {
            Err("only TDs have private memory, slots that go, and conversions".to_owned())
        }
        Kind::Host(HostOp::Slot(range, _)) => slot(range, guest),
        Kind::Guest(_, part) => on_range(op, part.range(), guest),
        Kind::Host(part) => on_range(op, part.range(), guest),
        Kind::Vm(VmOp::Stop | VmOp::Cont) if guest.backing.is_none() => {
            Err("only plain VMs are stopped".to_owned())
        }
        Kind::Vm(_) => Ok(()),
    }
}

fn on_range(op: &Op, range: GpaRange, guest: &Guest) -> Result<(), String> {
    match op.unit() {
        Some(unit) => bounded(range, unit, guest),
        None => inside(range, PageLevel::Size4K, guest),
    }
}

/// Checks a range in which each `level` is a separate action.
fn bounded(range: GpaRange, level: PageLevel, guest: &Guest) -> Result<(), String> {
    inside(range, level, guest)?;
    few(range, level)
}

fn few(range: GpaRange, level: PageLevel) -> Result<(), String> {
    let actions = range.bytes() / level.bytes();
    if actions > MAX_ACTIONS {
        return Err(format!(
            "{range} is {actions} actions; at most {MAX_ACTIONS}"
        ));
    }
    Ok(())
}

/// The range is that of one memory slot.
fn slot(range: GpaRange, guest: &Guest) -> Result<(), String> {
    if guest.slots.iter().any(|slot| slot.range == range) {
        Ok(())
    } else {
        Err(format!("no memory slot serves exactly {range}"))
    }
}

/// A range that starts in test memory. It may end past it, to be refused.
fn from_memory(range: GpaRange, guest: &Guest) -> Result<(), String> {
    let starts = guest.memory.contains(range.start());
    if !range.is_empty() && starts && range.end().as_u64() <= WINDOW_BYTES {
        Ok(())
    } else {
        Err(format!(
            "{range}; it starts in test memory, {}, and is not empty",
            guest.memory
        ))
    }
}

fn inside(range: GpaRange, level: PageLevel, guest: &Guest) -> Result<(), String> {
    whole_pages(range, level)?;
    if guest.memory.contains_range(range) {
        Ok(())
    } else {
        Err(format!(
            "{range} does not lie in test memory, {}",
            guest.memory
        ))
    }
}

/// A call on the guest_memfd may end past test memory, and may be unaligned, to be refused.
fn of_file(range: GpaRange, guest: &Guest) -> Result<(), String> {
    let starts = guest.memory.start() <= range.start() && range.start() <= guest.memory.end();
    if !range.is_empty() && starts && range.end().as_u64() <= WINDOW_BYTES {
        Ok(())
    } else {
        Err(format!(
            "{range}; it starts in test memory, {}, or at its end, and is not empty",
            guest.memory
        ))
    }
}

fn whole_pages(range: GpaRange, level: PageLevel) -> Result<(), String> {
    if range.is_empty() {
        Err(format!("{range} is empty"))
    } else if range.is_aligned(level) {
        Ok(())
    } else {
        Err(format!("{range} are not whole pages of {level}"))
    }
}

#[cfg(test)]
mod tests;
