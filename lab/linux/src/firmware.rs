//! Firmware for TDs, from QEMU's firmware descriptors.
//!
//! Source: docs/interop/firmware.json of QEMU; `intel-tdx` among the features of a descriptor.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;
use tdxlab_l1::package::cache_folder;
use tdxlab_l1::{L1Error, package_file};

/// Where descriptors lie, the ones that hide others last.
const FOLDERS: [&str; 3] = [
    "/usr/share/qemu/firmware",
    "/usr/local/share/qemu/firmware",
    "/etc/qemu/firmware",
];

/// What firmware prints when it does not start the kernel, the reason, and the remedy. Source: EDK II,
/// `BdsBoot.c`, `Shell.c` and `DxeImageVerificationLib.c`; SeaBIOS, `boot.c`.
const GIVES_UP: [(&str, &str, &str); 4] = [
    (
        "Security Violation",
        "it verifies signatures, and the kernel has none that it trusts",
        "use firmware with Secure Boot off, or a kernel signed for its keys",
    ),
    (
        "Access Denied",
        "it verifies signatures, and the kernel has none that it trusts",
        "use firmware with Secure Boot off, or a kernel signed for its keys",
    ),
    (
        "UEFI Interactive Shell",
        "it found nothing to start and is in its shell",
        "a kernel: give a bzImage with CONFIG_EFI_STUB, which an unpacked vmlinux lacks; a disk: it needs \
         \\EFI\\BOOT\\BOOTX64.EFI, which `grub-install --removable` and `bootctl install` make",
    ),
    (
        "No bootable device.",
        "the disk has no boot loader that it can start",
        "for a disk that UEFI boots name OVMF with --firmware; a disk without a boot loader needs \
         `append: root=/dev/...`, and the lab's kernel starts it",
    ),
];

/// Why firmware has given up on starting the kernel, and the remedy, if the console shows that it has.
pub(crate) fn gave_up(console: &[String]) -> Option<(&'static str, &'static str)> {
    let says = |text: &str| console.iter().any(|line| line.contains(text));
    let found = GIVES_UP.into_iter().find(|(text, ..)| says(text));
    found.map(|(_, why, advice)| (why, advice))
}

/// No firmware was found.
#[derive(Debug, thiserror::Error)]
#[error(
    "no firmware for TDs: no descriptor in {} has the feature intel-tdx (Debian: install ovmf-inteltdx)",
    FOLDERS.join(", ")
)]
pub struct NoFirmware;

/// Debian's OVMF, which starts plain guests and TDs: from the cache, or downloaded.
///
/// # Errors
///
/// It cannot be had, or the cache cannot be written.
pub fn ovmf() -> Result<PathBuf, L1Error> {
    package_file::file(&cache_folder()?, "ovmf", "usr/share/ovmf/OVMF.fd")
}

/// The firmware to start TDs with.
///
/// # Errors
///
/// No descriptor names one.
pub fn find() -> Result<PathBuf, NoFirmware> {
    find_in(&FOLDERS.map(Path::new)).ok_or(NoFirmware)
}

/// The first by name, as QEMU's documentation has it. A descriptor of the same name in a later
/// folder hides an earlier one.
fn find_in(folders: &[&Path]) -> Option<PathBuf> {
    let mut descriptors = BTreeMap::new();
    for folder in folders {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            let path = entry.path();
            if path
                .extension()
                .is_some_and(|extension| extension == "json")
            {
                descriptors.insert(entry.file_name(), path);
            }
        }
    }
    descriptors
        .values()
        .find_map(|path| of_td(&fs::read(path).ok()?))
}

/// The firmware file of a descriptor, if it supports TDX.
fn of_td(descriptor: &[u8]) -> Option<PathBuf> {
    let descriptor: Value = serde_json::from_slice(descriptor).ok()?;
    let features = descriptor.get("features")?.as_array()?;
    if !features.iter().any(|feature| feature == "intel-tdx") {
        return None;
    }
    let mapping = descriptor.get("mapping")?;
    // A TD has no flash: its firmware is one image in memory.
    let file = mapping.get("filename")?.as_str()?;
    Some(PathBuf::from(file))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn descriptor(feature: &str, file: &str) -> String {
        format!(
            r#"{{"mapping": {{"device": "memory", "filename": "{file}"}}, "features": ["{feature}"]}}"#
        )
    }

    #[test]
    fn the_first_descriptor_for_tds_is_taken_and_a_later_folder_hides_an_earlier_one() {
        let folder = tempfile::tempdir().unwrap();
        let (usr, etc) = (folder.path().join("usr"), folder.path().join("etc"));
        for (folder, name, feature, file) in [
            (&usr, "50-sev.json", "amd-sev", "/sev.fd"),
            (&usr, "60-tdx.json", "intel-tdx", "/tdx.fd"),
            (&usr, "70-tdx.json", "intel-tdx", "/other.fd"),
            (&etc, "60-tdx.json", "intel-tdx", "/own.fd"),
        ] {
            fs::create_dir_all(folder).unwrap();
            fs::write(folder.join(name), descriptor(feature, file)).unwrap();
        }
        assert_eq!(find_in(&[&usr]), Some("/tdx.fd".into()));
        assert_eq!(find_in(&[&usr, &etc]), Some("/own.fd".into()));
        fs::write(etc.join("60-tdx.json"), "{").unwrap();
        assert_eq!(find_in(&[&usr, &etc]), Some("/other.fd".into()));
        assert_eq!(find_in(&[Path::new("/none/such")]), None);
    }

    #[test]
    fn firmware_that_gives_up_is_told_from_one_at_work() {
        let console = |line: &str| [line.to_owned()];
        assert_eq!(gave_up(&console("BdsDxe: starting Boot0001")), None);
        let (_, advice) = gave_up(&console("UEFI Interactive Shell v2.2")).unwrap();
        assert!(advice.contains("CONFIG_EFI_STUB"));
        let refused = "BdsDxe: failed to start Boot0001: Security Violation";
        assert!(
            gave_up(&console(refused))
                .unwrap()
                .1
                .contains("Secure Boot")
        );
    }
}
