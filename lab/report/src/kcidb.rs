//! KCIDB: the submission format of kernelci.org's common report database, version 5.3.
//!
//! Statuses follow the schema: FAIL is the kernel's fault, ERROR an aborted test, MISS a test that
//! the harness could not run, SKIP one that does not apply. There are no nulls; data without a
//! place in the schema goes under `misc`. A rehearsal is marked in the paths of its tests and in
//! the name of its build, because most queries use nothing else.

use serde_json::{Map, Value, json};
use tdxlab_journal::verdict::Verdict;
use tdxlab_plan::text::slug;

use super::{Report, ScenarioReport, StepReport, terminal};

/// Most characters of a log excerpt (schema: `maxLength`).
const EXCERPT: usize = 16 << 10;

/// Fields of a submission that are not in the report.
#[derive(Clone, Debug)]
pub struct Submission {
    /// The CI system that submits: lower case letters, digits, underscores.
    pub origin: String,
    /// Build under test, by its id in the database. Without one, a checkout and a build are created
    /// for the kernel named by the host.
    pub build: Option<String>,
}

/// Whether a name can be an origin (schema: `^[a-z0-9_]+$`).
pub fn is_origin(name: &str) -> bool {
    !name.is_empty()
        && name
            .chars()
            .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
}

/// Whether a text can be an id (schema: `^[a-z0-9_]+:[^\0]*$`).
pub fn is_id(text: &str) -> bool {
    text.split_once(':')
        .is_some_and(|(origin, rest)| is_origin(origin) && !rest.contains('\0'))
}

/// The submission.
pub fn render(report: &Report, submission: &Submission) -> Value {
    let origin = &submission.origin;
    let build = match &submission.build {
        Some(build) => build.clone(),
        None => format!(
            "{origin}:{}kernel-{}",
            report.rehearsal_mark("REHEARSAL-"),
            slug(kernel(report))
        ),
    };
    let mut top = json!({
        "version": { "major": 5, "minor": 3 },
        "tests": report
            .scenarios
            .iter()
            .enumerate()
            .map(|(index, scenario)| test(report, index, scenario, origin, &build))
            .collect::<Vec<_>>(),
    });
    if submission.build.is_none() {
        top["checkouts"] = json!([{
            "id": build, "origin": origin, "misc": { "kernel": kernel(report) },
        }]);
        top["builds"] = json!([{
            "id": build, "origin": origin, "checkout_id": build,
            "comment": remark(report, &format!("kernel {}, as found on the host", kernel(report))),
            "misc": { "kernel": kernel(report) },
        }]);
    }
    top
}

fn kernel(report: &Report) -> &str {
    report.fact("kernel").unwrap_or("unknown")
}

fn test(
    report: &Report,
    index: usize,
    scenario: &ScenarioReport,
    origin: &str,
    build: &str,
) -> Value {
    let facts: Map<String, Value> = report
        .facts
        .iter()
        .map(|fact| (fact.name.clone(), Value::from(text(&fact.value))))
        .collect();
    let mut test = json!({
        "id": format!("{origin}:{}-{index}", report.run),
        "origin": origin,
        "build_id": build,
        "path": path(report, &scenario.name),
        "status": status(scenario),
        "start_time": report.started,
        "duration": scenario.micros as f64 / 1e6,
        "environment": {
            "comment": remark(
                report,
                &format!("tdxlab host {}, design {}", report.host.name(), report.design),
            ),
            "misc": facts,
        },
        "misc": {
            "scenario": text(&scenario.name),
            "host": report.host.name(),
            "design": text(&report.design),
            "tdxlab": text(&report.tdxlab),
            "steps": scenario.steps.iter().map(step).collect::<Vec<_>>(),
        },
    });
    let comment = scenario.reason.as_deref().unwrap_or(&scenario.about);
    if !comment.is_empty() || report.is_rehearsal() {
        test["comment"] = remark(report, comment).into();
    }
    if scenario.is_bad() {
        let lines = terminal::failure(scenario, None).join("\n");
        let plain = text(&console::strip_ansi_codes(&lines));
        test["log_excerpt"] = plain.chars().take(EXCERPT).collect::<String>().into();
    }
    test
}

/// Numbers of a step; unknown ones are left out.
fn step(step: &StepReport) -> Value {
    let numbers = serde_json::to_value(step.numbers).unwrap_or_default();
    let mut seen: Map<String, Value> = match numbers {
        Value::Object(numbers) => numbers,
        _ => Map::new(),
    };
    seen.retain(|_, value| !value.is_null());
    seen.insert("action".to_owned(), text(&step.action).into());
    seen.insert("microseconds".to_owned(), step.micros.into());
    if let Some(verdict) = step.verdict {
        seen.insert("verdict".to_owned(), verdict.name().into());
    }
    Value::Object(seen)
}

fn status(scenario: &ScenarioReport) -> &'static str {
    match scenario.verdict {
        Verdict::Pass => "PASS",
        Verdict::Fail => "FAIL",
        Verdict::Skip if scenario.unfinished => "MISS",
        Verdict::Skip => "SKIP",
        Verdict::Error if scenario.boot_micros.is_none() => "MISS",
        Verdict::Error => "ERROR",
    }
}

/// `tdx.hugepage.punch.head-and-tail`.
fn path(report: &Report, name: &str) -> String {
    let parts: Vec<String> = name.split('/').map(slug).collect();
    let rehearsal = report.rehearsal_mark("REHEARSAL.");
    format!("tdx.hugepage.{rehearsal}{}", parts.join("."))
}

/// A comment, after the notice of a rehearsal, if it is one.
fn remark(report: &Report, comment: &str) -> String {
    match report.rehearsal() {
        Some(rehearsal) => text(&format!("{rehearsal}. {comment}")),
        None => text(comment),
    }
}

/// No text may hold a zero character.
fn text(text: &str) -> String {
    text.replace('\0', " ")
}
