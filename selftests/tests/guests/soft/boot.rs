//! Booting a guest until it accepts commands.

use std::path::Path;
use std::process::Command;

use nix::errno::Errno;
use nix::sys::signal::kill;
use nix::unistd::Pid;

use super::booted::*;

#[test]
fn a_guest_boots_answers_and_ends() {
    let folder = TempDir::new().unwrap();
    let host = SoftHost::find().unwrap();
    let mut session = host
        .boot(&guest(64 * MIB, 1), &options(&folder, "headtail"))
        .unwrap();
    let sample = session.sample();
    assert!(sample.debugfs.value().is_some(), "{:?}", sample.debugfs);
    assert_eq!(sample.splits.value().unwrap().len(), 0);
    let pid = qemu_of(folder.path());
    assert_eq!(kill(pid, None), Ok(()));
    session.end().unwrap();
    assert_eq!(kill(pid, None), Err(Errno::ESRCH), "it is gone and reaped");
}

#[test]
fn sixty_four_vcpus_report_in() {
    let mut booted = Booted::new(&guest(4 * MIB, 64), "v5");
    let observed = booted.perform(&accept_on(63, 0, 4 * MIB, Size::Size2M));
    assert_eq!(observed.runs.len(), 1);
    assert_eq!(booted.counters().pages_2m, 2);
}

/// Evidence of a failure, used as a person would.
#[test]
fn the_script_of_a_failure_starts_the_same_guest() {
    let mut booted = Booted::new(&guest(4 * MIB, 2), "v5");
    let folder = TempDir::new().unwrap();
    for (name, content) in booted.session.evidence() {
        std::fs::write(folder.path().join(name), content).unwrap();
    }
    let log = std::fs::read_to_string(folder.path().join("serial.log")).unwrap();
    assert!(log.contains("Hello") && log.contains("Ready"), "{log}");

    let mut qemu = Command::new("sh")
        .arg("qemu.sh")
        .current_dir(folder.path())
        .spawn()
        .unwrap();
    let said = folder.path().join("serial.out");
    while std::fs::metadata(&said).map_or(0, |file| file.len()) == 0 {
        assert!(qemu.try_wait().unwrap().is_none(), "QEMU ended");
        std::thread::sleep(Duration::from_millis(1));
    }
    qemu.kill().unwrap();
    qemu.wait().unwrap();
}

/// The process that the debugfs folder of a session names.
pub(crate) fn qemu_of(folder: &Path) -> Pid {
    let vm = std::fs::read_dir(folder.join("debugfs/kvm"))
        .unwrap()
        .next()
        .unwrap()
        .unwrap()
        .file_name();
    let (pid, _fd) = vm.to_str().unwrap().split_once('-').unwrap();
    Pid::from_raw(pid.parse().unwrap())
}
