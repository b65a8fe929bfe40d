//! A Markdown table of kernels and scenarios: results of each kernel's own KVM.

use std::collections::BTreeMap;
use std::fmt::Write;

use tdxlab_journal::verdict::Verdict;

use super::Report;

/// The table over all reports. Of several of one kernel the last counts.
pub fn render(reports: &[Report]) -> String {
    let mut kernels: Vec<(String, &Report)> = Vec::new();
    for report in reports {
        let mut name = fact(report, "kernel").to_owned();
        // A rehearsal must not be mistaken for real hardware.
        if report.is_rehearsal() {
            name.push_str(" (REHEARSAL)");
        }
        match kernels.iter_mut().find(|(known, _)| *known == name) {
            Some((_, known)) => *known = report,
            None => kernels.push((name, report)),
        }
    }
    let mut text = String::from("| kernel | QEMU | design | pass | fail | skip | error |\n");
    text.push_str("|---|---|---|---:|---:|---:|---:|\n");
    for (name, report) in &kernels {
        let counts = report.counts;
        let _ = writeln!(
            text,
            "| {name} | {} | {} | {} | {} | {} | {} |",
            without_path(fact(report, "QEMU")),
            report.design,
            counts.pass,
            counts.fail,
            counts.skip,
            counts.error
        );
    }
    let mut rows: BTreeMap<&str, Vec<Option<Cell<'_>>>> = BTreeMap::new();
    for (column, (_, report)) in kernels.iter().enumerate() {
        for scenario in &report.scenarios {
            let row = rows
                .entry(&scenario.name)
                .or_insert_with(|| vec![None; kernels.len()]);
            row[column] = Some((scenario.verdict, scenario.reason.as_deref()));
        }
    }
    text.push_str("\n| scenario |");
    for (name, _) in &kernels {
        let _ = write!(text, " {name} |");
    }
    let _ = writeln!(text, "\n|---|{}", "---|".repeat(kernels.len()));
    let mut reasons: Vec<&str> = Vec::new();
    for (scenario, cells) in rows {
        let _ = write!(text, "| {} |", scenario.replace('|', "\\|"));
        for cell in cells {
            let _ = write!(text, " {} |", shown(cell, &mut reasons));
        }
        text.push('\n');
    }
    if !reasons.is_empty() {
        text.push('\n');
    }
    for (number, reason) in reasons.iter().enumerate() {
        let _ = writeln!(text, "{}. {reason}", number + 1);
    }
    text
}

/// A verdict and why it is not better.
type Cell<'a> = (Verdict, Option<&'a str>);

/// The verdict, with the number of its reason in the list below the table.
fn shown<'a>(cell: Option<Cell<'a>>, reasons: &mut Vec<&'a str>) -> String {
    match cell {
        None => "-".to_owned(),
        Some((verdict, None)) => verdict.to_string(),
        Some((verdict, Some(reason))) => {
            let known = reasons.iter().position(|known| *known == reason);
            let number = known.unwrap_or_else(|| {
                reasons.push(reason);
                reasons.len() - 1
            });
            format!("{verdict} ({})", number + 1)
        }
    }
}

fn fact<'a>(report: &'a Report, name: &str) -> &'a str {
    let found = report.facts.iter().find(|fact| fact.name == name);
    found.map_or("unknown", |fact| fact.value.as_str())
}

/// A QEMU as a report describes it, without where it was: that differs from machine to machine.
fn without_path(qemu: &str) -> &str {
    qemu.split_once(", /").map_or(qemu, |(version, _)| version)
}
