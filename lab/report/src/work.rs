//! What a step did, in a form in which its cost can be compared with that of others.

use std::collections::BTreeSet;

use tdxlab_journal::Observed;
use tdxlab_plan::{Action, GuestOp, HostOp, Kind, OnVe, Op, Side, Size, SlotChange};

use super::model::StepWork;

/// The work of a step; `None` where its operations are of different kinds.
pub(super) fn of(action: &Action) -> Option<StepWork> {
    let mut kinds = action.ops().map(kind);
    let (operation, level) = kinds.next()??;
    if kinds.any(|other| other.as_ref() != Some(&(operation, level.clone()))) {
        return None;
    }
    let vcpus: BTreeSet<_> = action
        .ops()
        .filter_map(Op::vcpu)
        .map(|vcpu| vcpu.0)
        .collect();
    let bytes = action
        .ops()
        .filter_map(Op::range)
        .map(|range| range.bytes());
    Some(StepWork {
        operation: operation.to_owned(),
        level,
        vcpus: u32::try_from(vcpus.len()).unwrap_or(u32::MAX),
        bytes: bytes.fold(0, u64::saturating_add),
        micros: None,
    })
}

/// From the start to the end of the slowest branch.
pub(super) fn micros(observed: &[Vec<Observed>]) -> Option<u64> {
    let branch = |done: &Vec<Observed>| done.iter().map(|o| o.micros).fold(0, u64::saturating_add);
    observed.iter().map(branch).max()
}

fn kind(op: &Op) -> Option<(&'static str, Option<String>)> {
    Some(match op.kind() {
        Kind::Guest(_, GuestOp::Accept { size, .. }) => {
            let level = match size {
                Size::Size4K => "4K",
                Size::Size2M => "2M",
                Size::Size1G => "1G",
                Size::Linux => "linux",
            };
            ("accept", Some(level.to_owned()))
        }
        Kind::Guest(
            _,
            GuestOp::Touch {
                stride,
                side,
                on_ve,
                ..
            },
        ) => {
            let what = match (side, on_ve) {
                (Side::Shared, _) => "touch shared",
                (Side::Private, OnVe::Skip) => "touch",
                (Side::Private, OnVe::Accept) => "touch, accept",
            };
            (what, Some(stride.to_string()))
        }
        Kind::Guest(_, GuestOp::Fill { side, .. }) => match side {
            Side::Private => ("fill", None),
            Side::Shared => ("fill shared", None),
        },
        Kind::Guest(_, GuestOp::Verify { .. }) => ("verify", None),
        Kind::Guest(_, GuestOp::Convert { to, .. }) => match to {
            Side::Private => ("convert to private", None),
            Side::Shared => ("convert to shared", None),
        },
        Kind::Guest(_, GuestOp::Probe { stride, .. }) => ("probe", Some(stride.to_string())),
        Kind::Guest(_, GuestOp::Release { level, .. }) => ("release", Some(level.to_string())),
        Kind::Host(HostOp::Punch(_)) => ("punch", None),
        Kind::Host(HostOp::Prefault(_)) => ("prefault", None),
        Kind::Host(HostOp::Allocate(_)) => ("allocate", None),
        Kind::Host(HostOp::Pin(_)) => ("pin", None),
        Kind::Host(HostOp::Unpin(_)) => ("unpin", None),
        Kind::Host(HostOp::Slot(_, SlotChange::Delete)) => ("delete a slot", None),
        Kind::Host(HostOp::Slot(_, SlotChange::Add)) => ("add a slot", None),
        Kind::Host(HostOp::Conversions(..)) => ("VMM's answer", None),
        Kind::Host(HostOp::SetAttributes(_, Side::Shared)) => ("attributes to shared", None),
        Kind::Host(HostOp::SetAttributes(_, Side::Private)) => ("attributes to private", None),
        Kind::Vm(_) => return None,
    })
}
