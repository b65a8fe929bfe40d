//! The coverage map as rows of a table, with its holes.

use super::chart::Ground;
use super::coverage::Coverage;

/// The table as Markdown: see [`rows`].
pub fn markdown(coverage: &Coverage, ground: Ground) -> String {
    let line = |cells: &[String]| format!("| {} |\n", cells.join(" | "));
    let mut text = line(&head(ground));
    text += &format!("|{}\n", " --- |".repeat(head(ground).len()));
    text.extend(rows(coverage, ground).map(|cells| line(&cells)));
    text
}

/// The heads of the columns.
pub fn head(ground: Ground) -> Vec<String> {
    let names = std::iter::once(&"operation").chain(ground.chart().states());
    names.map(|name| (*name).to_owned()).collect()
}

/// For each operation and state of a touched region, how many of the classes of alignment came
/// (2M boundary, one page beside one, other 4K: nine of them for both ends), and how often in all.
/// A hole is shown as `-`, and what cannot be as `.`.
pub fn rows(coverage: &Coverage, ground: Ground) -> impl Iterator<Item = Vec<String>> {
    let names = ground.chart().operations().iter().enumerate();
    names.map(move |(row, name)| {
        let mut cells = vec![(*name).to_owned()];
        let states = 0..ground.chart().states().len();
        cells.extend(states.map(|state| cell(coverage, ground, row, state)));
        cells
    })
}

fn cell(coverage: &Coverage, ground: Ground, row: usize, state: usize) -> String {
    let can = ground.alignments(row, state);
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
