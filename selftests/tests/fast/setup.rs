//! `ci/setup` with every package manager it supports, each a script that records its call.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use rstest::rstest;
use tdxlab_selftests::command::root;

/// A machine on which only these programs exist.
struct Machine {
    folder: tempfile::TempDir,
}

impl Machine {
    fn new() -> Machine {
        let machine = Machine {
            folder: tempfile::tempdir().unwrap(),
        };
        fs::create_dir(machine.bin()).unwrap();
        for tool in ["sh", "env", "printf", "cat", "chmod"] {
            let real = ["/bin", "/usr/bin"]
                .map(|folder| Path::new(folder).join(tool))
                .into_iter()
                .find(|path| path.exists())
                .unwrap();
            symlink(real, machine.bin().join(tool)).unwrap();
        }
        machine.program("id", "echo 0");
        machine.program("cargo", "");
        machine.program("cc", "");
        machine
    }

    fn bin(&self) -> PathBuf {
        self.folder.path().join("bin")
    }

    fn calls(&self) -> String {
        fs::read_to_string(self.folder.path().join("calls")).unwrap_or_default()
    }

    /// A program that does `then`, and notes its call unless it only looks.
    fn program(&self, name: &str, then: &str) {
        let path = self.bin().join(name);
        let calls = self.folder.path().join("calls");
        let noted = match name {
            "id" | "cc" => String::new(),
            _ => format!("echo \"{name} $*\" >> {}\n", calls.display()),
        };
        fs::write(&path, format!("#!/bin/sh\n{noted}{then}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    /// A package manager whose installation brings QEMU.
    fn brings_qemu(&self, name: &str) {
        let qemu = self.bin().join("qemu-system-x86_64");
        self.program(
            name,
            &format!("echo '#!/bin/sh' > {0}; chmod +x {0}", qemu.display()),
        );
    }

    fn setup(&self) -> Output {
        Command::new("/bin/sh")
            .arg(root().join("ci/setup"))
            .env_clear()
            .env("PATH", self.bin())
            .output()
            .unwrap()
    }
}

/// QEMU where `ci/setup` also looks, beside PATH, would spoil the game.
fn qemu_is_elsewhere() -> bool {
    Path::new("/usr/libexec/qemu-kvm").exists()
}

#[test]
fn nothing_missing_nothing_done_nothing_said() {
    let machine = Machine::new();
    machine.program("qemu-system-x86_64", "");
    machine.program("apt-get", "");
    let output = machine.setup();
    assert!(output.status.success());
    assert_eq!(machine.calls(), "");
    assert!(
        output.stdout.is_empty() && output.stderr.is_empty(),
        "{output:?}"
    );
}

#[rstest]
#[case::debian(
    "apt-get",
    "apt-get install -y --no-install-recommends qemu-system-x86"
)]
#[case::fedora("dnf", "dnf install -y qemu-system-x86-core")]
#[case::arch("pacman", "pacman -S --needed --noconfirm qemu-system-x86")]
#[case::suse("zypper", "zypper --non-interactive install qemu-x86")]
fn qemu_is_installed_by_its_name_here(#[case] manager: &str, #[case] call: &str) {
    if qemu_is_elsewhere() {
        return;
    }
    let machine = Machine::new();
    machine.brings_qemu(manager);
    let output = machine.setup();
    assert!(output.status.success(), "{output:?}");
    assert_eq!(machine.calls().trim(), call);
}

/// A bare container has a compiler, perhaps, and no C library to link with.
#[rstest]
#[case::debian("apt-get", "apt-get install -y --no-install-recommends gcc libc6-dev")]
#[case::fedora("dnf", "dnf install -y gcc glibc-devel glibc-static")]
fn what_rust_links_with_is_installed(#[case] manager: &str, #[case] call: &str) {
    let machine = Machine::new();
    machine.program("qemu-system-x86_64", "");
    machine.program("cc", "exit 1");
    let compiler = machine.bin().join("cc");
    machine.program(
        manager,
        &format!("echo '#!/bin/sh' > {0}; chmod +x {0}", compiler.display()),
    );
    let output = machine.setup();
    assert!(output.status.success(), "{output:?}");
    assert_eq!(machine.calls().trim(), call);
}

#[test]
fn old_package_lists_are_renewed_once() {
    if qemu_is_elsewhere() {
        return;
    }
    let machine = Machine::new();
    machine.program("apt-get", "exit 100");
    let output = machine.setup();
    assert!(output.status.success(), "sim does without QEMU: {output:?}");
    let calls = machine.calls();
    assert_eq!(calls.matches("apt-get update").count(), 1, "{calls}");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("on the host sim"), "{said}");
}

#[test]
fn without_a_package_manager_it_says_so_and_goes_on() {
    if qemu_is_elsewhere() {
        return;
    }
    let output = Machine::new().setup();
    assert!(output.status.success());
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("no package manager"), "{said}");
}

#[test]
fn without_root_it_goes_through_sudo() {
    if qemu_is_elsewhere() {
        return;
    }
    let machine = Machine::new();
    machine.program("id", "echo 1000");
    machine.brings_qemu("dnf");
    machine.program(
        "sudo",
        "[ \"$1\" = -n ] && shift; [ \"$1\" = true ] || \"$@\"",
    );
    assert!(machine.setup().status.success());
    let calls = machine.calls();
    assert!(calls.contains("sudo -n dnf install"), "{calls}");
}

#[test]
fn without_rust_it_says_where_to_get_it() {
    let machine = Machine::new();
    fs::remove_file(machine.bin().join("cargo")).unwrap();
    let output = machine.setup();
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("rustup.rs"));
}
