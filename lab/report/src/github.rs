//! GitHub Actions: annotations at the lines of scenarios, and a summary of the job.

use std::fmt::Write;

use super::ends::run_itself;
use super::table::cell;
use super::{Report, ScenarioReport, by_topic};

/// GitHub shows this many annotations of a step.
const ANNOTATIONS: usize = 10;
/// Most scenarios listed in a summary.
const LISTED: usize = 100;

/// Workflow commands, one a line: every scenario that did not pass, at the line of the step.
pub fn annotations(report: &Report) -> String {
    let of_run = run_itself(report);
    let bad = bad(report, &of_run);
    let mut out = String::new();
    if let Some(rehearsal) = report.rehearsal() {
        let _ = writeln!(out, "::notice title=tdxlab::{}", data(&rehearsal));
    }
    // Titles are often the only visible part of an annotation.
    let rehearsal = report.rehearsal_mark(" REHEARSAL");
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
            data(&scenario.why().join("\n"))
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

/// Markdown for `GITHUB_STEP_SUMMARY`.
pub fn summary(report: &Report) -> String {
    let mut out = format!(
        "## tdxlab{}: {} on host `{}`, design `{}`\n\n",
        report.rehearsal_mark(" REHEARSAL"),
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
            fault.name,
            cell(&fault.wrong)
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
    let of_run = run_itself(report);
    let bad = bad(report, &of_run);
    for scenario in bad.iter().take(LISTED) {
        let _ = write!(
            out,
            "\n<details><summary>{} <code>{}</code></summary>\n\n",
            scenario.verdict,
            html_text(&scenario.name)
        );
        for line in scenario.why().iter().flat_map(|why| why.lines()) {
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

/// What did not pass: scenarios, and the run where none of them shows it.
fn bad<'a>(report: &'a Report, of_run: &'a Option<ScenarioReport>) -> Vec<&'a ScenarioReport> {
    let all = report.scenarios.iter().chain(of_run);
    all.filter(|one| one.is_bad()).collect()
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

fn html_text(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}
