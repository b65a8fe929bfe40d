//! Runs that are continued, and where runs leave their files.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rstest::rstest;
use tdxlab::journal::journal;
use tdxlab_selftests::command::{root, stderr, stdout};
use tdxlab_selftests::tdxlab;

const FAULT: &str = "reclaim-fails-at-the-end";

/// What the kernel says under that fault.
const ALLOWED: &str = "WARNING: \nSEAMCALL \n";

/// A run of two scenarios that pass because lines of the log are allowed, cut after the first.
fn cut(out: &Path) -> PathBuf {
    let allow = out.join("allow");
    fs::write(&allow, ALLOWED).unwrap();
    let mut run = tdxlab!("run", "punch/head-and-tail", "punch/twice", "--host", "sim");
    run.args(["--jobs", "1", "--fault", FAULT, "--allow-log"])
        .arg(&allow)
        .arg("--out")
        .arg(out);
    run.assert().success();
    let folder = fs::canonicalize(out.join("latest")).unwrap();
    let path = folder.join(journal::FILE);
    let text = fs::read_to_string(&path).unwrap();
    let first = text.find("\"plan_ended\"").unwrap();
    let end = first + text[first..].find('\n').unwrap() + 1;
    fs::write(&path, &text[..end]).unwrap();
    folder
}

#[test]
fn a_run_goes_on_by_the_rules_it_was_started_with() {
    let out = tempfile::tempdir().unwrap();
    let folder = cut(out.path());
    let said = tdxlab!("run", "--resume", &folder).assert().success();
    assert!(
        stdout(&said).contains("pass: 2 scenarios"),
        "{}",
        stdout(&said)
    );
    // So is it judged again.
    let said = tdxlab!("judge", &folder, "--out", out.path())
        .assert()
        .success();
    let said = stdout(&said);
    assert!(said.contains("every verdict is as it was"), "{said}");
}

#[rstest]
#[case::host(&["--host", "soft"])]
#[case::design(&["--design", "v3"])]
#[case::no_design(&["--design", "nonsense"])]
#[case::module(&["--module", "2.0.18"])]
#[case::place(&["--out", "elsewhere"])]
#[case::seeds(&["--reseed"])]
fn what_contradicts_the_run_is_refused(#[case] options: &[&str]) {
    let out = tempfile::tempdir().unwrap();
    let folder = cut(out.path());
    let said = tdxlab!("run", "--resume", &folder)
        .args(options)
        .assert()
        .code(64);
    assert!(stderr(&said).contains(options[0]), "{}", stderr(&said));
}

/// They are of the machine, where options are of one command.
#[test]
fn variables_of_the_environment_are_in_nobodys_way() {
    let out = tempfile::tempdir().unwrap();
    let folder = cut(out.path());
    tdxlab!("run", "--resume", &folder)
        .env("TDXLAB_SHARD", "auto")
        .env("TDXLAB_HOST", "")
        .env("TDXLAB_REQUIRE", "")
        .assert()
        .success();
    tdxlab!(
        "run",
        "punch/twice",
        "--host",
        "sim",
        "--repeat",
        "2",
        "--no-report"
    )
    .env("TDXLAB_SHARD", "")
    .env("TDXLAB_REQUIRE", "sim")
    .assert()
    .success();
    let said = tdxlab!("run", "punch/twice", "--out", out.path())
        .env("TDXLAB_HOST", "nowhere")
        .assert()
        .code(64);
    assert!(stderr(&said).contains("TDXLAB_HOST is `nowhere`"));
}

#[test]
fn names_that_are_no_text_are_taken() {
    let out = tempfile::tempdir().unwrap();
    let odd = |name: &[u8]| out.path().join(OsStr::from_bytes(name));
    let file = odd(b"bad\xff.yaml");
    fs::copy(root().join("scenarios/punch/twice.yaml"), &file).unwrap();
    let reports = odd(b"o\xff");
    tdxlab!("run", &file, "--host", "sim", "--out", &reports)
        .assert()
        .success();
    tdxlab!("report", "show", reports.join("latest"))
        .assert()
        .success();
}

/// As an archive that followed the link has it.
#[test]
fn a_folder_called_latest_is_left_alone() {
    let out = tempfile::tempdir().unwrap();
    let latest = out.path().join("latest");
    fs::create_dir(&latest).unwrap();
    tdxlab!("run", "punch/twice", "--host", "sim", "--out", out.path())
        .assert()
        .success();
    assert_eq!(fs::read_dir(&latest).unwrap().count(), 0);
    assert_eq!(fs::read_dir(out.path()).unwrap().count(), 2);
}

/// A fault is not called unreached by the run that it fails.
#[test]
fn a_fault_of_the_end_is_reached() {
    let out = tempfile::tempdir().unwrap();
    let said = tdxlab!("run", "punch/twice", "--host", "sim", "--fault", FAULT)
        .arg("--out")
        .arg(out.path())
        .assert()
        .code(1);
    assert!(
        !stdout(&said).contains("never reached"),
        "{}",
        stdout(&said)
    );
}
