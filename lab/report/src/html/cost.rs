//! What operations cost, as bars for each MiB, and as lines over vCPUs.

use maud::{Markup, html};

use crate::cost::tables::{SHOWN, said};
use crate::cost::{Costs, Metric, Row, fit};

/// Most rows that are drawn; report.json has them all.
const ROWS: usize = 200;

const WIDTH: f64 = 160.0;
const HEIGHT: f64 = 64.0;
const EDGE: f64 = 4.0;

/// The section.
pub(super) fn section(costs: &Costs) -> Markup {
    let Some(run) = costs.runs.first() else {
        return html! {};
    };
    let rows = &costs.rows[..costs.rows.len().min(ROWS)];
    let most = SHOWN.map(|metric| largest(rows, metric));
    html! {
        section #cost aria-label="Cost" {
            details open {
                summary { h2 { "What it costs, for each MiB" } }
                p { "Times are " (run.times()) "." }
                div.wide {
                    table.cost {
                        thead { tr {
                            th scope="col" { "operation" } th scope="col" { "scenario" } th scope="col" { "vCPUs" }
                            @for metric in SHOWN { th scope="col" { (metric.heading()) } }
                        } }
                        tbody {
                            @for row in rows {
                                tr {
                                    th scope="row" { (row.label()) }
                                    td { (row.scenario) }
                                    td.num { @if row.work.vcpus == 0 { "host" } @else { (row.work.vcpus) } }
                                    @for (metric, most) in SHOWN.into_iter().zip(most) { td { (bar(row, metric, most)) } }
                                }
                            }
                        }
                    }
                }
                @if costs.rows.len() > ROWS { p { (costs.rows.len() - ROWS) " more in report.json." } }
                (growth(costs))
            }
        }
    }
}

fn largest(rows: &[Row], metric: Metric) -> f64 {
    let medians = rows.iter().filter_map(|row| row.per_mib(metric));
    medians.map(|spread| spread.median).fold(0.0, f64::max)
}

/// The value, over a bar as long as its logarithm: costs of 4K and 2M differ by 512.
fn bar(row: &Row, metric: Metric, most: f64) -> Markup {
    let spread = row.per_mib(metric);
    let share = spread.map_or(0.0, |spread| {
        spread.median.ln_1p() / most.ln_1p().max(f64::MIN_POSITIVE)
    });
    html! {
        span.cost-bar style=(format!("--share:{:.3}", share.clamp(0.0, 1.0))) {
            @match spread { Some(_) => (said(spread)), None => i { (said(None)) } }
        }
    }
}

/// A small picture for each operation that several numbers of vCPUs did: time for each MiB.
fn growth(costs: &Costs) -> Markup {
    let grown = costs.growth(&[Metric::Micros]);
    html! {
        @if !grown.is_empty() {
            h3 { "Time for each MiB over vCPUs" }
            div.cost-growth {
                @for one in &grown {
                    @let points = points(costs, one.run, &one.scenario, &one.label);
                    figure {
                        (line(&points))
                        figcaption {
                            (one.label) " in " (one.scenario) ": "
                            @match fit(&points) { Some(fit) => { "exponent " (fit.to_string()) } None => { "no exponent" } }
                        }
                    }
                }
            }
        }
    }
}

/// Median time for each MiB, by vCPUs.
fn points(costs: &Costs, run: usize, scenario: &str, label: &str) -> Vec<(f64, f64)> {
    let rows = costs.rows.iter().filter(|row| {
        row.run == run && row.scenario == scenario && row.work.vcpus > 0 && row.label() == label
    });
    let mut points: Vec<(f64, f64)> = rows
        .filter_map(|row| {
            let spread = row.per_mib(Metric::Micros)?;
            Some((f64::from(row.work.vcpus), spread.median))
        })
        .collect();
    points.sort_by(|one, other| one.0.total_cmp(&other.0));
    points
}

/// A line through points, both axes logarithmic.
fn line(points: &[(f64, f64)]) -> Markup {
    let logs: Vec<(f64, f64)> = points
        .iter()
        .map(|(x, y)| (x.max(1.0).ln(), y.max(1e-3).ln()))
        .collect();
    let ends = |of: fn(&(f64, f64)) -> f64| {
        let low = logs.iter().map(of).fold(f64::INFINITY, f64::min);
        let high = logs.iter().map(of).fold(f64::NEG_INFINITY, f64::max);
        (low, (high - low).max(1e-9))
    };
    let ((left, wide), (low, tall)) = (ends(|point| point.0), ends(|point| point.1));
    let place = |&(x, y): &(f64, f64)| {
        let x = EDGE + (x - left) / wide * (WIDTH - 2.0 * EDGE);
        let y = HEIGHT - EDGE - (y - low) / tall * (HEIGHT - 2.0 * EDGE);
        (x, y)
    };
    let spots: Vec<(f64, f64)> = logs.iter().map(place).collect();
    let path: Vec<String> = spots
        .iter()
        .map(|(x, y)| format!("{x:.1} {y:.1}"))
        .collect();
    let said: Vec<String> = points
        .iter()
        .map(|(x, y)| format!("{x} vCPUs {y:.1} µs"))
        .collect();
    html! {
        svg.cost-line viewBox=(format!("0 0 {WIDTH} {HEIGHT}")) role="img" aria-label=(said.join(", ")) {
            path d=(format!("M{}", path.join("L"))) {}
            @for (x, y) in &spots { circle cx=(format!("{x:.1}")) cy=(format!("{y:.1}")) r="2.5" {} }
        }
    }
}
