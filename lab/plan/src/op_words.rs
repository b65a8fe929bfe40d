//! Operations in words: a sentence of a report, the name in a picture, the line of a scenario.

use tdxlab_protocol::addr::{Gpa, GpaRange, PageLevel};
use tdxlab_protocol::message::{AccessKind, OnVe, Side, VcpuId};

use crate::op::{Action, Gone, Op, Size, SlotChange, VmmAnswer};
use crate::plan::Guest;
use crate::text::{Bytes, place};

/// What a step does, as the scenario's author would put it, with the GPAs it stands for.
pub fn action(action: &Action, guest: &Guest) -> String {
    match action {
        Action::One(op) => sentence(op, guest),
        Action::Parallel(branches) => {
            let branches: Vec<String> = branches
                .iter()
                .map(|branch| {
                    let ops: Vec<String> = branch.0.iter().map(|op| sentence(op, guest)).collect();
                    ops.join(", then ")
                })
                .collect();
            format!("in parallel: {}", branches.join(" | "))
        }
    }
}

fn sentence(op: &Op, guest: &Guest) -> String {
    let place = |range: &GpaRange| place(*range, guest);
    match op {
        Op::Accept { range, size, vcpu } => {
            let size = match size {
                Size::Size4K => "at 4K",
                Size::Size2M => "at 2M",
                Size::Size1G => "at 1G",
                Size::Linux => "as Linux does",
            };
            format!("accept {} {size}{}", place(range), on(*vcpu))
        }
        Op::Release { range, level, vcpu } => {
            format!("release {} at {level}{}", place(range), on(*vcpu))
        }
        Op::Touch {
            range,
            stride,
            access,
            side,
            on_ve,
            same_rip,
            vcpu,
        } => {
            let access = match access {
                AccessKind::Read => "read",
                AccessKind::Write => "write",
            };
            let on_ve = match on_ve {
                OnVe::Skip => "",
                OnVe::Accept => ", accepting on #VE",
            };
            let same_rip = match same_rip {
                true => ", by one instruction",
                false => "",
            };
            format!(
                "touch {} every {stride} ({access}{}){on_ve}{same_rip}{}",
                place(range),
                shared(*side),
                on(*vcpu)
            )
        }
        Op::Fill {
            range,
            generation,
            side,
            vcpu,
        } => format!(
            "fill {} (fill {}{}){}",
            place(range),
            generation.get(),
            shared(*side),
            on(*vcpu)
        ),
        Op::Verify {
            range,
            gone,
            side,
            vcpu,
        } => {
            let gone = match gone {
                Gone::Skip => "",
                Gone::Ends => ", touching the ends of what is gone",
                Gone::Every => ", touching all that is gone",
            };
            let side = match side {
                Side::Private => "",
                Side::Shared => " (shared)",
            };
            format!("verify {}{side}{gone}{}", place(range), on(*vcpu))
        }
        Op::Convert { range, to, vcpu } => {
            format!("convert {} to {}{}", place(range), half(*to), on(*vcpu))
        }
        Op::Probe {
            range,
            stride,
            vcpu,
        } => format!("probe {} every {stride}{}", place(range), on(*vcpu)),
        Op::Punch { range } => format!("punch {}", place(range)),
        Op::Prefault { range } => format!("prefault {}", place(range)),
        Op::Allocate { range } => format!("allocate {}", place(range)),
        Op::Pin { range } => format!("pin {}", place(range)),
        Op::Unpin { range } => format!("unpin {}", place(range)),
        Op::Slot { range, change } => match change {
            SlotChange::Delete => format!("delete the memory slot {}", place(range)),
            SlotChange::Add => format!("add the memory slot {} again", place(range)),
        },
        Op::Conversions { range, answer } => {
            let answer = match answer {
                VmmAnswer::Serve => "serves",
                VmmAnswer::Delay => "delays",
                VmmAnswer::Refuse => "refuses",
            };
            format!(
                "from now on the VMM {answer} conversions of {}",
                place(range)
            )
        }
        Op::SetAttributes { range, to } => {
            format!("make {} {} in the guest_memfd", place(range), half(*to))
        }
        Op::DirtyLog { on: true } => "log dirty pages".to_owned(),
        Op::DirtyLog { on: false } => "stop logging dirty pages".to_owned(),
        Op::Stop => "stop the vCPUs".to_owned(),
        Op::Cont => "let the vCPUs go on".to_owned(),
    }
}

/// An operation in one to three words, as pictures and tables name it.
pub const fn name(op: &Op) -> &'static str {
    match op {
        Op::Accept { .. } => "accept",
        Op::Release { .. } => "release",
        Op::Touch { .. } => "touch",
        Op::Fill { .. } => "fill",
        Op::Verify { .. } => "verify",
        Op::Convert {
            to: Side::Shared, ..
        } => "convert to shared",
        Op::Convert {
            to: Side::Private, ..
        } => "convert to private",
        Op::Probe { .. } => "probe",
        Op::Punch { .. } => "punch",
        Op::Prefault { .. } => "prefault",
        Op::Allocate { .. } => "allocate",
        Op::Pin { .. } => "pin",
        Op::Unpin { .. } => "unpin",
        Op::Slot {
            change: SlotChange::Delete,
            ..
        } => "delete a slot",
        Op::Slot {
            change: SlotChange::Add,
            ..
        } => "add a slot",
        Op::Conversions { .. } => "VMM's answer",
        Op::SetAttributes { .. } => "attributes",
        Op::DirtyLog { on: true } => "log dirty pages",
        Op::DirtyLog { on: false } => "stop logging",
        Op::Stop => "stop",
        Op::Cont => "cont",
    }
}

/// As a scenario file has it.
pub fn yaml(op: &Op, guest: &Guest) -> String {
    let mut parts = Vec::new();
    if let Some(range) = op.range() {
        parts.push(format!("range: {}", offsets(range, guest)));
    }
    let on = |side: &Side| (*side == Side::Shared).then(|| "side: shared".to_owned());
    let every =
        |stride: &PageLevel| (*stride != PageLevel::Size4K).then(|| format!("stride: {stride}"));
    let name = match op {
        Op::Release { level, .. } => {
            parts.push(format!("level: {level}"));
            "release"
        }
        Op::Accept { size, .. } => {
            let level = match size {
                Size::Size4K => "4K",
                Size::Size2M => "2M",
                Size::Size1G => "1G",
                Size::Linux => "linux",
            };
            parts.push(format!("level: {level}"));
            "accept"
        }
        Op::Touch {
            stride,
            access,
            side,
            on_ve,
            same_rip,
            ..
        } => {
            parts.extend(every(stride));
            parts.extend((*access == AccessKind::Read).then(|| "access: read".to_owned()));
            parts.extend(on(side));
            parts.extend((*on_ve == OnVe::Accept).then(|| "on_ve: accept".to_owned()));
            parts.extend(same_rip.then(|| "same_rip: true".to_owned()));
            "touch"
        }
        Op::Fill { side, .. } => {
            parts.extend(on(side));
            "fill"
        }
        Op::Verify { gone, side, .. } => {
            parts.extend(match gone {
                Gone::Skip => None,
                Gone::Ends => Some("gone: ends".to_owned()),
                Gone::Every => Some("gone: every".to_owned()),
            });
            parts.extend(on(side));
            "verify"
        }
        Op::Convert { to, .. } => {
            parts.push(format!("to: {}", half(*to)));
            "convert"
        }
        Op::SetAttributes { to, .. } => {
            parts.push(format!("to: {}", half(*to)));
            "attributes"
        }
        Op::Probe { stride, .. } => {
            parts.extend(every(stride));
            "probe"
        }
        Op::Punch { .. } => "punch",
        Op::Prefault { .. } => "prefault",
        Op::Allocate { .. } => "allocate",
        Op::Pin { .. } => "pin",
        Op::Unpin { .. } => "unpin",
        Op::Slot { change, .. } => {
            let change = match change {
                SlotChange::Delete => "delete",
                SlotChange::Add => "add",
            };
            parts.push(format!("change: {change}"));
            "slot"
        }
        Op::Conversions { answer, .. } => {
            let answer = match answer {
                VmmAnswer::Serve => "serve",
                VmmAnswer::Delay => "delay",
                VmmAnswer::Refuse => "refuse",
            };
            parts.push(format!("vmm: {answer}"));
            "conversions"
        }
        Op::DirtyLog { on: true } => return "dirty_log: on".to_owned(),
        Op::DirtyLog { on: false } => return "dirty_log: off".to_owned(),
        Op::Stop => return "vm: stop".to_owned(),
        Op::Cont => return "vm: cont".to_owned(),
    };
    if let Some(vcpu) = op.vcpu().filter(|vcpu| vcpu.0 > 0) {
        parts.push(format!("vcpu: {}", vcpu.0));
    }
    format!("{name}: {{ {} }}", parts.join(", "))
}

/// The first vCPU goes without saying.
fn on(vcpu: VcpuId) -> String {
    match vcpu.0 {
        0 => String::new(),
        index => format!(" on vCPU {index}"),
    }
}

const fn half(side: Side) -> &'static str {
    match side {
        Side::Private => "private",
        Side::Shared => "shared",
    }
}

fn shared(side: Side) -> &'static str {
    match side {
        Side::Private => "",
        Side::Shared => ", shared",
    }
}

/// A range as offsets into test memory, as scenarios have it.
pub fn offsets(range: GpaRange, guest: &Guest) -> String {
    let base = guest.memory.start();
    let offset = |gpa: Gpa| Bytes(gpa.checked_sub(base).unwrap_or(0));
    format!("{}..{}", offset(range.start()), offset(range.end()))
}
