//! The default set on KVM's own code, under each of its designs; `stock` looks closer at the one of today.

use std::fs;
use std::path::Path;

use serde_json::Value;
use tempfile::TempDir;

use super::command::{rehearse, said};

/// Needs that a rehearsal cannot meet, as a skip words them: what belongs to other kinds of host, what KVM
/// or QEMU do not have, and what the design does not do.
const UNMET: [&str; 12] = [
    "needs a plain VM",
    "needs host soft or sim",
    "needs TDX module",
    "needs prefault",
    "needs TDG.MEM.PAGE.RELEASE",
    "needs memory slots of its own layout",
    "needs a slot of another alignment",
    "needs a conversion that races",
    "needs private_leaf",
    "needs converts: in_place",
    "needs a VMM that lives on when KVM refuses dirty logging",
    "for KVM's memory attributes of a TD of",
];

/// A run that has ended, with no plan that failed.
pub(super) struct Rehearsed {
    /// Its reports.
    pub(super) out: TempDir,
    /// What was printed.
    pub(super) text: String,
    passed: usize,
    /// Why others were skipped.
    skipped: Vec<String>,
}

/// Any other end of a plan fails the test.
fn run(design: &str, paths: &[&str]) -> Rehearsed {
    let out = tempfile::tempdir().unwrap();
    let output = rehearse(out.path(), &[&["--design", design], paths].concat());
    let text = said(&output);
    assert!(output.status.success(), "{text}");
    let report = report(out.path());
    let scenarios = report["scenarios"].as_array().unwrap();
    let of = |verdict: &str| {
        scenarios
            .iter()
            .filter(move |one| one["verdict"] == verdict)
            .collect::<Vec<_>>()
    };
    let (passed, skipped) = (of("pass"), of("skip"));
    assert_eq!(passed.len() + skipped.len(), scenarios.len(), "{text}");
    let skipped = skipped.iter().map(|one| one["reason"].as_str().unwrap());
    Rehearsed {
        passed: passed.len(),
        skipped: skipped.map(str::to_owned).collect(),
        out,
        text,
    }
}

fn report(out: &Path) -> Value {
    let run = fs::read_dir(out).unwrap().next().unwrap().unwrap().path();
    serde_json::from_str(&fs::read_to_string(run.join("report.json")).unwrap()).unwrap()
}

/// All but what needs something that a rehearsal cannot offer, which is named.
pub(super) fn whole_set(design: &str, at_least: usize, needs: &[&str]) -> Rehearsed {
    let run = run(design, &[]);
    assert!(run.passed >= at_least, "{} passed", run.passed);
    for reason in &run.skipped {
        let named = UNMET.iter().chain(needs).any(|need| reason.contains(need));
        assert!(named, "{reason}");
    }
    run
}

#[test]
#[ignore = "takes an emulated machine: make test-rehearsal"]
fn the_whole_set_passes_under_headtail() {
    whole_set("headtail", 110, &["needs hole_alignment_at_least"]);
}

/// Holes of whole 2M, by both ways of finding what to split; QEMU can convert whole 2M only.
#[test]
#[ignore = "takes an emulated machine: make test-rehearsal"]
fn coarse_holes_pass_under_v3_and_v5() {
    let paths = [
        "accept/4k-inside-pending-2m",
        "punch/aligned",
        "punch/refused-below-2m",
        "convert/whole-leaves",
        "convert/one-page",
    ];
    for design in ["v3", "v5"] {
        let Rehearsed {
            passed, skipped, ..
        } = run(design, &paths);
        assert!(passed >= 9, "{design}: {passed} passed");
        let named = |reason: &String| reason.contains("needs conversions of less than 2M");
        assert!(
            !skipped.is_empty() && skipped.iter().all(named),
            "{skipped:?}"
        );
    }
}
