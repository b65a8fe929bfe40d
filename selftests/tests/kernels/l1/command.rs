//! `tdxlab l1`: with shell scripts in place of QEMU, and with a real kernel.
//!
//! The real one boots where its package is in the cache or can be downloaded, and is skipped with
//! the reason elsewhere, unless `TDXLAB_REQUIRE_L1` is set.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

/// A folder with a kernel image of sorts and a QEMU of sorts.
struct Place {
    folder: tempfile::TempDir,
}

impl Place {
    /// `script` is what QEMU does. In it, `$console`, `$port` and `$serial` are its ends of the
    /// lines.
    fn with_qemu(script: &str) -> Place {
        let folder = tempfile::tempdir().unwrap();
        let place = Place { folder };
        fs::write(place.kernel(), boot_header("6.1.0-none-such")).unwrap();
        let find = "for arg; do case $arg in socket,id=*,fd=*)
            name=${arg#socket,id=}; name=${name%%,*}; eval \"$name=${arg##*fd=}\";; esac; done";
        fs::write(place.qemu(), format!("#!/bin/sh\n{find}\n{script}\n")).unwrap();
        fs::set_permissions(place.qemu(), fs::Permissions::from_mode(0o755)).unwrap();
        place
    }

    fn kernel(&self) -> PathBuf {
        self.folder.path().join("bzImage")
    }

    fn qemu(&self) -> PathBuf {
        self.folder.path().join("qemu")
    }

    fn l1(&self, options: &[&str], command: &[&str]) -> Output {
        self.command(options, command).output().unwrap()
    }

    fn command(&self, options: &[&str], command: &[&str]) -> Command {
        let mut lab = l1(self.folder.path());
        lab.arg("--kernel")
            .arg(self.kernel())
            .arg("--qemu")
            .arg(self.qemu());
        lab.args(options).arg("--").args(command);
        lab
    }
}

/// A boot header without a kernel.
fn boot_header(release: &str) -> Vec<u8> {
    let mut image = vec![0; 0x800];
    image[0x1fe..0x200].copy_from_slice(&[0x55, 0xaa]);
    image[0x202..0x206].copy_from_slice(b"HdrS");
    image[0x206..0x208].copy_from_slice(&0x20f_u16.to_le_bytes());
    image[0x20e..0x210].copy_from_slice(&0x100_u16.to_le_bytes());
    image[0x300..0x300 + release.len()].copy_from_slice(release.as_bytes());
    image
}

fn l1(folder: &Path) -> Command {
    let mut lab = Command::new(env!("CARGO_BIN_EXE_tdxlab-under-test"));
    lab.current_dir(folder).stdin(Stdio::null()).arg("l1");
    lab
}

fn said(output: &Output) -> String {
    // Messages are wrapped to the width of a terminal.
    let text = String::from_utf8_lossy(&output.stderr).replace(['│', '×'], " ");
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[track_caller]
fn assert_fails(output: &Output, code: i32, with: &str) {
    let said = said(output);
    assert_eq!(output.status.code(), Some(code), "{said}");
    assert!(said.contains(with), "{said}");
    assert!(output.stdout.is_empty(), "{output:?}");
}

#[test]
fn a_panic_is_reported_without_waiting_for_qemu_to_end() {
    let place = Place::with_qemu(
        "echo '[    0.9] Kernel panic - not syncing: Attempted to kill init!' >&$console
         exec sleep 600",
    );
    let output = place.l1(&[], &["true"]);
    assert_fails(
        &output,
        70,
        "Kernel panic - not syncing: Attempted to kill init!",
    );
    let console = fs::read_to_string(place.folder.path().join("reports/l1-console.log")).unwrap();
    assert!(console.contains("Attempted to kill init"), "{console}");
}

#[test]
fn a_qemu_that_refuses_is_quoted() {
    let place =
        Place::with_qemu("echo \"qemu: 'virtio-9p-pci' is not a valid device model\" >&2; exit 1");
    assert_fails(&place.l1(&[], &["true"]), 69, "not a valid device model");
}

#[test]
fn an_l1_that_goes_silent_hangs() {
    let place = Place::with_qemu("echo '[    0.0] Linux' >&$console; exec sleep 600");
    let output = place.l1(&["--patience", "1"], &["true"]);
    assert_fails(&output, 70, "no sign of life");
}

#[test]
fn an_l1_that_ends_without_a_word_has_died() {
    let place = Place::with_qemu("echo '[    0.0] Linux' >&$console; exit 0");
    assert_fails(&place.l1(&[], &["true"]), 70, "the L1 died while booting");
}

#[test]
fn noise_on_the_message_line_is_no_answer() {
    let place = Place::with_qemu("printf 'no frame\\0' >&$port; exec sleep 600");
    assert_fails(&place.l1(&[], &["true"]), 70, "sent what cannot be");
}

#[test]
fn a_qemu_that_is_not_there_is_named() {
    let place = Place::with_qemu("");
    fs::remove_file(place.qemu()).unwrap();
    assert_fails(&place.l1(&[], &["true"]), 69, "install qemu-system-x86");
}

#[test]
fn what_is_no_kernel_is_named() {
    let place = Place::with_qemu("");
    fs::write(place.kernel(), "#!/bin/sh\n").unwrap();
    assert_fails(
        &place.l1(&[], &["true"]),
        64,
        "is not a kernel image: it is a script",
    );
}

#[test]
fn modules_of_another_kernel_are_refused_before_boot() {
    let place = Place::with_qemu("exit 1");
    let modules = place.folder.path().join("modules");
    fs::create_dir(&modules).unwrap();
    fs::write(modules.join("9p.ko"), b"\x7fELF").unwrap();
    assert_fails(
        &place.l1(&[], &["true"]),
        69,
        "9p.ko is not a usable kernel module",
    );
}

#[test]
fn wrong_words_on_the_command_line_are_refused() {
    let place = Place::with_qemu("");
    for options in [
        &["--memory", "12"][..],
        &["--memory", "100M"],
        &["--kernel", "no kernel"],
    ] {
        let output = place.l1(options, &["true"]);
        assert_eq!(output.status.code(), Some(64), "{}", said(&output));
    }
    let output = place.command(&[], &[]).output().unwrap();
    assert_eq!(output.status.code(), Some(64), "{}", said(&output));
}

#[test]
fn nothing_is_left_of_a_lab_that_was_killed() {
    let place = Place::with_qemu("echo $$ > pid.new; mv pid.new pid; exec sleep 600");
    let mut lab = place.command(&[], &["true"]).spawn().unwrap();
    let file = place.folder.path().join("pid");
    let pid: i32 = wait_for(|| fs::read_to_string(&file).ok()?.trim().parse().ok());
    lab.kill().unwrap();
    lab.wait().unwrap();
    let gone = || {
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), None)
            .is_err()
            .then_some(())
    };
    wait_for(gone);
}

/// A program that runs another without a network; `None` where this user may not.
fn without_network() -> Option<Command> {
    let unshare = || {
        let mut command = Command::new("unshare");
        command.arg("--net");
        if !nix::unistd::geteuid().is_root() {
            command.arg("--map-root-user");
        }
        command
    };
    let works = unshare().arg("true").output();
    match works {
        Ok(output) if output.status.success() => Some(unshare()),
        other => {
            eprintln!("skipped: unshare makes no network of its own: {other:?}");
            None
        }
    }
}

/// The real apt with an empty cache and no network, where there is one.
#[test]
fn a_network_that_is_down_is_named() {
    if Command::new("apt-get").arg("--version").output().is_err() {
        eprintln!("skipped: this machine has no apt");
        return;
    }
    for kernel in ["linux-image-amd64", "newest"] {
        let cache = tempfile::tempdir().unwrap();
        let Some(mut lab) = without_network() else {
            return;
        };
        lab.arg(env!("CARGO_BIN_EXE_tdxlab-under-test"))
            .args(["l1", "--kernel", kernel, "--", "true"])
            .env("XDG_CACHE_HOME", cache.path())
            .env_remove("http_proxy")
            .current_dir(cache.path())
            .stdin(Stdio::null());
        let output = lab.output().unwrap();
        assert_fails(&output, 69, "cannot be reached over the network");
        assert_fails(&output, 69, "connect this machine to the network");
        assert_fails(&output, 69, "tdxlab::l1::no_network");
    }
}

/// An apt that has package lists and gets no package, or gets no lists and calls that a success.
#[test]
fn an_apt_that_gets_nothing_is_quoted() {
    let fetch = "Failed to fetch http://mirror.invalid/debian/x  Could not connect to \
                 mirror.invalid:80 (192.0.2.1), connection timed out";
    for (lists, get) in [
        (
            "echo Package: x",
            format!("echo 'E: {fetch}' >&2; exit 100"),
        ),
        ("exit 100", format!("echo 'W: {fetch}' >&2")),
    ] {
        let folder = tempfile::tempdir().unwrap();
        for (name, script) in [("apt-cache", lists), ("apt-get", get.as_str())] {
            let path = folder.path().join(name);
            let version = "case \"$*\" in *--version*) exit 0;; esac";
            fs::write(&path, format!("#!/bin/sh\n{version}\n{script}\n")).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        }
        let path = format!("{}:/usr/bin:/bin", folder.path().display());
        let output = l1(folder.path())
            .args(["--", "true"])
            .env("XDG_CACHE_HOME", folder.path())
            .env("PATH", path)
            .output()
            .unwrap();
        assert_fails(&output, 69, "mirror.invalid cannot be reached");
    }
}

/// Looks until there is something to see.
fn wait_for<T>(mut look: impl FnMut() -> Option<T>) -> T {
    for _ in 0..3000 {
        match look() {
            Some(found) => return found,
            None => std::thread::sleep(Duration::from_millis(10)),
        }
    }
    panic!("nothing to see after half a minute");
}

/// An L1 with the distribution's kernel; `None`, with a message, if not available.
fn real(folder: &Path, options: &[&str], command: &[&str]) -> Option<Output> {
    let output = l1(folder)
        .args(options)
        .arg("--")
        .args(command)
        .output()
        .unwrap();
    let said = said(&output);
    let cannot = [
        "tdxlab::l1::no_package",
        "tdxlab::l1::no_network",
        "tdxlab::l1::no_apt",
        "tdxlab::l1::no_qemu",
    ];
    if output.status.code() == Some(69) && cannot.iter().any(|code| said.contains(code)) {
        let required = std::env::var_os("TDXLAB_REQUIRE_L1").is_some();
        assert!(!required, "an L1 is required: {said}");
        eprintln!("skipped: {said}");
        return None;
    }
    Some(output)
}

#[test]
fn a_real_kernel_runs_a_command_and_brings_back_what_it_wrote() {
    let place = tempfile::tempdir().unwrap();
    fs::write(place.path().join("seen"), "from outside\n").unwrap();
    let script = "set -e
        cat seen
        uname -r >&2
        test -c /dev/kvm
        test -d /sys/kernel/debug/kvm
        test -d /sys/kernel/tracing/events/kvmmmu
        mkdir -p reports/run; head -c 300000 /dev/zero | tr '\\0' x > reports/run/large
        echo changed > seen
        exit 7";
    let Some(output) = real(place.path(), &[], &["sh", "-c", script]) else {
        return;
    };
    let said = said(&output);
    assert_eq!(output.status.code(), Some(7), "{said}");
    assert_eq!(output.stdout, b"from outside\n", "{said}");
    assert!(said.contains("-amd64"), "{said}");
    let large = fs::read(place.path().join("reports/run/large")).unwrap();
    assert_eq!(large, vec![b'x'; 300_000]);
    let seen = fs::read_to_string(place.path().join("seen")).unwrap();
    assert_eq!(
        seen, "from outside\n",
        "what an L1 writes elsewhere stays in it"
    );
}

#[test]
fn a_real_kernel_that_panics_or_finds_no_command_says_so() {
    let place = tempfile::tempdir().unwrap();
    let Some(output) = real(place.path(), &[], &["/no/such/command"]) else {
        return;
    };
    assert_fails(&output, 64, "command not found in the L1: /no/such/command");
    let crash = ["sh", "-c", "echo c > /proc/sysrq-trigger; sleep 60"];
    let output = real(place.path(), &[], &crash).unwrap();
    assert_fails(
        &output,
        70,
        "Kernel panic - not syncing: sysrq triggered crash",
    );
}

#[test]
fn a_real_kernel_that_runs_out_of_memory_says_so() {
    let place = tempfile::tempdir().unwrap();
    let Some(output) = real(place.path(), &["--memory", "512M"], &["tail", "/dev/zero"]) else {
        return;
    };
    assert_fails(
        &output,
        70,
        "the L1 ran out of memory: Out of memory: Killed process",
    );
}
