//! Files left by a run.

use std::fs;
use std::path::Path;
use std::process::Command as Process;

use quick_junit::{Report as JUnit, TestCaseStatus};
use tdxlab::journal::journal;
use tdxlab_selftests::command::{root, stderr, stdout};
use tdxlab_selftests::failing::run_with_lost_page;
use tdxlab_selftests::tdxlab;

const GOOD: &str = "scenarios/punch/head-and-tail.yaml";

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// One scenario that fails and a folder of others, of which some are skipped.
fn mixed_run() -> tempfile::TempDir {
    let out = tempfile::tempdir().unwrap();
    tdxlab!(
        "run",
        "scenarios/punch",
        "--host",
        "sim",
        "--out",
        out.path()
    )
    .assert()
    .get_output();
    out
}

#[test]
fn report_json_is_as_its_schema_says() {
    let schema: serde_json::Value =
        serde_json::from_str(&read(&root().join("docs/report.schema.json"))).unwrap();
    let validator = jsonschema::validator_for(&schema).unwrap();
    let passing = mixed_run();
    let out = tempfile::tempdir().unwrap();
    let failing = run_with_lost_page(&root().join(GOOD), out.path());
    for folder in [&passing.path().join("latest"), &failing.folder] {
        let report: serde_json::Value =
            serde_json::from_str(&read(&folder.join("report.json"))).unwrap();
        let errors: Vec<String> = validator
            .iter_errors(&report)
            .map(|error| error.to_string())
            .collect();
        assert_eq!(errors, [""; 0]);
    }
}

#[test]
fn junit_has_every_scenario_and_the_reason_of_every_skip() {
    let out = mixed_run();
    let junit = JUnit::deserialize_from_str(&read(&out.path().join("latest/junit.xml"))).unwrap();
    let report: serde_json::Value =
        serde_json::from_str(&read(&out.path().join("latest/report.json"))).unwrap();
    assert_eq!(junit.tests, report["scenarios"].as_array().unwrap().len());
    // Suites count skips; the schema of Jenkins has no such count of the whole.
    let skipped: usize = junit.test_suites.iter().map(|suite| suite.skipped).sum();
    assert_eq!(skipped, report["counts"]["skip"]);
    assert_eq!(junit.failures, report["counts"]["fail"]);
    let suite = &junit.test_suites[0];
    assert_eq!(suite.name.as_str(), "punch");
    let names: Vec<&str> = suite.properties.iter().map(|p| p.name.as_str()).collect();
    for name in ["host", "design", "run"] {
        assert!(names.contains(&name), "{names:?}");
    }
    for case in &suite.test_cases {
        if let TestCaseStatus::Skipped { message, .. } = &case.status {
            assert!(
                message
                    .as_deref()
                    .is_some_and(|why| why.starts_with("needs "))
            );
        }
    }
}

#[test]
fn junit_of_a_failure_names_witness_and_evidence() {
    let out = tempfile::tempdir().unwrap();
    let failing = run_with_lost_page(&root().join(GOOD), out.path());
    let junit = read(&failing.folder.join("junit.xml"));
    assert!(junit.contains("<failure"), "{junit}");
    let replay = failing
        .folder
        .join("scenarios/0000-punch-head-and-tail/replay.json");
    let attached = format!("[[ATTACHMENT|{}]]", replay.display());
    assert!(replay.is_file() && junit.contains(&attached), "{junit}");
    // What is not there is not named.
    fs::remove_file(&replay).unwrap();
    tdxlab!("report", "files", &failing.folder)
        .assert()
        .success();
    let junit = read(&failing.folder.join("junit.xml"));
    assert!(!junit.contains("ATTACHMENT"), "{junit}");
}

/// The rules of the kernel's document: version line, plan, numbers from 1 up, at each depth.
#[test]
fn ktap_is_well_formed() {
    let out = mixed_run();
    let text = read(&out.path().join("latest/results.ktap"));
    let mut lines = text.lines().peekable();
    check_ktap(&mut lines, "");
    assert_eq!(lines.next(), None);
    assert!(text.contains(" # SKIP needs "), "{text}");
}

fn check_ktap<'a>(lines: &mut std::iter::Peekable<impl Iterator<Item = &'a str>>, indent: &str) {
    let mut next = |wanted: &str| {
        let line = lines
            .next()
            .unwrap_or_else(|| panic!("{wanted} is missing"));
        line.strip_prefix(indent)
            .unwrap_or_else(|| panic!("{line:?} is not indented by {indent:?}"))
            .to_owned()
    };
    assert_eq!(next("version"), "KTAP version 1");
    let mut plan = next("plan");
    while plan.starts_with("# ") {
        plan = next("plan");
    }
    let count: usize = plan.strip_prefix("1..").unwrap().parse().unwrap();
    for number in 1..=count {
        let deeper = format!("{indent}  ");
        loop {
            let line = *lines
                .peek()
                .unwrap_or_else(|| panic!("test {number} is missing"));
            if line.strip_prefix(&deeper) == Some("KTAP version 1") {
                check_ktap(lines, &deeper);
                continue;
            }
            let line = lines
                .next()
                .and_then(|line| line.strip_prefix(indent))
                .unwrap();
            if line.starts_with("# ") {
                continue;
            }
            let rest = line
                .strip_prefix("not ok ")
                .or_else(|| line.strip_prefix("ok "))
                .unwrap_or_else(|| panic!("no result: {line:?}"));
            let (found, description) = rest.split_once(' ').unwrap();
            assert_eq!(found.parse(), Ok(number), "{line}");
            let (description, directive) = match description.split_once(" # ") {
                Some((description, directive)) => (description, Some(directive)),
                None => (description, None),
            };
            assert!(!description.contains('#'), "{line}");
            if let Some(directive) = directive {
                let word = directive.split(' ').next().unwrap();
                assert!(["SKIP", "ERROR"].contains(&word), "{line}");
            }
            break;
        }
    }
}

#[test]
fn a_failing_scenario_leaves_all_there_is_to_know() {
    let out = tempfile::tempdir().unwrap();
    let failing = run_with_lost_page(&root().join(GOOD), out.path());
    let evidence = failing.folder.join("scenarios/0000-punch-head-and-tail");
    let plan: serde_json::Value =
        serde_json::from_str(&read(&evidence.join("replay.json"))).unwrap();
    assert_eq!(plan["plan"]["name"], "punch/head-and-tail");
    let samples = read(&evidence.join("samples.txt"));
    for when in [
        "before the positive control",
        "after step 1",
        "after step 4",
    ] {
        assert!(samples.contains(when), "{when}");
    }
}

#[test]
fn a_passing_scenario_leaves_evidence_only_when_asked() {
    for (keep, there) in [(false, false), (true, true)] {
        let out = tempfile::tempdir().unwrap();
        let mut command = tdxlab!("run", GOOD, "--host", "sim", "--out", out.path());
        if keep {
            command.arg("--keep");
        }
        command.assert().success();
        let evidence = out.path().join("latest/scenarios/0000-punch-head-and-tail");
        assert_eq!(evidence.exists(), there);
    }
}

#[test]
fn latest_points_to_the_newest() {
    let out = tempfile::tempdir().unwrap();
    let mut seen = Vec::new();
    for _ in 0..2 {
        tdxlab!("run", GOOD, "--host", "sim", "--out", out.path())
            .assert()
            .success();
        seen.push(fs::read_link(out.path().join("latest")).unwrap());
    }
    assert_ne!(seen[0], seen[1]);
    assert!(out.path().join(&seen[0]).join("report.json").exists());
}

#[test]
fn two_runs_at_once_do_not_collide() {
    let out = tempfile::tempdir().unwrap();
    let mut runs: Vec<_> = (0..2)
        .map(|_| {
            Process::new(env!("CARGO_BIN_EXE_tdxlab-under-test"))
                .args([
                    "run",
                    "scenarios/punch",
                    "--host",
                    "sim",
                    "--quiet",
                    "--out",
                ])
                .arg(out.path())
                .current_dir(root())
                .stdout(std::process::Stdio::null())
                .stderr(std::process::Stdio::null())
                .spawn()
                .unwrap()
        })
        .collect();
    for run in &mut runs {
        run.wait().unwrap();
    }
    let folders: Vec<_> = fs::read_dir(out.path())
        .unwrap()
        .map(|entry| entry.unwrap())
        .filter(|entry| entry.file_type().unwrap().is_dir())
        .collect();
    assert_eq!(folders.len(), 2);
    let scenarios: Vec<usize> = folders
        .iter()
        .map(|folder| {
            let report: serde_json::Value =
                serde_json::from_str(&read(&folder.path().join("report.json"))).unwrap();
            assert_eq!(report["complete"], true);
            report["scenarios"].as_array().unwrap().len()
        })
        .collect();
    assert_eq!(scenarios[0], scenarios[1]);
}

#[test]
fn a_report_is_made_again_from_the_journal() {
    let out = tempfile::tempdir().unwrap();
    tdxlab!("run", GOOD, "--host", "sim", "--out", out.path())
        .assert()
        .success();
    let folder = out.path().join("latest");
    let before = read(&folder.join("report.json"));
    fs::remove_file(folder.join("report.json")).unwrap();
    tdxlab!("report", "files", &folder).assert().success();
    assert_eq!(read(&folder.join("report.json")), before);
    let shown = tdxlab!("report", "show", &folder).assert().success();
    assert!(stdout(&shown).contains("pass: 1 scenario"));
}

/// A file system of 256 KiB fills up in the middle of the run.
#[test]
fn a_full_disk_is_a_clear_error_and_loses_no_earlier_result() {
    let disk = tempfile::tempdir().unwrap();
    let mounted = nix::mount::mount(
        Some("none"),
        disk.path(),
        Some("tmpfs"),
        nix::mount::MsFlags::empty(),
        Some("size=256k"),
    );
    if let Err(error) = mounted {
        eprintln!("skipped: no tmpfs can be mounted here: {error}");
        return;
    }
    let _unmount = Mounted(disk.path());
    let said = tdxlab!(
        "run",
        "scenarios/punch",
        "--host",
        "sim",
        "--out",
        disk.path()
    )
    .assert()
    .code(70);
    let error = stderr(&said);
    // The text is broken into lines where the terminal ends.
    let words: Vec<&str> = error
        .split(['\n', ' ', '│'])
        .filter(|word| !word.is_empty())
        .collect();
    assert!(
        words.join(" ").contains("No space left on device"),
        "{error}"
    );
    assert!(error.contains(journal::FILE), "{error}");
    // Everything reported as passed is in the journal.
    let shown = tdxlab!("report", "show", disk.path().join("latest")).assert();
    let shown = stdout(&shown);
    let passed = error.matches("] pass ").count();
    assert!(passed > 0, "{error}");
    let table = shown
        .lines()
        .find(|line| line.starts_with(" all "))
        .unwrap();
    let counted: usize = table.split_whitespace().nth(1).unwrap().parse().unwrap();
    assert!(counted >= passed, "{counted} of {passed} are in:\n{shown}");
}

struct Mounted<'a>(&'a Path);

impl Drop for Mounted<'_> {
    fn drop(&mut self) {
        let _ = nix::mount::umount2(self.0, nix::mount::MntFlags::MNT_DETACH);
    }
}
