//! What TDX hosts do today: every scenario of `scenarios/stock`, and the doctor's deep look.

use std::fs;

use serde_json::Value;

use crate::{PROGRAM, rehearse, said};

#[test]
#[ignore = "takes an emulated machine: make test-rehearsal"]
fn every_stock_scenario_passes_with_every_witness_read() {
    let folder = tempfile::tempdir().unwrap();
    let output = rehearse(folder.path(), &["scenarios/stock"]);
    let text = said(&output);
    assert!(output.status.success(), "{text}");
    // Nobody may take it for TDX: neither on the terminal nor in the report.
    assert!(text.contains("REHEARSAL"), "{text}");
    let run = fs::read_dir(folder.path()).unwrap().next().unwrap();
    let run = run.unwrap().path();
    let html = fs::read_to_string(run.join("report.html")).unwrap();
    assert!(html.contains("REHEARSAL"));

    let journal = fs::read_to_string(run.join("journal.jsonl")).unwrap();
    let events: Vec<Value> = journal
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap()["event"].take())
        .collect();
    let of = |kind: &'static str| events.iter().filter_map(move |event| event.get(kind));
    let started = of("run_started").next().unwrap();
    assert_eq!(started["design"], "stock");
    assert!(started["facts"].to_string().contains("design by probe"));
    let plans = started["plans"].as_array().unwrap().len();
    assert!(plans >= 13, "{plans} plans");

    let mut holes = 0;
    for step in of("step_observed") {
        let sample = &step["sample"];
        // A dead TD has let its guest_memfd go; the other witnesses outlive it.
        let died = step.to_string().contains("\"death\":{");
        for witness in ["debugfs", "query_stats", "splits", "kernel_log"] {
            assert!(
                died || sample[witness].get("read").is_some(),
                "{witness}: {step}"
            );
        }
        assert!(died || sample["populated"].get("read").is_some(), "{step}");
        holes += u32::from(step["observed"].to_string().contains("\"errno\":0"));
    }
    assert!(holes >= 10, "only {holes} holes were punched");
}

#[test]
#[ignore = "takes an emulated machine: make test-rehearsal"]
fn the_doctor_looks_deeply() {
    let folder = tempfile::tempdir().unwrap();
    let output = rehearse(
        folder.path(),
        &["--command", PROGRAM, "--", "doctor", "--deep", "--json"],
    );
    assert!(output.status.success(), "{}", said(&output));
    let told: Value = serde_json::from_slice(&output.stdout).unwrap();
    let facts = told["facts"].as_array().unwrap();
    let deep: Vec<_> = facts
        .iter()
        .filter(|fact| fact["name"].as_str().unwrap().starts_with("deep."))
        .collect();
    assert!(deep.len() >= 12, "{told:#}");
    for fact in deep {
        assert_eq!(fact["standing"], "usable", "{fact:#}");
    }
}
