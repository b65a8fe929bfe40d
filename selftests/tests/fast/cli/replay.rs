//! `tdxlab replay`: recorded plans, run again.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command as Process, Stdio};

use rstest::rstest;
use tdxlab_selftests::command::{assert_says, root, stderr, stdout};
use tdxlab_selftests::tdxlab;

const FAULT: &str = "head-split-missing";
const SCENARIO: &str = "scenarios/punch/head-and-tail.yaml";

/// A run on `host` that a fault lets fail, and its folder.
fn failing(host: &str) -> (tempfile::TempDir, PathBuf) {
    let out = tempfile::tempdir().unwrap();
    let said = tdxlab!(
        "run",
        SCENARIO,
        "--host",
        host,
        "--fault",
        FAULT,
        "--out",
        out.path()
    );
    { said }.assert().code(1);
    let folder = fs::canonicalize(out.path().join("latest")).unwrap();
    (out, folder)
}

#[test]
fn a_failing_run_fails_again_in_the_same_way() {
    let (out, folder) = failing("sim");
    let said = tdxlab!("replay", &folder, "--times", "5", "--out", out.path())
        .assert()
        .code(1);
    let said = stdout(&said);
    assert!(
        said.contains("punch/head-and-tail: failed 5 of 5 replays"),
        "{said}"
    );
    assert!(said.contains("5 ended like that"), "{said}");
}

#[test]
fn the_file_of_a_scenario_is_all_that_is_needed() {
    let (_out, folder) = failing("sim");
    let elsewhere = tempfile::tempdir().unwrap();
    let file = elsewhere.path().join("mine.json");
    fs::copy(
        folder.join("scenarios/0000-punch-head-and-tail/replay.json"),
        &file,
    )
    .unwrap();
    let text = fs::read_to_string(&file).unwrap();
    assert!(
        text.contains("punch 1M..11M (0x40100000..0x40b00000)"),
        "{text}"
    );
    let said = tdxlab!("replay", &file, "--out", elsewhere.path())
        .assert()
        .code(1);
    assert!(stdout(&said).contains("1 ended like that"));
    // The fault is gone.
    tdxlab!(
        "replay",
        &file,
        "--fault",
        "none",
        "--out",
        elsewhere.path()
    )
    .assert()
    .success();
}

#[test]
fn a_bare_plan_of_the_first_version_still_runs() {
    let (out, folder) = failing("sim");
    let file = folder.join("scenarios/0000-punch-head-and-tail/replay.json");
    let replay: serde_json::Value = serde_json::from_slice(&fs::read(file).unwrap()).unwrap();
    let bare = out.path().join("plan.json");
    fs::write(&bare, replay["plan"].to_string()).unwrap();
    let said = tdxlab!("replay", &bare, "--host", "sim", "--out", out.path())
        .assert()
        .success();
    assert!(stderr(&said).contains("the file knows no design"));
}

#[test]
fn it_ends_where_it_is_told_to() {
    let (out, folder) = failing("sim");
    // The fault shows in step 3.
    tdxlab!("replay", &folder, "--until", "2", "--out", out.path())
        .assert()
        .success();
    let report = fs::read_to_string(out.path().join("latest/report.json")).unwrap();
    let report: serde_json::Value = serde_json::from_str(&report).unwrap();
    assert_eq!(report["scenarios"][0]["steps_planned"], 2);
    assert_eq!(
        report["seeded_fault"]["name"]
            .as_str()
            .or(report["fault"]["name"].as_str()),
        Some(FAULT)
    );
}

#[test]
fn a_step_that_is_not_there_is_no_end() {
    let (out, folder) = failing("sim");
    let said = tdxlab!("replay", &folder, "--until", "5", "--out", out.path())
        .assert()
        .code(64);
    let said = stderr(&said);
    assert!(
        said.contains("there is no step 5") && said.contains("4 is the last step"),
        "{said}"
    );
}

/// On sim the seed determines a race, so only the plan is recorded; on other hosts it is a
/// different race.
#[test]
fn a_race_recorded_elsewhere_is_another_race() {
    let out = tempfile::tempdir().unwrap();
    let race = "scenarios/race/split-once.yaml";
    tdxlab!("run", race, "--host", "sim", "--out", out.path())
        .assert()
        .success();
    let folder = fs::canonicalize(out.path().join("latest")).unwrap();
    let again = tempfile::tempdir().unwrap();
    let said = tdxlab!("replay", &folder, "--host", "soft", "--out", again.path())
        .assert()
        .success();
    let said = stderr(&said);
    assert!(
        said.contains("races were recorded on sim; on soft"),
        "{said}"
    );
    let said = tdxlab!("replay", &folder, "--out", again.path())
        .assert()
        .success();
    assert!(!stderr(&said).contains("races were recorded"));
}

/// Lines of the kernel log that were let pass are let pass again, from the folder of the run and from
/// the file of the scenario, unless others are named.
#[test]
fn lines_that_might_appear_may_appear_again() {
    let out = tempfile::tempdir().unwrap();
    let list = |name: &str, text: &str| {
        let path = out.path().join(name);
        fs::write(&path, text).unwrap();
        path
    };
    let allowed = list("allowed", "# known\nWARNING: inconsistent lock state\n");
    let others = list("others", "another line\n");
    let mut run = tdxlab!("run", SCENARIO, "--host", "sim", "--out", out.path());
    run.args(["--fault", "lockdep-splat", "--keep", "--allow-log"])
        .arg(&allowed)
        .assert()
        .success();
    let folder = fs::canonicalize(out.path().join("latest")).unwrap();
    let file = folder.join("scenarios/0000-punch-head-and-tail/replay.json");
    for (what, list, code) in [
        (&folder, None, 0),
        (&file, None, 0),
        (&file, Some(&allowed), 0),
        (&file, Some(&others), 1),
    ] {
        let again = tempfile::tempdir().unwrap();
        let mut replay = tdxlab!("replay", what, "--out", again.path());
        if let Some(list) = list {
            replay.arg("--allow-log").arg(list);
        }
        replay.assert().code(code);
    }
}

#[test]
fn a_guest_on_sim_has_no_qemu_to_attach_to() {
    let (out, folder) = failing("sim");
    let said = tdxlab!("replay", &folder, "--hold", "--out", out.path())
        .write_stdin("\n")
        .assert()
        .code(1);
    let said = stdout(&said);
    assert!(said.contains("its guest is held"), "{said}");
    assert!(said.contains("no QEMU to attach to on this host"), "{said}");
}

#[test]
fn a_scenario_is_picked_by_its_name() {
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
    .success();
    let folder = out.path().join("latest");
    let again = tempfile::tempdir().unwrap();
    let name = "punch/head-and-tail";
    let said = tdxlab!("replay", &folder, "--scenario", name, "--out", again.path())
        .assert()
        .success();
    assert!(stdout(&said).contains("failed 0 of 1 replay"));
    let said = tdxlab!(
        "replay",
        &folder,
        "--scenario",
        "punch/head-and-tale",
        "--out",
        again.path()
    )
    .assert()
    .code(64);
    assert!(stderr(&said).contains("the nearest is `punch/head-and-tail`"));
}

#[test]
fn steps_are_shown_before_they_are_done() {
    let (out, folder) = failing("sim");
    let said = tdxlab!("replay", &folder, "--step", "--out", out.path())
        .write_stdin("\n\nc\n\n")
        .assert()
        .code(1);
    let said = stdout(&said);
    assert!(said.contains("step 1 of 4: accept 0..16M"), "{said}");
    assert_says(
        &said,
        &[
            "  memory (predicted)   empty",
            "  counters (measured)  pages_4k 1, pages_2m 8, populated 4096",
            "  must show            splits 2: 0x40000000, 0x40a00000",
            "pass step 1\n",
            "pass step 2\n",
        ],
    );
}

/// `c` continues to the first failed step; later steps are described from the actual state.
#[test]
fn stepping_stops_after_a_failure() {
    let out = tempfile::tempdir().unwrap();
    tdxlab!("run", SCENARIO, "--host", "sim", "--out", out.path())
        .args(["--fault", "tail-split-missing"])
        .assert()
        .code(1);
    let said = tdxlab!(
        "replay",
        out.path().join("latest"),
        "--step",
        "--out",
        out.path()
    )
    .write_stdin("c\n\n")
    .assert()
    .code(1);
    let text = stdout(&said);
    assert_says(
        &text,
        &[
            "fail step 3; the steps after it start from what it left",
            "  debugfs       pages_4k +256 (expected +512)",
            "step 4 of 4: verify",
            "step 3 failed: real memory may differ from this",
            "fail step 4\n",
        ],
    );
    assert!(!text.contains("step 2 of 4"), "{text}");
}

/// An unknown key does no step.
#[test]
fn stepping_takes_known_answers_only() {
    let (out, folder) = failing("sim");
    let said = tdxlab!("replay", &folder, "--step", "--out", out.path())
        .write_stdin("x\n?\nh\nq\n")
        .assert()
        .code(130);
    let notes = stderr(&said);
    assert_says(
        &notes,
        &[
            "unknown command `x`",
            "Enter  run this step",
            "[Enter: run step, ",
        ],
    );
    assert_eq!(notes.matches("Enter  run this step").count(), 2, "{notes}");
    assert!(!stdout(&said).contains("step 2 of 4"), "{said}");
}

#[rstest]
#[case::told_to("\nq\n")]
#[case::nobody_there("\n")]
fn stepping_can_be_ended(#[case] typed: &str) {
    let (out, folder) = failing("sim");
    let said = tdxlab!("replay", &folder, "--step", "--out", out.path())
        .write_stdin(typed)
        .assert()
        .code(130);
    let said = stdout(&said);
    assert!(said.contains(": interrupted\n"), "{said}");
    assert!(!said.contains("ended like that"), "{said}");
}

#[test]
fn the_command_on_the_page_does_it_again() {
    let (out, folder) = failing("sim");
    let page = fs::read_to_string(folder.join("report.html")).unwrap();
    let command = page.split("data-copy=\"").nth(1).unwrap();
    let command = command
        .split('"')
        .next()
        .unwrap()
        .replace("&#39;", "'")
        .replace("&amp;", "&");
    let mut words = command.split_whitespace();
    assert_eq!(words.next(), Some("tdxlab"));
    let mut again = tdxlab!();
    // No argument of this one needs quotes.
    again.args(words).arg("--out").arg(out.path());
    let said = again.assert().code(1);
    assert!(stdout(&said).contains("1 ended like that"), "{command}");
}

#[rstest]
#[case::missing("/nonexistent", 70)]
#[case::no_json("/dev/null", 65)]
#[case::a_scenario(SCENARIO, 65)]
#[case::a_folder("lab", 70)]
fn what_is_no_replay_is_said_to_be_none(#[case] what: &str, #[case] code: i32) {
    let said = tdxlab!("replay", what).assert().code(code);
    assert!(stderr(&said).contains(what), "{}", stderr(&said));
}

#[test]
fn a_later_version_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("replay.json");
    fs::write(&file, r#"{"tdxlab_replay": 4, "new": true}"#).unwrap();
    let said = tdxlab!("replay", &file).assert().code(65);
    let said = stderr(&said);
    assert!(
        said.contains("version 4") && said.contains("reads versions 1 to 3"),
        "{said}"
    );
}

#[test]
fn an_edited_plan_says_what_is_wrong_where() {
    let (_out, folder) = failing("sim");
    let file = folder.join("scenarios/0000-punch-head-and-tail/replay.json");
    let text = fs::read_to_string(&file).unwrap();
    let mut replay: serde_json::Value = serde_json::from_str(&text).unwrap();
    replay["plan"]["steps"][1]["action"]["one"]["fill"]["range"]["end"] = (1u64 << 50).into();
    fs::write(&file, replay.to_string()).unwrap();
    let said = tdxlab!("replay", &file).assert().code(65);
    let said = stderr(&said).replace("\n  │ ", " ");
    assert!(
        said.contains("step 2:") && said.contains("test memory"),
        "{said}"
    );
}

#[test]
fn races_on_soft_take_the_recorded_order() {
    let out = tempfile::tempdir().unwrap();
    tdxlab!(
        "run",
        "scenarios/race/split-once.yaml",
        "--host",
        "soft",
        "--jobs",
        "1",
        "--out",
        out.path()
    )
    .assert()
    .success();
    let folder = fs::canonicalize(out.path().join("latest")).unwrap();
    let said = tdxlab!("replay", &folder, "--times", "3", "--out", out.path())
        .assert()
        .success();
    let said = stdout(&said);
    let orders: Vec<&str> = said
        .lines()
        .filter(|line| line.contains("the recorded order"))
        .collect();
    assert!(!orders.is_empty(), "{said}");
    for line in orders {
        assert!(line.contains("in 3 of 3"), "{said}");
    }
    // On sim the seed decides, and the output says so.
    let said = tdxlab!("replay", &folder, "--host", "sim", "--out", out.path())
        .assert()
        .success();
    let said = stderr(&said);
    assert!(
        said.contains("races were recorded on soft; on sim the seed draws their order anew"),
        "{said}"
    );
}

/// A replay that holds its guest.
fn held(folder: &Path, out: &Path) -> Child {
    Process::new(env!("CARGO_BIN_EXE_tdxlab-under-test"))
        .current_dir(root())
        .arg("replay")
        .arg(folder)
        .args(["--hold", "--out"])
        .arg(out)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

/// One entry in the list of ways to attach printed by `--hold`.
fn way(lines: &[String], name: &str) -> String {
    let line = lines
        .iter()
        .find(|line| line.trim_start().starts_with(name));
    let line = line.unwrap_or_else(|| panic!("no {name} in {lines:?}"));
    line.trim_start()
        .split_once(' ')
        .unwrap()
        .1
        .trim()
        .to_owned()
}

#[rstest]
#[case::enter(true)]
#[case::signal(false)]
fn a_failed_guest_is_held_and_then_ended(#[case] enter: bool) {
    let (out, folder) = failing("soft");
    let mut replay = held(&folder, out.path());
    let mut lines = Vec::new();
    let mut reader = BufReader::new(replay.stdout.take().unwrap());
    while !lines
        .last()
        .is_some_and(|line: &String| line.contains("files "))
    {
        let mut line = String::new();
        assert_ne!(reader.read_line(&mut line).unwrap(), 0, "{lines:?}");
        lines.push(line.trim_end().to_owned());
    }
    let pid: i32 = way(&lines, "QEMU")
        .split(' ')
        .nth(1)
        .unwrap()
        .parse()
        .unwrap();
    let socket = way(&lines, "QMP")
        .split_once("UNIX-CONNECT:")
        .unwrap()
        .1
        .to_owned();
    let mut qmp = UnixStream::connect(&socket).unwrap();
    let mut greeting = String::new();
    BufReader::new(&qmp).read_line(&mut greeting).unwrap();
    assert!(greeting.contains("\"QMP\""), "{greeting}");
    qmp.write_all(b"{\"execute\":\"qmp_capabilities\"}\n")
        .unwrap();
    let gdb = way(&lines, "gdb");
    let stub = gdb
        .split_once("target remote ")
        .unwrap()
        .1
        .trim_end_matches('\'');
    assert!(UnixStream::connect(stub).is_ok(), "{gdb}");
    assert!(
        Path::new(&way(&lines, "files"))
            .join("serial.log")
            .is_file()
    );

    if enter {
        replay.stdin.take().unwrap().write_all(b"\n").unwrap();
    } else {
        let tdxlab = nix::unistd::Pid::from_raw(replay.id().cast_signed());
        nix::sys::signal::kill(tdxlab, nix::sys::signal::Signal::SIGTERM).unwrap();
    }
    let mut rest = String::new();
    reader.read_to_string(&mut rest).unwrap();
    let ended = replay.wait().unwrap();
    assert_eq!(ended.code(), Some(if enter { 1 } else { 130 }), "{rest}");
    assert!(
        !Path::new(&format!("/proc/{pid}")).exists(),
        "QEMU lives on"
    );
    assert!(!Path::new(&socket).exists(), "the socket is left behind");
}
