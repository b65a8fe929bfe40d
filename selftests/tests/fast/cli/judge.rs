//! `tdxlab judge`: recorded runs, judged again.

use std::fs;
use std::path::Path;

use assert_cmd::assert::Assert;
use serde_json::Value;
use tdxlab_selftests::command::{stderr, stdout};
use tdxlab_selftests::tdxlab;

fn report(folder: &Path) -> Value {
    serde_json::from_slice(&fs::read(folder.join("report.json")).unwrap()).unwrap()
}

/// The report of a run, without places and times.
fn said(folder: &Path) -> Value {
    let mut scenarios = report(folder)["scenarios"].take();
    for scenario in scenarios.as_array_mut().unwrap() {
        scenario["evidence"] = Value::Null;
    }
    scenarios
}

/// The newest run in a folder, judged as if its KVM were `v5`.
fn judged_as_v5(reports: &Path) -> Assert {
    let run = reports.join("latest");
    tdxlab!("judge", run, "--design", "v5", "--out", reports).assert()
}

#[test]
fn the_same_evidence_gets_the_same_judgement() {
    let out = tempfile::tempdir().unwrap();
    let again = tempfile::tempdir().unwrap();
    let cases = [
        ("headtail", None),
        ("v3", None),
        ("headtail", Some("head-split-missing")),
    ];
    for (design, fault) in cases {
        let mut run = tdxlab!(
            "run",
            "--host",
            "sim",
            "--design",
            design,
            "--out",
            out.path()
        );
        if let Some(fault) = fault {
            run.args(["--fault", fault]);
        }
        let _ = run.assert();
        let recorded = out.path().join("latest");
        let verdict = tdxlab!("judge", &recorded, "--out", again.path()).assert();
        let text = stdout(&verdict);
        assert!(text.contains("every verdict is as it was"), "{text}");
        let judged = again.path().join("latest");
        assert_eq!(said(&recorded), said(&judged), "{design}");
        assert_eq!(report(&recorded)["verdict"], report(&judged)["verdict"]);
    }
}

#[test]
fn another_design_says_something_else() {
    let out = tempfile::tempdir().unwrap();
    let walk = "scenarios/scale/aligned-hole-growth.yaml";
    tdxlab!(
        "run",
        walk,
        "--host",
        "sim",
        "--design",
        "v3",
        "--out",
        out.path()
    )
    .assert()
    .success();
    // v5 promises to look at two entries; v3 walked the range.
    let verdict = judged_as_v5(out.path()).code(1);
    let text = stdout(&verdict);
    assert!(text.contains("pass when it ran, fail now"), "{text}");
    assert!(text.contains("S-EPT entries"), "{text}");
}

#[test]
fn needs_that_the_other_design_does_not_meet_are_skipped() {
    let out = tempfile::tempdir().unwrap();
    let scenario = "scenarios/punch/head-and-tail.yaml";
    tdxlab!("run", scenario, "--host", "sim", "--out", out.path())
        .assert()
        .success();
    judged_as_v5(out.path()).code(4);
}

#[test]
fn a_run_that_was_cut_off_is_judged_as_far_as_it_goes() {
    let out = tempfile::tempdir().unwrap();
    let scenario = "scenarios/punch/head-and-tail.yaml";
    tdxlab!("run", scenario, "--host", "sim", "--out", out.path())
        .assert()
        .success();
    let journal = out.path().join("latest/journal.jsonl");
    let text = fs::read_to_string(&journal).unwrap();
    let cut = text.find("\"step\":3").unwrap();
    fs::write(&journal, &text[..cut]).unwrap();
    let again = tempfile::tempdir().unwrap();
    tdxlab!("judge", out.path().join("latest"), "--out", again.path())
        .assert()
        .code(70);
    let report = report(&again.path().join("latest"));
    let steps = report["scenarios"][0]["steps"].as_array().unwrap();
    let verdicts: Vec<&str> = steps
        .iter()
        .filter_map(|step| step["verdict"].as_str())
        .collect();
    assert_eq!(verdicts, ["pass"; 3]);
}

#[test]
fn what_is_no_run_is_said_to_be_none() {
    for (what, code) in [("/nonexistent", 70), ("lab", 70), ("README.md", 70)] {
        let said = tdxlab!("judge", what).assert().code(code);
        let text = stderr(&said);
        assert!(text.contains(what), "{text}");
    }
}
