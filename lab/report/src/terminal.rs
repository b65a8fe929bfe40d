//! The report on a terminal: what failed and why, then a summary table.

use std::collections::BTreeMap;
use std::path::Path;

use comfy_table::{Cell, Table};
use console::style;
use tdxlab_journal::verdict::Verdict;
use tdxlab_plan::text::Micros;

use super::table::{self, number};
use super::{Report, ScenarioReport, StepReport, by_topic};

/// Most lines that are said of one scenario that did not pass.
pub const FAILURE_LINES: usize = 20;

/// Most scenarios that are shown step and witness.
const FAILURES: usize = 20;

/// The verdict in its colour.
pub fn paint(verdict: Verdict) -> console::StyledObject<&'static str> {
    let word = style(verdict.name());
    match verdict {
        Verdict::Pass => word.green(),
        Verdict::Fail => word.red().bold(),
        Verdict::Skip => word.yellow(),
        Verdict::Error => word.magenta().bold(),
    }
}

/// What is said of a scenario that did not pass: expected, found by each witness, what memory
/// holds, in this order; then the files with the rest. At most [`FAILURE_LINES`] lines.
pub fn failure(scenario: &ScenarioReport, run_folder: Option<&Path>) -> Vec<String> {
    let mut lines = vec![headline(scenario)];
    if let Some(reason) = &scenario.reason {
        lines.push(format!("  {reason}"));
    }
    if let Some(control) = &scenario.control {
        for finding in control.findings.iter().take(3) {
            lines.push(format!(
                "  control   {}: expected {}, found {}",
                finding.witness, finding.expected, finding.found
            ));
        }
    }
    let files = files(scenario, run_folder);
    if let Some(step) = scenario.first_bad_step() {
        let room = FAILURE_LINES.saturating_sub(lines.len() + files.len());
        lines.extend(step_lines(step, room));
    }
    lines.extend(files);
    lines.truncate(FAILURE_LINES);
    lines
}

fn headline(scenario: &ScenarioReport) -> String {
    let head = format!(
        "{} {}",
        paint(scenario.verdict),
        style(&scenario.name).bold()
    );
    let Some(step) = scenario.first_bad_step() else {
        return head;
    };
    let place = match &scenario.file {
        Some(file) if step.line > 0 => format!(" ({file}:{})", step.line),
        _ => String::new(),
    };
    let number = match scenario.is_end(step) {
        true => scenario.place(step),
        false => format!("{} of {}", scenario.place(step), scenario.steps_planned),
    };
    format!("{head}, {number}: {}{place}", step.action)
}

/// Expected, found, content, missing: each gets a fair part of the lines there are.
fn step_lines(step: &StepReport, room: usize) -> Vec<String> {
    let found: Vec<String> = step
        .findings
        .iter()
        .map(|finding| {
            let place = match &finding.at {
                Some(at) => format!("{at} "),
                None => String::new(),
            };
            format!(
                "{:<13} {place}{} (expected {})",
                finding.witness.to_string(),
                finding.found,
                finding.expected
            )
        })
        .collect();
    let content: Vec<String> = telling(step)
        .into_iter()
        .map(|index| {
            let span = &step.content[index];
            let wrong = if span.right {
                String::new()
            } else {
                format!(" (expected {})", span.expected)
            };
            format!("{} {}{wrong}", span.range, span.found)
        })
        .collect();
    let missing: Vec<String> = step
        .missing
        .iter()
        .map(|missing| format!("{}: {}", missing.witness, missing.reason))
        .collect();
    let expected = part("expected", &step.expected, 5, 0);
    let missing = part("missing", &missing, 2, 0);
    let left = room.saturating_sub(expected.len() + missing.len());
    let of_content = content.len().min(left / 2);
    let found = part(
        "found",
        &found,
        left - of_content,
        usize::try_from(step.findings_omitted).unwrap_or(usize::MAX),
    );
    let content = part(
        "content",
        &content,
        left.saturating_sub(found.len()),
        usize::try_from(step.content_omitted).unwrap_or(usize::MAX),
    );
    [expected, found, content, missing].concat()
}

/// Wrong ranges and their neighbours, which show where the damage ends.
fn telling(step: &StepReport) -> Vec<usize> {
    let wrong = |index: usize| step.content.get(index).is_some_and(|span| !span.right);
    (0..step.content.len())
        .filter(|&index| wrong(index) || wrong(index + 1) || (index > 0 && wrong(index - 1)))
        .collect()
}

/// At most `room` lines under one heading; the last one says how many more there are.
fn part(heading: &str, texts: &[String], room: usize, omitted: usize) -> Vec<String> {
    let all = texts.len().saturating_add(omitted);
    let shown = if all > room {
        room.saturating_sub(1).min(texts.len())
    } else {
        texts.len()
    };
    let mut lines: Vec<String> = texts[..shown].to_vec();
    if all > shown && room > 0 {
        lines.push(format!("... and {} more", all - shown));
    }
    lines
        .iter()
        .enumerate()
        .map(|(index, text)| {
            let heading = if index == 0 { heading } else { "" };
            format!("  {heading:<9} {text}")
        })
        .collect()
}

fn files(scenario: &ScenarioReport, run_folder: Option<&Path>) -> Vec<String> {
    let Some(evidence) = &scenario.evidence else {
        return Vec::new();
    };
    let folder = match run_folder {
        Some(run) => run.join(evidence),
        None => evidence.into(),
    };
    vec![format!("  files     {}/", folder.display())]
}

/// What did not pass, and nothing where all passed. Scenarios that never came to a step for the
/// same reason are said in one line; of very many, the first.
pub fn failures(report: &Report, run_folder: &Path) -> String {
    let bad = || {
        report
            .scenarios
            .iter()
            .filter(|scenario| matches!(scenario.verdict, Verdict::Fail | Verdict::Error))
    };
    let mut out = match report.rehearsal() {
        Some(rehearsal) => format!("{}\n\n", style(rehearsal).yellow().bold()),
        None => String::new(),
    };
    if let Some(fault) = &report.fault {
        out += &format!(
            "{} {}: {}\n  the host was made to do this wrong; what fails is no finding about a kernel\n\n",
            style("seeded fault").yellow().bold(),
            fault.name,
            fault.wrong
        );
    }
    let mut alike: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    let mut shown = 0;
    for scenario in bad() {
        match (&scenario.reason, scenario.first_bad_step()) {
            (Some(reason), None) => alike.entry(reason).or_default().push(&scenario.name),
            _ if shown == FAILURES => {}
            _ => {
                shown += 1;
                out += &(failure(scenario, Some(run_folder)).join("\n") + "\n\n");
            }
        }
    }
    let said = shown + alike.values().map(Vec::len).sum::<usize>();
    if bad().count() > said {
        out += &format!("... and {} more\n\n", bad().count() - said);
    }
    for (reason, names) in alike {
        let others = match names.len() {
            1 => String::new(),
            many => format!(" and {} more", many - 1),
        };
        out += &format!(
            "{} {}{others}\n  {reason}\n\n",
            paint(Verdict::Error),
            names[0]
        );
    }
    out
}

/// The whole summary: failures, skips by need, table, last line.
pub fn summary(report: &Report, run_folder: &Path) -> String {
    let mut out = failures(report, run_folder);
    for (need, names) in skips(report) {
        out += &format!(
            "{} {} because: {need}\n",
            paint(Verdict::Skip),
            count(names, "scenario")
        );
    }
    out += &missing_witnesses(report);
    out += &format!("{}\n", table(report));
    out += &last_line(report, run_folder);
    out
}

fn skips(report: &Report) -> BTreeMap<&str, usize> {
    let mut skips = BTreeMap::new();
    for scenario in &report.scenarios {
        if scenario.verdict == Verdict::Skip {
            *skips
                .entry(scenario.reason.as_deref().unwrap_or("no reason given"))
                .or_default() += 1;
        }
    }
    skips
}

/// A witness that nobody could hear is no failure, but it must not go unsaid.
fn missing_witnesses(report: &Report) -> String {
    let mut missing: BTreeMap<(&str, &str), usize> = BTreeMap::new();
    for scenario in &report.scenarios {
        let mut seen = std::collections::BTreeSet::new();
        for witness in scenario.steps.iter().flat_map(|step| &step.missing) {
            if seen.insert((witness.witness.name(), witness.reason.as_str())) {
                *missing
                    .entry((witness.witness.name(), witness.reason.as_str()))
                    .or_default() += 1;
            }
        }
    }
    missing
        .iter()
        .map(|((witness, reason), scenarios)| {
            format!(
                "no witness {witness} in {}: {reason}\n",
                count(*scenarios, "scenario")
            )
        })
        .collect()
}

/// Topics and their verdicts.
pub fn table(report: &Report) -> Table {
    let mut table = table::table(["topic", "pass", "fail", "skip", "error", "time"]);
    let row = |name: &str, counts: &super::VerdictCounts, micros: u64| {
        let mut cells = vec![Cell::new(name)];
        for verdict in Verdict::ALL {
            let count = counts.of(verdict);
            let text = if count == 0 {
                "-".to_owned()
            } else {
                count.to_string()
            };
            cells.push(number(text));
        }
        cells.push(number(Micros(micros)));
        cells
    };
    for (topic, (counts, micros)) in by_topic(report) {
        table.add_row(row(topic, &counts, micros));
    }
    table.add_row(row("all", &report.counts, report.micros));
    table
}

fn last_line(report: &Report, run_folder: &Path) -> String {
    let how = match (report.interrupted, report.complete) {
        (true, _) => ", interrupted",
        (false, false) => ", cut off",
        (false, true) => "",
    };
    let fault = match &report.fault {
        Some(fault) => format!(", seeded fault {}", fault.name),
        None => String::new(),
    };
    let rehearsal = if report.is_rehearsal() {
        ", REHEARSAL"
    } else {
        ""
    };
    format!(
        "{}: {} on host {}, design {}{fault}{rehearsal}{how}\nreport: {}\n",
        paint(report.verdict),
        count(report.counts.total(), "scenario"),
        report.host.name(),
        report.design,
        run_folder.display()
    )
}

/// `1 scenario`, `3 scenarios`.
pub fn count(number: usize, noun: &str) -> String {
    match number {
        1 => format!("1 {noun}"),
        _ => format!("{number} {noun}s"),
    }
}
