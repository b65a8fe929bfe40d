//! What operations cost: counted by hosts, compared over repeats and runs.

use std::fs;
use std::path::Path;

use tdxlab::plan::Design;
use tdxlab::report::cost::{Costs, Metric};
use tdxlab::report::diff::Diff;
use tdxlab::report::{Report, from_journal};
use tdxlab_selftests::command::{stderr, stdout};
use tdxlab_selftests::tdxlab;

/// A run of some scenarios that measure, on sim.
fn measured(out: &Path, design: &str, which: &[&str], times: &str) -> Report {
    let mut command = tdxlab!("run", "--host", "sim", "--jobs", "1", "--quiet");
    command.args(["--design", design, "--repeat", times, "--out"]);
    command.arg(out).args(which).assert().success();
    from_journal(&out.join("latest/journal.jsonl")).unwrap()
}

/// What a step of a scenario counts for each MiB.
fn each_mib(costs: &Costs, scenario: &str, step: u32, metric: Metric) -> Option<f64> {
    let row = costs
        .rows
        .iter()
        .find(|row| row.scenario == scenario && row.step == step)
        .unwrap_or_else(|| panic!("{scenario} has a step {step}"));
    row.per_mib(metric).map(|spread| spread.median)
}

#[test]
fn every_scenario_that_measures_passes_under_every_design() {
    for design in Design::all() {
        let out = tempfile::tempdir().unwrap();
        let report = measured(out.path(), design.name, &["cost"], "1");
        assert!(
            report.counts.pass >= 15,
            "{}: {:?}",
            design.name,
            report.counts
        );
        let costs = Costs::over(&[report], None).unwrap();
        // 256 pages of 4K, each with an exit and an AUG, and no TLB kick.
        for (step, vcpus) in [(1, 1), (2, 2), (3, 4), (4, 8)] {
            let count = |metric| each_mib(&costs, "cost/accept-4k", step, metric);
            assert_eq!(
                count(Metric::Exits),
                Some(256.0),
                "{} by {vcpus}",
                design.name
            );
            assert_eq!(
                count(Metric::Auged4K),
                Some(256.0),
                "{} by {vcpus}",
                design.name
            );
            assert_eq!(
                count(Metric::Auged2M),
                Some(0.0),
                "{} by {vcpus}",
                design.name
            );
            assert_eq!(
                count(Metric::Kicks),
                Some(0.0),
                "{} by {vcpus}",
                design.name
            );
        }
        // Shared memory lies elsewhere where the VMM punches what it converts, and is held twice once
        // the same range is allocated again.
        let held = |metric| {
            let row = costs.rows.iter().find(|row| row.label() == "allocate");
            row.and_then(|row| row.spread(metric))
                .map(|spread| spread.median)
        };
        let apart = if design.name == "stock" { 4096.0 } else { 0.0 };
        assert_eq!(held(Metric::Populated), Some(4096.0), "{}", design.name);
        assert_eq!(held(Metric::SharedApart), Some(apart), "{}", design.name);
    }
}

#[test]
fn huge_pages_cost_512_times_less_and_a_split_a_kick() {
    let out = tempfile::tempdir().unwrap();
    let which = ["cost/accept-2m", "cost/hole-in-leaves[length=4M]"];
    let report = measured(out.path(), "headtail", &which, "2");
    let costs = Costs::over(&[report], None).unwrap();
    assert_eq!(
        each_mib(&costs, "cost/accept-2m", 4, Metric::Exits),
        Some(0.5)
    );
    assert_eq!(
        each_mib(&costs, "cost/accept-2m", 4, Metric::Auged2M),
        Some(0.5)
    );
    let hole = "cost/hole-in-leaves[length=4M]";
    let row = costs
        .rows
        .iter()
        .find(|row| row.scenario == hole && row.step == 2);
    let of = |metric| row.and_then(|row| row.spread(metric)).unwrap().median;
    assert_eq!(of(Metric::Splits), 2.0);
    // Both splits and every zap: BLOCK, TRACK, kick. 1M+64K..5M+64K cuts a leaf at either end.
    assert_eq!(of(Metric::Kicks), of(Metric::Zapped) + of(Metric::Splits));
    assert_eq!(of(Metric::Zapped), 240.0 + 1.0 + 272.0);
    let said = stdout(
        &tdxlab!("report", "cost", out.path().join("latest"))
            .assert()
            .success(),
    );
    assert!(
        said.contains("accept 2M, for each MiB") && said.contains("x^+0.00 ±0.00"),
        "{said}"
    );
    assert!(said.contains("times are emulated"), "{said}");
    let csv = stdout(&tdxlab!("report", "cost", "--csv", out.path().join("latest")).assert());
    assert!(
        csv.lines().count() > 4 && csv.contains("cost/accept-2m"),
        "{csv}"
    );
    let page = fs::read_to_string(out.path().join("latest/report.html")).unwrap();
    assert!(page.contains("What it costs, for each MiB"));
}

#[test]
fn a_changed_count_is_said_at_once_and_a_time_only_beyond_the_spread() {
    let out = tempfile::tempdir().unwrap();
    let before = measured(out.path(), "headtail", &["cost/accept-2m"], "3");
    let mut before = before;
    for (scenario, micros) in before.scenarios.iter_mut().zip([100_000, 120_000, 110_000]) {
        scenario.micros = micros;
    }
    let mut near = before.clone();
    near.scenarios[0].micros = 140_000;
    let diff = Diff::between(&before, &near);
    assert!(diff.times_compared && diff.is_empty(), "{diff}");
    let mut far = before.clone();
    for scenario in &mut far.scenarios {
        scenario.micros += 60_000;
    }
    far.scenarios[1].steps[0].numbers.tlb_kicks = Some(7);
    let said = Diff::between(&before, &far).to_string();
    assert!(
        said.contains("cost/accept-2m, time: 110 ms (100 ms to 120 ms) -> 170 ms"),
        "{said}"
    );
    assert!(
        said.contains("cost/accept-2m@2, step 1, TLB kicks: 0 -> 7"),
        "{said}"
    );
    // Once is no spread.
    let mut once = far.clone();
    once.scenarios.truncate(1);
    let diff = Diff::between(&before, &once);
    assert!(diff.times.is_empty() && diff.gone.is_empty(), "{diff}");
    assert!(diff.to_string().contains("run --repeat 3"), "{diff}");
}

#[test]
fn runs_that_cannot_be_compared_are_refused_in_a_line() {
    let out = tempfile::tempdir().unwrap();
    let [one, other] = [("a", "cost/accept-2m"), ("b", "cost/touch-first")].map(|(name, which)| {
        let out = out.path().join(name);
        measured(&out, "headtail", &[which], "1");
        out.join("latest")
    });
    let said = stderr(&tdxlab!("report", "cost", &one, &other).assert().code(64));
    assert!(said.contains("have no step in common"), "{said}");
    let said = stderr(
        &tdxlab!("report", "cost", &one, "--scenario", "nowhere")
            .assert()
            .code(64),
    );
    assert!(said.contains("no run has a step"), "{said}");
}

#[test]
fn a_repeated_run_that_was_cut_off_is_resumed_with_the_same_rounds() {
    let out = tempfile::tempdir().unwrap();
    let mut command = tdxlab!("run", "--host", "sim", "--jobs", "1", "--quiet", "--reseed");
    command.args(["--repeat", "4", "punch/offsets", "--out"]);
    command.arg(out.path()).assert().success();
    let folder = out.path().join("latest");
    let journal = folder.join("journal.jsonl");
    let whole = from_journal(&journal).unwrap();
    let text = fs::read_to_string(&journal).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    fs::write(&journal, lines[..lines.len() / 2].join("\n")).unwrap();
    tdxlab!("run", "--quiet", "--resume", &folder)
        .assert()
        .success();
    let resumed = from_journal(&journal).unwrap();
    assert_eq!(whole.counts, resumed.counts);
    let names = |report: &Report| -> Vec<String> {
        let all = report.scenarios.iter();
        all.map(|one| one.name.clone()).collect()
    };
    assert_eq!(names(&whole), names(&resumed));
    assert!(names(&whole).iter().any(|name| name.ends_with("@4")));
    // Other seeds in every round, and the same ones again.
    let actions = |report: &Report| -> Vec<String> {
        let steps = report.scenarios.iter().flat_map(|one| &one.steps);
        steps.map(|step| step.action.clone()).collect()
    };
    assert_eq!(actions(&whole), actions(&resumed));
}

#[test]
fn a_report_is_of_one_design_and_not_too_large() {
    let said = tdxlab!("run", "--host", "sim", "--design", "v3,v5", "punch")
        .assert()
        .code(64);
    assert!(stderr(&said).contains("--no-report"), "{}", stderr(&said));
    let said = tdxlab!("run", "--host", "sim", "--repeat", "4000000", "punch")
        .assert()
        .code(64);
    assert!(
        stderr(&said).contains("a report holds"),
        "{}",
        stderr(&said)
    );
    let said = tdxlab!("soak", "--times", "3").assert().code(64);
    assert!(stderr(&said).contains("run --repeat"), "{}", stderr(&said));
}
