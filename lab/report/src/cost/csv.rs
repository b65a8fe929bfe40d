//! Costs as CSV (RFC 4180): a line for each row, counts of the whole step. What was not seen is empty.

use std::fmt::Write;

use super::{Costs, Metric, Row};

/// The lines, with a header.
pub fn render(costs: &Costs) -> String {
    let mut text =
        String::from("run,host,design,kernel,scenario,step,operation,level,vcpus,bytes,repeats");
    for &metric in Metric::ALL {
        let _ = match metric {
            Metric::Micros => write!(text, ",micros,micros_min,micros_max"),
            counted => write!(text, ",{}", counted.name()),
        };
    }
    text.push_str("\r\n");
    for row in &costs.rows {
        line(costs, row, &mut text);
    }
    text
}

fn line(costs: &Costs, row: &Row, text: &mut String) {
    let run = &costs.runs[row.run];
    let words = [
        run.name.as_str(),
        run.host.name(),
        run.design.as_str(),
        run.kernel.as_deref().unwrap_or_default(),
        row.scenario.as_str(),
    ];
    text.push_str(&words.map(field).join(","));
    let _ = write!(
        text,
        ",{},{},{},{},{},{}",
        row.step,
        field(&row.work.operation),
        field(row.work.level.as_deref().unwrap_or_default()),
        row.work.vcpus,
        row.work.bytes,
        row.samples.len()
    );
    for &metric in Metric::ALL {
        let spread = row.spread(metric);
        let _ = match (metric, spread) {
            (Metric::Micros, Some(spread)) => {
                write!(text, ",{},{},{}", spread.median, spread.min, spread.max)
            }
            (Metric::Micros, None) => write!(text, ",,,"),
            (_, Some(spread)) => write!(text, ",{}", spread.median),
            (_, None) => write!(text, ","),
        };
    }
    text.push_str("\r\n");
}

fn field(text: &str) -> String {
    match text.contains([',', '"', '\r', '\n']) {
        true => format!("\"{}\"", text.replace('"', "\"\"")),
        false => text.to_owned(),
    }
}
