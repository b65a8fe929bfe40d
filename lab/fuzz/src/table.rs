//! The coverage map as rows of a table, with its holes.

use super::coverage::Coverage;
use super::coverage_model::Target;

/// The table as Markdown: see [`rows`].
pub fn markdown(coverage: &Coverage, target: Target) -> String {
    let line = |cells: &[String]| format!("| {} |\n", cells.join(" | "));
    let mut text = line(&head(target));
    text += &format!("|{}\n", " --- |".repeat(head(target).len()));
    text.extend(rows(coverage, target).map(|cells| line(&cells)));
    text
}

/// The heads of the columns.
pub fn head(target: Target) -> Vec<String> {
    let names = std::iter::once(&"operation").chain(target.chart().states());
    names.map(|name| (*name).to_owned()).collect()
}

/// For each operation and state of a touched region, how many of the classes of alignment came
/// (2M boundary, one page beside one, other 4K: nine of them for both ends), and how often in all.
/// A hole is shown as `-`, and what cannot be as `.`.
pub fn rows(coverage: &Coverage, target: Target) -> impl Iterator<Item = Vec<String>> {
    let names = target.chart().operations().iter().enumerate();
    names.map(move |(row, name)| {
        let mut cells = vec![(*name).to_owned()];
        let states = 0..target.chart().states().len();
        cells.extend(states.map(|state| cell(coverage, target, row, state)));
        cells
    })
}

fn cell(coverage: &Coverage, target: Target, row: usize, state: usize) -> String {
    let can = target.alignments(row, state);
    let counts: Vec<u64> = can
        .map(|alignment| coverage.count(row, state, alignment))
        .collect();
    let reached = counts.iter().filter(|count| **count > 0).count();
    match reached {
        _ if counts.is_empty() => ".".to_owned(),
        0 => "-".to_owned(),
        _ => format!("{reached}/{}  {}", counts.len(), short(counts.iter().sum())),
    }
}

/// A count in at most four characters.
fn short(count: u64) -> String {
    match count {
        0..10_000 => count.to_string(),
        10_000..10_000_000 => format!("{}k", count / 1000),
        _ => format!("{}M", count / 1_000_000),
    }
}
