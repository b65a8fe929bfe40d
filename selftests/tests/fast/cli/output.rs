//! Output during and after a run.

use tdxlab::report::terminal::{self, FAILURE_LINES};
use tdxlab_selftests::command::{root, stderr, stdout};
use tdxlab_selftests::failing::run_with_lost_page;
use tdxlab_selftests::tdxlab;

const GOOD: &str = "scenarios/punch/head-and-tail.yaml";

#[test]
fn elsewhere_than_on_a_terminal_there_are_plain_lines() {
    let out = tempfile::tempdir().unwrap();
    let said = tdxlab!("run", GOOD, "--host", "sim", "--out", out.path())
        .assert()
        .success();
    let progress = stderr(&said);
    assert!(
        progress.contains("[1/1] pass punch/head-and-tail ("),
        "{progress}"
    );
    assert!(!progress.contains('\u{1b}'), "{progress:?}");
    let summary = stdout(&said);
    let last = summary.lines().last().unwrap();
    let folder = last.strip_prefix("report: ").unwrap();
    assert!(std::path::Path::new(folder).join("report.json").exists());
}

#[test]
fn quiet_says_nothing_of_what_passed() {
    let out = tempfile::tempdir().unwrap();
    let said = tdxlab!("run", GOOD, "--host", "sim", "--quiet", "--out", out.path())
        .assert()
        .success();
    assert_eq!(stderr(&said), "");
    assert_eq!(stdout(&said), "");
}

/// A page lost in a split: the lines for a kernel engineer.
#[test]
fn a_failure_shows_expected_found_and_ranges_in_that_order() {
    let out = tempfile::tempdir().unwrap();
    let finished = run_with_lost_page(&root().join(GOOD), out.path());
    let lines = terminal::failure(&finished.report.scenarios[0], Some(&finished.folder));
    assert!(lines.len() <= FAILURE_LINES);
    let text = console::strip_ansi_codes(&lines.join("\n")).into_owned();
    let folder = finished.folder.display().to_string();
    let root = format!("{}/", root().display());
    insta::assert_snapshot!(text.replace(&folder, "reports/RUN").replace(&root, ""));
}

/// A full disk, by `/dev/full`: results that cannot be written are an error.
#[test]
fn results_that_cannot_be_written_are_an_error_of_one_line() {
    let out = tempfile::tempdir().unwrap();
    let run = ["run", GOOD, "--host", "sim", "--out"];
    tdxlab!().args(run).arg(out.path()).assert().success();
    let latest = out.path().join("latest").display().to_string();
    let again = out.path().join("again").display().to_string();
    let sim = ["--host", "sim", "--out", &again];
    let commands: &[&[&str]] = &[
        &["--help"],
        &["run", "--help"],
        &["--version"],
        &["check", GOOD],
        &["predict", GOOD],
        &["predict", GOOD, "--json"],
        &["list"],
        &["list", "--json"],
        &["faults"],
        &["faults", "--json"],
        &["schema"],
        &["schema", "report"],
        &["completions", "bash"],
        &["man"],
        &["man", "run"],
        &["doctor"],
        &["doctor", "--json"],
        &["report", "show", &latest],
        &["report", "files", &latest],
        &["report", "html", &latest],
        &["report", "kcidb", "--origin", "lab", &latest],
        &["report", "lava", &latest],
        &["report", "github", &latest],
        &["report", "diff", &latest, &latest],
        &["report", "trend", &out.path().display().to_string()],
        &["report", "kernels", &latest],
        &["compare", GOOD],
        &["judge", &latest, "--out", &again],
        &[
            "replay",
            &latest,
            "--scenario",
            "punch/head-and-tail",
            "--host",
            "sim",
            "--out",
            &again,
        ],
        &[&["run", GOOD], sim.as_slice()].concat(),
    ];
    for command in commands {
        for (target, code, lines) in [("/dev/full", 70, 1), ("/dev/null", 0, 0)] {
            let target = std::fs::OpenOptions::new()
                .write(true)
                .open(target)
                .unwrap();
            let said = std::process::Command::new(env!("CARGO_BIN_EXE_tdxlab-under-test"))
                .args(*command)
                .current_dir(root())
                .env("NO_COLOR", "1")
                .stdout(target)
                .output()
                .unwrap();
            let errors = String::from_utf8_lossy(&said.stderr).into_owned();
            assert_eq!(said.status.code(), Some(code), "{command:?}: {errors}");
            let about_output = errors.lines().filter(|line| {
                line.contains("cannot write to standard output: No space left on device")
            });
            assert_eq!(about_output.count(), lines, "{command:?}: {errors}");
        }
    }
}

#[test]
fn a_name_of_the_default_set_stands_for_its_scenario() {
    let said = tdxlab!("check", "punch/head-and-tail").assert().success();
    assert!(stdout(&said).contains("1 file with"), "{}", stdout(&said));
    let said = tdxlab!("check", "punch/edges[head]").assert().success();
    assert!(
        stdout(&said).contains("with 1 scenario"),
        "{}",
        stdout(&said)
    );
    let said = tdxlab!("check", "punch/edges[nowhere]").assert().code(65);
    assert!(stderr(&said).contains("list --plans"), "{}", stderr(&said));
    let said = tdxlab!("check", "punch/head-and-tial").assert().code(65);
    let errors = stderr(&said);
    assert!(
        errors.contains("did you mean `punch/head-and-tail`?"),
        "{errors}"
    );
}

/// `>&-`: the file descriptor is closed before the program starts.
#[test]
fn a_closed_stdout_is_an_error_where_something_was_to_be_said() {
    let out = tempfile::tempdir().unwrap();
    let program = env!("CARGO_BIN_EXE_tdxlab-under-test");
    let run = format!("run {GOOD} --host sim --out {}", out.path().display());
    let quiet = format!("{run} --quiet");
    for (command, code) in [("list", 70), ("--version", 70), (&run, 70), (&quiet, 0)] {
        let line = format!("exec {program} {command} >&-");
        let said = std::process::Command::new("sh")
            .args(["-c", &line])
            .current_dir(root())
            .output()
            .unwrap();
        let errors = String::from_utf8_lossy(&said.stderr).into_owned();
        assert_eq!(said.status.code(), Some(code), "{command}: {errors}");
        let told = errors.contains("cannot write to standard output: Bad file descriptor");
        assert_eq!(told, code != 0, "{command}: {errors}");
    }
    assert!(
        out.path().join("latest/report.json").exists(),
        "the run is not lost by it"
    );
}

#[test]
fn a_reader_that_goes_away_does_not_end_the_run() {
    let out = tempfile::tempdir().unwrap();
    let program = env!("CARGO_BIN_EXE_tdxlab-under-test");
    let line = format!(
        "{program} run {GOOD} --host sim --out {} 2>&1 | true",
        out.path().display()
    );
    let status = std::process::Command::new("sh")
        .args(["-c", &line])
        .current_dir(root())
        .status()
        .unwrap();
    assert!(status.success());
    // The pipe's reader is gone at once; the runner may still be at work.
    let report = out.path().join("latest/report.json");
    let patience = std::time::Instant::now() + std::time::Duration::from_secs(60);
    while !report.exists() {
        assert!(std::time::Instant::now() < patience, "the run did not end");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
}
