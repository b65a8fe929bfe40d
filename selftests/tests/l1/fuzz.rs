//! Random scenarios of plain VMs, judged on a kernel that nobody here wrote.

use serde_json::Value;

use crate::set::{l1, text};

#[test]
fn random_scenarios_of_plain_vms_pass() {
    let fuzz = [
        "fuzz",
        "--host",
        "kvm",
        "--count",
        "20",
        "--seed",
        "1",
        "--out",
        "{reports}",
    ];
    let Some((output, reports)) = l1(&[], &fuzz) else {
        return;
    };
    let said = text(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{said}");
    let told = text(&output.stderr);
    assert!(told.contains("left out: transparent huge pages"), "{told}");
    let hunt = std::fs::read_dir(reports.path())
        .unwrap()
        .map(|entry| entry.unwrap().path().join("fuzz.json"))
        .find(|path| path.exists())
        .expect("a report came back");
    let hunt: Value = serde_json::from_slice(&std::fs::read(hunt).unwrap()).unwrap();
    assert_eq!(hunt["failure"], Value::Null, "{hunt:#}");
    assert_eq!(hunt["scenarios"], 20);
    for operation in [
        "touch write",
        "punch",
        "dirty log on",
        "dirty log off",
        "stop",
        "cont",
    ] {
        let mut reached = hunt["reached"].as_array().unwrap().iter();
        assert!(
            reached.any(|cell| cell[0] == operation),
            "no {operation}: {said}"
        );
    }
    eprintln!("{said}");
}
