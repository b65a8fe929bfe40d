//! The coverage map as rows of a table.

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

/// The table for a terminal of 80 columns: without how often, and with heads on two lines.
pub fn chart(coverage: &Coverage, target: Target) -> String {
    let heads: Vec<String> = head(target)
        .iter()
        .map(|name| name.replace("pending", "pend.").replace("accepted", "acc."))
        .collect();
    let split = |name: &str| match name.split_once(' ') {
        Some((first, second)) => (first.to_owned(), second.to_owned()),
        None => (String::new(), name.to_owned()),
    };
    let (first, second): (Vec<String>, Vec<String>) = heads.iter().map(|name| split(name)).unzip();
    let mut lines = vec![first, second];
    lines.extend(rows(coverage, target).map(|cells| {
        let reached = |cell: String| match cell.split_once("  ") {
            Some((reached, _)) => reached.to_owned(),
            None => cell,
        };
        cells.into_iter().map(reached).collect()
    }));
    let width = |column: usize| lines.iter().map(|line| line[column].len()).max();
    let widths: Vec<usize> = (0..heads.len()).filter_map(width).collect();
    let mut text = String::new();
    for line in lines {
        let mut cells = line.iter().zip(&widths);
        if let Some((name, width)) = cells.next() {
            text += &format!("{name:<width$}");
        }
        for (cell, width) in cells {
            text += &format!(" {cell:>width$}");
        }
        text.truncate(text.trim_end().len());
        text.push('\n');
    }
    text + "n/m: alignments of the two range ends that were tried, of those that are possible\n\
            (2M boundary, one page beside it, other 4K); - none yet; . impossible\n"
}

/// The heads of the columns.
fn head(target: Target) -> Vec<String> {
    let names = std::iter::once(&"operation").chain(target.chart().states());
    names.map(|name| (*name).to_owned()).collect()
}

/// For each operation and state of a touched region: how many alignment classes occurred (2M
/// boundary, one page beside one, other 4K: nine for both ends), and the total count. A combination
/// that did not occur is `-`, an impossible one `.`.
fn rows(coverage: &Coverage, target: Target) -> impl Iterator<Item = Vec<String>> {
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
