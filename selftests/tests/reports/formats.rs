//! Formats of other projects, parsed by their rules.

use std::fs;
use std::path::Path;
use std::process::Command;

use rstest::rstest;
use tdxlab::journal::{REHEARSAL, REHEARSAL_FACT, Verdict};
use tdxlab::report::diff::Diff;
use tdxlab::report::timeline::Pictures;
use tdxlab::report::trend::Trend;
use tdxlab::report::{
    ControlReport, Fact, Report, ScenarioReport, github, html, junit, kcidb, kernels, ktap, lava,
    terminal,
};
use tdxlab_selftests::command::root;
use tdxlab_selftests::programs::{output_of, program};
use tdxlab_selftests::recorded::report_of;

use super::runs::run;

/// A run in which some pass, some fail, some are skipped.
fn mixed() -> (tempfile::TempDir, Report) {
    let reports = tempfile::tempdir().unwrap();
    let folder = run("punch", Some("tail-split-missing"), reports.path()).folder;
    let report = report_of(&folder);
    for verdict in [Verdict::Pass, Verdict::Fail, Verdict::Skip] {
        assert!(report.counts.of(verdict) > 0, "no {verdict}");
    }
    (reports, report)
}

fn latest(reports: &tempfile::TempDir, name: &str) -> String {
    fs::read_to_string(reports.path().join("latest").join(name)).unwrap()
}

/// A KTAP test as the kernel's document describes it.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Ktap {
    pub(super) tests: Vec<(bool, String, Option<String>, Option<Ktap>)>,
}

/// Parses one level, by Documentation/dev-tools/ktap.rst: version line, plan, numbered results,
/// subtests two spaces further in before their parent's result, diagnostics anywhere.
pub(super) fn parse_ktap<'a>(
    lines: &mut std::iter::Peekable<impl Iterator<Item = &'a str>>,
    depth: usize,
) -> Ktap {
    let indent = "  ".repeat(depth);
    let mut next = || {
        let line = lines.next().expect("it ends in the middle");
        line.strip_prefix(&indent)
            .expect("it is indented")
            .to_owned()
    };
    assert_eq!(next(), "KTAP version 1");
    let mut plan = next();
    while plan.starts_with('#') {
        plan = next();
    }
    let count: usize = plan.strip_prefix("1..").expect("a plan").parse().unwrap();
    let mut ktap = Ktap::default();
    let mut subtests = None;
    while ktap.tests.len() < count {
        let line = *lines.peek().expect("fewer results than planned");
        let inner = line.strip_prefix(&indent).expect("it is indented");
        if inner.starts_with("  KTAP version") {
            subtests = Some(parse_ktap(lines, depth + 1));
            continue;
        }
        lines.next();
        if inner.starts_with('#') || inner.starts_with("  #") {
            continue;
        }
        let (ok, rest) = match inner.strip_prefix("not ok ") {
            Some(rest) => (false, rest),
            None => (
                true,
                inner
                    .strip_prefix("ok ")
                    .unwrap_or_else(|| panic!("{inner}")),
            ),
        };
        let (number, rest) = rest.split_once(' ').expect("a description");
        assert_eq!(number.parse::<usize>().unwrap(), ktap.tests.len() + 1);
        let (name, directive) = match rest.split_once(" # ") {
            Some((name, directive)) => (name, Some(directive.to_owned())),
            None => (rest, None),
        };
        assert!(!name.contains('#'), "{name}");
        ktap.tests
            .push((ok, name.to_owned(), directive, subtests.take()));
    }
    ktap
}

#[test]
fn ktap_can_be_parsed_back() {
    let (reports, report) = mixed();
    let text = latest(&reports, "results.ktap");
    let mut lines = text.lines().peekable();
    let ktap = parse_ktap(&mut lines, 0);
    assert_eq!(lines.next(), None);
    assert_eq!(ktap.tests.len(), report.scenarios.len());
    for ((ok, name, directive, subtests), scenario) in ktap.tests.iter().zip(&report.scenarios) {
        assert_eq!(*name, scenario.name);
        let wanted = match scenario.verdict {
            Verdict::Pass => (true, None),
            Verdict::Fail => (false, None),
            Verdict::Skip => (true, Some("SKIP")),
            Verdict::Error => (false, Some("ERROR")),
        };
        let word = directive
            .as_deref()
            .map(|text| text.split(' ').next().unwrap());
        assert_eq!((*ok, word), wanted, "{name}");
        let steps = subtests.as_ref().map_or(0, |subtests| subtests.tests.len());
        assert_eq!(steps, scenario.steps.len(), "{name}");
        // A parent fails if a child fails.
        if subtests
            .iter()
            .flat_map(|all| &all.tests)
            .any(|(ok, ..)| !ok)
        {
            assert!(!ok, "{name}");
        }
    }
}

#[test]
fn junit_fits_the_schema_of_jenkins() {
    let Some(xmllint) = program(&["xmllint"], "the JUnit schema") else {
        return;
    };
    let (reports, _) = mixed();
    let mut command = Command::new(xmllint);
    command
        .args(["--noout", "--nonet", "--schema"])
        .arg(root().join("selftests/schemas/junit-10.xsd"))
        .arg(reports.path().join("latest/junit.xml"));
    output_of(&mut command);
}

/// Journals may have any text.
#[test]
fn junit_is_xml_whatever_is_in_it() {
    let (_reports, mut report) = mixed();
    report.scenarios[0].name = "t[a=\u{0}\u{1b}[0m\u{fffe}\u{ffff}]]><".to_owned();
    let text = junit::render(&report, Path::new("r"));
    let odd = |c: char| c.is_control() && c != '\n' || matches!(c, '\u{fffe}' | '\u{ffff}');
    assert!(!text.contains(odd), "{text}");
    assert!(text.contains("t[a=\u{fffd}\u{fffd}]]&gt;&lt;"), "{text}");
}

#[test]
fn junit_says_what_was_tested_and_where_the_evidence_is() {
    let (reports, report) = mixed();
    let text = latest(&reports, "junit.xml");
    for property in ["kernel", "QEMU", "TDX module", "design", "host"] {
        assert!(
            text.contains(&format!("<property name=\"{property}\"")),
            "{property}"
        );
    }
    let evidence: Vec<&String> = report
        .scenarios
        .iter()
        .filter_map(|scenario| scenario.evidence.as_ref())
        .collect();
    assert!(!evidence.is_empty());
    let run = fs::canonicalize(reports.path().join("latest")).unwrap();
    for folder in evidence {
        let replay = run.join(folder).join("replay.json");
        let line = format!("[[ATTACHMENT|{}]]", replay.display());
        assert!(text.contains(&line), "{line}");
        assert!(
            reports
                .path()
                .join("latest")
                .join(folder)
                .join("replay.json")
                .is_file()
        );
    }
    assert!(!text.contains('\u{1b}'));
}

fn schema(name: &str) -> jsonschema::Validator {
    let path = root().join("selftests/schemas").join(name);
    let schema: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    jsonschema::validator_for(&schema).unwrap()
}

#[rstest]
#[case::with_the_kernel_of_the_host(None)]
#[case::with_a_build_of_the_database(Some("maestro:4711"))]
fn kcidb_fits_its_published_schema(#[case] build: Option<&str>) {
    let (_reports, mut report) = mixed();
    report.scenarios[0].verdict = Verdict::Error;
    report.scenarios[0].boot_micros = None;
    let submission = kcidb::Submission {
        origin: "tdxlab".to_owned(),
        build: build.map(str::to_owned),
    };
    let json = kcidb::render(&report, &submission);
    let errors: Vec<String> = schema("kcidb-5.3.json")
        .iter_errors(&json)
        .map(|error| format!("{}: {error}", error.instance_path()))
        .collect();
    assert_eq!(errors, [""; 0]);
    let statuses: Vec<&str> = json["tests"]
        .as_array()
        .unwrap()
        .iter()
        .map(|test| test["status"].as_str().unwrap())
        .collect();
    // It never ran: the fault is the harness's, not the kernel's.
    assert_eq!(statuses[0], "MISS");
    for status in ["PASS", "FAIL", "SKIP"] {
        assert!(statuses.contains(&status), "{status}");
    }
    assert_eq!(json.get("builds").is_none(), build.is_some());
}

/// The reference implementation knows more than the schema says, such as what ids refer to.
#[test]
fn kcidb_is_valid_to_its_own_library() {
    let Some(python) = program(&["python3"], "kcidb-io") else {
        return;
    };
    let known = Command::new(&python)
        .args(["-c", "import kcidb_io"])
        .output()
        .unwrap();
    if !known.status.success() {
        eprintln!("skipped: python3 has no kcidb_io (pip install kcidb-io)");
        return;
    }
    let (reports, report) = mixed();
    let submission = kcidb::Submission {
        origin: "tdxlab".to_owned(),
        build: None,
    };
    let file = reports.path().join("kcidb.json");
    fs::write(&file, kcidb::render(&report, &submission).to_string()).unwrap();
    let code = "import json, sys; from kcidb_io.schema import V5_3; V5_3.validate(json.load(open(sys.argv[1])))";
    output_of(Command::new(python).args(["-c", code]).arg(file));
}

#[test]
fn lava_hears_every_scenario_once() {
    let (_reports, report) = mixed();
    let text = lava::render(&report);
    let cases: Vec<&str> = text
        .lines()
        .filter(|line| line.starts_with("<LAVA_SIGNAL_TESTCASE "))
        .collect();
    assert_eq!(cases.len(), report.scenarios.len());
    let mut names = std::collections::BTreeSet::new();
    for line in &cases {
        assert!(line.ends_with('>'));
        let name = line
            .split(' ')
            .find_map(|word| word.strip_prefix("TEST_CASE_ID="))
            .unwrap();
        assert!(
            name.chars()
                .all(|c| c.is_ascii_alphanumeric() || "-_".contains(c)),
            "{name}"
        );
        assert!(names.insert(name), "{name} twice");
    }
    let starts = text.matches("<LAVA_SIGNAL_TESTSET START").count();
    assert_eq!(starts, text.matches("<LAVA_SIGNAL_TESTSET STOP>").count());
}

#[test]
fn github_points_at_the_line_of_the_step() {
    let (_reports, report) = mixed();
    let scenario = report
        .scenarios
        .iter()
        .find(|scenario| scenario.name == "punch/head-and-tail")
        .unwrap();
    let line = scenario.first_bad_step().unwrap().line;
    let place = format!("scenarios/punch/head-and-tail.yaml,line={line}");
    let annotations = github::annotations(&report);
    assert!(
        annotations.lines().all(|line| line.starts_with("::")),
        "{annotations}"
    );
    assert!(annotations.contains(&place), "{annotations}");
    let summary = github::summary(&report);
    assert!(
        summary.contains("<code>punch/head-and-tail</code>"),
        "{summary}"
    );
}

#[test]
fn a_github_step_leaves_a_job_summary() {
    let out = tempfile::tempdir().unwrap();
    let file = out.path().join("summary.md");
    let said = tdxlab_selftests::tdxlab!(
        "run",
        "scenarios/punch/head-and-tail.yaml",
        "--host",
        "sim",
        "--out",
        out.path()
    )
    .env("GITHUB_ACTIONS", "true")
    .env("GITHUB_STEP_SUMMARY", &file)
    .assert()
    .success();
    drop(said);
    assert!(
        fs::read_to_string(Path::new(&file))
            .unwrap()
            .starts_with("## tdxlab: pass")
    );
}

/// Every way a result takes: none may be taken for one of TDX.
#[rstest]
#[case::ktap(|report: &Report| ktap::render(report))]
#[case::junit(|report: &Report| junit::render(report, Path::new("r")))]
#[case::lava(|report: &Report| lava::render(report))]
#[case::github_annotations(|report: &Report| github::annotations(report))]
#[case::github_summary(|report: &Report| github::summary(report))]
#[case::kcidb(|report: &Report| of_kcidb(report, None))]
#[case::kcidb_of_a_build(|report: &Report| of_kcidb(report, Some("maestro:4711")))]
#[case::html(|report: &Report| html::render(report, &Pictures::default(), Path::new("/"), None))]
#[case::json(|report: &Report| serde_json::to_string(report).unwrap())]
#[case::terminal(|report: &Report| terminal::summary(report, Path::new("/run")))]
#[case::terminal_quiet(|report: &Report| terminal::failures(report, Path::new("/run")))]
#[case::last_line(|report: &Report| last_lines(&terminal::summary(report, Path::new("/run"))))]
#[case::kernels(|report: &Report| kernels::render(std::slice::from_ref(report)))]
#[case::trend(|report: &Report| Trend::over(vec![(report.clone(), Pictures::default())]).runs.concat())]
fn a_rehearsal_says_so_wherever_its_results_go(#[case] render: fn(&Report) -> String) {
    let (_reports, mut report) = mixed();
    assert!(!report.is_rehearsal());
    assert!(!render(&report).contains("REHEARSAL"));
    report.facts.push(Fact {
        name: REHEARSAL_FACT.to_owned(),
        value: REHEARSAL.to_owned(),
    });
    assert!(report.is_rehearsal());
    let text = render(&report);
    assert!(text.contains("REHEARSAL"), "{text}");
}

fn of_kcidb(report: &Report, build: Option<&str>) -> String {
    let json = kcidb::render(
        report,
        &kcidb::Submission {
            origin: "tdxlab".to_owned(),
            build: build.map(str::to_owned),
        },
    );
    let errors: Vec<String> = schema("kcidb-5.3.json")
        .iter_errors(&json)
        .map(|error| format!("{}: {error}", error.instance_path()))
        .collect();
    assert_eq!(errors, [""; 0]);
    let mut paths = String::new();
    // What queries look at, without the facts that always say it.
    for test in json["tests"].as_array().unwrap() {
        assert_eq!(
            test["path"].to_string().contains("REHEARSAL"),
            test["comment"].to_string().contains("REHEARSAL")
        );
        paths += &test["path"].to_string();
    }
    if build.is_none() {
        assert_eq!(
            json["builds"].to_string().contains("REHEARSAL"),
            report.is_rehearsal()
        );
    }
    paths
}

/// The line with the verdict of the run, and the lines after it.
fn last_lines(summary: &str) -> String {
    let lines: Vec<&str> = summary.lines().rev().take(2).collect();
    assert!(lines[1].contains("on host sim"), "{lines:?}");
    lines[1].to_owned()
}

#[test]
fn the_ktap_of_a_rehearsal_can_be_parsed_back() {
    let (_reports, mut report) = mixed();
    report.facts.push(Fact {
        name: REHEARSAL_FACT.to_owned(),
        value: REHEARSAL.to_owned(),
    });
    let text = ktap::render(&report);
    let mut lines = text.lines().peekable();
    assert_eq!(
        parse_ktap(&mut lines, 0).tests.len(),
        report.scenarios.len()
    );
}

#[test]
fn a_comparison_says_which_run_was_rehearsed() {
    let (_reports, report) = mixed();
    let mut rehearsed = report.clone();
    rehearsed.facts.push(Fact {
        name: REHEARSAL_FACT.to_owned(),
        value: REHEARSAL.to_owned(),
    });
    for (before, after) in [(&report, &rehearsed), (&rehearsed, &report)] {
        let text = Diff::between(before, after).to_string();
        assert!(text.contains("the runs differ in REHEARSAL"), "{text}");
    }
}

/// What failed before the first step has no step that could say why.
#[test]
fn a_failing_positive_control_says_why_in_every_format() {
    let (_reports, mut report) = mixed();
    let failed = |one: &&ScenarioReport| one.verdict == Verdict::Fail;
    let mut control = report.scenarios.iter().find(failed).unwrap().clone();
    let step = control.first_bad_step().unwrap().clone();
    let (name, evidence) = (control.name.clone(), control.evidence.clone().unwrap());
    control.steps.clear();
    control.control = Some(ControlReport {
        verdict: Verdict::Fail,
        findings: step.findings[..1].to_vec(),
        distrusted: Vec::new(),
    });
    let found = step.findings[0].found.clone();
    for reason in [
        None,
        Some("positive control: the TD died before the first step"),
    ] {
        control.reason = reason.map(str::to_owned);
        report.scenarios = vec![control.clone()];
        let failures = terminal::failures(&report, Path::new("/run"));
        let failures = console::strip_ansi_codes(&failures).into_owned();
        assert!(failures.contains(&format!("fail {name}")), "{failures}");
        assert!(failures.contains(&evidence), "{failures}");
        let mut good = report.clone();
        good.scenarios[0].verdict = Verdict::Pass;
        let texts = [
            failures,
            github::annotations(&report),
            github::summary(&report),
            ktap::render(&report),
            junit::render(&report, Path::new("r")),
        ];
        for text in texts {
            assert!(text.contains(&found), "{text}");
        }
        let diff = Diff::between(&good, &report).to_string();
        assert!(diff.contains(reason.unwrap_or(&found)), "{diff}");
    }
}

/// No scenario shows that others were left out.
#[rstest]
#[case::interrupted(true, "the run was interrupted before it was done")]
#[case::killed(false, "the run was killed before it was done")]
fn a_run_that_was_cut_short_is_no_success_in_any_format(
    #[case] interrupted: bool,
    #[case] why: &str,
) {
    let (_reports, mut report) = mixed();
    report.scenarios.retain(|one| one.verdict == Verdict::Pass);
    // A verdict that no scenario shows is told, too.
    assert!(ktap::render(&report).contains("the verdict of the run is fail"));
    report.verdict = Verdict::Pass;
    let number = report.scenarios.len() + 1;
    let whole = [
        ktap::render(&report),
        junit::render(&report, Path::new("r")),
    ];
    assert!(whole.iter().all(|text| !text.contains("the run")));
    (report.interrupted, report.complete) = (interrupted, interrupted);
    let text = ktap::render(&report);
    let line = format!("not ok {number} the run # ERROR {why}");
    assert!(text.ends_with(&(line + "\n")), "{text}");
    assert!(text.contains(&format!("1..{number}\n")), "{text}");
    let texts = [
        junit::render(&report, Path::new("r")),
        github::annotations(&report),
        github::summary(&report),
        lava::render(&report),
    ];
    for text in texts {
        assert!(text.contains(why), "{text}");
    }
}
