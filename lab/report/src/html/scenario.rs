//! One scenario on the page: description, steps with picture and evidence, and how to repeat it.

use std::path::Path;

use maud::{Markup, PreEscaped, html};
use tdxlab_journal::verdict::{Verdict, Witness};
use tdxlab_plan::names::{Errno, Unsigned};
use tdxlab_plan::text::Micros;
use tdxlab_plan::{Expectation, Interval, text as words};

use super::boot;
use super::scene::Scenes;
use crate::timeline::{Album, StepPicture};
use crate::{FindingReport, Report, ScenarioReport, StepReport};

/// Most kernel log lines shown of one step.
const LOG_LINES: usize = 40;
/// Heading of the row for results of guest and host calls.
const SEEN: &str = "guest and host see";
/// Most findings shown of one step.
const FINDINGS: usize = 16;

/// Evidence of a scenario that did not pass: file name and end of its text.
pub(super) type Excerpts = Vec<(String, String)>;

/// The whole entry: a line that opens.
pub(super) fn entry(
    report: &Report,
    index: usize,
    folder: &Path,
    album: Option<&Album>,
    excerpts: &Excerpts,
) -> Markup {
    let scenario = &report.scenarios[index];
    let bad = scenario.is_bad();
    html! {
        details.s #(format!("s{index}")) data-v=(scenario.verdict) open[bad && index == first_bad(report)] {
            summary {
                (badge(scenario.verdict))
                span.n { b { (scenario.name) } @if !scenario.about.is_empty() { span.about { (scenario.about) } } }
                span.num data-h="steps" { (scenario.steps_planned) }
                span.num data-h="splits" { (splits(scenario)) }
                span.num data-h="time" { @if scenario.verdict == Verdict::Skip { "\u{2013}" } @else { (Micros(scenario.micros)) } }
            }
            div.body {
                @if let Some(reason) = &scenario.reason { p.reason { (reason) } }
                (control(scenario))
                @if scenario.verdict != Verdict::Skip { (again(folder, scenario)) }
                (guest(scenario))
                (steps(scenario, index, album))
                (files(scenario, excerpts))
            }
        }
    }
}

fn first_bad(report: &Report) -> usize {
    report
        .scenarios
        .iter()
        .position(ScenarioReport::is_bad)
        .unwrap_or(usize::MAX)
}

/// The verdict as a word in its colour.
pub(super) fn badge(verdict: Verdict) -> Markup {
    html! { span class=(format!("v {verdict}")) { (verdict) } }
}

/// Splits of all steps; empty if a step could not be counted.
fn splits(scenario: &ScenarioReport) -> String {
    let sum: Option<u64> = scenario
        .steps_of_plan()
        .map(|step| step.numbers.splits)
        .sum();
    match sum {
        Some(sum) if !scenario.steps.is_empty() => sum.to_string(),
        _ => "\u{2013}".to_owned(),
    }
}

fn control(scenario: &ScenarioReport) -> Markup {
    let Some(control) = &scenario.control else {
        return html! {};
    };
    html! {
        @if control.verdict != Verdict::Pass || !control.distrusted.is_empty() {
            div.control {
                h3 { (badge(control.verdict)) " Positive control" }
                (findings(&control.findings, 0))
                @for missing in &control.distrusted {
                    p { (missing.witness) " is not believed: " (missing.reason) }
                }
            }
        }
    }
}

/// The guest and QEMU it shared, and what was said of it there.
fn guest(scenario: &ScenarioReport) -> Markup {
    html! {
        @if let Some(said) = &scenario.failed_shared {
            p.reason { "Did not pass at first: " (said) ". What follows is from a guest and a QEMU of its own." }
        }
        @if let Some(guest) = &scenario.shared_guest {
            p.files { "Guest " (guest.guest) ", shared; scenarios in it before: " (guest.before) }
        }
        @if scenario.guests_before > 0 {
            p.files { "Guests in its QEMU before: " (scenario.guests_before) }
        }
    }
}

/// The command that does it again.
fn again(folder: &Path, scenario: &ScenarioReport) -> Markup {
    let command = command(folder, scenario);
    html! {
        div.again {
            code { (command) }
            button.copy type="button" data-copy=(command) { "Copy" }
        }
    }
}

/// The journal in the folder knows host, design, fault and seeds.
fn command(folder: &Path, scenario: &ScenarioReport) -> String {
    let folder = folder.display().to_string();
    format!(
        "tdxlab replay {} --scenario {}",
        quoted(folder.trim_end_matches('/')),
        quoted(&scenario.name)
    )
}

/// A word for a shell.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-=+,:@".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

fn steps(scenario: &ScenarioReport, index: usize, album: Option<&Album>) -> Markup {
    let scenes = album.map(|album| Scenes::new(index, album));
    html! {
        @if !scenario.steps.is_empty() {
            ol.steps style=[scenes.as_ref().map(|scenes| format!("--w:{}", scenes.width()))]
                data-ruler=[scenes.as_ref().map(Scenes::ruler)]
                data-base=[album.map(|album| album.memory.start().to_string())] {
                @for step in &scenario.steps {
                    @let place = album.and_then(|album| album.frames.iter().position(|frame| frame.number == step.number));
                    li class=(verdict_class(step)) {
                        (step_head(scenario, step))
                        @if let (Some(scenes), Some(place)) = (&scenes, place) {
                            figure tabindex="0" {
                                (scenes.draw(place))
                                @if let Some(caption) = scenes.caption(place) { figcaption { (caption) } }
                            }
                        }
                        @let frame = place.and_then(|place| album.and_then(|album| album.frames.get(place)));
                        (evidence(step, frame))
                    }
                }
            }
            @let begun = scenario.steps_of_plan().count();
            @if begun < scenario.steps_planned {
                p.reason { (scenario.steps_planned - begun) " more steps were not begun." }
            }
        }
    }
}

fn verdict_class(step: &StepReport) -> &'static str {
    step.verdict.map_or("error", Verdict::name)
}

fn step_head(scenario: &ScenarioReport, step: &StepReport) -> Markup {
    html! {
        h3 {
            span.no { @if scenario.is_end(step) { "end" } @else { (step.number) } }
            @match step.verdict {
                Some(Verdict::Pass) => {},
                Some(verdict) => { (badge(verdict)) },
                None => { span class="v error" { "not judged" } },
            }
            (step.action)
            @if step.line > 0 {
                small { "line " (step.line) " \u{b7} " (Micros(step.micros)) }
            }
        }
    }
}

/// Everything that was expected and found: side by side where they differ, in one line else.
fn evidence(step: &StepReport, frame: Option<&StepPicture>) -> Markup {
    html! {
        (findings(&step.findings, step.findings_omitted))
        @if let Some(frame) = frame {
            @let rows = rows(step, &frame.expected);
            @if step.verdict == Some(Verdict::Pass) {
                p.w { @for (index, row) in rows.iter().enumerate() { @if index > 0 { " \u{b7} " } (row.brief()) } }
            } @else {
                table.w {
                    thead { tr { th scope="col" { "witness" } th scope="col" { "expected" } th scope="col" { "found" } } }
                    tbody { @for row in &rows { (row.show(step)) } }
                }
            }
            @if step.verdict != Some(Verdict::Pass) {
                @for missing in &step.missing {
                    p.missing { "No word from " (missing.witness) ": " (missing.reason) }
                }
            }
            @if !frame.kernel_log.is_empty() {
                details.log open { summary { "Kernel log of this step" }
                    pre { @for line in frame.kernel_log.iter().take(LOG_LINES) { (line) "\n" }
                        @if frame.kernel_log.len() > LOG_LINES { "... " (frame.kernel_log.len() - LOG_LINES) " more lines in the journal\n" } }
                }
            }
        } @else {
            // A step of a Linux guest has no pages to draw, only text.
            @if !step.expected.is_empty() { p.w { "had to show: " (step.expected.join("; ")) } }
            @if !step.seen.is_empty() { p.w { "showed: " (step.seen.join("; ")) } }
            @if let Some(boot) = &step.boot { (boot::section(boot)) }
        }
    }
}

fn findings(findings: &[FindingReport], omitted: u64) -> Markup {
    let hidden = omitted + findings.len().saturating_sub(FINDINGS) as u64;
    html! {
        @if !findings.is_empty() {
            ul.findings {
                @for finding in findings.iter().take(FINDINGS) {
                    li {
                        b { (finding.witness) }
                        @if let Some(at) = &finding.at { " at " code { (at) } }
                        ": expected " span.want { (finding.expected) } ", found " span.have { (finding.found) }
                    }
                }
                @if hidden > 0 { li { "and " (hidden) " more, in the journal" } }
            }
        }
    }
}

/// Expected and found values of one witness.
struct Row {
    witness: Witness,
    what: &'static str,
    expected: String,
    found: String,
}

impl Row {
    /// Whether expected and found text are equal.
    fn is_alike(&self) -> bool {
        self.expected == self.found || self.expected.trim_start_matches('+') == self.found
    }

    /// Name and number, where they agree.
    fn brief(&self) -> Markup {
        // For guest and host calls the found text is worded differently from the expected.
        let alike = self.is_alike() || (self.what == SEEN && !self.found.is_empty());
        html! {
            @if alike { (self.what) " " b { (self.found) } }
            @else if self.found.is_empty() { (self.what) " " b { (self.expected) } }
            @else { (self.what) " " b { (self.found) } " (expected " (self.expected) ")" }
        }
    }

    fn show(&self, step: &StepReport) -> Markup {
        let differs = !self.is_alike()
            && step.findings.iter().any(|finding| {
                finding.witness == self.witness
                    || (self.witness == Witness::Debugfs && finding.witness == Witness::QueryStats)
            });
        html! {
            tr.bad[differs] {
                th scope="row" { (self.what) }
                td { (self.expected) }
                td { (self.found) @if differs { span.sr { " (differs)" } } }
            }
        }
    }
}

fn rows(step: &StepReport, expected: &Expectation) -> Vec<Row> {
    let seen = &step.numbers;
    let number =
        |value: Option<u64>| value.map_or("not seen".to_owned(), |value| value.to_string());
    let change =
        |value: Option<i64>| value.map_or("not seen".to_owned(), |value| format!("{value:+}"));
    let mut rows = Vec::new();
    let mut row = |witness, what, expected: String, found: String| {
        rows.push(Row {
            witness,
            what,
            expected,
            found,
        });
    };
    row(
        Witness::Splits,
        "split events",
        Unsigned(expected.splits).to_string(),
        number(seen.splits),
    );
    row(
        Witness::Debugfs,
        "pages_4k",
        expected.pages.pages_4k.to_string(),
        change(seen.pages_4k),
    );
    row(
        Witness::Debugfs,
        "pages_2m",
        expected.pages.pages_2m.to_string(),
        change(seen.pages_2m),
    );
    if expected.pages.pages_1g != Interval::default()
        || seen.pages_1g.is_some_and(|pages| pages != 0)
    {
        row(
            Witness::Debugfs,
            "pages_1g",
            expected.pages.pages_1g.to_string(),
            change(seen.pages_1g),
        );
    }
    row(
        Witness::Populated,
        "populated",
        Unsigned(expected.populated).to_string(),
        number(seen.populated),
    );
    for (what, wanted, found) in [
        ("ACCEPT exits", expected.accept_exits, seen.accept_exits),
        ("access exits", expected.access_exits, seen.access_exits),
    ] {
        if wanted != Interval::default() || found.is_some_and(|exits| exits != 0) {
            row(
                Witness::Exits,
                what,
                Unsigned(wanted).to_string(),
                number(found),
            );
        }
    }
    if expected.logged.is_some() {
        row(
            Witness::DirtyLog,
            "logged pages",
            words::logged_text(expected),
            number(seen.logged),
        );
    }
    if let Some(most) = expected.entries_at_most {
        row(
            Witness::Entries,
            "entries looked at",
            format!("at most {most}"),
            number(seen.entries_looked_at),
        );
    }
    let mut outcome = words::answers(expected);
    let errnos = expected.errnos.iter();
    outcome.extend(errnos.map(|errno| format!("errno {}", Errno(*errno))));
    if !outcome.is_empty() || !step.seen.is_empty() {
        let witness = step
            .findings
            .iter()
            .map(|finding| finding.witness)
            .find(|witness| {
                matches!(
                    witness,
                    Witness::Status
                        | Witness::Access
                        | Witness::Probe
                        | Witness::MapGpa
                        | Witness::Errno
                        | Witness::Content
                )
            })
            .unwrap_or(Witness::Status);
        row(witness, SEEN, outcome.join("; "), step.seen.join("; "));
    }
    if !expected.td_alive {
        row(Witness::Td, "TD", "ended by KVM".to_owned(), String::new());
    }
    rows
}

/// Files the host left, and the end of those that can be read as text.
fn files(scenario: &ScenarioReport, excerpts: &Excerpts) -> Markup {
    html! {
        @if let Some(folder) = &scenario.evidence {
            p.files { "Files: " a href=(format!("{folder}/")) { code { (folder) "/" } } }
        }
        @for (name, text) in excerpts {
            details.log { summary { "End of " code { (name) } } pre { (PreEscaped(escape(text))) } }
        }
    }
}

/// Text from a guest: control characters other than line ends are shown, not obeyed.
fn escape(text: &str) -> String {
    let visible: String = text
        .chars()
        .map(|c| match c {
            '\n' | '\t' => c,
            c if c.is_control() => char::REPLACEMENT_CHARACTER,
            c => c,
        })
        .collect();
    html! { (visible) }.into_string()
}
