//! Plans on a user's own disk: which image, what starts it, and by which firmware.

use std::path::{Path, PathBuf};

use tdxlab_linux::disk::Disk;
use tdxlab_linux::image::First;
use tdxlab_linux::machine::{Machine, Start};
use tdxlab_linux::{LinuxError, Loaders, firmware as of_machines};
use tdxlab_plan::linux::{AgentBy, LinuxPlan};

/// The disk of a plan, and whether its own boot loader starts the guest.
pub(crate) fn of(
    plan: &LinuxPlan,
    scenario: &Path,
    given: Option<&Path>,
) -> (Option<PathBuf>, bool) {
    let disk = path(plan, scenario, given);
    let loader = has_loader(plan, disk.as_deref());
    (disk, loader)
}

/// The disk of a plan: its own, or `given` where it names none and its agent comes by qemu-ga.
fn path(plan: &LinuxPlan, scenario: &Path, given: Option<&Path>) -> Option<PathBuf> {
    let guest = &plan.guest;
    match &guest.disk {
        Some(disk) => {
            let folder = scenario.parent().unwrap_or(Path::new(""));
            Some(folder.join(disk))
        }
        None if guest.agent == AgentBy::QemuGa => given.map(Path::to_owned),
        None => None,
    }
}

/// Whether the disk's own boot loader starts the guest.
fn has_loader(plan: &LinuxPlan, disk: Option<&Path>) -> bool {
    disk.is_some() && !plan.guest.has_root()
}

/// What the first process of the lab's image does for a plan.
pub(crate) fn first(plan: &LinuxPlan, disk: Option<&Path>) -> First {
    match (plan.guest.agent, disk) {
        (_, Some(_)) => First::Root,
        (AgentBy::QemuGa, None) => First::QemuGa,
        (AgentBy::Init, None) => First::Agent,
    }
}

/// How to make a disk start.
const CURE: &str = "give it an EFI system partition with \\EFI\\BOOT\\BOOTX64.EFI (`grub-install --removable` \
     and `bootctl install` make one), or name its root with `append: root=/dev/...`, and the lab's kernel \
     starts it";

/// The firmware of a plain guest that its own disk starts, or of a TD's, whose firmware is set: the one
/// that was `given`, or QEMU's own BIOS (`None`) or OVMF, whichever the disk can be started by. SeaBIOS does
/// not say so where it starts nothing, and the guest would be waited for in vain.
pub(crate) fn firmware(
    disk: Option<&Disk>,
    td: bool,
    given: Option<&Path>,
) -> Result<Option<PathBuf>, LinuxError> {
    let loaders = disk.and_then(|disk| Some((disk, disk.loaders().ok()?)));
    let refused = |disk: &Disk, why| LinuxError::NoLoader {
        path: disk.path().to_owned(),
        why,
        advice: CURE,
    };
    match loaders {
        Some((disk, Loaders { uefi: false, .. })) if td => Err(refused(
            disk,
            "a TD starts by UEFI, and there is no file system on it that UEFI reads",
        )),
        _ if td => Ok(None),
        _ if given.is_some() => Ok(given.map(Path::to_owned)),
        // What cannot be read is left to the firmware that most disks start by.
        None | Some((_, Loaders { bios: true, .. })) => Ok(None),
        Some((disk, Loaders { uefi: true, .. })) => {
            let ovmf = of_machines::ovmf().map_err(|source| LinuxError::NoUefi {
                path: disk.path().to_owned(),
                source: Box::new(source),
            })?;
            Ok(Some(ovmf))
        }
        Some((disk, _)) => Err(refused(
            disk,
            "there is no boot loader on it, neither for a BIOS nor for UEFI",
        )),
    }
}

/// What starts a guest from its own disk, in words.
pub(crate) fn started_by(machine: &Machine) -> Option<String> {
    let Start::Disk { firmware } = &machine.start else {
        return None;
    };
    let firmware = machine
        .td
        .as_ref()
        .map(|td| &td.firmware)
        .or(firmware.as_ref());
    Some(match firmware {
        Some(firmware) => format!("the disk was started by {}", firmware.display()),
        None => "the disk was started by QEMU's own BIOS".to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use tdxlab_plan::linux::LinuxGuest;

    use super::*;

    fn plan(agent: AgentBy, disk: Option<&str>, append: &str) -> LinuxPlan {
        LinuxPlan {
            version: tdxlab_plan::VERSION,
            name: "linux/x".to_owned(),
            about: String::new(),
            seed: 1,
            td: None,
            guest: LinuxGuest {
                mebibytes: 512,
                vcpus: 1,
                append: append.to_owned(),
                agent,
                disk: disk.map(PathBuf::from),
                quotes: tdxlab_plan::linux::Quotes::None,
            },
            steps: Vec::new(),
        }
    }

    #[test]
    fn a_disk_is_found_beside_the_scenario_or_on_the_command_line() {
        let given = Some(Path::new("given.img"));
        let scenario = Path::new("set/linux/x.yaml");
        let found = |plan: &LinuxPlan| path(plan, scenario, given);
        let own = plan(AgentBy::QemuGa, Some("../my.img"), "");
        assert_eq!(found(&own), Some("set/linux/../my.img".into()));
        let absolute = plan(AgentBy::QemuGa, Some("/my.img"), "");
        assert_eq!(found(&absolute), Some("/my.img".into()));
        let none = plan(AgentBy::QemuGa, None, "");
        assert_eq!(found(&none), Some("given.img".into()));
        assert_eq!(found(&plan(AgentBy::Init, None, "")), None);
    }

    /// A disk with this in its first sector.
    fn disk(file: &mut tempfile::NamedTempFile, code: &[u8], kind: u8) -> Disk {
        let mut image = vec![0; 1 << 16];
        image[..code.len()].copy_from_slice(code);
        image[446 + 4] = kind;
        image[510..512].copy_from_slice(&[0x55, 0xaa]);
        std::fs::write(file.path(), image).unwrap();
        Disk::open(file.path()).unwrap()
    }

    #[test]
    fn a_disk_gets_the_firmware_that_starts_it_or_is_refused_with_the_cure() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        let given = Some(Path::new("OVMF.fd"));
        let bios = disk(&mut file, &[0xeb, 0x63, 0x90], 0x83);
        assert_eq!(firmware(Some(&bios), false, None).unwrap(), None);
        assert_eq!(
            firmware(Some(&bios), false, given).unwrap(),
            given.map(Path::to_owned)
        );
        let told = |result: Result<_, LinuxError>| {
            let error = result.unwrap_err();
            format!("{error}; {}", miette::Diagnostic::help(&error).unwrap())
        };
        let td = told(firmware(Some(&bios), true, None));
        assert!(
            td.contains("a TD starts by UEFI") && td.contains("--removable"),
            "{td}"
        );
        let nothing = disk(&mut file, &[], 0x83);
        let nothing = told(firmware(Some(&nothing), false, None));
        assert!(
            nothing.contains("neither for a BIOS nor for UEFI; give it"),
            "{nothing}"
        );
        let uefi = disk(&mut file, &[], 0xef);
        assert_eq!(firmware(Some(&uefi), true, None).unwrap(), None);
        assert_eq!(
            firmware(Some(&uefi), false, given).unwrap(),
            given.map(Path::to_owned)
        );
        // What cannot be read is no reason to refuse.
        std::fs::write(file.path(), b"QFI\xfb").unwrap();
        let unknown = Disk::open(file.path()).unwrap();
        assert_eq!(firmware(Some(&unknown), true, None).unwrap(), None);
        assert_eq!(firmware(Some(&unknown), false, None).unwrap(), None);
    }

    #[test]
    fn a_disk_starts_by_itself_unless_its_root_is_named() {
        let disk = Some(Path::new("my.img"));
        let own = plan(AgentBy::QemuGa, Some("my.img"), "");
        assert!(has_loader(&own, disk) && !has_loader(&own, None));
        let root = plan(AgentBy::QemuGa, Some("my.img"), "root=/dev/vda rw");
        assert!(!has_loader(&root, disk));
        assert_eq!(first(&root, disk), First::Root);
        assert_eq!(first(&own, None), First::QemuGa);
        assert_eq!(first(&plan(AgentBy::Init, None, ""), None), First::Agent);
    }
}
