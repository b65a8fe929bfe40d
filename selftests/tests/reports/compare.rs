//! Comparisons of runs: regressions, flukes, trends.

use std::path::Path;

use tdxlab::host::{BootOptions, Host, HostError, Session};
use tdxlab::host_soft::SoftwareHost;
use tdxlab::host_soft::sim::SimHost;
use tdxlab::journal::Verdict;
use tdxlab::plan::{Design, Guest, HostKind};
use tdxlab::report::diff::{Diff, Weight};
use tdxlab::run::{NoProgress, PoolOptions};
use tdxlab::spec::RunSpec;
use tdxlab_selftests::command::{root, stdout};
use tdxlab_selftests::failing::plans;
use tdxlab_selftests::recorded::report_of;
use tdxlab_selftests::tdxlab;

use super::runs::run;

const GOOD: &str = "punch/head-and-tail.yaml";

#[test]
fn two_runs_of_the_same_differ_in_nothing_that_counts() {
    let reports = tempfile::tempdir().unwrap();
    let [one, other] = [(); 2].map(|()| run("accept", None, reports.path()).report);
    let diff = Diff::between(&one, &other);
    assert!(
        diff.verdicts.is_empty() && diff.new.is_empty() && diff.gone.is_empty(),
        "{diff}"
    );
    let counters: Vec<_> = diff
        .numbers
        .iter()
        .filter(|change| change.what != "time")
        .collect();
    assert!(counters.is_empty(), "{counters:?}");
    assert!(!diff.is_worse());
}

#[test]
fn a_failure_that_nobody_ran_again_is_a_suspect_and_says_so() {
    let reports = tempfile::tempdir().unwrap();
    let good = run(GOOD, None, reports.path());
    let bad = run(GOOD, Some("tail-split-missing"), reports.path());
    let assert = tdxlab!("report", "diff", &good.folder, &bad.folder)
        .assert()
        .code(1);
    let said = stdout(&assert);
    assert!(
        said.contains("suspect") && said.contains("--confirm"),
        "{said}"
    );
    tdxlab!("report", "diff", &bad.folder, &good.folder)
        .assert()
        .success();
}

/// Runs a scenario with a fault that strikes only in the first guest, or in every one.
fn confirmed(reports: &Path, always: bool) -> tdxlab::report::Report {
    let fault = tdxlab::faults::named("tail-split-missing").unwrap();
    let guests = std::sync::atomic::AtomicUsize::new(0);
    let host = SimHost::new().with_policy(move || {
        let first = guests.fetch_add(1, std::sync::atomic::Ordering::Relaxed) == 0;
        if first || always {
            (fault.make)()
        } else {
            Box::new(tdxlab::softkvm::Faithful)
        }
    });
    run_again(&host, reports)
}

/// Runs a scenario on a host, and three times more if it fails.
fn run_again(host: &dyn Host, reports: &Path) -> tdxlab::report::Report {
    let items = plans(&root().join("scenarios").join(GOOD));
    let spec = RunSpec {
        drive: PoolOptions {
            jobs: 1,
            fail_fast: false,
            confirm: 3,
            share: false,
        },
        ..RunSpec::new(
            &items,
            host,
            Design::named("headtail").unwrap(),
            &NoProgress,
        )
    };
    let folder = spec.run(reports).unwrap().folder;
    report_of(&folder)
}

#[test]
fn a_regression_is_declared_when_it_comes_back_and_a_fluke_is_not() {
    let reports = tempfile::tempdir().unwrap();
    let good = run(GOOD, None, reports.path()).report;
    for (always, failed, weight) in [(true, 3, Weight::Regression), (false, 0, Weight::Flaky)] {
        let bad = confirmed(reports.path(), always);
        assert_eq!(bad.scenarios[0].verdict, Verdict::Fail);
        let again = bad.scenarios[0].confirmed.expect("it was run again");
        assert_eq!((again.times, again.failed), (3, failed));
        let diff = Diff::between(&good, &bad);
        assert_eq!(diff.verdicts[0].weight(), weight);
        assert_eq!(diff.is_worse(), weight == Weight::Regression);
        assert!(
            diff.to_string()
                .contains(&format!("failed {failed} of 3 times")),
            "{diff}"
        );
    }
}

/// Boots one guest, and no other.
struct BootsOnce(SimHost, std::sync::atomic::AtomicBool);

impl Host for BootsOnce {
    fn kind(&self) -> HostKind {
        self.0.kind()
    }

    fn facts(&self) -> Vec<(String, String)> {
        self.0.facts()
    }

    fn boot(&self, guest: &Guest, options: &BootOptions) -> Result<Box<dyn Session>, HostError> {
        match self.1.swap(true, std::sync::atomic::Ordering::Relaxed) {
            false => self.0.boot(guest, options),
            true => Err(HostError::Interrupted),
        }
    }
}

/// Reruns that broke off do not show that it comes and goes.
#[test]
fn a_failure_that_could_not_be_run_again_is_not_excused() {
    let reports = tempfile::tempdir().unwrap();
    let good = run(GOOD, None, reports.path()).report;
    let fault = tdxlab::faults::named("tail-split-missing").unwrap();
    let host = SimHost::new().with_policy(move || (fault.make)());
    let bad = run_again(&BootsOnce(host, Default::default()), reports.path());
    assert_eq!(bad.scenarios[0].verdict, Verdict::Fail);
    let again = bad.scenarios[0].confirmed.unwrap();
    assert_eq!((again.times, again.failed), (0, 0));
    let diff = Diff::between(&good, &bad);
    assert_eq!(diff.verdicts[0].weight(), Weight::Suspect);
    assert!(diff.is_worse());
}

#[test]
fn what_is_gone_is_worse_and_what_is_new_is_told() {
    let reports = tempfile::tempdir().unwrap();
    let few = run(GOOD, None, reports.path()).report;
    let many = run("punch", None, reports.path()).report;
    let lost = Diff::between(&many, &few);
    assert!(lost.is_worse());
    assert_eq!(lost.gone.len(), many.scenarios.len() - few.scenarios.len());
    let gained = Diff::between(&few, &many);
    assert!(!gained.is_worse(), "{gained}");
    assert_eq!(gained.new.len(), lost.gone.len());
}

#[test]
fn a_trend_knows_every_run_once() {
    let reports = tempfile::tempdir().unwrap();
    for _ in 0..3 {
        run(GOOD, None, reports.path());
    }
    let assert = tdxlab!("report", "trend", reports.path())
        .assert()
        .success();
    let said = stdout(&assert);
    assert!(said.starts_with("3 runs"), "{said}");
    assert!(said.contains("..."), "{said}");
    let page = reports.path().join("trend.html");
    let mut folders: Vec<_> = std::fs::read_dir(reports.path())
        .unwrap()
        .map(|entry| entry.unwrap())
        .filter(|entry| entry.file_type().unwrap().is_dir())
        .map(|entry| entry.path())
        .collect();
    folders.sort();
    tdxlab!("report", "html", "--output", &page)
        .args(&folders)
        .assert()
        .success();
    let text = std::fs::read_to_string(page).unwrap();
    assert!(text.contains("Trend over 3 runs"));
    assert_eq!(text.matches("class=\"spark\"").count(), 3);
}

/// As `tdxlab report kernels` prints them: the last report of each kernel, without the machine's
/// paths, and each reason once.
#[test]
fn kernels_stand_side_by_side() {
    let reports = tempfile::tempdir().unwrap();
    let on = |kernel: &str, fault| {
        let mut report = run(GOOD, fault, reports.path()).report;
        report.facts = [
            ("kernel", kernel),
            (
                "QEMU",
                "7.2.22 (Debian 1:7.2+dfsg-7+deb12u18+b3), /usr/bin/qemu-system-x86_64",
            ),
        ]
        .map(|(name, value)| tdxlab::report::Fact {
            name: name.to_owned(),
            value: value.to_owned(),
        })
        .to_vec();
        report
    };
    let mut reports = vec![
        on("6.1.0-56-amd64", Some("tail-split-missing")),
        on("7.3.4", None),
        on("6.1.0-56-amd64", None),
        on("6.9.1 | 6.9.2", None),
    ];
    // No fault is written down by a host that was made with one.
    reports[1].fault = Some(tdxlab::journal::journal::SeededFault {
        name: "tail-split-missing".to_owned(),
        wrong: "the tail is not split".to_owned(),
    });
    let skipped = &mut reports[2].scenarios[0];
    skipped.reason = Some("needs 32 free 2M pages of hugetlb".to_owned());
    skipped.verdict = Verdict::Skip;
    insta::assert_snapshot!(tdxlab::report::kernels::render(&reports));
}
