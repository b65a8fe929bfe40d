//! The behaviour of today's TDX hosts: the default set, every witness of `scenarios/stock`, and the
//! doctor's check with a TD.

use std::collections::HashSet;
use std::fs;

use serde_json::Value;
use tdxlab_selftests::command::{assert_says, tdxlab};

use super::command::{PROGRAM, rehearse, said};
use super::designs::whole_set;

#[test]
#[ignore = "takes an emulated machine: make test-rehearsal"]
fn the_whole_set_passes_and_that_of_stock_with_every_witness_read() {
    let set = whole_set("stock", 45, &[]);
    let (folder, text) = (set.out, set.text);
    // It must not be mistaken for TDX: neither on the terminal nor in the report.
    assert!(text.contains("REHEARSAL"), "{text}");
    let run = fs::read_dir(folder.path()).unwrap().next().unwrap();
    let run = run.unwrap().path();
    let html = fs::read_to_string(run.join("report.html")).unwrap();
    assert!(html.contains("REHEARSAL"));

    // The notice is kept where the run is processed further.
    for arguments in [&["judge"][..], &["report", "merge"]] {
        let mut again = tdxlab(PROGRAM);
        let output = again
            .args(arguments)
            .arg(&run)
            .arg("--out")
            .arg(folder.path().join("again"))
            .output()
            .unwrap();
        let text = said(&output);
        assert!(output.status.success(), "{text}");
        assert!(text.contains("REHEARSAL: KVM'S OWN TDX CODE"), "{text}");
        assert!(text.contains(", REHEARSAL"), "{text}");
    }

    let journal = fs::read_to_string(run.join("journal.jsonl")).unwrap();
    let events: Vec<Value> = journal
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap()["event"].take())
        .collect();
    let of = |kind: &'static str| events.iter().filter_map(move |event| event.get(kind));
    let started = of("run_started").next().unwrap();
    assert_eq!(started["design"], "stock");
    let facts = started["facts"].to_string();
    assert!(facts.contains("design by probe"), "{facts}");
    // KVM's calls of the module are watched, as on a TDX host.
    assert!(facts.contains("[\"SEAMCALLs\",\""), "{facts}");
    assert!(!facts.contains("not watched"), "{facts}");
    assert!(!facts.contains("DESIGN MISMATCH"), "{facts}");
    let plans = started["plans"].as_array().unwrap();
    let name = |event: &Value| {
        let plan = event["plan"].as_u64().unwrap();
        plans[plan as usize].as_str().unwrap()
    };
    let is_stock = |event: &&Value| name(event).starts_with("stock/");
    let passed: HashSet<_> = of("plan_ended").filter(is_stock).map(name).collect();
    assert!(passed.len() >= 12, "{passed:?}");
    // A TD has two roots, so a hole leaves shared memory alone.
    let mut skipped = of("plan_skipped").map(name);
    let needless =
        |name: &str| name.starts_with("stock/") || name == "convert/shared-memory-outlives-a-hole";
    assert_eq!(skipped.find(|name| needless(name)), None);

    let mut holes = 0;
    for step in of("step_observed").filter(is_stock) {
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
    let names: Vec<&str> = facts
        .iter()
        .filter_map(|fact| fact["name"].as_str()?.strip_prefix("deep."))
        .collect();
    assert_eq!(
        names[..9],
        [
            "made",
            "populated",
            "first_byte",
            "hello",
            "vp_info",
            "hole_unused",
            "accept",
            "accept_again",
            "hole"
        ]
    );
}

/// One emulated machine for several short tests.
#[test]
#[ignore = "takes an emulated machine: make test-rehearsal"]
fn what_goes_wrong_is_kept_and_said() {
    let folder = tempfile::tempdir().unwrap();
    let kept = folder.path().join("kept");
    let script = folder.path().join("looks.sh");
    let text = format!(
        "lies=/sys/module/kvm/parameters/softtdx_lies\n\
         echo '=== doctor'\n\
         echo populate=1 >$lies\n\
         '{PROGRAM}' doctor --deep --out '{kept}' 2>&1\n\
         echo \"--- ended with $?\"\n\
         ls '{kept}'\n\
         echo >$lies\n\
         echo '=== design'\n\
         '{PROGRAM}' run --host tdx --design v3 --out '{out}' scenarios/stock/initial-image.yaml 2>&1\n\
         grep -o 'DESIGN MISMATCH[^]]*' '{out}'/latest/journal.jsonl\n\
         echo '=== console'\n\
         echo drop-conversion=1 >$lies\n\
         '{PROGRAM}' run --host tdx --out '{out}' \
         scenarios/stock/convert-is-a-hole.yaml >'{out}'/told 2>&1\n\
         cat '{out}'/latest/scenarios/*/console.log\n\
         echo '=== probe'\n\
         '{probe}'; echo \"--- ended with $?\"\n",
        kept = kept.display(),
        out = folder.path().join("runs").display(),
        probe = env!("CARGO_BIN_EXE_return-probe"),
    );
    fs::write(&script, text).unwrap();
    let output = rehearse(
        folder.path(),
        &["--command", "/bin/sh", "--", script.to_str().unwrap()],
    );
    let all = said(&output);
    let told = |about: &str| {
        all.split("=== ")
            .find(|part| part.starts_with(about))
            .unwrap_or_else(|| panic!("nothing about {about}:\n{all}"))
    };

    let doctor = told("doctor");
    let words = [
        "deep.made",
        "deep.populated",
        "its initial image has",
        "its files are in",
        "--- ended with 69",
        "qemu.sh",
        "qmp.jsonl",
        "kernel.log",
    ];
    assert_says(doctor, &words);
    assert!(!doctor.contains("deep.first_byte"), "{doctor}");

    let design = told("design");
    let misfit = "v3 was asked for, but the KVM of this host looks like stock";
    assert!(design.contains(&format!("design {misfit}")), "{design}");
    assert!(
        design.contains(&format!("DESIGN MISMATCH\",\"{misfit}")),
        "{design}"
    );

    // In the words of a TD of which the lab made a failure.
    let words = [
        "started as a TD, GPA width 48",
        "memory ends at 0x",
        "vCPUs: 1; attributes: 0x",
        "said hello\nwindows are mapped\nall vCPUs are up",
    ];
    assert_says(told("console"), &words);

    let probe = told("probe");
    assert!(probe.contains("fired 3 times with 0x"), "{probe}");
    assert!(probe.contains("gone\n--- ended with 0"), "{probe}");
}
