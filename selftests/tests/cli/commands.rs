//! Every command does what its help says.

use rstest::rstest;
use tdxlab_selftests::command::root;
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
    assert_eq!(said, stdout(tdxlab!("check", "scenarios")));
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
    let said = stdout(tdxlab!("predict", GOOD, "--design", "stock"));
    assert!(said.contains("skipped: needs private_leaf: 2M"), "{said}");
}

#[test]
fn compare_shows_what_differs() {
    let said = stdout(tdxlab!(
        "compare",
        "scenarios/scale/twelve-terabyte-hole.yaml"
    ));
    for word in ["v3", "v5", "headtail", "entries", "zaps", "splits"] {
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
}

#[test]
fn version_and_help_go_to_stdout() {
    assert!(stdout(tdxlab!("--version")).starts_with("tdxlab "));
    assert!(stdout(tdxlab!("run", "--help")).contains("--require"));
}
