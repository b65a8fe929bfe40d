//! The numbers of each scenario over several runs, as sparklines.

use std::fmt::Write;

use maud::{Markup, html};
use tdxlab_journal::REHEARSAL_FACT;
use tdxlab_plan::text::Micros;

use crate::trend::{Series, Trend};

const WIDTH: f64 = 120.0;
const HEIGHT: f64 = 26.0;

/// The section; scenarios of which only one run knows are left out.
pub(super) fn section(trend: &Trend) -> Markup {
    let rehearsals = trend
        .runs
        .iter()
        .filter(|run| run.contains(REHEARSAL_FACT))
        .count();
    html! {
        section #trend aria-label="Trend" {
            details {
                summary { h2 { "Trend over " (trend.runs.len()) " runs" @if rehearsals > 0 { ", REHEARSALS: " (rehearsals) } } }
                div.wide {
                    table.trend {
                        thead { tr {
                            th scope="col" { "scenario" } th scope="col" { "verdicts" }
                            th scope="col" { "time" } th scope="col" { "splits" } th scope="col" { "slowest hole" }
                        } }
                        tbody {
                            @for line in &trend.scenarios {
                                tr {
                                    th scope="row" { (line.name) }
                                    td.dots {
                                        @for verdict in &line.verdicts {
                                            @match verdict {
                                                Some(verdict) => span class=(verdict) title=(verdict) { span.sr { (verdict) " " } },
                                                None => span title="not in this run" { span.sr { "absent " } },
                                            }
                                        }
                                    }
                                    td { (spark(&line.micros, |value| Micros(value).to_string())) }
                                    td { (spark(&line.splits, |value| value.to_string())) }
                                    td { (spark(&line.hole_micros, |value| Micros(value).to_string())) }
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}

/// A line through the values there are, the last one said.
fn spark(series: &Series, say: fn(u64) -> String) -> Markup {
    let known: Vec<u64> = series.iter().flatten().copied().collect();
    let (Some(low), Some(high), Some(last)) =
        (known.iter().min(), known.iter().max(), known.last())
    else {
        return html! { "\u{2013}" };
    };
    let span = (high - low).max(1) as f64;
    let step = WIDTH / (series.len().max(2) - 1) as f64;
    let mut path = String::new();
    let mut pen_down = false;
    for (index, value) in series.iter().enumerate() {
        let Some(value) = value else {
            pen_down = false;
            continue;
        };
        let x = index as f64 * step;
        let y = HEIGHT - 3.0 - (value - low) as f64 / span * (HEIGHT - 6.0);
        let _ = write!(path, "{}{x:.1} {y:.1}", if pen_down { 'L' } else { 'M' });
        if !pen_down {
            path.push_str("h.1");
        }
        pen_down = true;
    }
    let label = format!("from {} to {}, last {}", say(*low), say(*high), say(*last));
    html! {
        svg.spark viewBox=(format!("-2 0 {} {HEIGHT}", WIDTH + 4.0)) role="img" aria-label=(label) { path d=(path) {} }
        " " (say(*last))
    }
}
