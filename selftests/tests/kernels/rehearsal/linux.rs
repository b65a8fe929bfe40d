//! An unmodified Linux as a TD: firmware, kernel and agent on KVM's own TDX code.

use std::fs;

use serde_json::Value;
use tdxlab_selftests::command::assert_says;

use super::command::{rehearse, said};

#[test]
#[ignore = "make test-rehearsal"]
fn linux_boots_as_a_td_and_converts_pages() {
    let folder = tempfile::tempdir().unwrap();
    let paths = [
        "scenarios/linux/boot.yaml",
        "scenarios/linux/convert-head-tail-whole.yaml",
    ];
    let output = rehearse(
        folder.path(),
        &[&["--design", "headtail"], &paths[..]].concat(),
    );
    let text = said(&output);
    assert!(output.status.success(), "{text}");
    assert_says(
        &text,
        &["Linux guests: TDs", "pass: 2 scenarios on host tdx"],
    );
    let run = fs::read_dir(folder.path()).unwrap().next().unwrap();
    let report = fs::read_to_string(run.unwrap().path().join("report.json")).unwrap();
    let report: Value = serde_json::from_str(&report).unwrap();
    let facts = report["facts"].to_string();
    assert!(facts.contains("OVMF.fd"), "{facts}");
}

#[test]
#[ignore = "make test-rehearsal"]
fn linux_and_the_micro_guest_are_rehearsed_apart() {
    let folder = tempfile::tempdir().unwrap();
    let paths = ["scenarios/linux/boot.yaml", "scenarios/stock"];
    let output = rehearse(folder.path(), &paths);
    assert_eq!(output.status.code(), Some(64));
    assert_says(&said(&output), &["do not run together"]);
}
