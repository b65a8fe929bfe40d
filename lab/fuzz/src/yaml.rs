//! A plan as a scenario file.

use std::fmt::Write;

use tdxlab_plan::addr::{Gpa, GpaRange, PageLevel};
use tdxlab_plan::text::Bytes;
use tdxlab_plan::{
    AccessKind, Action, Design, Gone, Guest, OnVe, Op, Plan, RangeSplit, Side, Size,
};

/// The text of a scenario that expands to this plan, for designs like this one. `name` and `about`
/// are its header.
pub fn scenario(plan: &Plan, design: &Design, name: &str, about: &str) -> String {
    let quoted = serde_json::to_string(about).unwrap_or_default();
    let mut text = format!("scenario: {name}\nabout: {quoted}\n");
    if let Some(needs) = needs(design) {
        let _ = writeln!(text, "needs: {{ {needs} }}");
    }
    let _ = writeln!(text, "guest: {{ {} }}", guest(&plan.guest));
    let _ = writeln!(text, "seed: {}", plan.seed);
    text.push_str("steps:\n");
    for step in &plan.steps {
        match &step.action {
            Action::One(op) => {
                let _ = writeln!(text, "  - {}", operation(op, &plan.guest));
            }
            Action::Parallel(branches) => {
                text.push_str("  - parallel:\n");
                for branch in branches {
                    let ops: Vec<String> = branch
                        .0
                        .iter()
                        .map(|op| operation(op, &plan.guest))
                        .collect();
                    let line = match ops.as_slice() {
                        [one] => one.clone(),
                        several => {
                            let braced: Vec<String> =
                                several.iter().map(|op| format!("{{ {op} }}")).collect();
                            format!("[{}]", braced.join(", "))
                        }
                    };
                    let _ = writeln!(text, "      - {line}");
                }
            }
        }
    }
    text
}

/// What sets designs like this one apart from others, which another plan may be about.
fn needs(design: &Design) -> Option<String> {
    if design.is_plain() {
        return None;
    }
    if design.private_leaf == PageLevel::Size4K {
        return Some("private_leaf_at_most: 4K".to_owned());
    }
    let leaf = format!("private_leaf: {}", design.private_leaf);
    Some(match (design.hole_alignment, design.range_split) {
        (PageLevel::Size4K, RangeSplit::HeadAndTail) => format!("{leaf}, hole_alignment: 4K"),
        (alignment, _) => format!("{leaf}, hole_alignment_at_least: {alignment}"),
    })
}

fn guest(guest: &Guest) -> String {
    let mut parts = vec![format!("memory: {}", Bytes(guest.memory.bytes()))];
    if guest.vcpus != 1 {
        parts.push(format!("vcpus: {}", guest.vcpus));
    }
    if guest.sept_ve_disable {
        parts.push("sept_ve_disable: true".to_owned());
    }
    if guest.slots.len() != 1 || guest.slots[0].gmem_offset != 0 {
        let slots: Vec<String> = guest
            .slots
            .iter()
            .map(|slot| {
                format!(
                    "{{ range: {}, gmem: {} }}",
                    place(slot.range, guest),
                    Bytes(slot.gmem_offset)
                )
            })
            .collect();
        parts.push(format!("slots: [{}]", slots.join(", ")));
    }
    if !guest.image.is_empty() {
        let image: Vec<String> = guest
            .image
            .iter()
            .map(|range| place(*range, guest))
            .collect();
        parts.push(format!("image: [{}]", image.join(", ")));
    }
    if let Some(backing) = guest.backing {
        parts.push(format!("backing: {}", backing.name()));
    }
    parts.join(", ")
}

fn operation(op: &Op, guest: &Guest) -> String {
    let mut parts = Vec::new();
    if let Some(range) = op.range() {
        parts.push(format!("range: {}", place(range, guest)));
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
            ..
        } => {
            parts.extend(every(stride));
            parts.extend((*access == AccessKind::Read).then(|| "access: read".to_owned()));
            parts.extend(on(side));
            parts.extend((*on_ve == OnVe::Accept).then(|| "on_ve: accept".to_owned()));
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
            let to = match to {
                Side::Private => "private",
                Side::Shared => "shared",
            };
            parts.push(format!("to: {to}"));
            "convert"
        }
        Op::Probe { stride, .. } => {
            parts.extend(every(stride));
            "probe"
        }
        Op::Punch { .. } => "punch",
        Op::Prefault { .. } => "prefault",
        Op::Allocate { .. } => "allocate",
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

/// A range as offsets into test memory.
fn place(range: GpaRange, guest: &Guest) -> String {
    let base = guest.memory.start();
    let offset = |gpa: Gpa| Bytes(gpa.checked_sub(base).unwrap_or(0));
    format!("{}..{}", offset(range.start()), offset(range.end()))
}
