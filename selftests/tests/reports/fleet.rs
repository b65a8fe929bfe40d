//! One run on many machines: shards as processes, some of them killed, resumed, merged.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use tdxlab_selftests::command::root;
use tdxlab_selftests::recorded::{report_of, timeless};
use tdxlab_selftests::tdxlab;

const SHARDS: usize = 8;

/// A command that runs one shard.
fn shard(index: usize, out: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tdxlab-under-test"));
    command
        .current_dir(root())
        .args(["run", "--host", "sim", "--jobs", "1", "--quiet"])
        .args(["--shard", &format!("{index}/{SHARDS}"), "--out"])
        .arg(out)
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    command
}

/// Kills a shard once it has finished a scenario; gives its folder back. It may have been faster
/// than that: then another one is started in its place.
fn killed_half_way(index: usize, out: &Path) -> PathBuf {
    for attempt in 0..20 {
        let place = out.join(format!("attempt-{attempt}"));
        let mut runner = shard(index, &place).spawn().unwrap();
        let journal = place.join("latest/journal.jsonl");
        while runner.try_wait().unwrap().is_none() {
            let text = fs::read_to_string(&journal).unwrap_or_default();
            if text.contains("\"plan_ended\"") {
                break;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        let _ = runner.kill();
        runner.wait().unwrap();
        if !fs::read_to_string(&journal)
            .unwrap()
            .contains("\"run_ended\"")
        {
            return fs::canonicalize(place.join("latest")).unwrap();
        }
    }
    panic!("shard {index} is always done before it can be killed");
}

fn finished_plans(journal: &Path) -> usize {
    fs::read_to_string(journal)
        .unwrap()
        .matches("\"plan_started\"")
        .count()
}

#[test]
fn eight_shards_of_which_two_were_killed_are_one_run() {
    let place = tempfile::tempdir().unwrap();
    let single = place.path().join("single");
    tdxlab!("run", "--host", "sim", "--quiet", "--out", &single)
        .assert()
        .success();

    // The killed ones differ from time to time; any two will do.
    let dead = [
        1 + std::process::id() as usize % 4,
        5 + std::process::id() as usize % 3,
    ];
    let mut running = Vec::new();
    let mut folders = Vec::new();
    for index in 1..=SHARDS {
        let out = place.path().join(format!("shard-{index}"));
        if dead.contains(&index) {
            continue;
        }
        running.push(shard(index, &out).spawn().unwrap());
        folders.push(out.join("latest"));
    }
    for index in dead {
        folders.push(killed_half_way(
            index,
            &place.path().join(format!("shard-{index}")),
        ));
    }
    for mut shard in running {
        assert!(shard.wait().unwrap().success());
    }

    let merged = place.path().join("merged");
    let merge = |folders: &[PathBuf]| {
        let mut command = tdxlab!("report", "merge", "--out", &merged);
        command.args(folders);
        command
    };
    let refused = merge(&folders).assert().failure().get_output().clone();
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(said.contains("--resume"), "{said}");

    for folder in &folders[SHARDS - 2..] {
        let journal = folder.join("journal.jsonl");
        let before = finished_plans(&journal);
        tdxlab!("run", "--resume", folder, "--quiet")
            .assert()
            .success();
        let report = report_of(folder);
        assert!(report.complete);
        // Only the one that was under way was begun twice.
        let begun = finished_plans(&journal);
        let ran = report
            .scenarios
            .iter()
            .filter(|one| one.boot_micros.is_some())
            .count();
        assert!(
            begun <= ran + 1,
            "{begun} begun for {ran}, {before} before the kill"
        );
    }

    let missing = merge(&folders[1..]).assert().failure().get_output().clone();
    let said = String::from_utf8_lossy(&missing.stderr).into_owned();
    assert!(said.contains("missing"), "{said}");

    merge(&folders).assert().success();
    let one = timeless(report_of(&single.join("latest")));
    let many = timeless(report_of(&merged.join("latest")));
    for (one, many) in one.scenarios.iter().zip(&many.scenarios) {
        assert_eq!(one, many);
    }
    assert_eq!(one, many);
    for name in ["report.html", "junit.xml", "results.ktap", "journal.jsonl"] {
        assert!(merged.join("latest").join(name).is_file(), "{name}");
    }
}

#[test]
fn a_run_that_is_done_has_nothing_to_resume() {
    let out = tempfile::tempdir().unwrap();
    let run = |resume: bool| {
        let folder = out.path().join("latest");
        let mut command = match resume {
            true => tdxlab!("run", "--resume", folder),
            false => tdxlab!(
                "run",
                "scenarios/punch/twice.yaml",
                "--host",
                "sim",
                "--out",
                out.path()
            ),
        };
        command.assert().success();
        fs::read_to_string(out.path().join("latest/journal.jsonl"))
            .unwrap()
            .matches("plan_started")
            .count()
    };
    assert_eq!(run(false), run(true));
}

#[test]
fn runs_of_different_designs_are_not_mixed_silently() {
    let out = tempfile::tempdir().unwrap();
    for (design, scenario) in [("headtail", "punch/twice"), ("v5", "punch/unmapped")] {
        let file = format!("scenarios/{scenario}.yaml");
        let below = out.path().join(design);
        tdxlab!(
            "run", file, "--host", "sim", "--design", design, "--out", below
        )
        .assert()
        .success();
    }
    let folders = ["headtail", "v5"].map(|design| out.path().join(design).join("latest"));
    let merged = out.path().join("merged");
    let refused = tdxlab!(
        "report",
        "merge",
        &folders[0],
        &folders[1],
        "--out",
        &merged
    )
    .assert()
    .failure()
    .get_output()
    .clone();
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(
        said.contains("design") && said.contains("--mixed"),
        "{said}"
    );
    tdxlab!(
        "report",
        "merge",
        &folders[0],
        &folders[1],
        "--mixed",
        "--out",
        &merged
    )
    .assert()
    .success();
    assert_eq!(report_of(&merged.join("latest")).design, "headtail | v5");
}
