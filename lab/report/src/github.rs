//! GitHub Actions: annotations at the lines of scenarios, and a summary of the job.

use std::fmt::Write;

use tdxlab_journal::verdict::Verdict;

use super::{Report, ScenarioReport, StepReport, by_topic};

/// GitHub shows this many annotations of a step.
const ANNOTATIONS: usize = 10;
/// Most scenarios listed in a summary.
const LISTED: usize = 100;

/// Workflow commands, one a line: every scenario that did not pass, at the line of the step.
pub fn annotations(report: &Report) -> String {
    let bad: Vec<&ScenarioReport> = report.scenarios.iter().filter(|one| is_bad(one)).collect();
    let mut out = String::new();
    if let Some(rehearsal) = report.rehearsal() {
        let _ = writeln!(out, "::notice title=tdxlab::{}", data(&rehearsal));
    }
    let rehearsal = rehearsal_word(report);
    for scenario in bad.iter().take(ANNOTATIONS) {
        let step = scenario.first_bad_step();
        let mut place = String::new();
        if let Some(file) = &scenario.file {
            let _ = write!(place, "file={},", property(file));
            if let Some(step) = step.filter(|step| step.line > 0) {
                let _ = write!(place, "line={},", step.line);
            }
        }
        let _ = writeln!(
            out,
            "::error {place}title={}::{}",
            property(&format!(
                "tdxlab{rehearsal}: {} {}",
                scenario.verdict, scenario.name
            )),
            data(&message(scenario, step))
        );
    }
    if bad.len() > ANNOTATIONS {
        let _ = writeln!(
            out,
            "::warning title=tdxlab::{} more scenarios did not pass; see the job summary",
            bad.len() - ANNOTATIONS
        );
    }
    out
}

fn message(scenario: &ScenarioReport, step: Option<&StepReport>) -> String {
    let mut lines: Vec<String> = scenario.reason.iter().cloned().collect();
    if let Some(step) = step {
        lines.push(format!("{}: {}", scenario.place(step), step.action));
        lines.extend(step.findings.iter().take(5).map(|finding| {
            format!(
                "{}: expected {}, found {}",
                finding.witness, finding.expected, finding.found
            )
        }));
    }
    lines.join("\n")
}

/// Part of titles, which are often the only visible part of an annotation.
fn rehearsal_word(report: &Report) -> &'static str {
    if report.is_rehearsal() {
        " REHEARSAL"
    } else {
        ""
    }
}

/// Markdown for `GITHUB_STEP_SUMMARY`.
pub fn summary(report: &Report) -> String {
    let mut out = format!(
        "## tdxlab{}: {} on host `{}`, design `{}`\n\n",
        rehearsal_word(report),
        report.verdict,
        report.host.name(),
        report.design
    );
    if let Some(rehearsal) = report.rehearsal() {
        let _ = write!(out, "> [!WARNING]\n> {}.\n\n", cell(&rehearsal));
    }
    for change in report.changes() {
        let _ = write!(out, "> [!WARNING]\n> {}.\n\n", cell(&change));
    }
    if let Some(fault) = &report.fault {
        let _ = write!(
            out,
            "> [!WARNING]\n> Seeded fault `{}`: {}.\n\n",
            fault.name, fault.wrong
        );
    }
    out += "| topic | pass | fail | skip | error |\n|---|--:|--:|--:|--:|\n";
    let mut row = |name: &str, counts: &super::VerdictCounts| {
        let _ = writeln!(
            out,
            "| {} | {} | {} | {} | {} |",
            cell(name),
            counts.pass,
            counts.fail,
            counts.skip,
            counts.error
        );
    };
    for (topic, (counts, _)) in by_topic(report) {
        row(topic, &counts);
    }
    row("**all**", &report.counts);
    let bad: Vec<&ScenarioReport> = report.scenarios.iter().filter(|one| is_bad(one)).collect();
    for scenario in bad.iter().take(LISTED) {
        let _ = write!(
            out,
            "\n<details><summary>{} <code>{}</code></summary>\n\n",
            scenario.verdict,
            html_text(&scenario.name)
        );
        for line in message(scenario, scenario.first_bad_step()).lines() {
            let _ = writeln!(out, "    {line}");
        }
        out += "\n</details>\n";
    }
    if bad.len() > LISTED {
        let _ = writeln!(out, "\nand {} more.", bad.len() - LISTED);
    }
    if !report.facts.is_empty() {
        out += "\n| | |\n|---|---|\n";
        for fact in &report.facts {
            let _ = writeln!(out, "| {} | {} |", cell(&fact.name), cell(&fact.value));
        }
    }
    out
}

fn is_bad(scenario: &ScenarioReport) -> bool {
    matches!(scenario.verdict, Verdict::Fail | Verdict::Error)
}

/// Escapes the text of a workflow command.
fn data(text: &str) -> String {
    text.replace('%', "%25")
        .replace('\r', "%0D")
        .replace('\n', "%0A")
}

/// Escapes a property of a workflow command.
fn property(text: &str) -> String {
    data(text).replace(':', "%3A").replace(',', "%2C")
}

fn cell(text: &str) -> String {
    text.replace('|', "\\|").replace(['\n', '\r'], " ")
}

fn html_text(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}
