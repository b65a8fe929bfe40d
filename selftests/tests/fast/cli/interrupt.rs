//! A run that is interrupted and resumed.

use std::fs::{self, File, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rstest::rstest;
use tdxlab::journal::Verdict;
use tdxlab::report::{self, Report};
use tdxlab_selftests::command::{root, stdout};
use tdxlab_selftests::tdxlab;

/// Something has happened by then, or the test fails.
const PATIENCE: Duration = Duration::from_secs(120);

/// A run in the background.
struct Run {
    child: Child,
    out: tempfile::TempDir,
}

/// How a guest boots.
#[derive(Clone, Copy)]
enum Boot {
    /// Never: a signal always comes before the first step.
    Never,
    /// A second late, so that a run takes longer than it takes to notice what happened in it.
    Late,
}

impl Run {
    /// Starts a run on `soft` that boots a guest for each plan, which its journal has by then.
    fn start(boot: Boot, more: &[&str]) -> Run {
        let out = tempfile::tempdir().unwrap();
        let said = File::create(out.path().join("said")).unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_tdxlab-under-test"))
            .args(["run", "scenarios/punch", "--host", "soft", "--jobs", "1"])
            .args(["--fresh", "--out"])
            .arg(out.path().join("reports"))
            .args(more)
            .current_dir(root())
            .env("NO_COLOR", "1")
            .env("TDXLAB_QEMU", qemu(boot, out.path()))
            .env_remove("TDXLAB_REQUIRE")
            .stdin(Stdio::null())
            .stdout(said)
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        Run { child, out }
    }

    /// The folder of the run, once its journal holds `event`.
    fn until(&self, event: &str) -> PathBuf {
        let until = Instant::now() + PATIENCE;
        loop {
            let folder = fs::canonicalize(self.out.path().join("reports/latest"));
            if let Ok(folder) = folder
                && fs::read_to_string(folder.join("journal.jsonl"))
                    .is_ok_and(|text| text.contains(event))
            {
                return folder;
            }
            assert!(Instant::now() < until, "no {event} in the journal");
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id().cast_signed()), signal).unwrap();
    }

    fn end(&mut self) -> (Option<i32>, String) {
        let status = self.child.wait().unwrap();
        let said = fs::read_to_string(self.out.path().join("said")).unwrap();
        (status.code(), said)
    }
}

fn qemu(boot: Boot, folder: &Path) -> PathBuf {
    let path = folder.join("qemu");
    let guest = match boot {
        Boot::Never => "exec sleep 600",
        Boot::Late => "sleep 1",
    };
    let text = format!(
        "#!/bin/sh\ncase \"$*\" in *-name*) {guest};; esac\nexec qemu-system-x86_64 \"$@\"\n"
    );
    fs::write(&path, text).unwrap();
    fs::set_permissions(&path, Permissions::from_mode(0o755)).unwrap();
    path
}

fn report_of(folder: &Path) -> Report {
    report::from_journal(&folder.join("journal.jsonl")).unwrap()
}

/// Whether QEMU is there.
fn has_soft() -> bool {
    let there = tdxlab::host_soft::soft::SoftHost::find().is_ok();
    if !there {
        eprintln!("skipped: no QEMU");
    }
    there
}

#[rstest]
#[case::by_an_engine(Signal::SIGTERM)]
#[case::by_a_person(Signal::SIGINT)]
fn what_was_interrupted_has_not_failed_and_is_run_again(#[case] signal: Signal) {
    if !has_soft() {
        return;
    }
    let mut run = Run::start(Boot::Never, &[]);
    let folder = run.until("\"plan_started\"");
    run.signal(signal);
    // `timeout` signals its child, and then the group that the child is in.
    run.signal(signal);
    let (code, said) = run.end();
    assert_eq!(code, Some(130), "{said}");

    let report = report_of(&folder);
    assert!(report.interrupted && report.complete);
    assert_eq!(report.counts.error, 0, "{said}");
    let first = &report.scenarios[0];
    assert!(first.unfinished, "{first:?}");
    assert_eq!(first.verdict, Verdict::Skip);
    let reason = first.reason.as_deref().unwrap();
    assert!(reason.starts_with("interrupted after 0 of"), "{reason}");
    let last = report.scenarios.last().unwrap();
    assert_eq!(last.reason.as_deref(), Some("not run: interrupted"));
    let all = report.scenarios.len();
    let line = format!("interrupted: {all} not run on host soft, design headtail");
    assert!(said.contains(&line), "{said}");
    let line = format!(
        "continue with: tdxlab run --resume {}/reports/",
        run.out.path().display()
    );
    assert!(said.contains(&line), "{said}");
    assert!(!said.contains("error:"), "{said}");

    let said = tdxlab!("run", "--resume", &folder, "--quiet")
        .assert()
        .success();
    assert!(!stdout(&said).contains("continue with"), "{said}");
    let report = report_of(&folder);
    assert!(!report.interrupted && report.complete);
    assert_eq!(report.counts.error + report.counts.fail, 0);
    assert!(report.scenarios.iter().all(|one| !one.unfinished));
    assert_eq!(report.scenarios[0].verdict, Verdict::Pass);

    // A merged run of a run that was resumed is no interrupted one.
    let out = tempfile::tempdir().unwrap();
    tdxlab!("report", "merge", &folder, "--out", out.path())
        .assert()
        .success();
}

/// Nothing ran in it, but not because there was nothing to run.
#[test]
fn a_shard_that_was_interrupted_has_not_passed() {
    if !has_soft() {
        return;
    }
    let mut run = Run::start(Boot::Never, &["--shard", "1/2"]);
    run.until("\"plan_started\"");
    run.signal(Signal::SIGTERM);
    let (code, said) = run.end();
    assert_eq!(code, Some(130), "{said}");
}

/// A failure that was seen is no less one because the run ended soon after.
#[test]
fn a_failure_before_the_interrupt_stays_one() {
    if !has_soft() {
        return;
    }
    let mut run = Run::start(Boot::Late, &["--fault", "map-counted-twice"]);
    let folder = run.until("\"verdict\":\"fail\"");
    run.signal(Signal::SIGTERM);
    let (code, said) = run.end();
    assert_eq!(code, Some(130), "{said}");
    assert_eq!(report_of(&folder).scenarios[0].verdict, Verdict::Fail);
    assert!(said.contains("interrupted: "), "{said}");
    assert!(said.contains("1 failed"), "{said}");
}

/// The scenario may have killed the runner, so it is not judged.
#[test]
fn a_runner_that_was_killed_says_what_to_do() {
    if !has_soft() {
        return;
    }
    let mut run = Run::start(Boot::Never, &[]);
    let folder = run.until("\"plan_started\"");
    run.signal(Signal::SIGKILL);
    run.end();
    let said = tdxlab!("report", "show", &folder).assert().code(70);
    let said = stdout(&said);
    assert!(said.contains("the run ended in the middle of it"), "{said}");
    assert!(said.contains("killed: "), "{said}");
    assert!(
        said.contains("continue with: tdxlab run --resume"),
        "{said}"
    );
}

#[test]
fn scenarios_after_a_failure_are_not_called_interrupted() {
    let out = tempfile::tempdir().unwrap();
    let said = tdxlab!("run", "scenarios/punch", "--host", "sim", "--jobs", "1")
        .args(["--fault", "map-counted-twice", "--fail-fast", "--out"])
        .arg(out.path())
        .assert()
        .code(1);
    assert!(!stdout(&said).contains("interrupted"));
    let report = report_of(&out.path().join("latest"));
    let last = report.scenarios.last().unwrap();
    let reason = last.reason.as_deref().unwrap();
    assert!(reason.contains("--fail-fast"), "{reason}");
}
