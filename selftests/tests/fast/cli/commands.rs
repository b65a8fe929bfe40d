//! Every command works as its help describes.

use rstest::rstest;
use tdxlab_selftests::command::{root, scenario};
use tdxlab_selftests::tdxlab;

const GOOD: &str = "scenarios/punch/head-and-tail.yaml";

fn stdout(mut command: assert_cmd::Command) -> String {
    let said = command.assert().success();
    String::from_utf8_lossy(&said.get_output().stdout).into_owned()
}

#[test]
fn the_default_set_checks() {
    let said = stdout(tdxlab!("check"));
    assert!(said.contains("all right"), "{said}");
    // With those that measure and those of Linux guests, which run only where they are asked for.
    let numbers = |said: &str| -> Vec<usize> {
        let words = said.split_whitespace();
        words.filter_map(|word| word.parse().ok()).collect()
    };
    let of = |arguments: &[&str]| {
        let mut command = tdxlab!("check");
        command.args(arguments);
        numbers(&stdout(command))
    };
    let (set, cost) = (numbers(&said), of(&["cost"]));
    let linux = of(&["scenarios/linux"]);
    let both: Vec<usize> = set
        .iter()
        .zip(cost.iter().zip(&linux))
        .map(|(one, (cost, linux))| one + cost + linux)
        .collect();
    assert!(set.len() == 2 && cost[0] >= 10, "{said}");
    assert_eq!(both, of(&["scenarios"]));
}

#[test]
fn predict_shows_the_table_of_every_step() {
    insta::assert_snapshot!(stdout(tdxlab!("predict", GOOD)));
}

#[test]
fn predict_as_json_is_one_step_a_line() {
    let said = stdout(tdxlab!("predict", GOOD, "--json"));
    let steps: Vec<serde_json::Value> = said
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(steps.len(), 4);
    assert_eq!(steps[2]["expected"]["splits"]["min"], 2);
}

#[test]
fn predict_says_which_need_a_design_does_not_meet() {
    let said = tdxlab!("predict", GOOD, "--design", "stock")
        .assert()
        .code(4);
    let said = String::from_utf8_lossy(&said.get_output().stdout).into_owned();
    assert!(said.contains("skipped: needs private_leaf: 2M"), "{said}");
}

#[test]
fn compare_shows_what_differs() {
    let said = stdout(tdxlab!(
        "compare",
        "scenarios/scale/twelve-terabyte-hole.yaml"
    ));
    for word in ["v3", "v5", "headtail", "entries", "zapped", "splits"] {
        assert!(said.contains(word), "{word} not in:\n{said}");
    }
}

#[test]
fn list_names_every_scenario_with_its_purpose() {
    let said = stdout(tdxlab!("list"));
    assert!(said.contains("punch/head-and-tail"), "{said}");
    let plans = stdout(tdxlab!("list", "--plans")).lines().count();
    assert!(plans >= 60, "{plans}");
    for line in stdout(tdxlab!("list", "--json")).lines() {
        let entry: serde_json::Value = serde_json::from_str(line).unwrap();
        assert!(
            entry["about"]
                .as_str()
                .is_some_and(|about| !about.is_empty())
        );
    }
}

#[rstest]
#[case::scenario("scenario", "docs/scenario.schema.json")]
#[case::report("report", "docs/report.schema.json")]
fn schemas_in_the_repository_are_current(#[case] of: &str, #[case] file: &str) {
    let there = std::fs::read_to_string(root().join(file)).unwrap();
    let there: serde_json::Value = serde_json::from_str(&there).unwrap();
    let printed: serde_json::Value = serde_json::from_str(&stdout(tdxlab!("schema", of))).unwrap();
    assert_eq!(there, printed, "run: tdxlab schema {of} > {file}");
}

#[test]
fn doctor_says_of_every_host_whether_it_is_usable() {
    let said = stdout(tdxlab!("doctor"));
    for host in ["host tdx", "host kvm", "host soft", "host sim"] {
        let line = said.lines().find(|line| line.contains(host)).unwrap();
        assert!(line.contains("usable"), "{line}");
    }
    let json: serde_json::Value =
        serde_json::from_str(&stdout(tdxlab!("doctor", "--json"))).unwrap();
    for fact in json["facts"].as_array().unwrap() {
        assert!(
            fact["found"]
                .as_str()
                .is_some_and(|found| !found.is_empty()),
            "{fact}"
        );
    }
}

#[rstest]
#[case("bash")]
#[case("zsh")]
#[case("fish")]
fn completions_know_the_commands(#[case] shell: &str) {
    let script = stdout(tdxlab!("completions", shell));
    assert!(script.contains("compare"), "{shell}");
}

#[test]
fn the_manual_has_a_page_for_the_lab_and_each_command() {
    assert!(stdout(tdxlab!("man")).contains(".TH tdxlab"));
    assert!(stdout(tdxlab!("man", "run")).contains("fail\\-fast"));
    for words in [&["report", "diff"][..], &["report-diff"]] {
        let page = stdout({
            let mut command = tdxlab!("man");
            command.args(words);
            command
        });
        assert!(page.contains(".TH tdxlab-report-diff"), "{page}");
        assert!(page.contains("Examples:"), "{page}");
    }
    let folder = tempfile::tempdir().unwrap();
    stdout(tdxlab!("man", "--out", folder.path()));
    for page in ["tdxlab.1", "tdxlab-run.1", "tdxlab-report-diff.1"] {
        assert!(folder.path().join(page).is_file(), "{page}");
    }
}

/// A command that another one has is suggested by its full name.
#[rstest]
#[case("diff", "report diff")]
#[case("trend", "report trend")]
#[case("merge", "report merge")]
fn a_command_of_another_is_suggested(#[case] typed: &str, #[case] meant: &str) {
    let said = tdxlab!(typed).assert().code(64);
    let said = String::from_utf8_lossy(&said.get_output().stderr).into_owned();
    assert!(said.contains(&format!("'{meant}'")), "{said}");
}

#[rstest]
#[case("bash")]
#[case("zsh")]
#[case("fish")]
fn completions_know_faults_designs_and_scenarios(#[case] shell: &str) {
    let script = stdout(tdxlab!("completions", shell));
    for name in ["tail-split-missing", "headtail", "punch/head-and-tail"] {
        assert!(script.contains(name), "{name}");
    }
}

#[test]
fn faults_can_be_searched() {
    let all = stdout(tdxlab!("faults", "--json")).lines().count();
    let some = stdout(tdxlab!("faults", "TAIL-split", "--json"));
    assert!(some.contains("tail-split-missing"), "{some}");
    assert!(some.lines().count() < all);
    tdxlab!("faults", "no such fault").assert().code(64);
}

/// Reports memory that no step verifies, and explains the columns.
#[test]
fn predict_says_what_nothing_verifies() {
    let (_folder, path) = scenario(
        "scenario: mine/two\nabout: Half of it is read back.\nguest: { memory: 16M }\nsteps:\n  \
         - accept: { range: 0..8M, level: 4K }\n  - fill: 0..8M\n  - verify: 0..4M\n",
    );
    let said = stdout(tdxlab!("predict", &path));
    let line = "  not verified after its last change: 4M..8M (0x40400000..0x40800000)";
    assert!(said.contains(line), "{said}");
    assert!(
        said.contains("exits: those of ACCEPT + those of other accesses"),
        "{said}"
    );
    assert!(!stdout(tdxlab!("predict", GOOD)).contains("not verified"));
}

#[test]
fn version_and_help_go_to_stdout() {
    assert!(stdout(tdxlab!("--version")).starts_with("tdxlab "));
    assert!(stdout(tdxlab!("run", "--help")).contains("--require"));
}
