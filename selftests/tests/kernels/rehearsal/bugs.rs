//! Bugs seeded into KVM's own code are caught, each by the witness that must contradict it.

use serde_json::Value;
use tdxlab_selftests::command::{assert_says, root, tdxlab};
use tdxlab_selftests::turn::Turn;

use super::command::{PROGRAM, said};

/// One of each kind: which leaves split, order, zaps, the accepted level, the S-EPT, the witnesses, and
/// plain VMs.
const BUGS: [&str; 7] = [
    "tail-not-split",
    "split-after-zap",
    "hole-not-truncated",
    "accept-splits-neighbour",
    "promotion",
    "event-missing",
    "page-not-logged",
];

#[test]
#[ignore = "takes an emulated machine: make test-rehearsal"]
fn seven_bugs_in_kvm_are_caught_as_expected() {
    let _turn = Turn::wait();
    let mut command = tdxlab(PROGRAM);
    command
        .current_dir(root())
        .args(["qualify", "--host", "rehearsal", "--json"]);
    for bug in BUGS {
        command.args(["--fault", bug]);
    }
    let output = command.output().unwrap();
    let text = said(&output);
    assert!(output.status.success(), "{text}");
    let rows: Vec<Value> = String::from_utf8_lossy(&output.stdout)
        .lines()
        .filter_map(|line| serde_json::from_str(line).ok())
        .collect();
    let names: Vec<&str> = rows
        .iter()
        .map(|row| row["bug"].as_str().unwrap())
        .collect();
    assert_eq!(names, BUGS, "{text}");
    for row in rows {
        // Pages that are still there are there in every type of VM; leaves of 2M are not.
        let noticed: Vec<&str> = row["selftests"]
            .as_array()
            .unwrap()
            .iter()
            .map(|failure| failure["test"].as_str().unwrap())
            .collect();
        match row["bug"].as_str() {
            Some("hole-not-truncated") => assert_eq!(noticed, ["private_mem_conversions_test"]),
            _ => assert_eq!(noticed, [""; 0], "{row}"),
        }
        assert_eq!(row["as_expected"], true, "{row}");
        assert_eq!(row["unjudged"].as_array().unwrap().len(), 0, "{row}");
    }
}

#[test]
fn a_bug_that_there_is_not_is_said_before_anything_is_booted() {
    let mut command = tdxlab(PROGRAM);
    command.args(["qualify", "--host", "rehearsal", "--fault", "no-such"]);
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(64), "{}", said(&output));
    assert_says(&said(&output), &["there is no kernel bug `no-such`"]);
}
