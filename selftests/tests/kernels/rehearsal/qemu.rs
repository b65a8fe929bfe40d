//! The real QEMU's errors, on this machine: a QEMU that gives up early needs no emulated machine.

use std::process::Command;

use tdxlab::host_kvm::tdx::refusal;
use tdxlab::l1::rehearse;

use super::command::{rehearse as rehearsed, said};

/// Starts the QEMU of the rehearsal and returns its last output.
fn refusal_of(arguments: &[&str]) -> String {
    let cache = rehearse::cache_folder().unwrap();
    let parts = rehearse::ready(&cache, &rehearse::Distributed::Newest)
        .expect("`tdxlab rehearse --prepare` has been run");
    let output = Command::new(parts.qemu())
        .args(["-nodefaults", "-no-user-config", "-display", "none", "-S"])
        .args(arguments)
        .output()
        .unwrap();
    assert!(!output.status.success());
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
#[ignore = "takes the QEMU of a rehearsal: make test-rehearsal"]
fn a_td_under_tcg_is_refused_in_known_words() {
    let said = refusal_of(&[
        "-accel",
        "tcg",
        "-object",
        "tdx-guest,id=tdx0",
        "-machine",
        "q35,confidential-guest-support=tdx0",
    ]);
    let (line, advice) = refusal::explain(&said).unwrap_or_else(|| panic!("{said}"));
    assert!(line.contains("KVM required"), "{line}");
    assert!(advice.contains("TCG"), "{advice}");
}

#[test]
#[ignore = "takes the QEMU of a rehearsal: make test-rehearsal"]
fn a_missing_image_is_refused_in_known_words() {
    let said = refusal_of(&["-accel", "tcg", "-machine", "q35", "-bios", "/nonexistent"]);
    let (line, advice) = refusal::explain(&said).unwrap_or_else(|| panic!("{said}"));
    assert!(line.contains("could not load PC BIOS"), "{line}");
    assert!(advice.contains("64 KiB"), "{advice}");
}

#[test]
#[ignore = "takes the QEMU of a rehearsal: make test-rehearsal"]
fn an_image_of_odd_size_is_refused_in_known_words() {
    let image = image_of(65 << 10);
    let said = refusal_of(&[
        "-accel",
        "tcg",
        "-machine",
        "q35",
        "-bios",
        image.path().to_str().unwrap(),
    ]);
    let (line, advice) = refusal::explain(&said).unwrap_or_else(|| panic!("{said}"));
    assert!(line.contains("could not load PC BIOS"), "{line}");
    assert!(advice.contains("64 KiB"), "{advice}");
}

/// An image without anything in it.
fn image_of(bytes: usize) -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), vec![0; bytes]).unwrap();
    file
}

/// QEMU looks for metadata only where it makes a TD.
#[test]
#[ignore = "takes an emulated machine: make test-rehearsal"]
fn an_image_without_a_footer_is_refused_in_known_words() {
    let folder = tempfile::tempdir().unwrap();
    let image = folder.path().join("zeros.bin");
    std::fs::write(&image, vec![0; 64 << 10]).unwrap();
    let script = folder.path().join("footer.sh");
    let command = format!(
        "\"$TDXLAB_QEMU\" -nodefaults -no-user-config -display none -S -accel kvm -cpu host \
         -object tdx-guest,id=tdx0 -machine q35,confidential-guest-support=tdx0 -m 64M \
         -bios '{}' 2>&1; echo \"--- ended with $?\"\n",
        image.display()
    );
    std::fs::write(&script, command).unwrap();
    let output = rehearsed(
        folder.path(),
        &["--command", "/bin/sh", "--", script.to_str().unwrap()],
    );
    let said = said(&output);
    assert!(said.contains("--- ended with 1\n"), "{said}");
    let (line, advice) = refusal::explain(&said).unwrap_or_else(|| panic!("{said}"));
    assert!(line.contains("TDX_METADATA_OFFSET_GUID"), "{line}");
    assert!(advice.contains("no TDVF table"), "{advice}");
}

#[test]
#[ignore = "takes the QEMU of a rehearsal: make test-rehearsal"]
fn it_knows_the_object_that_makes_a_td() {
    let cache = rehearse::cache_folder().unwrap();
    let parts = rehearse::ready(&cache, &rehearse::Distributed::Newest)
        .expect("`tdxlab rehearse --prepare` has been run");
    let needed = tdxlab::qemu::Version::new(10, 1);
    let installed = tdxlab::qemu::Installed::at(&parts.qemu(), needed).unwrap();
    assert!(installed.objects().unwrap().contains("tdx-guest"));
}
