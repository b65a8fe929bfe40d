//! Kills the runner at any moment: no process, socket or temporary file is left, and every report
//! can be read.
//!
//! `TDXLAB_KILL_SEED` repeats the moments of an earlier run.

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, getpid};
use rand::{Rng, SeedableRng};
use tdxlab::cli::exit;
use tdxlab::journal::{JournalError, journal};
use tdxlab::report::{self, REPORT_FILES};
use tdxlab_selftests::command::root;

/// How often the runner is ended.
const TIMES: u32 = 50;

/// The runner has ended in good order by then, or it hangs.
const PATIENCE: Duration = Duration::from_secs(30);

/// Latest moment at which it is ended, counted from its start.
const LATEST: Duration = Duration::from_millis(1500);

/// Set in the process that runs this test and no other.
const ALONE: &str = "TDXLAB_KILL_ALONE";

#[test]
fn nothing_outlives_the_runner_and_every_report_is_readable() {
    // It waits for every child of its process, and other tests have children, too.
    if std::env::var_os(ALONE).is_none() {
        let name = "kill::nothing_outlives_the_runner_and_every_report_is_readable";
        let mut alone = Command::new(std::env::current_exe().unwrap());
        alone.args(["--exact", name, "--nocapture"]).env(ALONE, "1");
        let output = alone.output().unwrap();
        let said =
            String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{said}");
        assert!(said.contains("1 passed"), "{said}");
        return;
    }
    // Whatever the runner leaves behind becomes a child of this process, where it can be found.
    nix::sys::prctl::set_child_subreaper(true).unwrap();
    let seed = std::env::var("TDXLAB_KILL_SEED")
        .ok()
        .and_then(|seed| seed.parse().ok())
        .unwrap_or_else(rand::random);
    println!("TDXLAB_KILL_SEED={seed}");
    let mut random = rand_chacha::ChaCha8Rng::seed_from_u64(seed);
    let mut ended_while_running = 0;
    for time in 0..TIMES {
        let signal = if time % 2 == 0 {
            Signal::SIGKILL
        } else {
            Signal::SIGINT
        };
        let after = random.random_range(Duration::ZERO..LATEST);
        let place = tempfile::tempdir().unwrap();
        let status = run_and_end(place.path(), signal, after);
        no_child_is_left(&format!("{signal} after {after:?}"));
        let temporary: Vec<_> = fs::read_dir(place.path().join("tmp")).unwrap().collect();
        assert!(
            temporary.is_empty(),
            "{signal} after {after:?}: {temporary:?}"
        );
        ended_while_running += u32::from(status.code() != Some(0));
        check_reports(&place.path().join("reports"), signal, status);
    }
    assert!(
        ended_while_running >= TIMES / 2,
        "only {ended_while_running} of {TIMES} runs were ended before they were over"
    );
}

fn run_and_end(place: &Path, signal: Signal, after: Duration) -> ExitStatus {
    fs::create_dir(place.join("tmp")).unwrap();
    let mut runner = Command::new(env!("CARGO_BIN_EXE_tdxlab-under-test"))
        .args(["run", "--jobs", "2", "--quiet", "--out"])
        .arg(place.join("reports"))
        .args(["scenarios/accept", "scenarios/punch", "scenarios/race"])
        .current_dir(root())
        .env("TMPDIR", place.join("tmp"))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    std::thread::sleep(after);
    let pid = Pid::from_raw(i32::try_from(runner.id()).unwrap());
    // It may be over already; its process number is ours until it was waited for.
    kill(pid, signal).unwrap();
    wait(&mut runner)
}

fn wait(runner: &mut Child) -> ExitStatus {
    let until = Instant::now() + PATIENCE;
    loop {
        if let Some(status) = runner.try_wait().unwrap() {
            return status;
        }
        if Instant::now() > until {
            let _ = runner.kill();
            panic!("the runner did not end within {PATIENCE:?}");
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Killed processes may still be exiting; those that remain after a while have outlived the runner.
fn no_child_is_left(when: &str) {
    let until = Instant::now() + PATIENCE;
    loop {
        // Collects those that have ended.
        while let Ok(status) =
            nix::sys::wait::waitpid(None, Some(nix::sys::wait::WaitPidFlag::WNOHANG))
        {
            if status == nix::sys::wait::WaitStatus::StillAlive {
                break;
            }
        }
        let left = children();
        if left.is_empty() {
            return;
        }
        assert!(
            Instant::now() < until,
            "{when}: {left:?} outlived the runner"
        );
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Command lines of the children of this process.
fn children() -> Vec<String> {
    let me = format!("\nPPid:\t{}\n", getpid());
    fs::read_dir("/proc")
        .unwrap()
        .filter_map(|entry| {
            let path = entry.ok()?.path();
            let status = fs::read_to_string(path.join("status")).ok()?;
            if !status.contains(&me) {
                return None;
            }
            let line = fs::read_to_string(path.join("cmdline")).unwrap_or_default();
            Some(format!("{} {}", path.display(), line.replace('\0', " ")))
        })
        .collect()
}

fn check_reports(reports: &Path, signal: Signal, status: ExitStatus) {
    let Ok(entries) = fs::read_dir(reports) else {
        // Ended before there was anything.
        return;
    };
    for entry in entries {
        let entry = entry.unwrap();
        let name = entry.file_name();
        if name == "latest" {
            assert!(entry.file_type().unwrap().is_symlink());
            continue;
        }
        check_folder(&entry.path(), signal, status);
    }
}

fn check_folder(folder: &Path, signal: Signal, status: ExitStatus) {
    for entry in fs::read_dir(folder).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let known = [journal::FILE, "scenarios", "latest"];
        // Files of guests that were shared stay where the runner had no chance.
        let is_of_guests = name == "guests" && signal == Signal::SIGKILL;
        assert!(
            known.contains(&name.as_str()) || REPORT_FILES.contains(&name.as_str()) || is_of_guests,
            "{name} is left in the report"
        );
    }
    let path = folder.join(journal::FILE);
    let report = match report::from_journal(&path) {
        Ok(report) => report,
        // Ended before the first line was written.
        Err(JournalError::Empty { .. } | JournalError::Read { .. })
            if signal == Signal::SIGKILL =>
        {
            return;
        }
        Err(error) => panic!("{error}"),
    };
    if signal == Signal::SIGINT {
        assert!(report.complete, "the journal has no end after SIGINT");
        if report.interrupted {
            assert_eq!(status.code(), Some(i32::from(exit::INTERRUPTED)));
        }
        for file in REPORT_FILES {
            assert!(folder.join(file).exists(), "{file} is missing after SIGINT");
        }
    } else if status.signal() == Some(Signal::SIGKILL as i32) {
        report::write_all(&report, folder).unwrap();
    }
}
