//! Random scenarios of plain VMs, judged on an independent, real kernel, and a guest that is held
//! after a failure.

use serde_json::Value;

use super::set::{l1, text};

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

/// The end of dirty logging differs between designs, so one of the two fails.
#[test]
fn a_failed_guest_is_held_for_a_person() {
    const SCRIPT: &str = r#"
        cd /tmp || exit
        for design in plain plain-zap; do
            "$0" run "$1" --host kvm --design $design --out /tmp/held && continue
            touch said
            {
                until grep -q ' files ' said; do sleep 0.1; done
                qmp=$(sed -n 's/.*UNIX-CONNECT://p' said)
                gdb=$(sed -n "s/.*target remote \(.*\)'/\1/p" said)
                [ -S "$qmp" ] && echo "QMP listens" >&2
                [ -S "$gdb" ] && echo "gdb listens" >&2
                echo
            } | "$0" replay /tmp/held/latest --hold --out /tmp/again > said
            echo "code: $?"
            cat said
        done
    "#;
    let program = env!("CARGO_BIN_EXE_tdxlab-under-test");
    let scenario =
        tdxlab_selftests::command::root().join("scenarios/kvm/dirty-log-ends-while-stopped.yaml");
    let scenario = scenario.to_str().unwrap();
    let Some((output, _)) = l1(&[], &["/bin/sh", "-c", SCRIPT, program, scenario]) else {
        return;
    };
    let said = text(&output.stdout) + &text(&output.stderr);
    let parts = ["its guest is held", "QMP listens", "gdb listens", "code: 1"];
    tdxlab_selftests::command::assert_says(&said, &parts);
}
