//! Properties of each operation for a hunt: its row of coverage, and its simplicity.

use tdxlab_plan::{AccessKind, Gone, OnVe, Op, Side, Size};

/// Names of operations on TDs.
pub(super) const OPERATIONS: [&str; 21] = [
    "accept 4K",
    "accept 2M",
    "accept 1G",
    "accept linux",
    "touch read",
    "touch write",
    "touch, accepting",
    "touch shared",
    "fill",
    "fill shared",
    "verify",
    "verify ends",
    "verify every",
    "verify shared",
    "convert to shared",
    "convert to private",
    "probe",
    "punch",
    "prefault",
    "allocate",
    "in a race",
];

/// Names of operations on plain VMs. The last four are on the whole VM.
pub(super) const PLAIN_OPERATIONS: [&str; 10] = [
    "touch read",
    "touch write",
    "fill",
    "verify",
    "punch",
    "allocate",
    "dirty log on",
    "dirty log off",
    "stop",
    "cont",
];

/// The name under which an operation is counted.
pub(super) const fn counted_as(op: &Op) -> &'static str {
    match op {
        Op::Accept { size, .. } => match size {
            Size::Size4K => "accept 4K",
            Size::Size2M => "accept 2M",
            Size::Size1G => "accept 1G",
            Size::Linux => "accept linux",
        },
        Op::Release { .. } => "release",
        Op::Touch {
            side,
            on_ve,
            access,
            ..
        } => match (side, on_ve, access) {
            (Side::Shared, ..) => "touch shared",
            (_, OnVe::Accept, _) => "touch, accepting",
            (.., AccessKind::Read) => "touch read",
            (.., AccessKind::Write) => "touch write",
        },
        Op::Fill { side, .. } => match side {
            Side::Private => "fill",
            Side::Shared => "fill shared",
        },
        Op::Verify { side, gone, .. } => match (side, gone) {
            (Side::Shared, _) => "verify shared",
            (_, Gone::Skip) => "verify",
            (_, Gone::Ends) => "verify ends",
            (_, Gone::Every) => "verify every",
        },
        Op::Convert { to, .. } => match to {
            Side::Shared => "convert to shared",
            Side::Private => "convert to private",
        },
        Op::Probe { .. } => "probe",
        Op::Punch { .. } => "punch",
        Op::Prefault { .. } => "prefault",
        Op::Allocate { .. } => "allocate",
        Op::Pin { .. } => "pin",
        Op::Unpin { .. } => "unpin",
        Op::Slot { .. } => "slot",
        Op::Conversions { .. } => "conversions",
        Op::SetAttributes { .. } => "attributes",
        Op::DirtyLog { on: true } => "dirty log on",
        Op::DirtyLog { on: false } => "dirty log off",
        Op::Stop => "stop",
        Op::Cont => "cont",
    }
}

/// How far an operation is from the plainest of its kind.
pub(super) fn weight(op: &Op) -> u32 {
    let side = |side: &Side| u32::from(*side == Side::Shared);
    let vcpu = op.vcpu().map_or(0, |vcpu| u32::from(vcpu.0 > 0));
    vcpu + match op {
        Op::Release { .. } => 4,
        Op::Pin { .. }
        | Op::Unpin { .. }
        | Op::Slot { .. }
        | Op::Conversions { .. }
        | Op::SetAttributes { .. } => 2,
        Op::Accept { size, .. } => match size {
            Size::Size4K => 0,
            Size::Size2M => 1,
            Size::Size1G => 2,
            Size::Linux => 3,
        },
        Op::Touch {
            side: which,
            on_ve,
            same_rip,
            ..
        } => 3 + side(which) + u32::from(*on_ve == OnVe::Accept) + u32::from(*same_rip),
        Op::Fill { side: which, .. } => 1 + side(which),
        Op::Verify {
            side: which, gone, ..
        } => {
            2 + side(which)
                + match gone {
                    Gone::Skip => 0,
                    Gone::Ends => 1,
                    Gone::Every => 2,
                }
        }
        Op::Probe { .. } => 3,
        Op::Prefault { .. } | Op::Allocate { .. } => 2,
        Op::Convert { .. } | Op::Punch { .. } | Op::DirtyLog { .. } | Op::Stop | Op::Cont => 1,
    }
}
