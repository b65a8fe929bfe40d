//! Costs as text: a table for each operation, how its costs grow, and what memory is held.

use std::fmt::Write;

use comfy_table::Cell;
use tdxlab_plan::text::Bytes;

use super::{Costs, Growth, Metric, Row, Spread};
use crate::table::{number, within};

/// What a count is called that no witness had.
pub const NOT_SEEN: &str = "not seen";

/// The columns of the table and of the growth.
pub const SHOWN: [Metric; 5] = [
    Metric::Exits,
    Metric::Auged4K,
    Metric::Auged2M,
    Metric::Kicks,
    Metric::Micros,
];
/// Those of which an exponent is fitted.
pub const GROWN: [Metric; 4] = [Metric::Exits, Metric::Auged, Metric::Kicks, Metric::Micros];

/// All there is to say.
pub fn render(costs: &Costs) -> String {
    let mut text = String::new();
    for run in &costs.runs {
        let kernel = run.kernel.as_deref().unwrap_or("kernel unknown");
        let _ = writeln!(
            text,
            "{} = {}: host {}, design {}, {kernel}; times are {}",
            run.letter,
            run.name,
            run.host.name(),
            run.design,
            run.times()
        );
    }
    let growth = costs.growth(&GROWN);
    let mut labels: Vec<String> = costs.rows.iter().map(Row::label).collect();
    labels.dedup();
    for label in labels {
        let _ = writeln!(text, "\n{label}, for each MiB\n{}", per_mib(costs, &label));
        let grown: Vec<&Growth> = growth.iter().filter(|one| one.label == label).collect();
        if !grown.is_empty() {
            let _ = writeln!(text, "{}", grown_by(costs, &grown));
        }
    }
    if !growth.is_empty() {
        text.push_str(
            "\nx^N: how the cost of a MiB grows with the vCPUs that share the work, with its standard \
             error;\nx^0 stays as it is, x^+1 doubles with twice as many.\n",
        );
    }
    let held = held(costs);
    if !held.is_empty() {
        let _ = writeln!(text, "\nmemory held after the step:\n{held}");
    }
    text
}

fn several(costs: &Costs) -> bool {
    costs.runs.len() > 1
}

/// First cells of a row: scenario and, where there are several, run.
fn names(costs: &Costs, scenario: &str, run: usize) -> Vec<Cell> {
    let short = scenario.strip_prefix("cost/").unwrap_or(scenario);
    let mut cells = vec![Cell::new(short)];
    if several(costs) {
        cells.push(Cell::new(&costs.runs[run].letter));
    }
    cells
}

fn headings(costs: &Costs, more: impl IntoIterator<Item = &'static str>) -> Vec<&'static str> {
    let mut names = vec!["scenario"];
    if several(costs) {
        names.push("run");
    }
    names.extend(more);
    names
}

/// The rows of one operation. Scenarios that cost the same are one line: most of them only prepare
/// memory for what they measure.
fn per_mib(costs: &Costs, label: &str) -> String {
    let columns = SHOWN.map(Metric::heading);
    let mut table = within(80, headings(costs, ["vCPUs"].into_iter().chain(columns)));
    for (rows, merged) in alike(costs, label) {
        let more = match rows.len() {
            1 => String::new(),
            several => format!(" and {} more", several - 1),
        };
        let name = format!("{}{more}", merged.scenario);
        let mut cells = names(costs, &name, merged.run);
        cells.push(match merged.work.vcpus {
            0 => Cell::new("host"),
            vcpus => number(vcpus),
        });
        cells.extend(SHOWN.map(|metric| number(said(merged.per_mib(metric)))));
        table.add_row(cells);
    }
    table.trim_fmt()
}

/// Rows of an operation, those together that work on as much memory and count the same; each group with
/// a row that has the repeats of all.
fn alike<'a>(costs: &'a Costs, label: &str) -> Vec<(Vec<&'a Row>, Row)> {
    let mut groups: Vec<(Vec<&Row>, Row)> = Vec::new();
    for row in costs.rows.iter().filter(|row| row.label() == label) {
        let same = |(_, known): &&mut (Vec<&Row>, Row)| {
            (known.run, known.work.vcpus, known.work.bytes)
                == (row.run, row.work.vcpus, row.work.bytes)
                && Metric::COUNTED
                    .iter()
                    .all(|metric| known.spread(*metric) == row.spread(*metric))
        };
        match groups.iter_mut().find(same) {
            Some((rows, known)) => {
                rows.push(row);
                known.samples.extend(&row.samples);
                known.micros.extend(&row.micros);
            }
            None => groups.push((vec![row], row.clone())),
        }
    }
    groups
}

fn grown_by(costs: &Costs, grown: &[&Growth]) -> String {
    let mut table = within(80, headings(costs, GROWN.map(Metric::heading)));
    for one in grown {
        let mut cells = names(costs, &one.scenario, one.run);
        let fits = one.fits.iter();
        cells.extend(fits.map(|fit| number(fit.map_or("-".to_owned(), |fit| format!("x^{fit}")))));
        table.add_row(cells);
    }
    table.trim_fmt()
}

/// Steps after which shared memory may lie elsewhere.
fn held(costs: &Costs) -> String {
    let shares = |row: &&Row| {
        let converts = |other: &Row| {
            (other.run, &other.scenario) == (row.run, &row.scenario)
                && other.work.operation == "convert to shared"
                && other.step <= row.step
        };
        costs.rows.iter().any(converts)
    };
    let rows: Vec<&Row> = costs.rows.iter().filter(shares).collect();
    if rows.is_empty() {
        return String::new();
    }
    let columns = ["guest_memfd", "elsewhere", "together"];
    let mut headings = headings(costs, columns);
    headings.insert(0, "operation");
    let mut table = within(80, headings);
    for row in rows {
        let pages = |metric| row.spread(metric).map(|spread| spread.median as u64);
        let (inside, apart) = (pages(Metric::Populated), pages(Metric::SharedApart));
        let together = inside
            .zip(apart)
            .map(|(one, other)| one.saturating_add(other));
        let mut cells = names(costs, &row.scenario, row.run);
        cells.insert(0, Cell::new(row.label()));
        cells.extend([inside, apart, together].map(|pages| {
            let text = |pages: u64| Bytes(pages.saturating_mul(4096)).to_string();
            number(pages.map_or(NOT_SEEN.to_owned(), text))
        }));
        table.add_row(cells);
    }
    table.trim_fmt()
}

/// A value with half its spread, where repeats differ.
pub fn said(spread: Option<Spread>) -> String {
    let Some(spread) = spread else {
        return NOT_SEEN.to_owned();
    };
    match spread.width() > 0.0 {
        true => format!("{} ±{}", short(spread.median), short(spread.width() / 2.0)),
        false => short(spread.median),
    }
}

/// Three digits that matter.
fn short(value: f64) -> String {
    match value {
        0.0 => "0".to_owned(),
        value if value >= 99.95 => format!("{value:.0}"),
        value if value >= 9.995 => trimmed(format!("{value:.1}")),
        value if value >= 0.9995 => trimmed(format!("{value:.2}")),
        value if value >= 0.0995 => trimmed(format!("{value:.2}")),
        value => trimmed(format!("{value:.4}")),
    }
}

fn trimmed(text: String) -> String {
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}
