//! `git bisect run` over real repositories, with `tdxlab run --bisect`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use tdxlab_selftests::command::root;

use super::runs::{output_of, program};

/// A repository whose files stand for a kernel: `host` selects the host, `fault` its fault.
struct Repository {
    folder: tempfile::TempDir,
    git: PathBuf,
}

impl Repository {
    fn new() -> Option<Repository> {
        let git = program(&["git"], "a bisection")?;
        let folder = tempfile::tempdir().unwrap();
        let repository = Repository { folder, git };
        output_of(repository.git().args(["init", "--quiet"]));
        Some(repository)
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    /// git as on any machine, whatever its user has set.
    fn git(&self) -> Command {
        let mut git = Command::new(&self.git);
        git.current_dir(self.path())
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .env("GIT_CONFIG_NOSYSTEM", "1")
            .args(["-c", "user.name=lab", "-c", "user.email=lab@localhost"]);
        git
    }

    /// Returns the id of a commit that leaves the kernel like this.
    fn commit(&self, subject: &str, host: &str, fault: &str) -> String {
        fs::write(self.path().join("host"), host).unwrap();
        fs::write(self.path().join("fault"), fault).unwrap();
        fs::write(self.path().join("subject"), subject).unwrap();
        output_of(self.git().args(["add", "."]));
        output_of(self.git().args(["commit", "--quiet", "-m", subject]));
        output_of(self.git().args(["rev-parse", "HEAD"]))
            .trim()
            .to_owned()
    }

    fn bisect(&self, bad: &str, good: &str, scenario: &str) -> Output {
        let script = self.path().join(".git/judge");
        let text = format!(
            "#!/bin/sh\n\
             set -- --host \"$(cat host)\"\n\
             [ ! -s fault ] || set -- \"$@\" --fault \"$(cat fault)\"\n\
             exec '{}' run --bisect --quiet --out .git/reports \"$@\" '{}'\n",
            env!("CARGO_BIN_EXE_tdxlab-under-test"),
            root().join(scenario).display(),
        );
        fs::write(&script, text).unwrap();
        output_of(self.git().args(["bisect", "start", bad, good]));
        self.git()
            .args(["bisect", "run", "sh"])
            .arg(script)
            .env_remove("TDXLAB_REQUIRE")
            .output()
            .unwrap()
    }
}

const SCENARIO: &str = "scenarios/punch/head-and-tail.yaml";

#[test]
fn the_first_bad_of_eight_commits_is_found() {
    let Some(repository) = Repository::new() else {
        return;
    };
    let wrong = "tail-split-missing";
    let commits = [
        ("one", "sim", ""),
        ("two", "sim", ""),
        ("three", "sim", ""),
        ("four: seeds the bug", "sim", wrong),
        ("five", "sim", wrong),
        ("six", "sim", wrong),
        ("seven", "sim", wrong),
        ("eight", "sim", wrong),
    ]
    .map(|(subject, host, fault)| repository.commit(subject, host, fault));
    let output = repository.bisect(&commits[7], &commits[0], SCENARIO);
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{output:?}");
    assert!(
        said.contains(&format!("{} is the first bad commit", commits[3])),
        "{said}"
    );
    assert!(said.contains("four: seeds the bug"), "{said}");
    let log = output_of(repository.git().args(["bisect", "log"]));
    assert!(
        log.contains("git bisect good") && log.contains("git bisect bad"),
        "{log}"
    );
}

/// A commit whose host cannot be used is neither good nor bad, and git asks its neighbours.
#[test]
fn a_commit_that_cannot_run_is_skipped() {
    let Some(repository) = Repository::new() else {
        return;
    };
    // No kernel of software takes a fault on the host kvm, wherever this runs.
    let wrong = "tail-split-missing";
    let commits = [
        ("one", "sim", ""),
        ("two", "sim", ""),
        ("three", "sim", ""),
        ("four", "sim", ""),
        ("five: no host", "kvm", wrong),
        ("six: seeds the bug", "sim", wrong),
        ("seven", "sim", wrong),
        ("eight", "sim", wrong),
    ]
    .map(|(subject, host, fault)| repository.commit(subject, host, fault));
    let output = repository.bisect(&commits[7], &commits[0], SCENARIO);
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let log = output_of(repository.git().args(["bisect", "log"]));
    assert!(
        log.contains(&format!("git bisect skip {}", commits[4])),
        "{log}"
    );
    assert!(
        !log.contains(&format!("git bisect bad {}", commits[4])),
        "{log}"
    );
    assert!(
        !log.contains(&format!("git bisect good {}", commits[4])),
        "{log}"
    );
    // The first bad one of the two is unknown, and git says so.
    assert!(!output.status.success(), "{said}");
    for candidate in [&commits[4], &commits[5]] {
        assert!(said.contains(candidate.as_str()), "{said}");
    }
}

#[test]
fn a_wrong_command_line_ends_the_bisection() {
    let Some(repository) = Repository::new() else {
        return;
    };
    let commits = ["one", "two", "three", "four"].map(|name| repository.commit(name, "sim", ""));
    let output = repository.bisect(&commits[3], &commits[0], "scenarios/punch/no-such.yaml");
    assert!(!output.status.success());
    let log = output_of(repository.git().args(["bisect", "log"]));
    // Only the verdicts given at the start.
    let told = log
        .lines()
        .filter(|line| line.starts_with("git bisect "))
        .count();
    assert_eq!(told, 1, "{log}");
}
