//! `junit.xml`, in the dialect that Jenkins, GitLab and GitHub viewers read.
//!
//! A topic (the folder of a scenario) is a suite, a scenario is a case. Skipped scenarios are
//! included with their reason; files of evidence are listed as attachments.

use std::path::Path;
use std::time::Duration;

use quick_junit::{NonSuccessKind, Property, Report as JUnit, TestCase, TestCaseStatus, TestSuite};
use tdxlab_journal::verdict::Verdict;

use super::ends::run_itself;
use super::{Report, ScenarioReport, terminal, topic};

/// The whole document of the run in `folder`. Viewers look for attachments from where CI works, so they have
/// that path before theirs.
pub fn render(report: &Report, folder: &Path) -> String {
    // Viewers show names, and hide properties.
    let name = format!("tdxlab{}", report.rehearsal_mark(".REHEARSAL"));
    let mut junit = JUnit::new(&name);
    junit.set_time(Duration::from_micros(report.micros));
    let mut suites: Vec<TestSuite> = Vec::new();
    for scenario in report.scenarios.iter().chain(&run_itself(report)) {
        let topic = topic(&scenario.name);
        let index = match suites.iter().position(|suite| suite.name.as_str() == topic) {
            Some(index) => index,
            None => {
                let mut suite = TestSuite::new(topic);
                for (name, value) in properties(report) {
                    suite.add_property(Property::new(name, value));
                }
                suites.push(suite);
                suites.len() - 1
            }
        };
        suites[index].add_test_case(case(scenario, &name, folder));
    }
    for mut suite in suites {
        let time = suite.test_cases.iter().filter_map(|case| case.time).sum();
        suite.set_time(time);
        junit.add_test_suite(suite);
    }
    junit
        .to_string()
        .map(without_skips_of_root)
        // No characters of XML, and the only such that pass.
        .map(|document| document.replace(['\u{fffe}', '\u{ffff}'], "\u{fffd}"))
        .unwrap_or_else(|error| format!("<!-- {error} -->"))
}

/// Suites count skips; the schema of Jenkins knows no such count of the whole report.
fn without_skips_of_root(document: String) -> String {
    let Some(start) = document.find("<testsuites") else {
        return document;
    };
    let end = document[start..]
        .find('>')
        .map_or(document.len(), |end| start + end);
    let Some(skips) = document[start..end].find(" skipped=\"") else {
        return document;
    };
    let from = start + skips;
    let value = from + " skipped=\"".len();
    match document[value..end].find('"') {
        Some(length) => format!("{}{}", &document[..from], &document[value + length + 1..]),
        None => document,
    }
}

fn properties(report: &Report) -> Vec<(String, String)> {
    let mut properties = vec![
        ("run".to_owned(), report.run.clone()),
        ("tdxlab".to_owned(), report.tdxlab.clone()),
        ("host".to_owned(), report.host.name().to_owned()),
        ("design".to_owned(), report.design.clone()),
    ];
    if let Some(seed) = report.seed {
        properties.push(("seed".to_owned(), seed.to_string()));
    }
    properties.extend(
        report
            .facts
            .iter()
            .map(|fact| (fact.name.clone(), fact.value.clone())),
    );
    properties
}

fn case(scenario: &ScenarioReport, report: &str, folder: &Path) -> TestCase {
    let reason = scenario.reason.clone().unwrap_or_default();
    let status = match scenario.verdict {
        Verdict::Pass => TestCaseStatus::success(),
        Verdict::Skip => {
            let mut status = TestCaseStatus::skipped();
            status.set_message(reason);
            status
        }
        Verdict::Fail => non_success(NonSuccessKind::Failure, scenario),
        Verdict::Error => non_success(NonSuccessKind::Error, scenario),
    };
    let mut case = TestCase::new(scenario.name.as_str(), status);
    case.set_classname(format!("{report}.{}", scenario.name.replace('/', ".")));
    case.set_time(Duration::from_micros(scenario.micros));
    let evidence = scenario.evidence.as_ref();
    let replay = evidence.map(|evidence| folder.join(evidence).join("replay.json"));
    if let Some(replay) = replay.filter(|replay| replay.exists()) {
        case.set_system_out(format!("[[ATTACHMENT|{}]]", replay.display()));
    }
    case
}

fn non_success(kind: NonSuccessKind, scenario: &ScenarioReport) -> TestCaseStatus {
    let mut status = TestCaseStatus::non_success(kind);
    status.set_message(scenario.why().swap_remove(0));
    status.set_type(scenario.verdict.name());
    let lines = terminal::failure(scenario, None).join("\n");
    status.set_description(console::strip_ansi_codes(&lines));
    status
}
