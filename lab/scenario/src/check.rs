//! Checks with the predictor that a scenario can be judged, and that its `expect` can be met.

use std::cell::OnceCell;
use std::ops::Range;

use tdxlab_plan::{Design, Expectation, Plan};
use tdxlab_predict::Predictor;
use tdxlab_protocol::tdcall::status;

use super::error::Problem;
use super::expand;
use super::expr::Bytes;
use super::read::at;
use super::source::Scenario;
use super::yaml::Node;

/// All contradictions with the predictor, for every design that meets the plan's needs.
pub(super) fn plan(plan: &Plan, source: &Scenario) -> Vec<Problem> {
    let steps = Steps {
        plan,
        source,
        places: OnceCell::new(),
    };
    // The other way of converting is looked at only where a plan is about the way.
    let twins = match plan.needs.converts {
        Some(_) => Design::converting_otherwise(),
        None => &[],
    };
    let designs = Design::all_for(&plan.guest)
        .iter()
        .chain(twins)
        .filter(|design| design.meets(&plan.needs).is_ok());
    let all = designs.clone().count();
    // Designs that object to one thing in the same way are named together.
    let mut objections: Vec<(Objection, Vec<&str>)> = Vec::new();
    for design in designs {
        for objection in follow(design, &steps) {
            match objections.iter_mut().find(|(known, _)| *known == objection) {
                Some((_, designs)) => designs.push(design.name),
                None => objections.push((objection, vec![design.name])),
            }
        }
    }
    objections
        .into_iter()
        .map(|(objection, designs)| objection.problem(&designs, all))
        .collect()
}

/// The steps of a plan in their file.
struct Steps<'a> {
    plan: &'a Plan,
    source: &'a Scenario,
    /// Where they start. Found when the first is wrong, which is rare.
    places: OnceCell<Vec<usize>>,
}

impl<'a> Steps<'a> {
    /// What is written of the `index`th step; the file if that cannot be found.
    fn node(&self, index: usize) -> &'a Node {
        let root = &self.source.root;
        let places = self
            .places
            .get_or_init(|| expand::places(self.source, self.plan));
        places
            .get(index)
            .and_then(|place| step_at(root, *place))
            .unwrap_or(root)
    }
}

/// Predicts all steps under `design`, and collects its objections.
fn follow(design: &Design, steps: &Steps<'_>) -> Vec<Objection> {
    let plan = steps.plan;
    let mut predictor = Predictor::new(design, &plan.guest).on_module(plan.needs.module);
    let mut objections: Vec<Objection> = Vec::new();
    for (index, step) in plan.steps.iter().enumerate() {
        match predictor.step(&step.action) {
            Ok(expectation) => {
                for mismatch in Predictor::check_expect(&expectation, &step.expect) {
                    let node = steps.node(index);
                    let field = mismatch.field;
                    let value = node.key("expect").key(field);
                    // A step in a `repeat` is reported once, for its first wrong round.
                    if objections.iter().any(|known| known.span == value.span) {
                        continue;
                    }
                    let written = value.text().unwrap_or(&mismatch.written);
                    objections.push(Objection {
                        span: value.span.clone(),
                        message: format!("`{field}: {written}` contradicts the predictor"),
                        label: "cannot be",
                        help: right(field, plan, &expectation).unwrap_or(mismatch.predictor),
                    });
                }
            }
            Err(unjudgeable) => {
                objections.push(Objection {
                    span: steps.node(index).span.clone(),
                    message: format!("nobody could judge this step: {}", unjudgeable.why),
                    label: "cannot be judged",
                    help: unjudgeable.advice,
                });
                break;
            }
        }
    }
    objections
}

/// Objection of a design to a value or a step.
#[derive(PartialEq, Eq)]
struct Objection {
    span: Range<usize>,
    message: String,
    label: &'static str,
    help: String,
}

impl Objection {
    fn problem(self, designs: &[&str], all: usize) -> Problem {
        let mut help = format!("{} (under {})", self.help, designs.join(", "));
        if designs.len() < all {
            help += "; it can be under other designs that meet `needs`: narrow those, or leave \
                     it out";
        }
        at(&self.span, self.message, self.label, help)
    }
}

/// The correct value under `expect`, in the author's notation.
fn right(field: &str, plan: &Plan, expectation: &Expectation) -> Option<String> {
    let pages = &expectation.pages;
    Some(match field {
        // Counts have no sign.
        "splits" => format!("it must be `{}`", expectation.splits).replace('+', ""),
        "accept_exits" => format!("it must be `{}`", expectation.accept_exits).replace('+', ""),
        "pages_4k" => format!("it must be `{}`", pages.pages_4k),
        "pages_2m" => format!("it must be `{}`", pages.pages_2m),
        "pages_1g" => format!("it must be `{}`", pages.pages_1g),
        "status" => statuses(plan, expectation)?,
        "errno" => match expectation.errnos.iter().find(|errno| **errno != 0) {
            None => "it must be `ok`".to_owned(),
            Some(22) => "it must be `EINVAL`".to_owned(),
            Some(12) => "it must be `ENOMEM`".to_owned(),
            Some(14) => "it must be `EFAULT`".to_owned(),
            Some(11) => "it must be `EAGAIN`".to_owned(),
            Some(25) => "it must be `ENOTTY`".to_owned(),
            Some(other) => format!("it must be errno {other}"),
        },
        "td" if expectation.td_alive => "it must be `alive`".to_owned(),
        "td" => "it must be `killed`".to_owned(),
        "entries_at_most" => match expectation.entries_at_most {
            Some(promised) => format!("the design may look at up to `{promised}`"),
            None => "the design walks the range and promises nothing".to_owned(),
        },
        _ => return None,
    })
}

/// The statuses of a step: one word, or where each begins.
fn statuses(plan: &Plan, expectation: &Expectation) -> Option<String> {
    let mut firsts: Vec<(&str, Bytes)> = Vec::new();
    for run in expectation.statuses.as_ref()? {
        let word = match run.status & status::CLASS_MASK {
            status::SUCCESS => "success",
            status::PAGE_ALREADY_ACCEPTED => "already_accepted",
            status::PAGE_SIZE_MISMATCH => "size_mismatch",
            status::OPERAND_INVALID => "operand_invalid",
            _ => return None,
        };
        if firsts.iter().all(|(known, _)| *known != word) {
            let offset = run.start.checked_sub(plan.guest.memory.start())?;
            firsts.push((word, Bytes(offset)));
        }
    }
    match firsts.as_slice() {
        [] => None,
        [(word, _)] => Some(format!("it must be `{word}`")),
        several => {
            let list: Vec<String> = several
                .iter()
                .map(|(word, offset)| format!("`{word}`, first at {offset}"))
                .collect();
            Some(format!("there are several: {}", list.join("; ")))
        }
    }
}

/// The step whose first byte is at `place`.
fn step_at(root: &Node, place: usize) -> Option<&Node> {
    let mut lists = vec![root.key("steps")];
    while let Some(list) = lists.pop() {
        for step in list.items() {
            match step.entry("repeat") {
                Some(entry) => lists.push(entry.value.key("steps")),
                None if step.span.start == place => return Some(step),
                None => {}
            }
        }
    }
    None
}
