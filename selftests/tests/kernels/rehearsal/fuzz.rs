//! Random scenarios on the `tdx` host, races replayed by their start times, and a TD that is held
//! after a failure.

use std::fs;
use std::path::Path;
use std::process::Output;

use serde_json::Value;
use tdxlab_selftests::command::assert_says;

use super::command::{PROGRAM, rehearse, said};

/// Runs a shell script in a rehearsal: `$0` is the lab, `$1` a folder.
fn script(folder: &Path, text: &str) -> Output {
    let out = folder.to_str().unwrap();
    rehearse(
        folder,
        &["--command", "/bin/sh", "--", "-c", text, PROGRAM, out],
    )
}

#[test]
#[ignore = "takes an emulated machine: make test-rehearsal"]
fn random_scenarios_share_a_td_and_all_pass() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().to_str().unwrap();
    let output = rehearse(
        folder.path(),
        &[
            "--command",
            PROGRAM,
            "--",
            "fuzz",
            "--host",
            "tdx",
            "--design",
            "stock",
            "--count",
            "6",
            "--seed",
            "3",
            "--out",
            out,
        ],
    );
    let text = said(&output);
    assert!(output.status.success(), "{text}");
    assert!(text.contains("REHEARSAL"), "{text}");
    assert!(text.contains("left out: prefault"), "{text}");
    let hunt = fs::read_dir(folder.path())
        .unwrap()
        .map(|entry| entry.unwrap().path().join("fuzz.json"))
        .find(|path| path.exists())
        .unwrap();
    let hunt: Value = serde_json::from_slice(&fs::read(hunt).unwrap()).unwrap();
    assert_eq!(hunt["host"], "tdx");
    assert_eq!(hunt["scenarios"], 6);
    assert_eq!(hunt["failure"], Value::Null, "{hunt:#}");
    assert!(hunt["steps"].as_u64().unwrap() > 60, "{hunt:#}");
    let done = |operation: &str| {
        let mut reached = hunt["reached"].as_array().unwrap().iter();
        reached.any(|cell| cell[0] == operation)
    };
    assert!(done("accept 4K") && done("convert to shared") && done("punch"));
    assert!(!done("prefault"));
}

/// The start of each operation is recorded; a replay starts them at the same time, and reports the
/// deviation.
#[test]
#[ignore = "takes an emulated machine: make test-rehearsal"]
fn races_start_again_when_they_started() {
    const SCRIPT: &str = r#"
        "$0" run scenarios/stock/holes-race-accepts.yaml --host tdx --keep --out "$1/run"
        "$0" replay "$1/run/latest" --times 3 --out "$1/again"
    "#;
    let folder = tempfile::tempdir().unwrap();
    let output = script(folder.path(), SCRIPT);
    let text = said(&output);
    assert!(output.status.success(), "{text}");
    assert!(
        text.contains("step 3: the same start offsets, within "),
        "{text}"
    );
    assert!(text.contains("ended alike in 3 of 3 replays"), "{text}");
    let journal = fs::read_dir(folder.path().join("run"))
        .unwrap()
        .map(|entry| entry.unwrap().path().join("journal.jsonl"))
        .find(|path| path.exists())
        .unwrap();
    let journal = fs::read_to_string(journal).unwrap();
    // The guest's branch, and the three holes one after the other.
    assert!(journal.contains("\"@"), "no start was recorded");
    assert_eq!(journal.matches(": 1\"").count(), 3, "{journal}");
}

#[test]
#[ignore = "takes an emulated machine: make test-rehearsal"]
fn a_failed_td_is_held_and_has_no_stub() {
    const SCRIPT: &str = r#"
        echo drop-conversion=1 >/sys/module/kvm/parameters/softtdx_lies
        "$0" run scenarios/stock/convert-is-a-hole.yaml --host tdx --out "$1/run"
        echo | "$0" replay "$1/run/latest" --scenario 'stock/convert-is-a-hole[one-page]' --hold --out "$1/again"
        echo "code: $?"
    "#;
    let folder = tempfile::tempdir().unwrap();
    let output = script(folder.path(), SCRIPT);
    let parts = [
        "its guest is held",
        "UNIX-CONNECT:",
        "none: a TD shows neither its registers nor its private memory",
        "code: 1",
    ];
    assert_says(&said(&output), &parts);
}
