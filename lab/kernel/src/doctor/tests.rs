//! The doctor on recorded machines, from `machines/`.

use std::fs;
use std::path::Path;

use rstest::rstest;

use super::*;

/// Machines that were not seen but put together from known formats.
const ADAPTED: [(&str, Option<&str>); 8] = [
    ("all-well", None),
    ("hibernation-possible", Some("tdx.module")),
    ("huge-pages-and-no-key-left", Some("tdx.key_ids")),
    ("kernel-too-old", Some("tdx.kernel")),
    ("no-tdx-processor", Some("tdx.processor")),
    ("off-in-firmware", Some("tdx.processor")),
    ("parameter-off", Some("tdx.kvm_intel")),
    ("qemu-too-old", Some("tdx.qemu")),
];

/// Machines that were recorded with `tdxlab doctor --record`.
const RECORDED: [&str; 3] = [
    "recorded-container",
    "recorded-l1",
    "recorded-l1-of-a-rehearsal",
];

pub(super) fn text(name: &str) -> String {
    let file = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("src/doctor/machines")
        .join(name)
        .with_extension("txt");
    fs::read_to_string(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()))
}

pub(super) fn machine(text: &str) -> ThisMachine {
    ThisMachine::recorded(MachineRecording::parse(text))
}

fn told(machine: &ThisMachine) -> String {
    let mut text = String::new();
    for fact in examine(machine) {
        text += &format!("{} {}: {}\n", fact.standing.name(), fact.name, fact.found);
        if let Some(advice) = fact.advice {
            text += &format!("    -> {advice}\n");
        }
    }
    text
}

fn fact(machine: &ThisMachine, name: &str) -> Fact {
    let facts = examine(machine);
    let fact = facts.iter().find(|fact| fact.name == name);
    fact.unwrap_or_else(|| panic!("no {name}: {facts:#?}"))
        .clone()
}

#[test]
fn what_each_kind_of_machine_is_told() {
    for (name, first_obstacle) in ADAPTED {
        let machine = machine(&text(name));
        insta::assert_snapshot!(name, told(&machine));
        let obstacle = why_no_tdx(&machine).map(|fact| fact.name);
        assert_eq!(obstacle.as_deref(), first_obstacle, "{name}");
    }
}

#[test]
fn what_recorded_machines_are_told() {
    for name in RECORDED {
        insta::assert_snapshot!(name, told(&machine(&text(name))));
    }
}

/// Synthetic recordings are marked as such.
#[test]
fn where_a_recording_comes_from_is_said() {
    for (name, _) in ADAPTED {
        assert!(
            text(name).contains("\n# Adapted from known formats"),
            "{name}"
        );
    }
    for name in RECORDED {
        assert!(text(name).starts_with("# Recorded by tdxlab"), "{name}");
    }
    let files = fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("src/doctor/machines"));
    assert_eq!(files.unwrap().count(), ADAPTED.len() + RECORDED.len());
}

/// Every unusable fact has a remedy.
#[test]
fn nobody_is_left_alone() {
    let adapted = ADAPTED.iter().map(|(name, _)| *name);
    for name in adapted.chain(RECORDED) {
        for fact in examine(&machine(&text(name))) {
            assert!(
                fact.standing != Status::Unusable || fact.advice.is_some(),
                "{name}: {fact:?}"
            );
        }
    }
}

/// The report of this machine equals that of its recording.
#[test]
fn a_recording_says_what_the_machine_says() {
    let this = ThisMachine::recorder();
    let facts = examine(&this);
    let recording = this.recording();
    let again = MachineRecording::parse(&recording.to_string());
    assert_eq!(again, recording);
    assert_eq!(examine(&ThisMachine::recorded(again)), facts);
    assert_eq!(
        why_no_tdx(&ThisMachine::recorded(recording)),
        why_no_tdx(&this)
    );
}

/// A machine on which all is well, but for one answer.
fn but(path: &str, answer: &str) -> ThisMachine {
    machine(&without(&text("all-well"), path, answer))
}

/// A recording with another answer to one question.
pub(super) fn without(known: &str, path: &str, answer: &str) -> String {
    let start = format!("--- {path}\n");
    let kept: String = known
        .split_inclusive('\n')
        .scan(false, |inside, line| {
            if line.starts_with("--- ") {
                *inside = line == start || line.starts_with(&format!("--- {path}/"));
            }
            Some(if *inside { "" } else { line })
        })
        .collect();
    format!("{kept}{answer}")
}

/// A recording cut short says what it lacks, and blames nothing for it.
#[test]
fn what_a_recording_lacks_is_unknown() {
    let whole = text("all-well");
    let known = examine(&machine(&whole));
    for path in whole.lines().filter_map(|line| line.strip_prefix("--- ")) {
        let machine = machine(&without(&whole, path, ""));
        assert_eq!(why_no_tdx(&machine), None, "{path}");
        for fact in examine(&machine) {
            if known.contains(&fact) {
                continue;
            }
            assert_eq!(fact.standing, Status::Limited, "{path}: {fact:?}");
            assert!(
                fact.found.contains("not in the recording"),
                "{path}: {fact:?}"
            );
        }
    }
}

const SPLIT_EVENT: &str = "/sys/kernel/tracing/events/kvmmmu/kvm_mmu_split_huge_page/enable";
const YAMA: &str = "/proc/sys/kernel/yama/ptrace_scope";
const POOL: &str = "/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages";

#[rstest]
#[case::yama_2_for_root(YAMA, "2\n", "ptrace", Status::Usable, "this is root")]
#[case::yama_2_for_others(
    YAMA,
    "2\n--- /answers/uid\n1000\n",
    "ptrace",
    Status::Unusable,
    "ptrace_scope=1"
)]
#[case::yama_3(YAMA, "3\n", "ptrace", Status::Unusable, "stays until then")]
#[case::no_yama(YAMA, "!2", "ptrace", Status::Usable, "no Yama")]
#[case::lockdown_integrity(
    "/sys/kernel/security/lockdown",
    "none [integrity] confidentiality\n",
    "lockdown",
    Status::Limited,
    "lockdown=none"
)]
#[case::debugfs_closed(
    "/sys/kernel/debug/kvm",
    "!13",
    "debugfs",
    Status::Limited,
    "run as root"
)]
#[case::debugfs_not_mounted(
    "/sys/kernel/debug/kvm",
    "!2",
    "debugfs",
    Status::Limited,
    "mount -t debugfs"
)]
#[case::tracefs_closed(SPLIT_EVENT, "!13", "tracefs", Status::Limited, "run as root")]
#[case::tracefs_not_mounted(SPLIT_EVENT, "!2", "tracefs", Status::Limited, "mount -t tracefs")]
#[case::log_closed("/dev/kmsg", "!1", "kernel log", Status::Limited, "dmesg_restrict")]
#[case::no_second_warning(
    "/sys/kernel/debug/clear_warn_once",
    "!13",
    "one-shot warnings",
    Status::Limited,
    "once a boot"
)]
#[case::no_pool(POOL, "!2", "hugetlb", Status::Limited, "no 2M pool")]
#[case::an_empty_pool(POOL, "0\n", "hugetlb", Status::Limited, "nr_hugepages")]
#[case::a_pool(POOL, "7\n", "hugetlb", Status::Usable, "7 free 2M pages")]
#[case::a_pool_of_1g(
    "/sys/kernel/mm/hugepages/hugepages-1048576kB/free_hugepages",
    "3\n",
    "hugetlb",
    Status::Limited,
    "3 of 1G"
)]
#[case::little_memlock("/answers/memlock", "65536\n", "memlock", Status::Limited, "64 KiB")]
#[case::any_memlock(
    "/answers/memlock",
    "unlimited\n",
    "memlock",
    Status::Usable,
    "unlimited"
)]
fn what_this_user_may_do_is_looked_at(
    #[case] path: &str,
    #[case] answer: &str,
    #[case] name: &str,
    #[case] standing: Status,
    #[case] says: &str,
) {
    let answer = match answer.strip_prefix('!') {
        // A folder cannot be opened, a file cannot be read.
        Some(errno) if path.ends_with("/kvm") => format!("--- {path}/ (errno {errno})\n"),
        Some(errno) => format!("--- {path} (errno {errno})\n"),
        None => format!("--- {path}\n{answer}"),
    };
    let fact = fact(&but(path, &answer), name);
    assert_eq!(fact.standing, standing, "{fact:?}");
    let all = format!("{} {}", fact.found, fact.advice.unwrap_or_default());
    assert!(all.contains(says), "{all}");
}

#[test]
fn damaged_files_are_no_reason_to_panic() {
    let recorded = "--- /proc/cpuinfo\n\0:\nmodel : x\nflags\n\
                    --- /proc/sys/kernel/osrelease\nseven\n\
                    --- /sys/fs/cgroup/misc.capacity\ntdx many\ntdx\n\
                    --- /answers/kvm\n235 lots\n\n7\n";
    let machine = machine(recorded);
    assert!(!examine(&machine).is_empty());
}

/// KVM loaded without a feature the lab needs, by the parameter that shows it.
#[rstest]
#[case(
    "kvm_intel/parameters/ept",
    "N",
    "without Extended Page Tables",
    "load kvm_intel with ept=1"
)]
#[case(
    "kvm_amd/parameters/npt",
    "0",
    "without nested page tables",
    "load kvm_amd with npt=1"
)]
#[case(
    "kvm/parameters/tdp_mmu",
    "N",
    "without the TDP MMU",
    "load kvm with tdp_mmu=1"
)]
fn a_kvm_without_its_own_paging_is_refused_by_name(
    #[case] parameter: &str,
    #[case] value: &str,
    #[case] found: &str,
    #[case] to_do: &str,
) {
    let recorded = |value: &str| {
        let all = [
            "kvm_intel/parameters/ept",
            "kvm_amd/parameters/npt",
            "kvm/parameters/tdp_mmu",
        ];
        let lines = all.map(|name| {
            let value = if name == parameter { value } else { "Y" };
            format!("--- /sys/module/{name}\n{value}\n")
        });
        machine(&lines.concat())
    };
    let facts = examine(&recorded(value));
    let kvm = facts.iter().find(|fact| fact.name == "kvm").unwrap();
    assert_eq!(kvm.standing, Status::Unusable);
    assert!(
        kvm.found.contains(found) && kvm.found.contains(parameter),
        "{kvm:?}"
    );
    assert!(kvm.advice.as_ref().unwrap().contains(to_do), "{kvm:?}");
    let facts = examine(&recorded("Y"));
    assert!(facts.iter().all(|fact| fact.name != "kvm"), "{facts:?}");
}
