//! Failures of a real L1 and in it. A script in front of QEMU makes it misbehave.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use tdxlab_selftests::command::assert_says;

use super::set::{l1, text};

/// A program that does `first` and then becomes QEMU with its arguments, which `first` may change.
/// `$$` in it is QEMU's process.
fn qemu_after(folder: &Path, first: &str) -> PathBuf {
    let qemu = std::env::var("TDXLAB_QEMU").unwrap_or_else(|_| "qemu-system-x86_64".to_owned());
    let path = folder.join("qemu");
    fs::write(&path, format!("#!/bin/bash\n{first}\nexec {qemu} \"$@\"\n")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path
}

/// Runs an L1 with a misbehaving QEMU; returns exit code and output, in one line.
fn misbehaving(first: &str, options: &[&str], command: &[&str]) -> Option<(Option<i32>, String)> {
    let folder = tempfile::tempdir().unwrap();
    let qemu = qemu_after(folder.path(), first);
    let mut all = vec!["--qemu", qemu.to_str().unwrap()];
    all.extend(options);
    let (output, _reports) = l1(&all, command)?;
    let said = text(&output.stderr).replace(['│', '×'], " ");
    let said = said.split_whitespace().collect::<Vec<_>>().join(" ");
    Some((output.status.code(), said))
}

#[track_caller]
fn assert_told(told: &(Option<i32>, String), code: i32, parts: &[&str]) {
    assert_eq!(told.0, Some(code), "{}", told.1);
    assert_says(&told.1, parts);
}

#[test]
fn an_l1_that_dies_is_told_from_one_that_answers() {
    let reboot = ["/bin/sh", "-c", "echo b > /proc/sysrq-trigger; sleep 600"];
    let Some(told) = misbehaving("", &[], &reboot) else {
        return;
    };
    assert_told(&told, 70, &["the L1 died while running the command"]);
}

/// A stopped QEMU is as silent as a kernel that hangs, and is ended all the same.
#[test]
fn an_l1_that_hangs_is_given_up() {
    let stop = "(sleep 2; kill -STOP $$) &";
    let Some(told) = misbehaving(stop, &["--patience", "5"], &["/bin/sleep", "600"]) else {
        return;
    };
    assert_told(&told, 70, &["no sign of life", "--patience"]);
}

#[test]
fn files_that_qemu_cannot_share_or_the_l1_cannot_mount_come_with_advice() {
    let replace = |from: &str, to: &str| format!("set -- \"${{@/{from}/{to}}}\"");
    let unreadable = replace(r"path=\/,", r"path=\/no\/such\/folder,");
    let Some(told) = misbehaving(&unreadable, &[], &["/bin/true"]) else {
        return;
    };
    assert_told(&told, 69, &["no/such/folder", "must be able to read /"]);
    let told = misbehaving(&replace("mount_tag=", "mount_tag=x"), &[], &["/bin/true"]);
    let parts = [
        "cannot have this machine's files: mount 9p",
        "must be able to read /",
    ];
    assert_told(&told.unwrap(), 70, &parts);
}

/// QEMU is killed when the first piece of the report has come.
#[test]
fn a_report_that_is_cut_off_is_no_report() {
    let out = tempfile::tempdir().unwrap();
    let shown = out.path().to_str().unwrap();
    let kill = format!(
        "(while kill -0 $$ && ! ls {shown}/.l1-*.partial/* > /dev/null 2>&1; do sleep 0.02; done; \
          kill -KILL $$) 2> /dev/null &"
    );
    let write = format!("mkdir -p {shown}; head -c 400000000 /dev/zero > {shown}/large");
    let command = ["/bin/sh", "-c", &write];
    let Some(told) = misbehaving(&kill, &["--out", shown], &command) else {
        return;
    };
    assert_told(
        &told,
        70,
        &["cut off while", "what came of the report is in"],
    );
    assert!(!out.path().join("large").exists(), "half a file is shown");
}
