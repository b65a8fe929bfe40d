//! A first session: a run with a fault, a comparison of designs, reports of old runs.

use std::fs;
use std::path::Path;

use tdxlab_selftests::command::{stderr, stdout};
use tdxlab_selftests::tdxlab;

const SPLITS: &str = "scenarios/punch/head-and-tail.yaml";
const NO_SPLIT: &str = "scenarios/punch/aligned.yaml";

fn seeded(path: &str, fault: &str, out: &Path) -> String {
    let said = tdxlab!("run", path, "--host", "sim", "--fault", fault, "--out", out).assert();
    stdout(&said)
}

#[test]
fn a_fault_that_was_never_reached_is_told_from_one_that_was() {
    let out = tempfile::tempdir().unwrap();
    let said = seeded(NO_SPLIT, "tail-split-missing", out.path());
    assert!(
        said.contains("never reached: nothing in 3 scenarios"),
        "{said}"
    );
    assert!(said.contains("says nothing about a real kernel"), "{said}");
    let said = seeded(SPLITS, "tail-split-missing", out.path());
    assert!(said.contains("reached in 1 of 1 scenario\n"), "{said}");
    assert!(!said.contains("not noticed"), "{said}");
    let page = fs::read_to_string(out.path().join("latest/report.html")).unwrap();
    assert!(!page.contains("Never reached"));
}

/// Under another design than the fault's own, the wrong decision is never made.
#[test]
fn qualify_tells_not_reached_from_not_caught() {
    let said = tdxlab!("qualify", NO_SPLIT, "--fault", "tail-split-missing")
        .assert()
        .code(1);
    assert!(stdout(&said).contains("NOT REACHED"), "{said}");
    let said = tdxlab!(
        "qualify",
        NO_SPLIT,
        "--fault",
        "tail-split-missing",
        "--json"
    )
    .assert()
    .code(1);
    assert!(stdout(&said).contains("\"reached\":0"), "{said}");
    let said = tdxlab!("qualify", SPLITS, "--fault", "tail-split-missing", "--json")
        .assert()
        .success();
    assert!(stdout(&said).contains("\"reached\":1"), "{said}");
}

#[test]
fn later_steps_that_failed_get_a_line_each() {
    let out = tempfile::tempdir().unwrap();
    let said = seeded(SPLITS, "tail-split-missing", out.path());
    let later =
        "  later     step 4 verify: 1M of content wrong; 0x40b00000..0x40c00000 not accepted";
    assert!(said.contains(later), "{said}");
}

/// Memory after a step that failed is only predicted, and drawn as such.
#[test]
fn the_page_does_not_draw_what_was_predicted_as_if_it_had_been_found() {
    let out = tempfile::tempdir().unwrap();
    seeded(SPLITS, "tail-split-missing", out.path());
    let page = fs::read_to_string(out.path().join("latest/report.html")).unwrap();
    // The two steps before the failure, then the failure itself, then the one after it.
    assert_eq!(
        page.matches(">predicted</text>").count(),
        3,
        "of steps 3 and 4"
    );
    assert!(page.contains("no split: one leaf of 2M"));
    assert!(page.contains("Memory is drawn as predicted; striped where a witness contradicts it"));
    assert!(page.contains("an earlier step failed, so the real one may differ"));
    let good = tempfile::tempdir().unwrap();
    tdxlab!("run", SPLITS, "--host", "sim", "--out", good.path())
        .assert()
        .success();
    let page = fs::read_to_string(good.path().join("latest/report.html")).unwrap();
    assert!(!page.contains(">predicted</text>") && !page.contains("drawn as predicted"));
}

#[test]
fn a_trend_shows_runs_that_can_be_compared_and_says_what_it_left_out() {
    let out = tempfile::tempdir().unwrap();
    let run = |more: &[&str]| {
        tdxlab!("run", SPLITS, "--host", "sim", "--out", out.path())
            .args(more)
            .assert()
    };
    run(&["--design", "v3"]);
    run(&["--fault", "tail-split-missing"]);
    let _ = tdxlab!("replay", out.path().join("latest"), "--out", out.path()).assert();
    run(&[]);
    run(&[]);
    let _ = tdxlab!("judge", out.path().join("latest"), "--out", out.path()).assert();
    let trend = |more: &[&str]| {
        let said = tdxlab!("report", "trend", out.path()).args(more).assert();
        stdout(&said.success())
    };
    let said = trend(&[]);
    assert!(said.starts_with("2 runs, "), "{said}");
    assert!(
        said.contains(". pass  F fail  E error  s skip  - not in that run"),
        "{said}"
    );
    for part in [
        "2 with a seeded fault",
        "1 re-judged",
        "1 under another design",
    ] {
        assert!(said.contains(part), "{part}: {said}");
    }
    assert!(trend(&["--all"]).starts_with("6 runs, "));
    assert!(trend(&["--design", "v3"]).starts_with("1 run, "));
    assert!(trend(&["--scenario", "head"]).contains("punch/head-and-tail"));
    let said = tdxlab!(
        "report",
        "trend",
        out.path(),
        "--scenario",
        "nothing-like-it"
    )
    .assert()
    .code(64);
    assert!(stderr(&said).contains("--all shows every run"), "{said}");
}

#[test]
fn a_diff_with_a_rejudgement_says_that_it_is_one() {
    let out = tempfile::tempdir().unwrap();
    tdxlab!("run", SPLITS, "--host", "sim", "--out", out.path())
        .assert()
        .success();
    let run = fs::canonicalize(out.path().join("latest")).unwrap();
    let _ = tdxlab!("judge", &run, "--design", "stock", "--out", out.path()).assert();
    let judged = fs::canonicalize(out.path().join("latest")).unwrap();
    let said = tdxlab!("report", "diff", &run, &judged).assert();
    let said = stdout(&said);
    assert!(said.contains("the later run re-judges run "), "{said}");
    assert!(!said.contains("--confirm"), "{said}");
}

#[test]
fn compare_says_who_skips_first_and_marks_what_differs() {
    let said = tdxlab!(
        "compare",
        "scenarios/punch/refused-below-2m.yaml",
        "--designs",
        "stock,v3,v5"
    )
    .assert()
    .success();
    let said = stdout(&said);
    assert!(
        said.starts_with("host sim; designs stock, v3, v5; `*` marks what differs\n"),
        "{said}"
    );
    assert!(
        said.contains("\n  skip stock: needs private_leaf: 2M"),
        "{said}"
    );
    assert!(
        said.contains("\n * entries looked at    1               0"),
        "{said}"
    );
    assert!(
        said.contains("\n   splits               0               0"),
        "{said}"
    );
    assert!(said.contains("no difference in 5 more steps"), "{said}");
    assert!(said.find("skip stock").unwrap() < said.find("step 5").unwrap());
    let tables = said
        .lines()
        .filter(|line| line.contains("  0  ") || line.contains('─'));
    for line in tables {
        assert!(line.chars().count() <= 80, "{line}");
    }
    tdxlab!("compare", SPLITS, "--designs", "stock")
        .assert()
        .code(4);
}

/// Where a line cannot be drawn over, lines are printed.
#[test]
fn fuzz_explains_its_table_and_how_to_go_on() {
    let out = tempfile::tempdir().unwrap();
    let said = tdxlab!(
        "fuzz",
        "--count",
        "2000",
        "--seed",
        "3",
        "--out",
        out.path()
    )
    .args(["--fault", "tail-split-missing"])
    .assert()
    .code(1);
    let text = stdout(&said);
    assert!(
        stderr(&said).contains("host sim (default of fuzz"),
        "{said}"
    );
    assert!(text.contains("reproduced 10/10; shrunk from "), "{text}");
    assert!(text.contains("- none yet; . impossible"), "{text}");
    let table = text.lines().take_while(|line| !line.starts_with("n/m"));
    for line in table {
        assert!(line.chars().count() <= 80, "{line}");
    }
    let replay = text
        .lines()
        .find(|line| line.contains("tdxlab replay "))
        .unwrap();
    let mut again = tdxlab!();
    let words = replay.split_whitespace().skip(1);
    again.args(words).arg("--out").arg(out.path());
    again.assert().code(1);
}
