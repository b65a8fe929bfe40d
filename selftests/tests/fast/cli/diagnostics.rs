//! Diagnostics of invalid scenarios on a terminal.

use tdxlab_selftests::command::{root, scenario, stderr, stdout};
use tdxlab_selftests::tdxlab;

/// Output of `tdxlab check`, with the path of the file cut to its name.
fn diagnosis(text: &str) -> String {
    let (folder, path) = scenario(text);
    let said = tdxlab!("check", &path).assert().code(65);
    let folder = format!("{}/", folder.path().display());
    stderr(&said).replace(&folder, "")
}

#[test]
fn an_unknown_key() {
    insta::assert_snapshot!(diagnosis(
        "scenario: a/b\n\
         about: A key that is none.\n\
         guest: { memory: 64M }\n\
         steps:\n\
         \x20 - acept: { range: 0..2M, level: 2M }\n"
    ));
}

#[test]
fn a_bad_unit() {
    insta::assert_snapshot!(diagnosis(
        "scenario: a/b\n\
         about: A unit that is none.\n\
         guest: { memory: 64Q }\n\
         steps:\n\
         \x20 - punch: 0..2M\n"
    ));
}

#[test]
fn a_range_outside_the_guest() {
    insta::assert_snapshot!(diagnosis(
        "scenario: a/b\n\
         about: A range that ends too far out.\n\
         guest: { memory: 64M }\n\
         steps:\n\
         \x20 - accept: { range: 0..66M, level: 2M }\n"
    ));
}

#[test]
fn an_expectation_the_predictor_contradicts() {
    insta::assert_snapshot!(diagnosis(
        "scenario: a/b\n\
         about: More splits than there can be.\n\
         needs: { private_leaf: 2M }\n\
         guest: { memory: 64M }\n\
         steps:\n\
         \x20 - accept: { range: 0..4M, level: 2M }\n\
         \x20   expect: { splits: 3 }\n"
    ));
}

#[test]
fn two_problems_are_shown_at_once() {
    let said = diagnosis(
        "scenario: a/b\n\
         about: Two problems.\n\
         guest: { memory: 64M, cpus: 2 }\n\
         steps:\n\
         \x20 - punch: 0..2M\n\
         \x20   expects: { splits: 3 }\n",
    );
    assert!(said.contains("cpus") && said.contains("expects"), "{said}");
}

#[test]
fn every_wrong_file_is_shown() {
    let (one, first) = scenario("scenario: a/b\n");
    let (two, second) = scenario("steps: []\n");
    let said = tdxlab!("check", &first, &second).assert().code(65);
    let said = stderr(&said);
    for folder in [one, two] {
        let path = folder.path().display().to_string();
        assert!(said.contains(&path), "{path} not in:\n{said}");
    }
}

#[test]
fn scenarios_of_linux_guests_are_checked_and_listed_like_all_others() {
    let folder = root().join("scenarios/linux");
    let said = stdout(&tdxlab!("check", &folder).assert().success());
    assert!(said.ends_with("scenarios: all right\n"), "{said}");
    let listed = stdout(&tdxlab!("list", "--plans", &folder).assert().success());
    assert!(listed.contains("linux/convert-places[edge]"), "{listed}");
    let refused = stderr(&tdxlab!("run", &folder, "--host", "sim").assert().code(65));
    assert!(
        refused.contains("run them with `tdxlab linux`"),
        "{refused}"
    );

    let text = "scenario: linux/x\nabout: A slip.\nguest:\n  linux: { memory: 384M }\nsteps:\n  \
                - boot\n  - fill: { bufer: 0, size: 4M, pages: kernel }\n";
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("slip.yaml");
    std::fs::write(&path, text).unwrap();
    let wrong = stderr(&tdxlab!("check", &path).assert().code(65));
    assert!(wrong.contains("slip.yaml:7:13"), "{wrong}");
    assert!(wrong.contains("did you mean `buffer`?"), "{wrong}");
}
