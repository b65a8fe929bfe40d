//! LAVA: result signals on the console for a LAVA dispatcher.
//!
//! One test set for each topic, one test case for each scenario, its duration as measurement. LAVA
//! has no result for an error: it is `unknown`. The test sets of a rehearsal are named so.

use std::fmt::Write;

use tdxlab_journal::verdict::Verdict;
use tdxlab_plan::text::slug;

use super::ends::run_itself;
use super::{Report, by_topic};

/// The signals of a run.
pub fn render(report: &Report) -> String {
    let mut out = String::new();
    let prefix = report.rehearsal_mark("REHEARSAL-");
    for (topic, _) in by_topic(report) {
        let _ = writeln!(out, "<LAVA_SIGNAL_TESTSET START {prefix}{}>", slug(topic));
        for scenario in &report.scenarios {
            if super::topic(&scenario.name) != topic {
                continue;
            }
            let _ = writeln!(
                out,
                "<LAVA_SIGNAL_TESTCASE TEST_CASE_ID={} RESULT={} MEASUREMENT={:.6} UNITS=seconds>",
                slug(
                    scenario
                        .name
                        .strip_prefix(topic)
                        .unwrap_or(&scenario.name)
                        .trim_start_matches('/')
                ),
                result(scenario.verdict),
                scenario.micros as f64 / 1e6
            );
        }
        let _ = writeln!(out, "<LAVA_SIGNAL_TESTSET STOP>");
    }
    if let Some(reason) = run_itself(report).and_then(|run| run.reason) {
        let _ = writeln!(out, "<LAVA_SIGNAL_TESTRAISE tdxlab: {reason}>");
    }
    out
}

const fn result(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Pass => "pass",
        Verdict::Fail => "fail",
        Verdict::Skip => "skip",
        Verdict::Error => "unknown",
    }
}
