//! `tdxlab kselftest` with the kernel's own scripts, from Debian's package linux-source.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use tdxlab_selftests::command::assert_says;
use tdxlab_selftests::programs::{output_of, program};
use tdxlab_selftests::tdxlab;

/// Files needed of a kernel tree.
const PARTS: [&str; 7] = [
    "scripts/subarch.include",
    "tools/testing/selftests/Makefile",
    "tools/testing/selftests/lib.mk",
    "tools/testing/selftests/kselftest",
    "tools/testing/selftests/run_kselftest.sh",
    "tools/testing/selftests/kselftest_install.sh",
    "tools/testing/selftests/gen_kselftest_tar.sh",
];

/// A copy of the kernel's selftest scripts, without any test; `None`, with a message, if they are
/// missing.
fn kernel_tree(below: &Path) -> Option<PathBuf> {
    for needed in ["make", "rsync", "tar", "xz"] {
        program(&[needed], "the kernel's selftests")?;
    }
    let newest = fs::read_dir("/usr/src").ok().and_then(|entries| {
        let packed = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        packed
            .filter(|name| name.starts_with("linux-source-") && name.contains(".tar."))
            .max()
    });
    let Some(archive) = newest else {
        eprintln!("skipped: the kernel's selftests need Debian's package linux-source");
        return None;
    };
    let (name, _) = archive.split_once(".tar.").unwrap();
    // Unpacking reads all of 130 MB, so it is done once.
    let kept = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    if !kept.is_dir() {
        let draft = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        output_of(
            Command::new("tar")
                .arg("-C")
                .arg(draft.path())
                .arg("-xf")
                .arg(Path::new("/usr/src").join(&archive))
                .args(PARTS.map(|part| format!("{name}/{part}"))),
        );
        // Another test may have been faster.
        let _ = fs::rename(draft.path().join(name), &kept);
    }
    output_of(Command::new("cp").arg("-a").arg(&kept).arg(below));
    Some(below.join(name))
}

fn make(selftests: &Path) -> Command {
    let mut make = Command::new("make");
    make.arg("-C").arg(selftests).arg("TARGETS=tdxlab");
    quiet(&mut make);
    make
}

/// None of this process' own variables, but the host.
fn quiet(command: &mut Command) {
    for variable in ["MAKEFLAGS", "MAKELEVEL", "TDXLAB_REQUIRE", "TDXLAB_SHARD"] {
        command.env_remove(variable);
    }
    command.env("TDXLAB_HOST", "sim");
}

#[test]
fn the_kernels_scripts_run_and_understand_it() {
    let place = tempfile::tempdir().unwrap();
    let Some(tree) = kernel_tree(place.path()) else {
        return;
    };
    let selftests = tree.join("tools/testing/selftests");
    let folder = selftests.join("tdxlab");
    tdxlab!("kselftest", &folder).assert().success();

    let said = output_of(make(&selftests).arg("run_tests"));
    assert_says(
        &said,
        &[
            "TAP version 13",
            "# selftests: tdxlab: punch.sh",
            "# KTAP version 1",
            "ok 1 selftests: tdxlab: accept.sh",
            // Plain VMs, and sim has none.
            "ok 3 selftests: tdxlab: kvm.sh # SKIP",
        ],
    );
    let results: Vec<&str> = said
        .lines()
        .filter(|line| line.contains("ok ") && !line.starts_with('#'))
        .collect();
    assert!(
        results.iter().all(|line| line.starts_with("ok ")),
        "{results:?}"
    );

    // Installed elsewhere, as for another machine: with one test that fails on request.
    let installed = place.path().join("installed");
    output_of(
        make(&selftests)
            .arg("install")
            .arg(format!("KSFT_INSTALL_PATH={}", installed.display())),
    );
    let list = fs::read_to_string(installed.join("kselftest-list.txt")).unwrap();
    assert_eq!(list.lines().count(), results.len(), "{list}");
    let mut run = Command::new(installed.join("run_kselftest.sh"));
    quiet(&mut run);
    run.args(["-t", "tdxlab:punch.sh", "-t", "tdxlab:mixed.sh"])
        .env("KSELFTEST_PUNCH_SH_ARGS", "--fault tail-split-missing");
    let said = output_of(&mut run);
    assert_says(
        &said,
        &[
            "not ok 1 selftests: tdxlab: punch.sh # exit=1",
            "ok 2 selftests: tdxlab: mixed.sh",
        ],
    );
}

#[test]
fn a_machine_without_the_host_skips() {
    let place = tempfile::tempdir().unwrap();
    let folder = place.path().join("tdxlab");
    tdxlab!("kselftest", &folder).assert().success();
    // A fault cannot be seeded into a real kernel, wherever this runs.
    let output = Command::new("./punch.sh")
        .args(["--fault", "tail-split-missing"])
        .current_dir(&folder)
        .env("TDXLAB_HOST", "kvm")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(4), "{output:?}");
    assert_says(
        &String::from_utf8_lossy(&output.stdout),
        &["# SKIP host kvm"],
    );
}

#[test]
fn a_directory_that_holds_something_is_left_alone() {
    let place = tempfile::tempdir().unwrap();
    let kept = place.path().join("Makefile");
    fs::write(&kept, "mine").unwrap();
    tdxlab!("kselftest", place.path()).assert().code(64);
    assert_eq!(fs::read_to_string(kept).unwrap(), "mine");
    assert_eq!(fs::read_dir(place.path()).unwrap().count(), 1);

    let empty = place.path().join("empty");
    fs::create_dir(&empty).unwrap();
    tdxlab!("kselftest", &empty).assert().success();
    let mode = fs::metadata(empty.join("tdxlab"))
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o111, 0o111);
    // No part of the draft is left beside it.
    assert_eq!(fs::read_dir(place.path()).unwrap().count(), 2);
}
