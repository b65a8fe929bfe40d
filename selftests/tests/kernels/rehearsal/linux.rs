//! An unmodified Linux as a TD: firmware, kernel and agent on KVM's own TDX code.

use std::fs;
use std::path::Path;

use serde_json::Value;
use tdxlab::l1::KernelChoice;
use tdxlab::l1::rehearse::cache_folder;
use tdxlab_linux::image::First;
use tdxlab_linux::{ImageOptions, LinuxImage};
use tdxlab_selftests::command::assert_says;
use tdxlab_selftests::uefi_disk::{self, System};

use super::command::{rehearse, said};

#[test]
#[ignore = "make test-rehearsal"]
fn linux_boots_as_a_td_and_converts_pages() {
    let room = tempfile::tempdir().unwrap();
    let disk = room.path().join("disk.img");
    uefi_disk(&disk);
    let folder = tempfile::tempdir().unwrap();
    let paths = [
        "scenarios/linux/boot.yaml",
        "scenarios/linux/convert-head-tail-whole.yaml",
        "scenarios/linux/qemu-ga.yaml",
        "--",
        "--disk",
        disk.to_str().unwrap(),
    ];
    let output = rehearse(
        folder.path(),
        &[&["--design", "headtail"], &paths[..]].concat(),
    );
    let text = said(&output);
    assert!(output.status.success(), "{text}");
    assert_says(
        &text,
        &["Linux guests: TDs", "pass: 3 scenarios on host tdx"],
    );
    let run = fs::read_dir(folder.path()).unwrap().next().unwrap();
    let report = fs::read_to_string(run.unwrap().path().join("report.json")).unwrap();
    let report: Value = serde_json::from_str(&report).unwrap();
    let facts = report["facts"].to_string();
    assert!(facts.contains("OVMF.fd"), "{facts}");
    let steps = &report["scenarios"][1]["steps"];
    let boot = &steps[0]["boot"];
    let accepted = boot["module"]["accepted_2m"].as_u64().unwrap();
    let leaves = boot["pages_2m"].as_u64().unwrap();
    assert!(accepted >= leaves && leaves > 100, "{boot}");
    let kinds = boot["memory"].to_string();
    assert!(
        kinds.contains("firmware") && kinds.contains("leaf"),
        "{kinds}"
    );
    let convert = &steps[2];
    let text = convert.to_string();
    assert!(text.contains("exactly: 1 x DEMOTE, 16 x REMOVE"), "{text}");
    let heard = convert["heard"].to_string();
    for witness in ["module", "splits", "debugfs", "query_stats", "kernel_log"] {
        assert!(heard.contains(witness), "{heard}");
    }
    // The third is the system of a disk, whose agent came by qemu-ga.
    let steps = &report["scenarios"][2]["steps"];
    let boot = steps[0].to_string();
    assert!(
        boot.contains("the disk was started by ") && boot.contains("brought the agent"),
        "{boot}"
    );
    let read = steps[6].to_string();
    assert!(read.contains("read /proc/version by qemu-ga"), "{read}");
}

/// A disk with the TDs' kernel and Debian's qemu-ga.
fn uefi_disk(path: &Path) {
    let parts = cache_folder().unwrap().join("rehearsal/current");
    let kernel = parts.join("kernel/vmlinuz");
    let image = LinuxImage::prepare(&ImageOptions {
        kernel: KernelChoice::Image(kernel.clone()),
        modules: Some(parts.join("kernel/modules")),
        first: First::QemuGa,
        td: true,
        ..ImageOptions::default()
    });
    let system = System {
        kernel: fs::read(kernel).unwrap(),
        initramfs: fs::read(image.unwrap().initramfs).unwrap(),
        append: "console=ttyS0 loglevel=4 panic=-1 oops=panic nowatchdog".to_owned(),
    };
    let loader = uefi_disk::loader().unwrap();
    uefi_disk::write(path, &loader, &system).unwrap();
}

#[test]
#[ignore = "make test-rehearsal"]
fn a_bug_in_kvm_fails_a_linux_scenario_that_names_the_leaf_and_the_side() {
    let found = [
        (
            "covered-leaves-split",
            "a split (expected no split here (KVM))",
        ),
        // The firmware does not get far.
        ("head-not-split", "KVM has taken memory that was accepted"),
        ("demote-lost", "the TDX module refuses what KVM asks for"),
    ];
    for (bug, says) in found {
        let folder = tempfile::tempdir().unwrap();
        let scenario = "scenarios/linux/convert-head-tail-whole.yaml";
        let arguments = ["--design", "headtail", "--bug", bug, scenario];
        let output = rehearse(folder.path(), &arguments);
        let text = said(&output);
        assert_eq!(output.status.code(), Some(1), "{bug}: {text}");
        assert_says(&text, &[says]);
    }
}

/// An answer of QEMU, in a moment; no TD starts.
#[test]
#[ignore = "make test-rehearsal"]
fn firmware_that_knows_no_tds_is_told_with_the_cure() {
    let folder = tempfile::tempdir().unwrap();
    let zeros = folder.path().join("zeros.fd");
    fs::write(&zeros, vec![0; 4 << 20]).unwrap();
    // The image of a BIOS ends in a reset vector, too, but in nothing that is for TDs.
    let bios = folder.path().join("bios.bin");
    let mut image = vec![0xf4; 256 << 10];
    let reset = image.len() - 16;
    image[reset..].copy_from_slice(b"\xea\x5b\xe0\x00\xf006/23/99\x00\xfc\x00");
    fs::write(&bios, image).unwrap();
    for firmware in [zeros, bios] {
        let firmware = firmware.to_str().unwrap();
        let arguments = ["scenarios/linux/boot.yaml", "--", "--firmware", firmware];
        let output = rehearse(folder.path(), &arguments);
        let text = said(&output);
        assert_eq!(output.status.code(), Some(70), "{text}");
        assert_says(
            &text,
            &[
                "error linux/boot",
                "this firmware does not start TDs; --firmware names one",
            ],
        );
    }
}

#[test]
#[ignore = "make test-rehearsal"]
fn a_td_too_large_for_its_host_is_skipped_by_what_it_needs() {
    let folder = tempfile::tempdir().unwrap();
    let scenario = folder.path().join("large.yaml");
    let text = "scenario: linux/large\nabout: More than there is.\n\
                guest: { linux: { memory: 16G } }\nsteps: [boot, power_off]\n";
    fs::write(&scenario, text).unwrap();
    let output = rehearse(folder.path(), &[scenario.to_str().unwrap()]);
    let text = said(&output);
    assert_says(&text, &["skip linux/large", "needs 16384 MiB for its TD"]);
}

/// The buffer for quotes, what is asked through it, and memory that no TD survives.
#[test]
#[ignore = "make test-rehearsal"]
fn a_quote_splits_one_leaf_and_plugged_memory_ends_a_td() {
    let folder = tempfile::tempdir().unwrap();
    let paths = [
        "scenarios/linux/quote-buffer.yaml",
        "scenarios/linux/plug-memory-td.yaml",
    ];
    let arguments = [&["--design", "headtail"], &paths[..]].concat();
    let output = rehearse(folder.path(), &arguments);
    let text = said(&output);
    assert!(output.status.success(), "{text}");
    assert_says(&text, &["pass: 4 scenarios on host tdx"]);
    let run = fs::read_dir(folder.path()).unwrap().next().unwrap();
    let report = fs::read_to_string(run.unwrap().path().join("report.json")).unwrap();
    let report: Value = serde_json::from_str(&report).unwrap();
    let step =
        |scenario: usize, step: usize| report["scenarios"][scenario]["steps"][step].to_string();
    let end = step(0, 2);
    assert!(end.contains("Guest access before accepting"), "{end}");
    for (scenario, at, says) in [
        (1, 3, "128 KiB are shared at"),
        (1, 4, "GetQuote failed: reading the quote"),
        (
            1,
            4,
            "the VMM wrote GET_QUOTE_SERVICE_UNAVAILABLE (0x8000000000000001)",
        ),
        (2, 4, "6000 bytes came back"),
        (
            2,
            4,
            "the VMM wrote GET_QUOTE_SUCCESS (0x0), 1024 bytes in, 6000 bytes out",
        ),
        // Only the VMM tells these two apart.
        (3, 4, "GetQuote failed: reading the quote"),
        (
            3,
            4,
            "the VMM wrote GET_QUOTE_ERROR (0x8000000000000000), 1024 bytes in, 0 bytes out",
        ),
    ] {
        let step = step(scenario, at);
        assert!(step.contains(says), "{step}");
    }
}

#[test]
#[ignore = "make test-rehearsal"]
fn linux_and_the_micro_guest_are_rehearsed_apart() {
    let folder = tempfile::tempdir().unwrap();
    let paths = ["scenarios/linux/boot.yaml", "scenarios/stock"];
    let output = rehearse(folder.path(), &paths);
    assert_eq!(output.status.code(), Some(64));
    assert_says(&said(&output), &["do not run together"]);
}
