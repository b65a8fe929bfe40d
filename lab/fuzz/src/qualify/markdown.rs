//! The matrix as a chapter of the documentation.

use std::fmt::Write;

use tdxlab_faults as faults;
use tdxlab_faults::catalogue::{Known, ROWS};
use tdxlab_faults::{Fault, TOPICS};

use super::matrix::{Catch, Matrix, Row};

/// One table per topic, with the faults that were tried; if all were, followed by the catalogue row
/// by row.
pub fn markdown(matrix: &Matrix) -> String {
    let mut out = format!(
        "On `{}`: {} of {} faults caught, {} by the witness one would expect, {} at one step by two \
         witnesses or more{}.\n",
        matrix.host.name(),
        matrix.rows.len() - matrix.escaped().count(),
        matrix.rows.len(),
        matrix.as_expected(),
        matrix.by_two_witnesses(),
        match matrix.untried {
            0 => String::new(),
            untried => format!("; {untried} not tried"),
        },
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
    if matrix.rows.len() == faults::all().count() {
        out.push_str(
            "\n### The catalogue, row by row\n\n\
             | row | kind | what goes wrong | faults | scenarios | what cannot be played, and why |\n\
             |--:|---|---|---|---|---|\n",
        );
        for known in ROWS {
            let _ = writeln!(out, "{}", known_line(known));
        }
    }
    out
}

fn known_line(known: &Known) -> String {
    let code = |name: &str| format!("`{name}`");
    let faults: Vec<String> = known.faults().map(|fault| code(fault.name)).collect();
    let scenarios: Vec<String> = known.scenarios.iter().map(|name| code(name)).collect();
    format!(
        "| {} | {} | {} | {} | {} | {} |",
        known.row,
        known.kind.letters(),
        known.about,
        faults.join(", "),
        scenarios.join(", "),
        known.not_played.unwrap_or_default(),
    )
}

fn row_of<'a>(matrix: &'a Matrix, fault: &Fault) -> Option<&'a Row> {
    matrix.rows.iter().find(|row| row.fault.name == fault.name)
}

fn line(row: &Row) -> String {
    let (caught, witnesses) = match row.best() {
        None => (format!("**{}**", row.escape()), String::new()),
        Some(best) => (place(best), names(best)),
    };
    format!(
        "| `{}` | {} ({}{}) | {caught} | {witnesses} | {} of {} |",
        row.fault.name,
        cell(row.fault.wrong),
        cell(row.fault.source),
        match row.fault.rows {
            [] => String::new(),
            _ => format!("; {}", row.fault.rows_in_words()),
        },
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
