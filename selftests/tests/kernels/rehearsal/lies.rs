//! Verdicts on a misbehaving TDX host: KVM's modules lie on request, and each lie must end in the
//! right verdict, with a remedy.
//!
//! All lies run in sequence in one emulated machine: starting one takes longer than a lie.

use std::fmt::Write as _;

use tdxlab_selftests::command::root;

use super::command::{PROGRAM, rehearse, said};

/// A lie, its scenario, the expected exit code and messages.
struct Case {
    lie: &'static str,
    scenario: &'static str,
    code: u8,
    says: &'static [&'static str],
}

/// The parameter that holds them.
const LIES: &str = "/sys/module/kvm/parameters/softtdx_lies";

const IMAGE: &str = "scenarios/stock/initial-image.yaml";
const CONVERT: &str = "scenarios/stock/convert-is-a-hole.yaml";
const FAILED: u8 = 1;
const NOT_JUDGED: u8 = 70;

const fn fails(lie: &'static str, scenario: &'static str, says: &'static [&'static str]) -> Case {
    Case {
        lie,
        scenario,
        code: FAILED,
        says,
    }
}

const fn refused(lie: &'static str, says: &'static [&'static str]) -> Case {
    Case {
        lie,
        scenario: IMAGE,
        code: NOT_JUDGED,
        says,
    }
}

/// Each ioctl with errors that were seen in the field, a TD that dies, a conversion that is dropped.
const CASES: [Case; 35] = [
    refused(
        "refuse=CAPABILITIES:EIO",
        &["KVM_TDX_CAPABILITIES", "newer QEMU"],
    ),
    refused(
        "refuse=CAPABILITIES:EINVAL",
        &["KVM_TDX_CAPABILITIES", "newer QEMU"],
    ),
    refused("refuse=INIT_VM:ENOSPC", &["KVM_TDX_INIT_VM", "key id"]),
    refused("refuse=INIT_VM:EINVAL", &["KVM_TDX_INIT_VM", "newer QEMU"]),
    refused("refuse=INIT_VM:EAGAIN", &["KVM_TDX_INIT_VM", "entropy"]),
    refused("refuse=INIT_VM:EBUSY", &["KVM_TDX_INIT_VM", "misc.max"]),
    refused("refuse=INIT_VM:EIO", &["KVM_TDX_INIT_VM", "dmesg"]),
    refused("refuse=INIT_VM:ENOMEM", &["KVM_TDX_INIT_VM", "dmesg"]),
    refused("refuse=INIT_VCPU:EIO", &["KVM_TDX_INIT_VCPU", "dmesg"]),
    refused(
        "refuse=INIT_VCPU:EINVAL",
        &["KVM_TDX_INIT_VCPU", "as many as"],
    ),
    refused(
        "refuse=INIT_MEM_REGION:EBUSY",
        &["KVM_TDX_INIT_MEM_REGION", "--jobs 1"],
    ),
    refused(
        "refuse=INIT_MEM_REGION:EIO",
        &["KVM_TDX_INIT_MEM_REGION", "initial image"],
    ),
    refused(
        "refuse=INIT_MEM_REGION:EFAULT",
        &["KVM_TDX_INIT_MEM_REGION", "initial image"],
    ),
    refused(
        "refuse=INIT_MEM_REGION:EINVAL",
        &["KVM_TDX_INIT_MEM_REGION", "initial image"],
    ),
    refused(
        "refuse=FINALIZE_VM:EIO",
        &["KVM_TDX_FINALIZE_VM", "refused a step"],
    ),
    refused(
        "refuse=FINALIZE_VM:EINVAL",
        &["KVM_TDX_FINALIZE_VM", "refused a step"],
    ),
    refused(
        "refuse=FINALIZE_VM:EBUSY",
        &["KVM_TDX_FINALIZE_VM", "refused a step"],
    ),
    refused(
        "refuse=GET_CPUID:EIO",
        &["KVM_TDX_GET_CPUID", "refused a step"],
    ),
    refused(
        "refuse=GET_CPUID:EINVAL",
        &["KVM_TDX_GET_CPUID", "refused a step"],
    ),
    // QEMU offers more and more room, and gives up in the end.
    refused(
        "refuse=CAPABILITIES:E2BIG",
        &["KVM_TDX_CAPABILITIES", "newer QEMU"],
    ),
    refused("refuse=INIT_VCPU:EBUSY", &["KVM_TDX_INIT_VCPU", "dmesg"]),
    refused("refuse=INIT_VCPU:ENOMEM", &["KVM_TDX_INIT_VCPU", "dmesg"]),
    refused(
        "refuse=INIT_MEM_REGION:ENOMEM",
        &["KVM_TDX_INIT_MEM_REGION", "initial image"],
    ),
    refused(
        "refuse=CREATE_GUEST_MEMFD:ENOMEM",
        &["Error creating KVM guest_memfd", "free memory"],
    ),
    refused(
        "refuse=SET_MEMORY_ATTRIBUTES:ENOMEM",
        &["failed to set memory", "free memory"],
    ),
    refused(
        "no-tdx",
        &["vm-type TDX not supported by KVM", "kvm_intel.tdx=1"],
    ),
    // Errors of an unmodified QEMU on a kernel whose private memory can be huge.
    refused(
        "no-attributes",
        &["KVM does not support guest_memfd", "converts in place"],
    ),
    refused(
        "populate=3",
        &[
            "of the guest_memfd of main memory before the TD runs",
            "its initial image has",
        ],
    ),
    // The TDX module is busy for a while: QEMU retries, without effect.
    Case {
        lie: "refuse=INIT_MEM_REGION:EAGAIN*3",
        scenario: IMAGE,
        code: 0,
        says: &["pass"],
    },
    fails(
        "panic=2",
        IMAGE,
        &[
            "gave up with 0x10000",
            "a lie of a rehearsal",
            "step 2 of 6",
        ],
    ),
    fails(
        "panic=2:0x10001",
        IMAGE,
        &["a code that QEMU does not take", "step 2 of 6"],
    ),
    fails("triple-fault=2", IMAGE, &["triple fault", "step 2 of 6"]),
    // A conversion on a kernel whose guest_memfd takes no hole of 4K, by a QEMU that punches.
    fails(
        "coarse-holes",
        CONVERT,
        &["a QEMU that converts in place", "Failed to fallocate"],
    ),
    fails("kill=2", IMAGE, &["KVM ended the TD", "step 2 of 6"]),
    fails(
        "drop-conversion=1",
        CONVERT,
        &["1536 (expected 1535 populated 4K pages)", "step 3 of 9"],
    ),
];

#[test]
#[ignore = "takes an emulated machine: make test-rehearsal"]
fn every_lie_is_found_out_and_explained() {
    let folder = tempfile::tempdir().unwrap();
    let script = folder.path().join("lies.sh");
    let mut text = String::new();
    for case in &CASES {
        writeln!(
            text,
            "echo '=== {lie}'\n\
             echo '{lie}' >{LIES}\n\
             '{program}' run --host tdx --design stock --jobs 1 --out '{out}' {scenario} 2>&1\n\
             echo \"--- ended with $?\"",
            lie = case.lie,
            program = PROGRAM,
            out = folder.path().display(),
            scenario = case.scenario,
        )
        .unwrap();
    }
    // Other values are refused, and the old one is kept.
    writeln!(
        text,
        "for lie in refuse=EVERYTHING:EIO refuse=INIT_VM:EWHAT kill=0 nap=1; do\n\
         echo $lie >{LIES} && echo \"=== $lie IS TAKEN\"; done 2>/dev/null\n\
         echo \"=== left: $(cat {LIES})\""
    )
    .unwrap();
    std::fs::write(&script, text).unwrap();
    assert!(root().join(IMAGE).exists() && root().join(CONVERT).exists());

    let output = rehearse(
        folder.path(),
        &["--command", "/bin/sh", "--", script.to_str().unwrap()],
    );
    let all = said(&output);
    assert!(output.status.success(), "{all}");
    assert!(!all.contains("IS TAKEN"), "{all}");
    assert!(all.contains("=== left: drop-conversion=1"), "{all}");
    let mut wrong = String::new();
    for case in &CASES {
        let told = all
            .split("=== ")
            .find(|part| part.starts_with(case.lie))
            .unwrap_or_else(|| panic!("nothing about {}:\n{all}", case.lie));
        let ended = format!("--- ended with {}\n", case.code);
        for words in case
            .says
            .iter()
            .copied()
            .chain([ended.as_str(), "REHEARSAL"])
        {
            if !told.contains(words) {
                let _ = writeln!(wrong, "no {words:?} in: {told}");
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}
