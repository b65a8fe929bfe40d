//! `tdxlab fuzz`: random scenarios.

use std::fs;
use std::path::{Path, PathBuf};

use rstest::rstest;
use serde_json::Value;
use tdxlab_selftests::command::stdout;
use tdxlab_selftests::tdxlab;

/// The one folder a hunt has left.
fn left(out: &Path) -> PathBuf {
    let folders: Vec<PathBuf> = fs::read_dir(out)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.is_dir())
        .collect();
    let [folder] = folders.as_slice() else {
        panic!("{folders:?}");
    };
    folder.clone()
}

fn json(folder: &Path) -> Value {
    serde_json::from_slice(&fs::read(folder.join("fuzz.json")).unwrap()).unwrap()
}

#[rstest]
#[case::stock("stock")]
#[case::headtail("headtail")]
fn a_sound_host_passes_and_the_map_shows_its_holes(#[case] design: &str) {
    let out = tempfile::tempdir().unwrap();
    let said = tdxlab!(
        "fuzz",
        "--design",
        design,
        "--count",
        "300",
        "--seed",
        "5",
        "--out",
        out.path()
    )
    .assert()
    .success();
    let said = stdout(&said);
    assert!(said.contains("convert to shared"), "{said}");
    assert!(said.contains("300 scenarios"), "{said}");
    let json = json(&left(out.path()));
    assert_eq!(json["scenarios"], 300);
    assert_eq!(json["failure"], Value::Null);
    // Stock has no leaf of 2M to punch, which is no hole; elsewhere one was punched.
    let in_leaves = |cells: &str| {
        let cells = json[cells].as_array().unwrap().iter();
        cells
            .filter(|cell| cell[0] == "punch" && cell[1] == "2M accepted")
            .count()
    };
    match design {
        "stock" => assert_eq!(in_leaves("holes") + in_leaves("reached"), 0),
        _ => assert!(in_leaves("reached") > 0),
    }
    let table = fs::read_to_string(left(out.path()).join("fuzz.md")).unwrap();
    assert!(table.contains("| operation | empty |"), "{table}");
}

#[rstest]
#[case::sim("sim")]
#[case::soft("soft")]
fn a_seeded_fault_comes_out_as_a_scenario_that_fails(#[case] host: &str) {
    let out = tempfile::tempdir().unwrap();
    let fault = "head-split-missing";
    let said = tdxlab!(
        "fuzz",
        "--host",
        host,
        "--fault",
        fault,
        "--count",
        "500",
        "--seed",
        "2",
        "--out",
        out.path()
    )
    .assert()
    .code(1);
    let said = stdout(&said);
    assert!(said.contains("reproduced 10/10; shrunk from"), "{said}");
    assert!(
        said.contains("to see it fail again:\n  tdxlab run"),
        "{said}"
    );
    let folder = left(out.path());
    let failure = json(&folder)["failure"].take();
    let steps = failure["steps"].as_u64().unwrap();
    assert!(
        steps - failure["set_up"].as_u64().unwrap() <= 3,
        "{failure}"
    );
    fail_again(&folder, host, fault, &["replay.json", "drawn.json"]);
    // It passes without the fault.
    let again = tempfile::tempdir().unwrap();
    tdxlab!("run", folder.join("scenario.yaml"), "--host", host, "--out")
        .arg(again.path())
        .assert()
        .code(0);
}

/// The files of a failure fail on their own.
fn fail_again(folder: &Path, host: &str, fault: &str, replays: &[&str]) {
    let again = tempfile::tempdir().unwrap();
    tdxlab!("run", folder.join("scenario.yaml"), "--host", host)
        .args(["--fault", fault, "--out"])
        .arg(again.path())
        .assert()
        .code(1);
    for file in replays {
        let said = tdxlab!("replay", folder.join(file), "--out", again.path())
            .assert()
            .code(1);
        let said = stdout(&said);
        assert!(said.contains("1 ended like that"), "{file}: {said}");
    }
}

#[test]
fn what_auto_means_is_said() {
    let out = tempfile::tempdir().unwrap();
    let said = tdxlab!(
        "fuzz",
        "--host",
        "auto",
        "--count",
        "1",
        "--out",
        out.path()
    )
    .assert()
    .success();
    let said = String::from_utf8_lossy(&said.get_output().stderr).into_owned();
    assert!(said.contains("host sim (default of fuzz"), "{said}");
}

/// Races of a failure found on soft are kept as they went, and a replay takes the same turns.
#[test]
fn races_found_on_soft_are_replayed_in_their_order() {
    let out = tempfile::tempdir().unwrap();
    // Seen only where a conversion and an access of another vCPU race.
    for seed in ["1", "2", "3", "4", "5", "6"] {
        let _ = fs::remove_dir_all(out.path());
        tdxlab!(
            "fuzz",
            "--host",
            "soft",
            "--fault",
            "conversion-without-zap",
            "--count",
            "300",
            "--seed",
            seed,
            "--jobs",
            "1",
            "--out",
            out.path()
        )
        .assert()
        .code(1);
        let drawn = left(out.path()).join("drawn.json");
        let replay: Value = serde_json::from_slice(&fs::read(&drawn).unwrap()).unwrap();
        let orders = replay["interleavings"].as_array().unwrap();
        if orders.is_empty() {
            continue;
        }
        let again = tempfile::tempdir().unwrap();
        let said = tdxlab!("replay", &drawn, "--out", again.path())
            .assert()
            .code(1);
        let said = stdout(&said);
        assert!(
            said.contains("the race took the recorded order in 1 of 1"),
            "{said}"
        );
        assert!(said.contains("1 ended like that"), "{said}");
        return;
    }
    panic!("no failing plan had a race before its failure");
}

#[test]
fn many_plans_share_a_guest_on_soft() {
    let out = tempfile::tempdir().unwrap();
    let said = tdxlab!(
        "fuzz",
        "--host",
        "soft",
        "--count",
        "80",
        "--seed",
        "9",
        "--jobs",
        "1",
        "--out",
        out.path()
    )
    .assert()
    .success();
    assert!(stdout(&said).contains("80 scenarios"));
}

#[rstest]
#[case::td_design_on_kvm(&["--host", "kvm", "--design", "stock"], 64)]
#[case::plain_design_on_tdx(&["--host", "tdx", "--design", "plain"], 64)]
#[case::a_fault_in_a_kernel(&["--host", "kvm", "--fault", "head-split-missing"], 69)]
#[case::plain(&["--design", "plain"], 64)]
#[case::no_time(&["--for", "soon"], 64)]
#[case::no_time_at_all(&["--for", "0s"], 64)]
#[case::both(&["--for", "1s", "--count", "1"], 64)]
#[case::no_fault(&["--fault", "none-such"], 64)]
fn what_cannot_be_is_refused(#[case] args: &[&str], #[case] code: i32) {
    let mut command = tdxlab!("fuzz");
    command.args(args);
    command.assert().code(code);
}

/// What a guest leaves behind is found, confirmed and shrunk like what a step shows; also of the last
/// guest of a hunt, and of one whose TD was killed.
#[rstest]
#[case::sim("sim", "1", "200")]
#[case::the_last_of_a_hunt("soft", "2", "1")]
fn what_is_left_at_the_end_is_a_failure_like_another(
    #[case] host: &str,
    #[case] seed: &str,
    #[case] count: &str,
) {
    let out = tempfile::tempdir().unwrap();
    let fault = "leaves-left-at-the-end";
    let mut fuzz = tdxlab!("fuzz", "--host", host, "--fault", fault, "--seed", seed);
    fuzz.args(["--count", count, "--jobs", "1", "--out"]);
    let said = stdout(&fuzz.arg(out.path()).assert().code(1));
    assert!(said.contains("fail at the end of the guest"), "{said}");
    assert!(said.contains("reproduced 10/10; shrunk from"), "{said}");
    fail_again(&left(out.path()), host, fault, &["replay.json"]);
}

/// It is said before it is written.
#[test]
fn what_was_found_is_said_even_if_it_cannot_be_written() {
    let out = tempfile::tempdir().unwrap();
    let mut fuzz = tdxlab!(
        "fuzz",
        "--fault",
        "head-split-missing",
        "--seed",
        "1",
        "--jobs",
        "1"
    );
    fuzz.args(["--out"]).arg(out.path());
    // Files of 4 KiB are too small for the list of what was reached.
    let program = fuzz.get_program().to_owned();
    let words: Vec<_> = fuzz.get_args().map(|word| word.to_owned()).collect();
    let said = assert_cmd::Command::new("sh")
        .current_dir(tdxlab_selftests::command::root())
        .args(["-c", "ulimit -f 8; exec \"$0\" \"$@\""])
        .arg(program)
        .args(words)
        .assert()
        .code(1);
    assert!(
        stdout(&said).contains("scenario: fuzz/"),
        "{}",
        stdout(&said)
    );
    let error = tdxlab_selftests::command::stderr(&said);
    assert!(error.contains("what was found is only above"), "{error}");
}
