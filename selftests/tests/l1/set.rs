//! Runs in an L1: the whole set of plain VMs, and what can go wrong with an L1 and in it.

use std::path::Path;
use std::process::Output;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tdxlab_selftests::tdxlab;
use tempfile::TempDir;

/// Far more than any of it takes.
const PATIENCE: Duration = Duration::from_secs(900);

/// Stands for the folder of reports in a command.
const REPORTS: &str = "{reports}";

/// Runs a command in an L1, with a folder for its report; `None` where no kernel is to be had, which
/// is said.
pub(crate) fn l1(options: &[&str], command: &[&str]) -> Option<(Output, TempDir)> {
    if std::env::var_os("TDXLAB_L1").is_some() {
        eprintln!("skipped: this is an L1 already");
        return None;
    }
    // One at a time: each has gigabytes of memory and as much of a processor as it can get.
    static TURN: Mutex<()> = Mutex::new(());
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let kernel = std::env::var("TDXLAB_L1_KERNEL").unwrap_or_else(|_| "distribution".to_owned());
    let reports = tempfile::tempdir().unwrap();
    let mut line = tdxlab!["l1", "--kernel", &kernel, "--verbose", "--patience", "240"];
    line.arg("--out").arg(reports.path()).args(options);
    let output = line
        .arg("--")
        .args(command.iter().map(|word| match *word {
            REPORTS => reports.path().as_os_str(),
            word => word.as_ref(),
        }))
        .timeout(PATIENCE)
        .output()
        .unwrap();
    let said = text(&output.stderr);
    let no_kernel = ["cannot be had", "QEMU cannot be run"];
    if let Some(why) = said
        .lines()
        .find(|line| no_kernel.iter().any(|no| line.contains(no)))
    {
        eprintln!("skipped: {why}");
        return None;
    }
    eprintln!("{said}");
    Some((output, reports))
}

pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// The only run in a folder of reports.
fn report(reports: &Path) -> serde_json::Value {
    let run = std::fs::read_dir(reports)
        .unwrap()
        .flatten()
        .map(|entry| entry.path().join("report.json"))
        .find(|path| path.exists())
        .expect("a report came back");
    serde_json::from_slice(&std::fs::read(run).unwrap()).unwrap()
}

#[test]
fn the_set_of_plain_vms_passes() {
    let run = ["run", "scenarios/kvm", "--host", "kvm", "--out", REPORTS];
    let Some((output, reports)) = l1(&[], &run) else {
        return;
    };
    let said = text(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{said}");
    let report = report(reports.path());
    let scenarios = report["scenarios"].as_array().unwrap();
    assert!(scenarios.len() >= 15, "{} scenarios", scenarios.len());
    for scenario in scenarios {
        assert_eq!(scenario["verdict"], "pass", "{scenario:#}");
    }
    eprintln!("{said}");
}

/// Were an event counted for the wrong VM, both would see splits that nobody foresaw.
#[test]
fn events_of_two_vms_at_once_are_told_apart() {
    let run = [
        "run",
        "scenarios/kvm/dirty-log.yaml",
        "scenarios/kvm/dirty-log-twice.yaml",
        "--host",
        "kvm",
        "--jobs",
        "2",
        "--out",
        REPORTS,
    ];
    let Some((output, reports)) = l1(&[], &run) else {
        return;
    };
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stdout));
    let report = report(reports.path());
    assert_eq!(report["counts"]["pass"], 2, "{report:#}");
}

/// The tests of guest_memfd, again on the L1's kernel.
#[test]
fn guest_memfd_is_tested_there_too() {
    let this = std::env::current_exe().unwrap();
    let this = this.to_str().unwrap();
    let Some((output, _)) = l1(&[], &[this, "gmem::", "--nocapture", "--test-threads=1"]) else {
        return;
    };
    let said = text(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{said}");
    assert!(said.contains("test result: ok. 5 passed"), "{said}");
}

/// Beside what it is about, this sees an instance of tracefs while a run goes on and none after it.
#[test]
fn what_a_killed_run_leaves_is_swept_by_the_next() {
    const SCRIPT: &str = r#"
        instances=/sys/kernel/tracing/instances
        "$0" run scenarios/kvm/touch-4k.yaml --host kvm --out /tmp/killed &
        until [ -n "$(ls $instances)" ]; do sleep 0.1; done
        kill -9 $!
        wait $!
        echo "left: $(ls $instances | wc -l)"
        sleep 1
        echo "QEMUs: $(grep -l qemu-system /proc/[0-9]*/comm | wc -l)"
        "$0" run scenarios/kvm/touch-4k.yaml --host kvm --out /tmp/whole
        echo "code: $?"
        echo "left then: $(ls $instances | wc -l)"
    "#;
    let program = env!("CARGO_BIN_EXE_tdxlab-under-test");
    let Some((output, _)) = l1(&[], &["/bin/sh", "-c", SCRIPT, program]) else {
        return;
    };
    let said = text(&output.stdout);
    for line in ["left: 1", "QEMUs: 0", "code: 0", "left then: 0"] {
        assert!(
            said.lines().any(|said| said == line),
            "no {line:?} in {said}"
        );
    }
}

/// A pool that is empty, transparent huge pages that are off, and witnesses that are not mounted:
/// the first two are needs that are not met, and the others leave the rest to judge by.
#[test]
fn what_the_machine_lacks_is_told_with_the_command_to_add_it() {
    const SCRIPT: &str = r#"
        run() { "$program" run "scenarios/kvm/$1.yaml" --host kvm --out /tmp/reports; echo "code: $?"; }
        program=$0
        echo 0 > /proc/sys/vm/nr_hugepages
        run touch-hugetlb-2m
        echo never > /sys/kernel/mm/transparent_hugepage/shmem_enabled
        run touch-thp
        umount /sys/kernel/debug/tracing 2> /dev/null
        umount /sys/kernel/debug /sys/kernel/tracing
        run touch-4k
    "#;
    let program = env!("CARGO_BIN_EXE_tdxlab-under-test");
    let Some((output, _)) = l1(&[], &["/bin/sh", "-c", SCRIPT, program]) else {
        return;
    };
    let said = text(&output.stdout);
    for part in [
        "needs 32 free 2M pages of hugetlb, 32 more than there are: echo 32 >",
        "they are off (never): echo advise >",
        "is debugfs mounted",
        "mount -t tracefs",
    ] {
        assert!(said.contains(part), "no {part:?} in {said}");
    }
    let codes: Vec<&str> = said
        .lines()
        .filter_map(|line| line.strip_prefix("code: "))
        .collect();
    assert_eq!(codes, ["4", "4", "0"], "{said}");
}

#[test]
fn a_panic_is_told_by_its_own_line() {
    let panic = ["/bin/sh", "-c", "echo c > /proc/sysrq-trigger; sleep 600"];
    let Some((output, _)) = l1(&[], &panic) else {
        return;
    };
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(70), "{said}");
    assert!(said.contains("panicked"), "{said}");
    assert!(said.contains("sysrq"), "{said}");
}

#[test]
fn memory_that_runs_out_is_told() {
    let Some((output, _)) = l1(&["--memory", "1G"], &["/usr/bin/tail", "/dev/zero"]) else {
        return;
    };
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(70), "{said}");
    assert!(said.contains("ran out of memory"), "{said}");
}
