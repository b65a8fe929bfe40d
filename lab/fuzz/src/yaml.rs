//! A plan as a scenario file.

use std::fmt::Write;

use tdxlab_plan::addr::{GpaRange, PageLevel};
use tdxlab_plan::op_words::{self, offsets};
use tdxlab_plan::text::Bytes;
use tdxlab_plan::{Action, Design, Guest, Op, Plan, RangeSplit, Size};

/// The text of a scenario that expands to this plan, for designs like this one. `name` and `about`
/// are its header.
pub fn scenario(plan: &Plan, design: &Design, name: &str, about: &str) -> String {
    let quoted = serde_json::to_string(about).unwrap_or_default();
    let mut text = format!("scenario: {name}\nabout: {quoted}\n");
    if let Some(needs) = needs(plan, design) {
        let _ = writeln!(text, "needs: {{ {needs} }}");
    }
    let _ = writeln!(text, "guest: {{ {} }}", guest(&plan.guest));
    let _ = writeln!(text, "seed: {}", plan.seed);
    text.push_str("steps:\n");
    for step in &plan.steps {
        match &step.action {
            Action::One(op) => {
                let _ = writeln!(text, "  - {}", op_words::yaml(op, &plan.guest));
                // What leaves memory must say that it is refused for that.
                if let Some(refused) = refused(op, plan.guest.memory) {
                    let _ = writeln!(text, "    expect: {{ {refused} }}");
                }
            }
            Action::Parallel(branches) => {
                text.push_str("  - parallel:\n");
                for branch in branches {
                    let ops: Vec<String> = branch
                        .0
                        .iter()
                        .map(|op| op_words::yaml(op, &plan.guest))
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

/// The outcome of a conversion off pages, or of an operation whose range leaves memory; `None` for
/// one that is as it should be.
fn refused(op: &Op, memory: GpaRange) -> Option<&'static str> {
    let range = op.range()?;
    if matches!(op, Op::Convert { .. }) && !range.is_aligned(PageLevel::Size4K) {
        return Some("map_gpa: align_error");
    }
    let end = range.end();
    if end <= memory.end() {
        return None;
    }
    let last_leaf = memory
        .end()
        .align_down(PageLevel::Size2M)
        .page(PageLevel::Size2M);
    match op {
        Op::Convert { .. } => Some("map_gpa: invalid_operand"),
        Op::Accept {
            size: Size::Size2M, ..
        } if end <= last_leaf.end() && !memory.end().is_aligned(PageLevel::Size2M) => {
            Some("status: size_mismatch")
        }
        Op::Accept { .. } => Some("td: killed"),
        _ => None,
    }
}

/// The needs that distinguish a design from others, and the module, if the plan needs one.
fn needs(plan: &Plan, design: &Design) -> Option<String> {
    let module = plan.needs.module.map(|module| format!("module: {module}"));
    let needs: Vec<String> = design_needs(design).into_iter().chain(module).collect();
    (!needs.is_empty()).then(|| needs.join(", "))
}

fn design_needs(design: &Design) -> Option<String> {
    if design.is_plain() {
        return None;
    }
    let converts = match Design::converting_otherwise().contains(design) {
        true => format!(", converts: {}", design.converts.name()),
        false => String::new(),
    };
    if design.private_leaf == PageLevel::Size4K {
        return Some(format!("private_leaf_at_most: 4K{converts}"));
    }
    let leaf = format!("private_leaf: {}{converts}", design.private_leaf);
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
                    offsets(slot.range, guest),
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
            .map(|range| offsets(*range, guest))
            .collect();
        parts.push(format!("image: [{}]", image.join(", ")));
    }
    if let Some(backing) = guest.backing {
        parts.push(format!("backing: {}", backing.name()));
    }
    parts.join(", ")
}
