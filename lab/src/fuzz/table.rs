//! The coverage map as a table with its holes.

use comfy_table::Table;

use super::coverage::{ALIGNMENTS, Coverage, OPERATIONS, STATES, possible};
use crate::report::table as tables;

/// For each operation and state of a touched region, how many of the classes of alignment came
/// (2M boundary, one page beside one, other 4K: nine of them for both ends), and how often in all.
/// A hole is shown as `-`.
pub fn table(coverage: &Coverage) -> Table {
    let mut table = tables::table(head());
    table.add_rows(rows(coverage));
    table
}

/// The same as Markdown.
pub fn markdown(coverage: &Coverage) -> String {
    let line = |cells: &[String]| format!("| {} |\n", cells.join(" | "));
    let mut text = line(&head());
    text += &format!("|{}\n", " --- |".repeat(STATES.len() + 1));
    text.extend(rows(coverage).map(|cells| line(&cells)));
    text
}

fn head() -> Vec<String> {
    let names = std::iter::once("operation").chain(STATES);
    names.map(str::to_owned).collect()
}

fn rows(coverage: &Coverage) -> impl Iterator<Item = Vec<String>> {
    OPERATIONS.iter().enumerate().map(|(row, name)| {
        let mut cells = vec![(*name).to_owned()];
        cells.extend((0..STATES.len()).map(|state| cell(coverage, row, state)));
        cells
    })
}

fn cell(coverage: &Coverage, row: usize, state: usize) -> String {
    let can = (0..ALIGNMENTS).filter(|alignment| possible(row, *alignment));
    let counts: Vec<u64> = can
        .map(|alignment| coverage.count(row, state, alignment))
        .collect();
    let reached = counts.iter().filter(|count| **count > 0).count();
    match reached {
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
