//! The matrix as a chapter of the documentation shows it.

use std::fmt::Write;

use super::matrix::{Catch, Matrix, Row};
use crate::faults::{Fault, TOPICS};

/// One table for every topic, with the faults of it that were tried.
pub fn markdown(matrix: &Matrix) -> String {
    let mut out = format!(
        "On `{}`: {} of {} faults caught, {} by the witness one would expect, {} at one step by two \
         witnesses or more.\n",
        matrix.host.name(),
        matrix.rows.len() - matrix.escaped().count(),
        matrix.rows.len(),
        matrix.as_expected(),
        matrix.by_two_witnesses(),
    );
    for topic in TOPICS {
        let rows: Vec<&Row> = topic
            .faults
            .iter()
            .filter_map(|fault| row_of(matrix, fault))
            .collect();
        if rows.is_empty() {
            continue;
        }
        let _ = write!(
            out,
            "\n### {}\n\n\
             | fault | what is wrong, and where that was seen or feared | caught by | witnesses | plans |\n\
             |---|---|---|---|--:|\n",
            topic.about
        );
        for row in rows {
            let _ = writeln!(out, "{}", line(row));
        }
    }
    out
}

fn row_of<'a>(matrix: &'a Matrix, fault: &Fault) -> Option<&'a Row> {
    matrix.rows.iter().find(|row| row.fault.name == fault.name)
}

fn line(row: &Row) -> String {
    let (caught, witnesses) = match row.best() {
        None => ("**nothing**".to_owned(), String::new()),
        Some(best) => (place(best), names(best)),
    };
    format!(
        "| `{}` | {} ({}) | {caught} | {witnesses} | {} of {} |",
        row.fault.name,
        cell(row.fault.wrong),
        cell(row.fault.source),
        row.catches.len(),
        row.plans,
    )
}

fn place(best: &Catch) -> String {
    match best.step {
        Some(step) => format!("{}, step {step}: {}", cell(&best.name), cell(&best.action)),
        None => format!("{}, {}", cell(&best.name), cell(&best.action)),
    }
}

fn names(best: &Catch) -> String {
    let names: Vec<&str> = best.witnesses.iter().map(|one| one.name()).collect();
    names.join(", ")
}

fn cell(text: &str) -> String {
    text.replace('|', "\\|")
}
