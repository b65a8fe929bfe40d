//! `report.html`: one page, one file, that opens from disk without a network.
//!
//! All pictures are drawn here; the script on the page only filters, searches, zooms and shows
//! tooltips. Without it the page is still complete.
//!
//! | file | what it makes |
//! |---|---|
//! | `axis` | memory to scale, with gaps where it is unused |
//! | `cells` | runs of 4K pages as shapes |
//! | `scene` | the picture of a step |
//! | `split` | leaves that had to split, and that did split |
//! | `states`, `legend` | colours and what they mean |
//! | `scenario` | a scenario: steps, pictures, witnesses, files |
//! | `cost` | cost of operations |
//! | `trend` | numbers over several runs |
//! | `place` | addresses as offsets |

mod axis;
mod boot;
mod cells;
mod cost;
mod legend;
mod place;
mod scenario;
mod scene;
mod split;
mod states;
mod trend;

use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

use maud::{DOCTYPE, Markup, PreEscaped, html};
use tdxlab_journal::verdict::Verdict;
use tdxlab_plan::text::Micros;

use self::scenario::Excerpts;
use super::Report;
use super::cost::Costs;
use super::terminal::count;
use super::timeline::Pictures;
use super::trend::Trend;

/// Size up to which pictures of scenarios that passed are drawn. Those of others always are.
///
/// Some is left for the end tags that [`compact`] takes away.
const BUDGET: usize = 2 << 20;
/// Most bytes shown of the end of a file, and most files of one scenario.
const EXCERPT: u64 = 6 << 10;
const EXCERPT_FILES: usize = 4;
/// Most scenarios with excerpts.
const EXCERPTS: usize = 40;

/// Renders the page. `folder` is the run's, for excerpts of log files; `trend` has the earlier
/// runs.
pub fn render(
    report: &Report,
    pictures: &Pictures,
    folder: &Path,
    trend: Option<&Trend>,
) -> String {
    let entries = entries(report, pictures, folder);
    compact(page(report, &entries, trend).into_string())
}

/// Shorter, and the same to a browser: empty SVG elements close themselves, and the ends of list
/// items and table cells go without saying. (HTML standard, 13.1.2.4 "Optional tags".)
fn compact(mut page: String) -> String {
    for element in ["path", "use", "rect"] {
        // With a title in it, it ends in a tag, not in an attribute.
        page = page.replace(&format!("\"></{element}>"), "\"/>");
    }
    for element in ["td", "th", "tr", "li"] {
        page = page.replace(&format!("</{element}>"), "");
    }
    page
}

/// All scenarios. What did not pass comes first, and gets its pictures whatever the size.
fn entries(report: &Report, pictures: &Pictures, folder: &Path) -> Vec<Markup> {
    let mut entries = Vec::new();
    let mut size = 0;
    let mut excerpts_left = EXCERPTS;
    for bad in [true, false] {
        for (index, scenario) in report.scenarios.iter().enumerate() {
            if scenario.is_bad() != bad {
                continue;
            }
            let files = match &scenario.evidence {
                Some(evidence) if bad && excerpts_left > 0 => {
                    excerpts_left -= 1;
                    excerpts(&folder.join(evidence))
                }
                _ => Vec::new(),
            };
            let album = pictures.of(index).filter(|_| bad || size < BUDGET);
            let entry = scenario::entry(report, index, folder, album, &files);
            size += entry.0.len();
            entries.push(entry);
        }
    }
    entries
}

/// The ends of the logs in a scenario's folder. Unreadable files are left out.
fn excerpts(folder: &Path) -> Excerpts {
    let Ok(files) = std::fs::read_dir(folder) else {
        return Vec::new();
    };
    let mut logs: Vec<_> = files
        .flatten()
        .map(|file| file.path())
        .filter(|path| path.extension().is_some_and(|end| end == "log"))
        .collect();
    logs.sort();
    logs.truncate(EXCERPT_FILES);
    logs.iter()
        .filter_map(|path| {
            let name = path.file_name()?.to_string_lossy().into_owned();
            Some((name, end_of(path).ok()?))
        })
        .filter(|(_, text)| !text.trim().is_empty())
        .collect()
}

fn end_of(path: &Path) -> std::io::Result<String> {
    let mut file = std::fs::File::open(path)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(EXCERPT)))?;
    let mut bytes = Vec::new();
    file.take(EXCERPT).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn page(report: &Report, entries: &[Markup], trend: Option<&Trend>) -> Markup {
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                // An inline icon keeps browsers from requesting one.
                link rel="icon" href="data:,";
                title { @if report.is_rehearsal() { "REHEARSAL, " } (report.verdict) ": tdxlab " (report.run) }
                style { (PreEscaped(include_str!("page.css"))) }
            }
            body {
                (legend::patterns())
                a.jump href="#scenarios" { "Skip to the scenarios" }
                (head(report))
                main {
                    @if let Some(trend) = trend { (trend::section(trend)) }
                    @if let Some(costs) = measured(report) { (cost::section(&costs)) }
                    section #scenarios aria-label="Scenarios" {
                        (controls(report))
                        (legend::section())
                        div.columns aria-hidden="true" {
                            span { "verdict" } span { "scenario" } span.num { "steps" } span.num { "splits" } span.num { "time" }
                        }
                        @for entry in entries { (entry) }
                        p #none hidden { "No scenario matches." }
                    }
                }
                footer { "tdxlab " (report.tdxlab) " \u{b7} " code { (report.command.join(" ")) } }
                p #under role="status" aria-live="off" hidden {}
                script { (PreEscaped(include_str!("page.js"))) }
            }
        }
    }
}

/// What a run cost that has scenarios which are there to measure.
fn measured(report: &Report) -> Option<Costs> {
    Costs::over(std::slice::from_ref(report), Some("cost/")).ok()
}

fn head(report: &Report) -> Markup {
    let total = report.counts.total().max(1);
    html! {
        header {
            div.top {
                p.brand { "tdxlab" }
                button #theme type="button" aria-label="Light or dark" title="Light or dark" { "\u{25d0}" }
            }
            h1 { (scenario::badge(report.verdict)) span { (headline(report)) } }
            div.bar role="img" aria-label=(headline(report)) {
                @for verdict in Verdict::ALL {
                    @if report.counts.of(verdict) > 0 {
                        span class=(verdict) style=(format!("flex:{}", report.counts.of(verdict) as f64 / total as f64)) {}
                    }
                }
            }
            dl {
                (fact("host", report.host.name(), &report.host_reason))
                (fact("design", &report.design, ""))
                @for fact_of in &report.facts { (fact(&fact_of.name, &fact_of.value, "")) }
                (fact("run", &report.run, ""))
                (fact("started", &to_the_second(&report.started), ""))
                (fact("took", &format!("{}, {} at a time", Micros(report.micros), report.jobs), ""))
                @if let Some(seed) = report.seed { (fact("seed", &seed.to_string(), "")) }
            }
            @if let Some(rehearsal) = report.rehearsal() { p.seeded role="note" { strong { (rehearsal) } } }
            @for change in report.changes() { p.seeded role="note" { strong { "Warning: " } (change) "." } }
            @if let Some(fault) = &report.fault { p.seeded role="note" { strong { "Seeded fault " code { (fault.name) } } ": " (fault.wrong) ". Injected on purpose; says nothing about a real kernel." @if report.fault_never_reached() { " Never reached: no scenario here makes the host do it." } } }
            @if report.interrupted { p.reason { "Interrupted: scenarios that were not run count as skipped." } }
            @else if !report.complete { p.reason { "The runner was killed. Everything up to that moment is here." } }
            (missing(report))
        }
    }
}

/// An RFC 3339 time cut to seconds.
fn to_the_second(time: &str) -> String {
    match time.split_once('.') {
        Some((whole, fraction)) => {
            whole.to_owned() + fraction.trim_start_matches(|c: char| c.is_ascii_digit())
        }
        None => time.to_owned(),
    }
}

fn headline(report: &Report) -> String {
    let parts: Vec<String> = Verdict::ALL
        .into_iter()
        .filter(|verdict| report.counts.of(*verdict) > 0)
        .map(|verdict| {
            let word = match verdict {
                Verdict::Pass => "passed",
                Verdict::Fail => "failed",
                Verdict::Skip => "skipped",
                Verdict::Error => "not judged",
            };
            format!("{} {word}", report.counts.of(verdict))
        })
        .collect();
    if parts.is_empty() {
        return "nothing ran".to_owned();
    }
    parts.join(", ")
}

fn fact(name: &str, value: &str, more: &str) -> Markup {
    html! {
        div { dt { (name) } dd { (value) @if !more.is_empty() { small { (more) } } } }
    }
}

/// Witnesses that were missing everywhere must be reported.
fn missing(report: &Report) -> Markup {
    let mut all = std::collections::BTreeMap::new();
    for missing in report
        .scenarios
        .iter()
        .flat_map(|scenario| &scenario.steps)
        .flat_map(|step| &step.missing)
    {
        *all.entry((missing.witness.name(), missing.reason.as_str()))
            .or_insert(0usize) += 1;
    }
    html! {
        @for ((witness, reason), steps) in all {
            p.missing { "No word from " b { (witness) } " in " (steps) " steps: " (reason) }
        }
    }
}

fn controls(report: &Report) -> Markup {
    html! {
        form.controls role="search" onsubmit="return false" {
            input #search type="search" placeholder="Search scenarios" aria-label="Search scenarios" autocomplete="off";
            div.chips role="group" aria-label="Show only" {
                @for verdict in Verdict::ALL {
                    @let count = report.counts.of(verdict);
                    button type="button" class=(format!("chip {verdict}")) data-f=(verdict) aria-pressed="false" disabled[count == 0] {
                        (verdict) " " b { (count) }
                    }
                }
            }
            output #count for="search" aria-live="polite" { (count(report.scenarios.len(), "scenario")) }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::compact;

    #[test]
    fn only_empty_elements_close_themselves() {
        let page = r#"<path d="M1"></path><rect x="1"><title>a</title></rect>"#;
        assert_eq!(
            compact(page.to_owned()),
            r#"<path d="M1"/><rect x="1"><title>a</title></rect>"#
        );
    }
}
