//! Every seeded fault is caught, by the witnesses one would expect, and the documentation says by
//! what.

use std::fs;
use std::sync::LazyLock;
use std::time::Duration;

use rstest::rstest;
use tdxlab::faults;
use tdxlab::host::interrupt::Interrupt;
use tdxlab::plan::HostKind;
use tdxlab::qualify::{Matrix, Qualify, Row, markdown};
use tdxlab::run::Item;
use tdxlab_selftests::command::{root, stderr, stdout};
use tdxlab_selftests::{failing, tdxlab};

/// The default set for TDs, in its order.
fn items() -> Vec<Item> {
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

/// On `soft` a few of each kind, since the whole catalogue takes a minute and more.
#[rstest]
#[case::content_lost("split-loses-content")]
#[case::stale_translation("zap-without-flush")]
#[case::stale_shared_translation("shared-zap-without-flush")]
#[case::livelock("inhibit-without-split")]
#[case::race("fault-during-hole")]
#[case::counter("zap-not-counted")]
fn on_soft_too(#[case] fault: &str) {
    if tdxlab::host::soft::SoftHost::find().is_err() {
        eprintln!("skipped: no QEMU");
        return;
    }
    let said = tdxlab!("qualify", "--host", "soft", "--fault", fault)
        .assert()
        .success();
    let said = stdout(&said);
    assert!(said.contains("1 of 1 faults caught on soft"), "{said}");
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
        said.contains("NOTHING") && said.contains("0 of 1 faults caught"),
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
fn soaking_raises_no_false_alarm() {
    let said = tdxlab!(
        "soak",
        "--times",
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
