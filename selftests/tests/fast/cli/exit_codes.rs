//! Every exit code.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use rstest::rstest;
use tdxlab::cli::exit;
use tdxlab_selftests::command::{root, scenario, stderr, stdout};
use tdxlab_selftests::failing::run_with_lost_page;
use tdxlab_selftests::tdxlab;

const GOOD: &str = "scenarios/punch/head-and-tail.yaml";

fn out() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

#[test]
fn all_passed() {
    let out = out();
    tdxlab!("run", GOOD, "--host", "sim", "--out", out.path())
        .assert()
        .code(i32::from(exit::PASSED));
}

#[test]
fn something_failed() {
    let out = out();
    let finished = run_with_lost_page(&root().join(GOOD), out.path());
    tdxlab!("report", "show", &finished.folder)
        .assert()
        .code(i32::from(exit::FAILED));
}

#[test]
fn every_scenario_skipped() {
    let out = out();
    tdxlab!(
        "run",
        GOOD,
        "--host",
        "sim",
        "--design",
        "stock",
        "--out",
        out.path()
    )
    .assert()
    .code(i32::from(exit::SKIPPED));
}

#[test]
fn nothing_ran_where_something_must() {
    let out = out();
    tdxlab!(
        "run",
        GOOD,
        "--require",
        "sim",
        "--design",
        "stock",
        "--out",
        out.path()
    )
    .assert()
    .code(i32::from(exit::FAILED));
}

#[rstest]
#[case::no_command(&[])]
#[case::no_such_command(&["walk"])]
#[case::no_such_option(&["run", "--fast"])]
#[case::no_such_host(&["run", "--host", "moon"])]
#[case::no_such_design(&["run", "--design", "v9"])]
#[case::no_jobs(&["run", "--jobs", "0"])]
#[case::seed_out_of_range(&["run", "--seed", "-1"])]
#[case::no_allow_list(&["run", "--allow-log", "/nonexistent"])]
#[case::contradiction(&["run", "--host", "sim", "--require", "tdx"])]
#[case::no_page(&["man", "walk"])]
fn the_command_line_is_wrong(#[case] args: &[&str]) {
    let mut command = tdxlab!();
    command.args(args);
    let said = command.assert().code(i32::from(exit::USAGE));
    assert!(!said.get_output().stderr.is_empty());
}

#[rstest]
#[case::run("run")]
#[case::check("check")]
#[case::predict("predict")]
#[case::compare("compare")]
#[case::list("list")]
fn a_scenario_is_wrong(#[case] command: &str) {
    let (folder, path) = scenario("scenario: a/b\nabout: Nothing.\nstepps: []\n");
    tdxlab!(command, &path)
        .current_dir(folder.path())
        .assert()
        .code(i32::from(exit::SCENARIO));
    assert!(
        !folder.path().join("reports").exists(),
        "something was started"
    );
}

#[test]
fn no_scenario_there() {
    tdxlab!("check", "/nonexistent.yaml")
        .assert()
        .code(i32::from(exit::SCENARIO));
}

#[rstest]
#[case::asked_for(&["run", "--host", "tdx"], None)]
#[case::required(&["run", "--require", "tdx"], None)]
#[case::required_by_environment(&["run"], Some("tdx"))]
fn the_host_is_not_usable(#[case] args: &[&str], #[case] required: Option<&str>) {
    if Path::new("/sys/module/kvm_intel/parameters/tdx").exists() {
        eprintln!("skipped: this may be a TDX host");
        return;
    }
    let mut command = tdxlab!();
    command.args(args);
    if let Some(host) = required {
        command.env("TDXLAB_REQUIRE", host);
    }
    let said = command.assert().code(i32::from(exit::HOST));
    let said = stderr(&said);
    let doctor = tdxlab!("doctor").assert().success();
    let doctor = stdout(&doctor);
    let reason = said.split("is not usable: ").nth(1).unwrap();
    let first_words: String = reason.lines().next().unwrap().chars().take(30).collect();
    assert!(
        doctor.contains(&first_words),
        "{first_words:?} not in:\n{doctor}"
    );
}

#[test]
fn qemu_is_missing() {
    tdxlab!("run", GOOD, "--host", "soft")
        .env("TDXLAB_QEMU", "/nonexistent/qemu")
        .assert()
        .code(i32::from(exit::HOST));
}

#[test]
fn without_qemu_auto_goes_on_on_sim_and_says_why() {
    let out = out();
    let said = tdxlab!("run", GOOD, "--out", out.path())
        .env("TDXLAB_QEMU", "/nonexistent/qemu")
        .assert()
        .success();
    let said = stderr(&said);
    assert!(said.contains("host sim:"), "{said}");
    assert!(said.contains("soft is not usable"), "{said}");
}

#[test]
fn the_lab_could_not_judge() {
    let folder = out();
    let qemu = folder.path().join("qemu");
    fs::write(
        &qemu,
        "#!/bin/sh\n[ \"$1\" = --version ] && echo 'QEMU emulator version 9.9.9' && exit\n\
         echo 'no such machine' >&2\nexit 1\n",
    )
    .unwrap();
    fs::set_permissions(&qemu, fs::Permissions::from_mode(0o755)).unwrap();
    let said = tdxlab!("run", GOOD, "--host", "soft", "--out", folder.path())
        .env("TDXLAB_QEMU", &qemu)
        .assert()
        .code(i32::from(exit::LAB));
    let said = stdout(&said);
    assert!(said.contains("no such machine"), "{said}");
}

#[test]
fn reports_cannot_be_written() {
    let said = tdxlab!("run", GOOD, "--host", "sim", "--out", "/proc/reports")
        .assert()
        .code(i32::from(exit::LAB));
    let said = stderr(&said);
    assert!(
        said.contains("/proc/reports") && said.contains("--out"),
        "{said}"
    );
}

#[test]
fn every_exit_code_is_in_the_help() {
    let help = tdxlab!("--help").assert().success();
    let help = stdout(&help);
    for (code, meaning) in exit::ALL {
        assert!(help.contains(&format!("{code:>3}  {meaning}")), "{code}");
    }
}

/// A shard without scenarios has passed; to a bisection it says nothing of the commit.
#[test]
fn a_shard_in_which_nothing_ran() {
    let folder = out();
    for (more, empty) in [
        (&[][..], exit::PASSED),
        (&["--bisect"][..], exit::CANNOT_TELL),
    ] {
        let code = |shard: u32| {
            let shard = format!("{shard}/4");
            let run = tdxlab!(
                "run",
                GOOD,
                "--host",
                "sim",
                "--shard",
                shard,
                "--out",
                folder.path()
            )
            .args(more)
            .output()
            .unwrap();
            let empty = String::from_utf8_lossy(&run.stdout).contains("0 scenarios");
            (empty, run.status.code())
        };
        let codes: Vec<_> = (1..=4).map(code).collect();
        let of = |wanted: bool, code: u8| {
            let ended = (wanted, Some(i32::from(code)));
            codes.iter().filter(|one| **one == ended).count()
        };
        assert_eq!(
            (of(false, exit::PASSED), of(true, empty)),
            (1, 3),
            "{codes:?}"
        );
    }
}
