//! The doctor on machines of several kinds, recorded in `machines/`: after a line about it, each
//! file of a machine with its path before it.

use std::fs;
use std::path::Path;

use rstest::rstest;

use super::*;

/// Writes the files of a recorded machine below `root`.
fn unpack(root: &Path, recorded: &str) -> Machine {
    for file in recorded.split("--- ").skip(1) {
        let (path, content) = file.split_once('\n').unwrap();
        let path = root.join(path.trim_start_matches('/'));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }
    Machine::recorded(root)
}

fn machine(name: &str) -> (tempfile::TempDir, Machine) {
    let folder = tempfile::tempdir().unwrap();
    let file = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("src/doctor/machines")
        .join(name)
        .with_extension("txt");
    let machine = unpack(folder.path(), &fs::read_to_string(file).unwrap());
    (folder, machine)
}

/// Facts that this process decides rather than the machine.
const OF_THIS_PROCESS: [&str; 2] = ["memory", "memlock"];

fn told(machine: &Machine) -> String {
    let mut text = String::new();
    for fact in examine(machine) {
        if OF_THIS_PROCESS.contains(&fact.name.as_str()) {
            continue;
        }
        text += &format!("{} {}: {}\n", fact.standing.name(), fact.name, fact.found);
        if let Some(advice) = fact.advice {
            text += &format!("    -> {advice}\n");
        }
    }
    text
}

#[rstest]
#[case("all-well", None)]
#[case("huge-pages-and-no-key-left", Some("tdx.key_ids"))]
#[case("kernel-too-old", Some("tdx.processor"))]
#[case("no-tdx-processor", Some("tdx.processor"))]
#[case("off-in-firmware", Some("tdx.processor"))]
#[case("parameter-off", Some("tdx.kvm_intel"))]
#[case("qemu-too-old", Some("tdx.qemu"))]
fn what_each_kind_of_machine_is_told(#[case] name: &str, #[case] first_obstacle: Option<&str>) {
    let (_folder, machine) = machine(name);
    insta::assert_snapshot!(name, told(&machine));
    let obstacle = why_no_tdx(&machine).map(|fact| fact.name);
    assert_eq!(obstacle.as_deref(), first_obstacle);
}

/// Whatever is unusable comes with something to do.
#[rstest]
fn nobody_is_left_alone(
    #[values(
        "all-well",
        "huge-pages-and-no-key-left",
        "kernel-too-old",
        "no-tdx-processor",
        "off-in-firmware",
        "parameter-off",
        "qemu-too-old"
    )]
    name: &str,
) {
    let (_folder, machine) = machine(name);
    for fact in examine(&machine) {
        assert!(
            fact.standing != Standing::Unusable || fact.advice.is_some(),
            "{name}: {fact:?}"
        );
    }
}

/// Each reason the kernel gives for leaving TDX off, and what to do about it.
#[rstest]
#[case(
    "virt/tdx: initialization failed: Hibernation support is enabled",
    "nohibernate"
)]
#[case(
    "virt/tdx: initialization failed: too few private KeyIDs available.",
    "key ids"
)]
#[case("virt/tdx: module not loaded", "SEAM loader")]
#[case("kvm_intel: EPT is required for TDX", "ept=1")]
#[case(
    "kvm_intel: TDP MMU and MMIO caching and EPT A/D bit is required for TDX",
    "tdp_mmu=1"
)]
#[case("kvm_intel: APICv is required for TDX", "enable_apicv=1")]
#[case("kvm_intel: tdx: OSXSAVE is required for TDX", "noxsave")]
#[case("kvm_intel: TDX not supported by the host platform", "firmware")]
fn the_kernels_reasons_are_explained(#[case] line: &str, #[case] advice: &str) {
    let folder = tempfile::tempdir().unwrap();
    let recorded = format!(
        "--- /answers/kernel-log\nvirt/tdx: BIOS enabled: private KeyID range [64, 128)\n{line}\n"
    );
    let machine = unpack(folder.path(), &recorded);
    let facts = examine(&machine);
    let fact = facts.iter().find(|fact| fact.name == "tdx.module").unwrap();
    assert_eq!(fact.standing, Standing::Unusable);
    assert!(fact.found.contains(line), "{fact:?}");
    assert!(fact.advice.as_deref().unwrap().contains(advice), "{fact:?}");
}

#[test]
fn damaged_files_are_no_reason_to_panic() {
    let folder = tempfile::tempdir().unwrap();
    let recorded = "--- /proc/cpuinfo\n\0:\nmodel : x\nflags\n\
                    --- /proc/sys/kernel/osrelease\nseven\n\
                    --- /sys/fs/cgroup/misc.capacity\ntdx many\ntdx\n\
                    --- /answers/kvm\n235 lots\n\n7\n";
    let machine = unpack(folder.path(), recorded);
    assert!(!examine(&machine).is_empty());
}

/// KVM that was loaded without what the lab looks at, by the parameter that says so.
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
    let folder = tempfile::tempdir().unwrap();
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
        unpack(folder.path(), &lines.concat())
    };
    let facts = examine(&recorded(value));
    let kvm = facts.iter().find(|fact| fact.name == "kvm").unwrap();
    assert_eq!(kvm.standing, Standing::Unusable);
    assert!(
        kvm.found.contains(found) && kvm.found.contains(parameter),
        "{kvm:?}"
    );
    assert!(kvm.advice.as_ref().unwrap().contains(to_do), "{kvm:?}");
    let facts = examine(&recorded("Y"));
    assert!(facts.iter().all(|fact| fact.name != "kvm"), "{facts:?}");
}
