//! `tdxlab predict`: predicts every step, without a guest.

use clap::Args;
use tdxlab_plan::addr::GpaRange;
use tdxlab_plan::names::{Errno, Unsigned};
use tdxlab_plan::{Design, Expectation, Op, Plan, Side, Step, TdxModule, op_words, text as words};
use tdxlab_predict::Predictor;

use super::error::CliError;
use super::options::{self, Scenarios};
use super::{exit, load, output};

/// Shows what every step must show under a design. Starts nothing.
#[derive(Args, Debug)]
pub(super) struct Predict {
    #[command(flatten)]
    scenarios: Scenarios,
    /// The design
    #[arg(long, value_name = "D", default_value = "headtail")]
    design: String,
    /// TDX module that the design stands on: 1.5.01, 1.5.25, 1.5.34 or 2.0.18. It decides whether touches with
    /// `same_rip` can be predicted; no prediction depends on it, which the output says
    #[arg(long, value_name = "V")]
    module: Option<TdxModule>,
    /// Print JSON, one step a line, with everything the predictor says
    #[arg(long)]
    json: bool,
}

impl Predict {
    pub(super) fn execute(self) -> Result<u8, CliError> {
        let design = options::design(&self.design)?;
        let mut items = load::items(load::load(&self.scenarios)?);
        let mut skipped = 0;
        for item in &mut items {
            let plan = &mut item.plan;
            plan.needs.module = plan.needs.module.or(self.module);
            if let Err(unmet) = design.meets(&plan.needs) {
                skipped += 1;
                if !self.json {
                    output::say(format!(
                        "{}\n  skipped: needs {}; {}\n",
                        plan.name, unmet.need, unmet.offers
                    ));
                }
                continue;
            }
            if self.json {
                print_json(plan, design)?;
            } else {
                output::say(format!("{}\n  {}", plan.name, plan.about));
                output::say(table(plan, design)?);
                let unverified = unverified(plan);
                if !unverified.is_empty() {
                    output::say(format!(
                        "  not verified after its last change: {}",
                        unverified.join(", ")
                    ));
                }
                output::say("");
            }
        }
        if skipped == items.len() {
            return Ok(exit::SKIPPED);
        }
        if !self.json {
            output::say(LEGEND);
            if let Some(module) = self.module {
                output::say(format!("TDX module {module}: as with any other; {SAME}"));
            }
        }
        Ok(exit::PASSED)
    }
}

/// What differs between the modules.
const SAME: &str = "what they differ in, KVM hides from guest and counters";

/// Legend of the columns.
const LEGEND: &str = "\
pages_4k, pages_2m: change of KVM's counters; populated: 4K pages of the guest_memfd;
exits: those of ACCEPT + those of other accesses";

/// Memory whose content an operation may have changed, and that no later step verifies: a loss of
/// it would go unnoticed.
fn unverified(plan: &Plan) -> Vec<String> {
    let mut changed: Vec<(GpaRange, Side)> = Vec::new();
    for op in plan.steps.iter().flat_map(|step| step.action.ops()) {
        match *op {
            Op::Fill { range, side, .. } => changed.push((range, side)),
            Op::Punch { range } => changed.push((range, Side::Private)),
            Op::Convert { range, to, .. } => changed.push((range, to)),
            Op::Verify { range, side, .. } => {
                let rest = |(one, of): (GpaRange, Side)| {
                    if of != side {
                        return vec![(one, of)];
                    }
                    let before = GpaRange::new(one.start(), range.start().min(one.end()));
                    let after = GpaRange::new(range.end().max(one.start()), one.end());
                    let parts = before.into_iter().chain(after);
                    parts
                        .filter(|part| !part.is_empty())
                        .map(|part| (part, of))
                        .collect()
                };
                changed = changed.into_iter().flat_map(rest).collect();
            }
            _ => {}
        }
    }
    changed.sort_by_key(|(range, _)| (range.start(), range.end()));
    let mut merged: Vec<GpaRange> = Vec::new();
    for (range, _) in changed {
        match merged.last_mut() {
            Some(last) if last.end() >= range.start() => {
                let end = last.end().max(range.end());
                *last = GpaRange::new(last.start(), end).unwrap_or(*last);
            }
            _ => merged.push(range),
        }
    }
    merged
        .into_iter()
        .map(|range| words::place(range, &plan.guest))
        .collect()
}

/// Every step with its prediction. `check` has rejected plans that cannot be predicted under a
/// design that meets their needs, so an error here is a bug and is reported as one.
fn foresee<'a>(
    plan: &'a Plan,
    design: &Design,
) -> impl Iterator<Item = Result<(usize, &'a Step, Expectation), CliError>> {
    let mut predictor = Predictor::new(design, &plan.guest).on_module(plan.needs.module);
    plan.steps.iter().enumerate().map(move |(index, step)| {
        let expected = predictor.step(&step.action).map_err(|why| {
            CliError::usage(
                format!("{}, step {}: {why}", plan.name, index + 1),
                why.advice.clone(),
            )
        })?;
        Ok((index + 1, step, expected))
    })
}

fn print_json(plan: &Plan, design: &Design) -> Result<(), CliError> {
    for step in foresee(plan, design) {
        let (number, step, expected) = step?;
        output::say(serde_json::json!({
            "scenario": plan.name,
            "design": design.name,
            "step": number,
            "action": step.action,
            "expected": expected,
        }));
    }
    Ok(())
}

/// Columns of the numbers, each with its width; the text of guest and host follows.
const COLUMNS: [(&str, usize); 5] = [
    ("splits", 10),
    ("pages_4k", 10),
    ("pages_2m", 10),
    ("populated", 11),
    ("exits", 8),
];

/// Two lines for each step, in 80 columns where its text allows: the operation, and what must show.
fn table(plan: &Plan, design: &Design) -> Result<String, CliError> {
    let heads = COLUMNS.map(|(name, _)| name.to_owned());
    let mut text = line(heads, "guest and host see");
    for step in foresee(plan, design) {
        let (number, step, expected) = step?;
        let operation = op_words::action(&step.action, &plan.guest);
        let numbers = [
            Unsigned(expected.splits).to_string(),
            expected.pages.pages_4k.to_string(),
            expected.pages.pages_2m.to_string(),
            Unsigned(expected.populated).to_string(),
            format!(
                "{}+{}",
                Unsigned(expected.accept_exits),
                Unsigned(expected.access_exits)
            ),
        ];
        text.push_str(&format!("\n{number:>3} {operation}\n"));
        text.push_str(&line(numbers, &seen(&expected)));
    }
    Ok(text)
}

fn line(cells: [String; COLUMNS.len()], seen: &str) -> String {
    let cells = cells.iter().zip(COLUMNS);
    let numbers: String = cells
        .map(|(cell, (_, width))| format!("{cell:>width$}"))
        .collect();
    format!("{numbers}  {seen}").trim_end().to_owned()
}

/// What guest and host call see, in words.
fn seen(expected: &Expectation) -> String {
    let mut parts = words::answers(expected);
    let errnos = expected.errnos.iter();
    parts.extend(errnos.map(|errno| Errno(*errno).to_string()));
    parts.extend(words::end(expected).map(str::to_owned));
    parts.join("; ")
}
