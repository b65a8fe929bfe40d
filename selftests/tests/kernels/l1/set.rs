//! Runs in an L1: all scenarios of plain VMs, and failures of an L1 and in it.

use std::path::{Path, PathBuf};
use std::process::Output;
use std::time::Duration;

use super::skip::{is_inside, is_newest, skip};
use tdxlab_selftests::command::{assert_says, root};
use tdxlab_selftests::tdxlab;
use tdxlab_selftests::turn::Turn;
use tempfile::TempDir;

/// Far longer than any of them takes.
const PATIENCE: Duration = Duration::from_secs(900);

/// Placeholder for the folder of reports in a command.
const REPORTS: &str = "{reports}";

/// Runs a command in an L1, with a folder for its report; `None`, with a message, without a kernel.
pub(crate) fn l1(options: &[&str], command: &[&str]) -> Option<(Output, TempDir)> {
    if is_inside() {
        skip(false, "this is an L1 already");
        return None;
    }
    let _turn = Turn::wait();
    let kernel = std::env::var("TDXLAB_L1_KERNEL").unwrap_or_else(|_| "distribution".to_owned());
    let reports = tempfile::tempdir().unwrap();
    let mut line = tdxlab!["l1", "--kernel", &kernel, "--verbose"];
    let out = reports.path().to_str().unwrap();
    for [option, usual] in [["--patience", "240"], ["--out", out]] {
        if !options.contains(&option) {
            line.args([option, usual]);
        }
    }
    line.args(options);
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
    let no_kernel = ["no_package", "no_network", "no_apt", "no_qemu"];
    if no_kernel
        .iter()
        .any(|code| said.contains(&format!("tdxlab::l1::{code}")))
    {
        let required = std::env::var_os("TDXLAB_REQUIRE_L1").is_some() || is_newest();
        skip(required, &said);
        return None;
    }
    eprintln!("{said}");
    Some((output, reports))
}

pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// The folder of the only run in a folder of reports.
fn run_in(reports: &Path) -> PathBuf {
    std::fs::read_dir(reports)
        .unwrap()
        .flatten()
        .map(|entry| entry.path())
        .find(|path| path.join("report.json").exists() && !path.is_symlink())
        .expect("a report came back")
}

/// Keeps the report of a run for `make kernels`, by kernel.
fn keep(run: &Path) {
    let kernel = std::env::var("TDXLAB_L1_KERNEL").unwrap_or_else(|_| "distribution".to_owned());
    if !["distribution", "newest"].contains(&kernel.as_str()) {
        return;
    }
    let target = root().join("target/kernels").join(kernel);
    std::fs::create_dir_all(&target).unwrap();
    for file in ["journal.jsonl", "report.json"] {
        std::fs::copy(run.join(file), target.join(file)).unwrap();
    }
}

#[test]
fn the_set_of_plain_vms_passes() {
    let run = ["run", "scenarios/kvm", "--host", "kvm", "--out", REPORTS];
    let Some((output, reports)) = l1(&[], &run) else {
        return;
    };
    let said = text(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{said}");
    let run = run_in(reports.path());
    keep(&run);
    let report: serde_json::Value =
        serde_json::from_slice(&std::fs::read(run.join("report.json")).unwrap()).unwrap();
    let scenarios = report["scenarios"].as_array().unwrap();
    assert!(scenarios.len() >= 15, "{} scenarios", scenarios.len());
    for scenario in scenarios {
        assert_eq!(scenario["verdict"], "pass", "{scenario:#}");
    }
    // The dirty log was read; a step that it says nothing of would pass, too.
    let logged: Vec<Option<u64>> = scenarios
        .iter()
        .filter(|scenario| scenario["name"] == "kvm/dirty-log-pages")
        .flat_map(|scenario| scenario["steps"].as_array().unwrap())
        .map(|step| step["numbers"]["logged"].as_u64())
        .collect();
    let expected = [
        None,
        Some(0),
        Some(4),
        Some(16),
        Some(0),
        Some(64),
        Some(0),
        Some(16),
    ];
    assert_eq!(logged[..expected.len()], expected);
    eprintln!("{said}");
}

/// The tests of its clock, of guest_memfd and of two VMs at once, on the L1's kernel.
#[test]
fn what_needs_a_real_kvm_is_tested_there_too() {
    let this = std::env::current_exe().unwrap();
    let this = this.to_str().unwrap();
    let command = [
        this,
        "l1::clock::",
        "l1::gmem::",
        "l1::two_vms::",
        "--nocapture",
        "--test-threads=1",
    ];
    let Some((output, _)) = l1(&[], &command) else {
        return;
    };
    let (said, told) = (text(&output.stdout), text(&output.stderr));
    assert_eq!(output.status.code(), Some(0), "{said}{told}");
    assert!(said.contains("test result: ok. 8 passed"), "{said}");
    // A kernel has a guest_memfd to test with, or none of the five that need it was tested.
    let skipped: Vec<&str> = told
        .lines()
        .filter(|line| line.contains("skipped: "))
        .collect();
    let all_of_one_reason = skipped.len() == 5
        && skipped
            .iter()
            .all(|line| line.contains("has no guest_memfd"));
    let may_skip = all_of_one_reason && !is_newest();
    assert!(skipped.is_empty() || may_skip, "{skipped:?}");
}

/// Also checks that an instance of tracefs exists during a run, and none after it.
#[test]
fn what_a_killed_run_leaves_is_swept_by_the_next() {
    const SCRIPT: &str = r#"
        instances=/sys/kernel/tracing/instances
        "$0" run scenarios/kvm/touch-4k.yaml --host kvm --out /tmp/killed &
        until [ -n "$(ls $instances)" ] || ! kill -0 $!; do sleep 0.1; done
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

/// Missing features of the machine, one after the other. An empty pool, disabled transparent huge
/// pages and fragmented memory are unmet needs; QEMUs that do not start make the host unusable;
/// witnesses that this user may not read, or that are not mounted, are left out of the judgement.
/// Before that, two scenarios run at once.
#[test]
fn what_the_machine_lacks_is_told_with_what_to_do() {
    const SCRIPT: &str = r#"
        program=$0
        run() { "$program" run "$@" --host kvm --out /tmp/reports; echo "code: $?"; }
        kvm=scenarios/kvm
        run $kvm/dirty-log.yaml $kvm/dirty-log-twice.yaml --jobs 2
        for fault in aborts-on-cpu-host no-memfd; do
            ln -s "$1" /tmp/$fault
            TDXLAB_QEMU=/tmp/$fault run $kvm/touch-4k.yaml 2>&1
        done
        chmod 666 /dev/kvm
        mkdir -m 777 /tmp/theirs
        cp "$program" /tmp/theirs/tdxlab
        cp $kvm/touch-4k.yaml /tmp/theirs
        (
            cd /tmp/theirs
            setpriv --reuid 65534 --regid 65534 --clear-groups env HOME=$PWD TMPDIR=$PWD \
                ./tdxlab run touch-4k.yaml --host kvm --out reports
            echo "code: $?"
        )
        echo 0 > /proc/sys/vm/nr_hugepages
        run $kvm/touch-hugetlb-2m.yaml
        echo "Node 0, zone Normal 90 80 70 60 50 40 30 20 10 1 0" > /tmp/buddyinfo
        mount --bind /tmp/buddyinfo /proc/buddyinfo
        run $kvm/touch-thp.yaml
        umount /proc/buddyinfo
        echo never > /sys/kernel/mm/transparent_hugepage/shmem_enabled
        run $kvm/touch-thp.yaml
        umount /sys/kernel/debug/tracing 2> /dev/null
        umount /sys/kernel/debug /sys/kernel/tracing
        run $kvm/touch-4k.yaml
    "#;
    let program = env!("CARGO_BIN_EXE_tdxlab-under-test");
    let fake = env!("CARGO_BIN_EXE_fake-qemu");
    let Some((output, _)) = l1(&[], &["/bin/sh", "-c", SCRIPT, program, fake]) else {
        return;
    };
    let said = text(&output.stdout).replace(['│', '×'], " ");
    let said_in_one = said.split_whitespace().collect::<Vec<_>>().join(" ");
    let parts = [
        "error: failed to set MSR 0x48b to 0x1",
        "this QEMU and this KVM do not go together",
        "this QEMU was built without memfd",
        "run as root, and without lockdown",
        "needs 32 free 2M pages of hugetlb, 32 more than there are: echo 32 >",
        "needs 8 free pieces of 2M for transparent huge pages, 7 more than there are",
        "echo 1 > /proc/sys/vm/compact_memory",
        "they are off (never): echo advise >",
        "is debugfs mounted",
        "mount -t tracefs",
    ];
    assert_says(&said_in_one, &parts);
    let codes: Vec<&str> = said
        .lines()
        .filter_map(|line| line.strip_prefix("code: "))
        .collect();
    assert_eq!(codes, ["0", "69", "69", "0", "4", "4", "4", "0"], "{said}");
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
