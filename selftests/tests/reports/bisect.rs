//! `git bisect run` over real repositories, with `tdxlab run --bisect`.

use std::fs;
use std::process::Output;

use tdxlab_selftests::command::root;
use tdxlab_selftests::programs::Repository;

/// A commit of a kernel that is `sim`, or another host, with a seeded fault.
fn commit(repository: &Repository, subject: &str, host: &str, fault: &str) -> String {
    for (file, text) in [("host", host), ("fault", fault), ("subject", subject)] {
        fs::write(repository.path().join(file), text).unwrap();
    }
    repository.commit(subject)
}

fn bisect(repository: &Repository, bad: &str, good: &str, scenario: &str) -> Output {
    let script = repository.path().join(".git/judge");
    let text = format!(
        "#!/bin/sh\n\
         set -- --host \"$(cat host)\"\n\
         [ ! -s fault ] || set -- \"$@\" --fault \"$(cat fault)\"\n\
         exec '{}' run --bisect --quiet --out .git/reports \"$@\" '{}'\n",
        env!("CARGO_BIN_EXE_tdxlab-under-test"),
        root().join(scenario).display(),
    );
    fs::write(&script, text).unwrap();
    repository.bisect(bad, good, &["sh", script.to_str().unwrap()])
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
    .map(|(subject, host, fault)| commit(&repository, subject, host, fault));
    let output = bisect(&repository, &commits[7], &commits[0], SCENARIO);
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{output:?}");
    assert!(
        said.contains(&format!("{} is the first bad commit", commits[3])),
        "{said}"
    );
    assert!(said.contains("four: seeds the bug"), "{said}");
    let log = repository.bisect_log();
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
    .map(|(subject, host, fault)| commit(&repository, subject, host, fault));
    let output = bisect(&repository, &commits[7], &commits[0], SCENARIO);
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let log = repository.bisect_log();
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
    let commits = ["one", "two", "three", "four"].map(|name| commit(&repository, name, "sim", ""));
    let output = bisect(
        &repository,
        &commits[3],
        &commits[0],
        "scenarios/punch/no-such.yaml",
    );
    assert!(!output.status.success());
    let log = repository.bisect_log();
    // Only the verdicts given at the start.
    let told = log
        .lines()
        .filter(|line| line.starts_with("git bisect "))
        .count();
    assert_eq!(told, 1, "{log}");
}
