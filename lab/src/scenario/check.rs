//! Asks the predictor whether a scenario can be judged, and whether what its author expects can be.

use std::ops::Range;

use super::error::Problem;
use super::read::at;
use super::yaml::Node;
use crate::plan::{Needs, Plan};
use crate::predict::{Design, Mismatch, Predictor};

/// All that the predictor contradicts, for every design that meets the plan's needs.
pub(super) fn plan(plan: &Plan, root: &Node) -> Vec<Problem> {
    let mut objections = Vec::new();
    for design in Design::all()
        .iter()
        .filter(|design| design.meets(&plan.needs).is_ok())
    {
        follow(plan, design, root, &mut objections);
    }
    // Designs that object to one value in the same way are named together.
    let mut problems: Vec<(Objection, Vec<&str>)> = Vec::new();
    for (design, objection) in objections {
        match problems.iter_mut().find(|(known, _)| *known == objection) {
            Some((_, designs)) => designs.push(design),
            None => problems.push((objection, vec![design])),
        }
    }
    problems
        .into_iter()
        .map(|(objection, designs)| objection.problem(&designs.join(", ")))
        .collect()
}

/// Goes through the steps as `design` would.
fn follow(
    plan: &Plan,
    design: &'static Design,
    root: &Node,
    objections: &mut Vec<(&'static str, Objection)>,
) {
    let mut predictor = Predictor::new(design, &plan.guest);
    for step in &plan.steps {
        let node = step_at(root, step.line);
        let span = |node: Option<&Node>| node.map_or(0..0, |node| node.span.clone());
        match predictor.step(&step.action) {
            Ok(expectation) => {
                for mismatch in Predictor::check_expect(&expectation, &step.expect) {
                    let value = node.map(|node| node.key("expect").key(mismatch.field));
                    objections.push((
                        design.name,
                        Objection {
                            span: span(value),
                            message: format!("`{}` cannot be {}", mismatch.field, mismatch.author),
                            label: "the predictor disagrees",
                            help: says(&mismatch),
                        },
                    ));
                }
            }
            Err(unjudgeable) => {
                objections.push((
                    design.name,
                    Objection {
                        span: span(node),
                        message: format!("this step could not be judged: {}", unjudgeable.why),
                        label: "nobody knows what it must show",
                        help: unjudgeable.advice,
                    },
                ));
                return;
            }
        }
    }
}

/// What a design has against a value or a step.
#[derive(PartialEq, Eq)]
struct Objection {
    span: Range<usize>,
    message: String,
    label: &'static str,
    help: String,
}

impl Objection {
    fn problem(self, designs: &str) -> Problem {
        at(
            &self.span,
            self.message,
            self.label,
            format!("{} (design {designs})", self.help),
        )
    }
}

/// What would be right.
fn says(mismatch: &Mismatch) -> String {
    let value = match mismatch.field {
        // Counts have no sign.
        "splits" | "accept_exits" => mismatch.predictor.replace('+', ""),
        _ => mismatch.predictor.clone(),
    };
    format!("`{}: {value}` it must be", mismatch.field)
}

/// The step that starts on `line`; of several on one line the first that expects something.
fn step_at(root: &Node, line: u32) -> Option<&Node> {
    let mut found: Option<&Node> = None;
    let mut lists = vec![root.key("steps")];
    while let Some(list) = lists.pop() {
        for step in list.items() {
            if let Some(entry) = step.entry("repeat") {
                lists.push(entry.value.key("steps"));
            } else if step.line == line && found.is_none_or(|found| found.entry("expect").is_none())
            {
                found = Some(step);
            }
        }
    }
    found
}

/// Why no design can meet `needs`; nothing where one does.
pub(super) fn impossible(needs: &Needs) -> Option<String> {
    let mut unmet = Vec::new();
    for design in Design::all() {
        match design.meets(needs) {
            Ok(()) => return None,
            Err(why) => unmet.push(format!("`{}` is not met: {}", why.need, why.offers)),
        }
    }
    Some(unmet.join("\n"))
}
