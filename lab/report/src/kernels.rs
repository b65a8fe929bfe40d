//! A Markdown table of kernels and scenarios: results of each kernel's own KVM.

use std::collections::BTreeMap;
use std::fmt::Write;

use tdxlab_journal::verdict::Verdict;

use super::Report;
use super::table::cell;

/// The table over all reports. Of several of one kernel the last counts.
pub fn render(reports: &[Report]) -> String {
    let mut kernels: Vec<(String, &Report)> = Vec::new();
    for report in reports {
        // Neither a rehearsal nor a seeded fault must be mistaken for that kernel on real hardware.
        let mut name = cell(fact(report, "kernel")) + report.rehearsal_mark(" (REHEARSAL)");
        if let Some(fault) = &report.fault {
            name += &format!(" (seeded fault {})", cell(&fault.name));
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
            cell(&without_paths(fact(report, "QEMU"))),
            cell(&report.design),
            counts.pass,
            counts.fail,
            counts.skip,
            counts.error
        );
    }
    let mut rows: BTreeMap<&str, Vec<Option<Outcome<'_>>>> = BTreeMap::new();
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
    for (scenario, results) in rows {
        let _ = write!(text, "| {} |", cell(scenario));
        for result in results {
            let _ = write!(text, " {} |", shown(result, &mut reasons));
        }
        text.push('\n');
    }
    if !reasons.is_empty() {
        text.push('\n');
    }
    for (number, reason) in reasons.iter().enumerate() {
        let _ = writeln!(text, "{}. {}", number + 1, cell(reason));
    }
    text
}

/// A verdict and why it is not better.
type Outcome<'a> = (Verdict, Option<&'a str>);

/// The verdict, with the number of its reason in the list below the table.
fn shown<'a>(outcome: Option<Outcome<'a>>, reasons: &mut Vec<&'a str>) -> String {
    match outcome {
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
    report.fact(name).unwrap_or("unknown")
}

/// The QEMUs of a run as its report describes them, without where they were: that differs from machine to
/// machine.
fn without_paths(qemus: &str) -> String {
    let versions = qemus.split(" | ");
    let versions = versions.map(|qemu| qemu.split_once(", /").map_or(qemu, |(version, _)| version));
    versions.collect::<Vec<_>>().join(" | ")
}
