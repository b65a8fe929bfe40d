//! The result of one bug, and how rows are printed.

use std::time::Duration;

use comfy_table::Cell;
use tdxlab_fuzz::qualify::{Catch, Unjudged};
use tdxlab_journal::Witness;
use tdxlab_report::table;
use tdxlab_softtdx::Bug;

use super::selftests::Failure;
use crate::cli::output;

/// The design that KVM follows, and the one that plans are judged by: these kernels convert by
/// attributes and a hole.
pub(super) const DESIGN: (&str, &str) = ("headtail", "headtail-attributes");

/// The result of one bug.
pub(super) struct Row {
    pub(super) bug: &'static Bug,
    pub(super) expected: Option<Witness>,
    pub(super) why_not: Option<&'static str>,
    /// Plans that were run under it.
    pub(super) plans: usize,
    pub(super) catches: Vec<Catch>,
    pub(super) unjudged: Vec<Unjudged>,
    /// Which of KVM's own selftests fail under it; `None` where none was run.
    pub(super) selftests: Option<Vec<Failure>>,
    pub(super) took: Duration,
}

/// How the rows are printed.
#[derive(Clone, Copy)]
pub(in crate::cli) enum Form {
    Table { findings: bool },
    Json,
    Markdown,
}

impl Row {
    /// What catches the bug best: by the expected witness, by as many as possible.
    pub(super) fn best(&self) -> Option<&Catch> {
        let rank = |catch: &&Catch| (self.speaks(catch), catch.witnesses.len());
        self.catches.iter().rev().max_by_key(rank)
    }

    fn speaks(&self, catch: &Catch) -> bool {
        self.expected
            .is_some_and(|witness| catch.witnesses.contains(&witness))
    }

    pub(super) fn as_expected(&self) -> bool {
        self.best().is_some_and(|best| self.speaks(best))
    }

    /// Nothing caught it, though something could.
    pub(super) fn escaped(&self) -> bool {
        self.best().is_none() && self.why_not.is_none()
    }

    /// What stands in place of a plan where none caught it.
    fn escape(&self) -> String {
        match self.why_not {
            Some(why) => format!("not reached: {why}"),
            None => "NOT CAUGHT".to_owned(),
        }
    }

    /// In one line.
    pub(super) fn said(&self) -> String {
        let seconds = self.took.as_secs_f64();
        let name = self.bug.name;
        match (self.best(), self.unjudged.first()) {
            (Some(best), _) => {
                let witnesses = names(&best.witnesses);
                let plan = &best.name;
                format!("{name}: {plan} fails by {witnesses} ({seconds:.1} s)")
            }
            (None, Some(one)) => {
                let (plan, reason) = (&one.plan, &one.reason);
                format!(
                    "{name}: {}; {plan}: {reason} ({seconds:.1} s)",
                    self.escape()
                )
            }
            (None, None) => format!("{name}: {} ({seconds:.1} s)", self.escape()),
        }
    }

    /// The selftests that fail.
    fn noticed(&self, findings: bool) -> String {
        let Some(failures) = &self.selftests else {
            return "not run".to_owned();
        };
        if failures.is_empty() {
            return "pass".to_owned();
        }
        let said = |failure: &Failure| match findings {
            true => format!("{}: {}", failure.test, failure.said),
            false => failure.test.clone(),
        };
        let lines: Vec<String> = failures.iter().map(said).collect();
        lines.join(if findings { "\n" } else { ", " })
    }

    fn cells(&self, findings: bool) -> [String; 6] {
        let selftests = self.noticed(findings);
        let plans = format!("{}/{}", self.catches.len(), self.plans);
        let name = self.bug.name.to_owned();
        let Some(best) = self.best() else {
            let escape = match self.why_not {
                Some(_) => "not reached",
                None => "NOT CAUGHT",
            };
            let nothing = String::new();
            return [
                name,
                escape.into(),
                nothing.clone(),
                nothing,
                selftests,
                plans,
            ];
        };
        let step = best.step.map_or("-".to_owned(), |step| step.to_string());
        let said = match findings {
            true => best.findings.join("\n"),
            false => names(&best.witnesses),
        };
        [name, best.name.clone(), step, said, selftests, plans]
    }
}

fn names(witnesses: &[Witness]) -> String {
    let names: Vec<&str> = witnesses.iter().map(|one| one.name()).collect();
    names.join(", ")
}

/// Prints them all.
pub(super) fn show(rows: &[Row], form: Form, took: Duration) {
    let caught = rows.iter().filter(|row| row.best().is_some()).count();
    let expected = rows.iter().filter(|row| row.as_expected()).count();
    let out = rows.iter().filter(|row| row.why_not.is_some()).count();
    let sum = format!(
        "{caught} of {} bugs in KVM's own code caught in {:.0} s, {expected} by the expected witness{}",
        rows.len() - out,
        took.as_secs_f64(),
        match out {
            0 => String::new(),
            out => format!("; {out} not reached"),
        }
    );
    let compared = rows.iter().filter_map(|row| row.selftests.as_ref());
    let compared: Vec<bool> = compared.map(|failures| !failures.is_empty()).collect();
    let sum = match compared.len() {
        0 => sum,
        all => {
            let noticed = compared.iter().filter(|noticed| **noticed).count();
            format!("{sum}. KVM's own selftests notice {noticed} of {all}")
        }
    };
    match form {
        Form::Table { findings } => {
            let mut table = table::table([
                "bug",
                "caught by",
                "step",
                "witnesses",
                "KVM's selftests",
                "plans",
            ]);
            for row in rows {
                table.add_row(row.cells(findings).map(Cell::new));
            }
            output::say(table.trim_fmt());
            for (bug, why) in rows.iter().filter_map(|row| Some((row.bug, row.why_not?))) {
                output::say(format!("{} is not reached: {why}", bug.name));
            }
            output::say(format!("\n{sum}"));
        }
        Form::Markdown => {
            output::say(format!(
                "{sum}.\n\n| bug | what KVM does wrong | caught by | step | witnesses | KVM's selftests |\n|---|---|---|--:|---|---|"
            ));
            for row in rows {
                let [name, mut plan, step, witnesses, selftests, _] = row.cells(false);
                if row.why_not.is_some() {
                    plan = row.escape();
                }
                let what = row.bug.what;
                output::say(format!(
                    "| `{name}` | {what} | {plan} | {step} | {witnesses} | {selftests} |"
                ));
            }
        }
        Form::Json => {
            for row in rows {
                let selftests = row.selftests.as_ref();
                let selftests: Option<Vec<_>> =
                    selftests.map(|all| all.iter().map(Failure::json).collect());
                output::say(serde_json::json!({
                    "bug": row.bug.name,
                    "row": row.bug.row,
                    "host": "rehearsal",
                    "design": DESIGN.1,
                    "expected": row.expected,
                    "best": row.best(),
                    "as_expected": row.as_expected(),
                    "plans": row.plans,
                    "unjudged": row.unjudged,
                    "selftests": selftests,
                    "micros": u64::try_from(row.took.as_micros()).unwrap_or(u64::MAX),
                }));
            }
        }
    }
}
