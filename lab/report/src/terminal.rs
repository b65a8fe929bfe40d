//! The report on a terminal: failures with reasons, then a summary table.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::path::Path;

use comfy_table::{Cell, Table};
use console::style;
use tdxlab_journal::verdict::{Verdict, Witness};
use tdxlab_plan::text::{Micros, size};

use super::table::{self, number};
use super::{Report, ScenarioReport, StepReport, by_topic};

/// Bound on the lines of a scenario that did not pass.
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

/// Lines about a scenario that did not pass: of the first such step the expectation, the findings
/// of each witness, and memory content, in this order; one line for each later step; then the files
/// with details. At most [`FAILURE_LINES`] lines.
pub fn failure(scenario: &ScenarioReport, run_folder: Option<&Path>) -> Vec<String> {
    let mut lines = vec![headline(scenario)];
    if let Some(reason) = &scenario.reason {
        lines.push(format!("  {reason}"));
    }
    let control = scenario.control_findings().iter().take(3);
    lines.extend(control.map(|finding| format!("  control   {finding}")));
    let files = files(scenario, run_folder);
    if let Some(step) = scenario.first_bad_step() {
        let later = later_lines(scenario, step.number);
        let room = FAILURE_LINES.saturating_sub(lines.len() + files.len() + later.len());
        lines.extend(step_lines(step, room));
        lines.extend(later);
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

/// Most later steps of a scenario that get a line.
const LATER: usize = 4;

/// The steps after the first that did not pass which did not pass either, a line each: in order, or,
/// where there are many, the worst first.
fn later_lines(scenario: &ScenarioReport, first: u32) -> Vec<String> {
    let mut later: Vec<&StepReport> = scenario
        .steps
        .iter()
        .filter(|step| step.number > first && step.is_bad())
        .collect();
    let more = later.len().saturating_sub(LATER);
    if more > 0 {
        later.sort_by_key(|step| Reverse(harm(step)));
    }
    let shown = later.iter().take(LATER);
    let mut texts: Vec<String> = shown.map(|step| brief(scenario, step)).collect();
    if more > 0 {
        texts.push(format!("... and {}", count(more, "more step")));
    }
    part("later", &texts, LATER + 1, 0)
}

/// How bad it is: a dead TD, then guest data that is gone, then how much else is wrong.
fn harm(step: &StepReport) -> (bool, u64, usize) {
    let dead = step.findings.iter().any(|one| one.witness == Witness::Td);
    (dead, wrong_bytes(step), step.findings.len())
}

/// Bytes of guest memory that were read and have wrong content.
fn wrong_bytes(step: &StepReport) -> u64 {
    let wrong = step.content.iter().filter(|span| !span.right);
    wrong.fold(0, |sum, span| sum.saturating_add(span.bytes))
}

/// One line for a step that did not pass, with its worst finding.
pub fn brief(scenario: &ScenarioReport, step: &StepReport) -> String {
    let place = match scenario.is_end(step) {
        true => step.action.clone(),
        false => {
            let operation = step.action.split(' ').next().unwrap_or_default();
            format!("{} {operation}", scenario.place(step))
        }
    };
    let mut wrong = step.content.iter().filter(|span| !span.right);
    let dead = step.findings.iter().find(|one| one.witness == Witness::Td);
    let what = match (dead, wrong.next(), step.findings.first()) {
        (Some(dead), ..) => format!("TD: found {}, expected {}", dead.found, dead.expected),
        (None, Some(span), _) => format!(
            "{} of content wrong; {} {} (expected {})",
            size(wrong_bytes(step)),
            span.range,
            span.found,
            span.expected
        ),
        (None, None, Some(finding)) => format!(
            "{}: {}",
            finding.witness,
            contrast(&finding.found, &finding.expected)
        ),
        (None, None, None) => "not judged".to_owned(),
    };
    format!("{place}: {what}")
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
                "{:<13} {place}{}",
                finding.witness.to_string(),
                contrast(&finding.found, &finding.expected)
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

/// `pages_2m -1 (expected +0)`: the name of a counter, which only the expected text has, comes first.
pub fn contrast(found: &str, expected: &str) -> String {
    let is_number = |text: &str| text.starts_with(|c: char| c.is_ascii_digit() || "+-".contains(c));
    match expected.split_once(' ') {
        Some((name, number)) if name.contains('_') && is_number(number) && is_number(found) => {
            format!("{name} {found} (expected {number})")
        }
        _ => format!("{found} (expected {expected})"),
    }
}

/// Wrong ranges and their neighbours, which show where the damage ends.
fn telling(step: &StepReport) -> Vec<usize> {
    let wrong = |index: usize| step.content.get(index).is_some_and(|span| !span.right);
    (0..step.content.len())
        .filter(|&index| wrong(index) || wrong(index + 1) || (index > 0 && wrong(index - 1)))
        .collect()
}

/// At most `room` lines under one heading; the last one counts those left out.
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

/// Scenarios that did not pass; empty if all passed. Scenarios that failed before a step for the
/// same reason share one line; of very many, the first are shown.
pub fn failures(report: &Report, run_folder: &Path) -> String {
    let bad = || report.scenarios.iter().filter(|scenario| scenario.is_bad());
    let mut out = match report.rehearsal() {
        Some(rehearsal) => format!("{}\n\n", style(rehearsal).yellow().bold()),
        None => String::new(),
    };
    for change in report.changes() {
        out += &format!("{} {change}\n\n", style("warning:").yellow().bold());
    }
    if let Some(fault) = &report.fault {
        out += &format!(
            "{} {}: {}\n  injected on purpose; says nothing about a real kernel\n{}\n",
            style("seeded fault").yellow().bold(),
            fault.name,
            fault.wrong,
            reach(report)
        );
    }
    let mut alike: BTreeMap<(&str, &str), (Verdict, Vec<&str>)> = BTreeMap::new();
    let mut shown = 0;
    for scenario in bad() {
        let detailed =
            scenario.first_bad_step().is_some() || !scenario.control_findings().is_empty();
        match &scenario.reason {
            Some(reason) if !detailed => {
                let verdict = scenario.verdict;
                let same = alike.entry((verdict.name(), reason));
                let (_, names) = same.or_insert_with(|| (verdict, Vec::new()));
                names.push(&scenario.name);
            }
            _ if shown == FAILURES => {}
            _ => {
                shown += 1;
                out += &(failure(scenario, Some(run_folder)).join("\n") + "\n\n");
            }
        }
    }
    let said = shown + alike.values().map(|(_, names)| names.len()).sum::<usize>();
    if bad().count() > said {
        out += &format!("... and {} more\n\n", bad().count() - said);
    }
    for ((_, reason), (verdict, names)) in alike {
        let others = match names.len() {
            1 => String::new(),
            many => format!(" and {} more", many - 1),
        };
        out += &format!("{} {}{others}\n  {reason}\n\n", paint(verdict), names[0]);
    }
    out
}

/// Whether the seeded fault ever had an effect, and where that went unnoticed. Empty for journals
/// of versions that did not record it.
fn reach(report: &Report) -> String {
    let reached = |wanted: bool| {
        let matches = move |one: &&ScenarioReport| one.fault_reached == Some(wanted);
        report.scenarios.iter().filter(matches)
    };
    let ran = reached(true).count() + reached(false).count();
    if ran == 0 {
        return String::new();
    }
    if reached(true).next().is_none() {
        return format!(
            "  {}: nothing in {} makes the host do it; a pass says nothing about the fault\n",
            style("never reached").yellow().bold(),
            count(ran, "scenario")
        );
    }
    let mut text = format!(
        "  reached in {} of {}\n",
        reached(true).count(),
        count(ran, "scenario")
    );
    let missed: Vec<&str> = reached(true)
        .filter(|one| one.verdict == Verdict::Pass)
        .map(|one| one.name.as_str())
        .collect();
    if let Some((first, others)) = missed.split_first() {
        let others = match others.len() {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        text += &format!(
            "  {} in {first}{others}\n",
            style("reached, but not noticed").yellow().bold()
        );
    }
    text
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
    out += &shared_guests(report);
    out += &format!("{}\n", table(report));
    out += &last_line(report, run_folder);
    out
}

fn skips(report: &Report) -> BTreeMap<&str, usize> {
    let mut skips = BTreeMap::new();
    for scenario in &report.scenarios {
        if scenario.verdict == Verdict::Skip && !scenario.unfinished {
            *skips
                .entry(scenario.reason.as_deref().unwrap_or("no reason given"))
                .or_default() += 1;
        }
    }
    skips
}

/// How many guests and QEMUs were shared, and what passed only in one of its own.
fn shared_guests(report: &Report) -> String {
    let mut out = String::new();
    let all = || report.scenarios.iter();
    let guests: std::collections::BTreeSet<u32> = all()
        .filter_map(|one| Some(one.shared_guest?.guest))
        .collect();
    let mut shared = Vec::new();
    if !guests.is_empty() {
        let sharing = all().filter(|one| one.shared_guest.is_some()).count();
        let guests = count(guests.len(), "shared guest");
        shared.push(format!("{} in {guests}", count(sharing, "scenario")));
    }
    // The first plan of a guest counts for it.
    let is_first = |one: &&ScenarioReport| one.shared_guest.is_none_or(|guest| guest.before == 0);
    let used = |one: &&ScenarioReport| one.guests_before > 0;
    match all().filter(is_first).filter(used).count() {
        0 => {}
        guests => shared.push(format!("{} in a used QEMU", count(guests, "guest"))),
    }
    if !shared.is_empty() {
        out += &format!("{} (--fresh boots one for each)\n", shared.join(", "));
    }
    for scenario in all().filter(|one| one.verdict == Verdict::Pass) {
        if let Some(said) = &scenario.failed_shared {
            out += &format!(
                "passed in a guest and QEMU of its own only: {}; {said}\n",
                scenario.name
            );
        }
    }
    out
}

/// A missing witness is not a failure, but must be reported.
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
    let stepped = |scenario: &&ScenarioReport| !scenario.steps.is_empty();
    let all = report.scenarios.iter().filter(stepped).count();
    missing
        .iter()
        .map(|((witness, reason), scenarios)| {
            let place = match *scenarios == all {
                true => String::new(),
                false => format!(" in {}", count(*scenarios, "scenario")),
            };
            format!("{witness} unavailable{place}: {reason}\n")
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
        // Skipped scenarios took no time.
        cells.push(match counts.total() == counts.skip {
            true => number("-"),
            false => number(Micros(micros)),
        });
        cells
    };
    for (topic, (counts, micros)) in by_topic(report) {
        table.add_row(row(topic, &counts, micros));
    }
    table.add_row(row("all", &report.counts, report.micros));
    table
}

fn last_line(report: &Report, run_folder: &Path) -> String {
    let fault = match &report.fault {
        Some(fault) => format!(", seeded fault {}", fault.name),
        None => String::new(),
    };
    let rehearsal = report.rehearsal_mark(", REHEARSAL");
    let (outcome, next) = match unfinished(report) {
        Some(outcome) => (outcome, next(report, run_folder)),
        None => {
            let total = count(report.counts.total(), "scenario");
            (format!("{}: {total}", paint(report.verdict)), String::new())
        }
    };
    format!(
        "{outcome} on host {}, design {}{fault}{rehearsal}\nreport: {}\n{next}",
        report.host.name(),
        report.design,
        run_folder.display()
    )
}

/// How far a run came that was interrupted or killed; `None` for a run that came to its end.
fn unfinished(report: &Report) -> Option<String> {
    let word = match (report.interrupted, report.complete) {
        (true, _) => "interrupted",
        (false, false) => "killed",
        (false, true) => return None,
    };
    let not_run = report.scenarios.iter().filter(|one| one.unfinished);
    let skipped = |one: &&ScenarioReport| one.verdict == Verdict::Skip && !one.unfinished;
    let unjudged = |one: &&ScenarioReport| one.verdict == Verdict::Error && !one.unfinished;
    let all = || report.scenarios.iter();
    let parts: Vec<String> = [
        (report.counts.pass, "passed"),
        (report.counts.fail, "failed"),
        (all().filter(skipped).count(), "skipped"),
        (all().filter(unjudged).count(), "not judged"),
        (not_run.count(), "not run"),
    ]
    .into_iter()
    .filter(|(number, _)| *number > 0)
    .map(|(number, what)| format!("{number} {what}"))
    .collect();
    Some(format!(
        "{}: {}",
        style(word).yellow().bold(),
        parts.join(", ")
    ))
}

/// The command that continues the run. Only `tdxlab run` and `tdxlab linux` can.
fn next(report: &Report, run_folder: &Path) -> String {
    let unfinished = report.scenarios.iter().any(|one| one.unfinished);
    match report.command.get(1).map(String::as_str) {
        Some(command @ ("run" | "linux")) if unfinished => format!(
            "continue with: tdxlab {command} --resume {}\n",
            run_folder.display()
        ),
        _ => String::new(),
    }
}

/// `1 scenario`, `3 scenarios`.
pub fn count(number: usize, noun: &str) -> String {
    match number {
        1 => format!("1 {noun}"),
        _ => format!("{number} {noun}s"),
    }
}
