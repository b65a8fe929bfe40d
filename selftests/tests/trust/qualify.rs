//! Every seeded fault is caught by the expected witnesses, and the documentation lists them.

use std::fs;
use std::sync::LazyLock;
use std::time::Duration;

use rstest::rstest;
use tdxlab::addr::PageLevel;
use tdxlab::faults;
use tdxlab::fuzz::qualify::{Matrix, Qualify, Row, markdown};
use tdxlab::host_soft::SoftwareHost;
use tdxlab::host_soft::sim::SimHost;
use tdxlab::journal::{Verdict, Witness};
use tdxlab::plan::{Design, HostKind};
use tdxlab::qemu::interrupt::Interrupt;
use tdxlab::report::terminal;
use tdxlab::run::{NoProgress, TestCase};
use tdxlab::softkvm::Policy;
use tdxlab::softkvm::policy::Counted;
use tdxlab::spec::RunSpec;
use tdxlab_selftests::command::{root, stderr, stdout};
use tdxlab_selftests::{failing, tdxlab};

/// The default set for TDs, in its order.
fn items() -> Vec<TestCase> {
    let scenarios = tdxlab::scenario::embedded().unwrap();
    let paths: Vec<_> = scenarios
        .iter()
        .map(|one| root().join(one.path()))
        .collect();
    paths
        .iter()
        .flat_map(|path| failing::plans(path))
        .filter(|item| item.plan.guest.backing.is_none())
        .collect()
}

/// Every plan under every fault, on `sim`.
static MATRIX: LazyLock<Matrix> = LazyLock::new(|| {
    let faults: Vec<_> = faults::all().collect();
    Qualify {
        items: &items(),
        faults: &faults,
        host: HostKind::Sim,
        module: None,
        open: &|_| unreachable!("only `soft` is opened"),
        jobs: std::thread::available_parallelism().map_or(1, usize::from),
        patience: Duration::from_secs(60),
        interrupt: Interrupt::of_process(),
        watcher: &|_| {},
    }
    .run()
    .unwrap()
});

fn names<'a>(rows: impl Iterator<Item = &'a Row>) -> Vec<&'a str> {
    rows.map(|row| row.fault.name).collect()
}

#[test]
fn every_fault_is_caught() {
    assert!(MATRIX.rows.len() >= 60);
    assert_eq!(MATRIX.rows.len(), faults::all().count());
    assert_eq!(names(MATRIX.escaped()), Vec::<&str>::new());
}

#[test]
fn every_plan_is_judged_under_every_fault() {
    let unjudged: Vec<_> = MATRIX
        .rows
        .iter()
        .flat_map(|row| row.unjudged.iter().map(|one| (row.fault.name, one)))
        .collect();
    assert!(unjudged.is_empty(), "{unjudged:#?}");
}

#[test]
fn the_witnesses_one_would_expect_notice() {
    for row in &MATRIX.rows {
        let best = row.best().unwrap();
        assert!(
            row.is_expected(best) && row.expected_of(best) == row.fault.witnesses.len(),
            "{}: expected {:?}, noticed by {:?} and later {:?} in {}",
            row.fault.name,
            row.fault.witnesses,
            best.witnesses,
            best.later,
            best.name
        );
    }
}

#[test]
fn half_of_them_by_two_witnesses_at_once() {
    assert!(
        MATRIX.by_two_witnesses() >= 30,
        "{}",
        MATRIX.by_two_witnesses()
    );
}

#[test]
fn the_documentation_says_what_catches_what() {
    let document = fs::read_to_string(root().join("docs/faults.md")).unwrap();
    let (_, rest) = document.split_once("<!-- qualify: begin -->\n").unwrap();
    let (said, _) = rest.split_once("<!-- qualify: end -->").unwrap();
    assert!(
        said.trim() == markdown(&MATRIX).trim(),
        "docs/faults.md is not current: put the output of `tdxlab qualify --markdown` between its \
         marks"
    );
}

/// On `soft` a few of each topic, since the whole catalogue takes minutes; all of the faults that
/// show only under one order of a race.
#[rstest]
#[case::range(&["head-split-missing", "second-slot-not-split", "hole-ends-a-page-late"])]
#[case::order(&["hole-split-after-zap"])]
#[case::split(&["split-loses-content", "split-unaccepts", "split-leaves-a-child-out"])]
#[case::accept(&["inhibit-without-split", "inhibit-bars-the-gigabyte"])]
#[case::level(&["promotion", "folio-comes-back-small"])]
#[case::translations(&["zap-without-flush", "split-without-flush", "shared-zap-without-flush"])]
#[case::module(&["tracking-not-checked", "remove-busy-twice", "block-left-behind"])]
#[case::guest(&["accept-does-not-zero", "mismatch-level", "ve-in-spite-of-disable"])]
#[case::count(&["zap-not-counted", "busy-map-counted", "counters-stuck"])]
#[case::resource(&["hole-fails-after-zap", "hole-leaks-memory", "shared-page-not-cleared"])]
#[case::race(&[
    "fault-during-hole",
    "level-not-looked-at-again",
    "conversion-unnoticed-by-a-fault",
])]
fn on_soft_too(#[case] faults: &[&str]) {
    if tdxlab::host_soft::soft::SoftHost::find().is_err() {
        eprintln!("skipped: no QEMU");
        return;
    }
    let mut command = tdxlab!("qualify", "--host", "soft");
    for fault in faults {
        command.args(["--fault", fault]);
    }
    let said = stdout(&command.assert().success());
    let all = faults.len();
    let right = format!("{all} of {all} faults caught on soft");
    assert!(said.contains(&right), "{said}");
    let expected = format!(", {all} by the expected witness");
    assert!(said.contains(&expected), "{said}");
}

#[test]
fn a_fault_that_only_others_notice_fails_the_qualification() {
    let unexpected = tdxlab!(
        "qualify",
        "scenarios/convert/pending.yaml",
        "--fault",
        "split-accepts-pending"
    )
    .assert()
    .code(1);
    let (said, noted) = (stdout(&unexpected), stderr(&unexpected));
    assert!(
        said.contains("1 of 1 faults caught on sim") && said.contains("0 by the expected witness"),
        "{said}"
    );
    assert!(
        noted.contains("split-accepts-pending is caught, but not by"),
        "{noted}"
    );
}

#[test]
fn where_no_counter_counts_nothing_is_judged() {
    let reports = tempfile::tempdir().unwrap();
    let said = tdxlab!(
        "run",
        "--host",
        "sim",
        "--fault",
        "counters-stuck",
        "scenarios/punch/head-and-tail.yaml",
        "--out",
        reports.path()
    )
    .assert()
    .code(70);
    let said = stdout(&said);
    assert!(said.contains("no counter counts"), "{said}");
}

/// A counter that does not move while pages are mapped is not a witness, and the report says so.
#[test]
fn a_counter_that_stands_still_is_reported() {
    struct Still;
    impl Policy for Still {
        fn counted(&mut self, _: Counted, _: PageLevel, _: i64) -> i64 {
            0
        }
    }
    let host = SimHost::new().with_policy(|| Box::new(Still));
    let items = failing::plans(&root().join("scenarios/punch/head-and-tail.yaml"));
    let design = Design::named("headtail").unwrap();
    let reports = tempfile::tempdir().unwrap();
    let run = RunSpec::new(&items, &host, design, &NoProgress)
        .run(reports.path())
        .unwrap();
    let scenario = &run.report.scenarios[0];
    assert_eq!(scenario.verdict, Verdict::Pass);
    let distrusted = &scenario.control.as_ref().unwrap().distrusted;
    assert_eq!(distrusted[0].witness, Witness::Debugfs);
    let said = terminal::summary(&run.report, &run.folder);
    assert!(
        said.contains("debugfs unavailable: positive control")
            && said.contains("pages_4k stayed at 0 when one page was mapped"),
        "{said}"
    );
}

#[test]
fn a_fault_that_escapes_fails_the_qualification() {
    let escaped = tdxlab!(
        "qualify",
        "scenarios/accept/4k-on-empty.yaml",
        "--fault",
        "hole-without-zap"
    )
    .assert()
    .code(1);
    let said = stdout(&escaped);
    assert!(
        said.contains("NOT REACHED") && said.contains("0 of 1 faults caught"),
        "{said}"
    );
}

#[test]
fn a_run_under_a_fault_says_so_everywhere() {
    let reports = tempfile::tempdir().unwrap();
    let said = tdxlab!(
        "run",
        "--host",
        "sim",
        "--fault",
        "over-zap",
        "scenarios/punch/head-and-tail.yaml",
        "--out",
        reports.path()
    )
    .assert()
    .code(1);
    let said = stdout(&said);
    assert!(said.contains("seeded fault over-zap"), "{said}");
    let run = reports.path().join("latest");
    for file in fs::read_dir(&run).unwrap() {
        let path = file.unwrap().path();
        if path.is_file() {
            let text = fs::read_to_string(&path).unwrap();
            assert!(text.contains("over-zap"), "{}", path.display());
        }
    }
}

#[test]
fn a_fault_nobody_knows_is_a_wrong_command_line() {
    let said = tdxlab!("run", "--host", "sim", "--fault", "head-split-mising")
        .assert()
        .code(64);
    let said = stderr(&said);
    assert!(said.contains("head-split-missing"), "{said}");
    tdxlab!("run", "--host", "kvm", "--fault", "over-zap")
        .assert()
        .code(69);
}

#[test]
fn many_rounds_raise_no_false_alarm() {
    let said = tdxlab!(
        "run",
        "--host",
        "sim",
        "--no-report",
        "--repeat",
        "20",
        "--design",
        "stock,v3,v5,headtail",
        "--seed",
        "7"
    )
    .assert()
    .success();
    let said = stdout(&said);
    assert!(
        said.contains("20 rounds on sim") && said.contains(" 0 failed, 0 not judged"),
        "{said}"
    );
}
