//! The files under ci/, checked by rules published by the engines.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;

use rstest::rstest;
use serde::Deserialize;
use tdxlab::journal::Verdict;
use tdxlab_selftests::command::root;
use tdxlab_selftests::programs::{output_of, program};
use tdxlab_selftests::tdxlab;

fn documents(file: &str) -> Vec<serde_json::Value> {
    let text = fs::read_to_string(root().join(file)).unwrap();
    serde_yaml::Deserializer::from_str(&text)
        .map(|document| serde_json::Value::deserialize(document).unwrap())
        .collect()
}

#[rstest]
#[case::github("github-workflow.json", "ci/github/nightly.yaml", 1)]
#[case::github_of_this_repository("github-workflow.json", ".github/workflows/ci.yml", 1)]
#[case::github_of_init("github-workflow.json", "lab/tdxlab/src/cli/init/github.yaml", 1)]
#[case::kubernetes_run("kubernetes-1.37.json", "ci/kubernetes/run.yaml", 2)]
#[case::kubernetes_merge("kubernetes-1.37.json", "ci/kubernetes/merge.yaml", 1)]
fn the_engine_takes_the_file(#[case] schema: &str, #[case] file: &str, #[case] count: usize) {
    let path = root().join("selftests/schemas").join(schema);
    let schema: serde_json::Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    let validator = jsonschema::validator_for(&schema).unwrap();
    let documents = documents(file);
    assert_eq!(documents.len(), count);
    for document in documents {
        let errors: Vec<String> = validator
            .iter_errors(&document)
            .map(|error| format!("{}: {error}", error.instance_path()))
            .collect();
        assert_eq!(errors, [""; 0], "{file}");
    }
}

#[test]
fn a_schema_that_takes_anything_would_be_noticed() {
    let path = root().join("selftests/schemas/kubernetes-1.37.json");
    let schema: serde_json::Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    let validator = jsonschema::validator_for(&schema).unwrap();
    let mut job = documents("ci/kubernetes/merge.yaml").remove(0);
    assert!(validator.is_valid(&job));
    job["spec"]["completionsMode"] = "Indexed".into();
    assert!(!validator.is_valid(&job));
}

/// Four shards of which three have nothing to do, and their merge, as GitLab's shell executor does it.
#[test]
fn gitlab_runs_the_file_of_init() {
    let Some(runner) = program(&["gitlab-ci-local"], "GitLab's file") else {
        return;
    };
    let place = tempfile::tempdir().unwrap();
    let folder = place.path().join("lab");
    tdxlab!("init", &folder, "--ci", "gitlab")
        .assert()
        .success();
    let commit = [
        "-c",
        "user.name=x",
        "-c",
        "user.email=x@localhost",
        "commit",
    ];
    for args in [&["init", "-q"][..], &["add", "-A"], &[]] {
        let mut git = Command::new("git");
        git.current_dir(&folder);
        match args {
            [] => git.args(commit).args(["-q", "-m", "x"]),
            args => git.args(args),
        };
        output_of(&mut git);
    }
    let programs = place.path().join("bin");
    fs::create_dir(&programs).unwrap();
    symlink(
        env!("CARGO_BIN_EXE_tdxlab-under-test"),
        programs.join("tdxlab"),
    )
    .unwrap();
    let path = std::env::var("PATH").unwrap();
    let log = output_of(
        Command::new(runner)
            .current_dir(&folder)
            .args(["--shell-isolation", "--variable", "TDXLAB_HOST=sim"])
            .env("HOME", place.path())
            .env("PATH", format!("{}:{path}", programs.display())),
    );
    let report = tdxlab_selftests::recorded::report_of(&folder.join("reports/latest"));
    assert_eq!(report.scenarios.len(), 1, "{log}");
    assert_eq!(report.verdict, Verdict::Pass, "{log}");
}

/// LAVA publishes its rules as a Debian package only.
#[test]
fn lava_takes_the_job() {
    let Some(python) = program(&["python3"], "LAVA's schema") else {
        return;
    };
    let known = Command::new(&python)
        .args(["-c", "import lava_common.schemas, yaml"])
        .output()
        .unwrap();
    if !known.status.success() {
        eprintln!("skipped: python3 has no lava_common (Debian package lava-common)");
        return;
    }
    let code = "import sys, yaml; from lava_common.schemas import validate; validate(yaml.safe_load(open(sys.argv[1])), strict=True)";
    output_of(
        Command::new(python)
            .args(["-c", code])
            .arg(root().join("ci/lava/job.yaml")),
    );
}

/// On machines that run TDs, leftovers of an interrupted run are removed first.
#[test]
fn leftovers_are_swept_before_anything_runs() {
    let workflow = documents("ci/github/nightly.yaml").remove(0);
    let steps = workflow["jobs"]["shard"]["steps"].as_array().unwrap();
    let place = |text: &str| {
        steps
            .iter()
            .position(|step| step["run"].as_str().is_some_and(|run| run.contains(text)))
            .unwrap_or_else(|| panic!("no {text} in the workflow"))
    };
    assert!(place("ci/kernel check") < place("ci/sweep"));
    assert!(place("ci/sweep") < place("tdxlab doctor --deep"));
    assert!(place("tdxlab doctor --deep") < place("tdxlab run"));
    assert_eq!(
        steps
            .iter()
            .filter(|step| step["run"] == "ci/sweep")
            .count(),
        1
    );
}

/// There is one nightly workflow, which the book describes.
#[test]
fn the_book_shows_no_other_workflow() {
    let chapter = fs::read_to_string(root().join("docs/linux-ci.md")).unwrap();
    assert!(chapter.contains("ci/github/nightly.yaml"));
    assert!(!chapter.contains("runs-on:"), "a second workflow");
    let ci = documents(".github/workflows/ci.yml").remove(0);
    let on_tdx = |job: &serde_json::Value| job["runs-on"].to_string().contains("tdx");
    assert!(!ci["jobs"].as_object().unwrap().values().any(on_tdx));
    let nightly = fs::read_to_string(root().join("ci/github/nightly.yaml")).unwrap();
    for variable in ["TDXLAB_REPOSITORY", "TDXLAB_KERNEL", "TDXLAB_MACHINES"] {
        assert!(nightly.contains(variable) && chapter.contains(variable));
    }
}

/// A night that is as bad as the one before is no news; a worse one fails.
#[test]
fn a_night_fails_on_a_regression_only() {
    let reports = tempfile::tempdir().unwrap();
    let good = super::runs::run("punch/head-and-tail.yaml", None, reports.path());
    let fault = Some("tail-split-missing");
    let bad = super::runs::run("punch/head-and-tail.yaml", fault, reports.path());
    let compare = |before: &Path, after: &Path| {
        let output = Command::new(root().join("ci/compare"))
            .arg(env!("CARGO_BIN_EXE_tdxlab-under-test"))
            .args([before, after])
            .output()
            .unwrap();
        output.status.code()
    };
    assert_eq!(compare(&good.folder, &bad.folder), Some(1));
    assert_eq!(compare(&bad.folder, &bad.folder), Some(0));
    assert_eq!(compare(&bad.folder, &good.folder), Some(0));
    let none = reports.path().join("none");
    assert_eq!(compare(&none, &bad.folder), Some(1));
    assert_eq!(compare(&none, &good.folder), Some(0));
}

/// The site's own program is called where another kernel runs, and only there.
#[test]
fn the_kernel_under_test_is_booted_by_a_hook() {
    let folder = tempfile::tempdir().unwrap();
    let hook = folder.path().join("hook");
    fs::write(&hook, "#!/bin/sh\necho \"boots $1\"\n").unwrap();
    fs::set_permissions(&hook, fs::Permissions::from_mode(0o755)).unwrap();
    let call = |argument: &str, kernel: &str, hook: &Path| {
        let output = Command::new(root().join("ci/kernel"))
            .arg(argument)
            .env("TDXLAB_KERNEL", kernel)
            .env("TDXLAB_KERNEL_HOOK", hook)
            .output()
            .unwrap();
        let said = String::from_utf8(output.stdout).unwrap();
        (output.status.code(), said)
    };
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let nowhere = folder.path().join("nowhere");
    for running in [release.trim(), ""] {
        assert_eq!(call("boot", running, &nowhere).0, Some(0));
        assert_eq!(call("check", running, &nowhere).0, Some(0));
    }
    assert_eq!(call("check", "9.9.9", &hook), (Some(1), String::new()));
    assert_eq!(
        call("boot", "9.9.9", &hook),
        (Some(0), "boots 9.9.9\n".to_owned())
    );
    assert_eq!(call("boot", "9.9.9", &nowhere).0, Some(69));
    assert_eq!(call("boots", "9.9.9", &hook).0, Some(64));
}

/// The matrix of the workflow, the count of the Job and their variables agree.
#[test]
fn every_shard_is_somebodys() {
    let workflow = documents("ci/github/nightly.yaml").remove(0);
    let shards = workflow["jobs"]["shard"]["strategy"]["matrix"]["shard"]
        .as_array()
        .unwrap();
    let counted: Vec<u64> = shards
        .iter()
        .filter_map(serde_json::Value::as_u64)
        .collect();
    assert_eq!(counted, (1..=shards.len() as u64).collect::<Vec<_>>());
    let job = documents("ci/kubernetes/run.yaml").remove(1);
    let environment = job["spec"]["template"]["spec"]["containers"][0]["env"]
        .as_array()
        .unwrap();
    let told = environment
        .iter()
        .find(|variable| variable["name"] == "TDXLAB_SHARDS")
        .unwrap();
    assert_eq!(told["value"], job["spec"]["completions"].to_string());
}

#[test]
fn nextest_reads_its_profile() {
    let Some(nextest) = program(&["cargo-nextest"], "the nextest profile") else {
        return;
    };
    let mut command = Command::new(nextest);
    command
        .current_dir(root())
        .args(["nextest", "show-config", "version"]);
    output_of(&mut command);
}
