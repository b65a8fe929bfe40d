//! `results.ktap`: the kernel's test format, version 1.
//!
//! Rules: Documentation/dev-tools/ktap.rst of Linux. A scenario is a test, its steps are subtests.

use std::fmt::Write;

use tdxlab_journal::verdict::Verdict;

use super::ends::run_itself;
use super::{Report, ScenarioReport, StepReport};

/// The whole document.
pub fn render(report: &Report) -> String {
    let mut out = String::from("KTAP version 1\n");
    let _ = writeln!(
        out,
        "# tdxlab {} on host {}, design {}",
        report.tdxlab,
        report.host.name(),
        one_line(&report.design)
    );
    if let Some(rehearsal) = report.rehearsal() {
        let _ = writeln!(out, "# {}", one_line(&rehearsal));
    }
    for change in report.changes() {
        let _ = writeln!(out, "# WARNING: {}", one_line(&change));
    }
    if let Some(fault) = &report.fault {
        let _ = writeln!(out, "# {}", one_line(&fault.to_string()));
    }
    let of_run = run_itself(report);
    let all = || report.scenarios.iter().chain(&of_run);
    let _ = writeln!(out, "1..{}", all().count());
    for (scenario, number) in all().zip(1..) {
        render_scenario(&mut out, number, scenario);
    }
    out
}

/// A scenario: its steps, then its result.
pub(super) fn render_scenario(out: &mut String, number: usize, scenario: &ScenarioReport) {
    if !scenario.steps.is_empty() {
        let _ = writeln!(out, "  KTAP version 1\n  1..{}", scenario.steps.len());
        for (step, number) in scenario.steps.iter().zip(1..) {
            render_step(out, number, step);
        }
    }
    for finding in scenario.control_findings() {
        let text = one_line(&finding.to_string());
        let _ = writeln!(out, "# positive control: {text}");
    }
    let reason = one_line(scenario.reason.as_deref().unwrap_or(""));
    // There is no directive for a failure.
    if scenario.verdict == Verdict::Fail && !reason.is_empty() {
        let _ = writeln!(out, "# {reason}");
    }
    let directive = match scenario.verdict {
        Verdict::Pass | Verdict::Fail => String::new(),
        Verdict::Skip => format!(" # SKIP {reason}"),
        Verdict::Error => format!(" # ERROR {reason}"),
    };
    let _ = writeln!(
        out,
        "{} {number} {}{directive}",
        ok(scenario.verdict),
        description(&scenario.name)
    );
}

/// A step with its findings. Steps of a scenario are numbered without gaps.
fn render_step(out: &mut String, number: usize, step: &StepReport) {
    for finding in &step.findings {
        let _ = writeln!(out, "  # {}", one_line(&finding.to_string()));
    }
    for missing in &step.missing {
        let _ = writeln!(
            out,
            "  # missing witness {}: {}",
            missing.witness,
            one_line(&missing.reason)
        );
    }
    let verdict = step.verdict.unwrap_or(Verdict::Error);
    let directive = match verdict {
        Verdict::Error => " # ERROR not judged",
        _ => "",
    };
    let _ = writeln!(
        out,
        "  {} {} {}{directive}",
        ok(verdict),
        number,
        description(&step.action)
    );
}

fn ok(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Pass | Verdict::Skip => "ok",
        Verdict::Fail | Verdict::Error => "not ok",
    }
}

/// A description must not hold the sign that starts a directive.
fn description(text: &str) -> String {
    one_line(text).replace('#', " ")
}

/// Line breaks and control characters would start something else.
fn one_line(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect()
}
