//! Finding scenarios, and what the schema rejects.

use std::fs;
use std::path::{Path, PathBuf};

use rstest::rstest;
use tempfile::TempDir;

use super::super::{ScenarioError, find, schema};

/// A folder with these files, each a scenario of the name given.
fn folder(files: &[(&str, &str)]) -> TempDir {
    let folder = tempfile::tempdir().expect("there is room");
    for (path, name) in files {
        let path = folder.path().join(path);
        fs::create_dir_all(path.parent().expect("below the folder")).expect("there is room");
        let text =
            format!("scenario: {name}\nabout: T.\nguest: {{ memory: 1M }}\nsteps: [fill: 0..4K]\n");
        fs::write(path, text).expect("there is room");
    }
    folder
}

fn names(folder: &TempDir, found: &[PathBuf]) -> Vec<String> {
    let short = |path: &PathBuf| {
        path.strip_prefix(folder.path())
            .expect("below it")
            .display()
            .to_string()
    };
    found.iter().map(short).collect()
}

#[test]
fn folders_are_searched_and_files_stand_for_themselves() {
    let folder = folder(&[
        ("b/two.yaml", "two"),
        ("a/one.yaml", "one"),
        ("a/note.txt", "note"),
    ]);
    let found = find(&[folder.path().to_owned()]).expect("two files");
    assert_eq!(names(&folder, &found), ["a/one.yaml", "b/two.yaml"]);
    let note = folder.path().join("a/note.txt");
    let found = find(&[note.clone(), folder.path().join("a"), note]).expect("two files");
    assert_eq!(
        names(&folder, &found),
        ["a/note.txt", "a/one.yaml"],
        "each once, and sorted"
    );
}

#[test]
fn two_files_of_one_name_are_refused() {
    let folder = folder(&[("a/one.yaml", "same"), ("b/two.yaml", "same")]);
    match find(&[folder.path().to_owned()]) {
        Err(ScenarioError::Twice {
            name,
            first,
            second,
        }) => {
            assert_eq!(name, "same");
            assert_eq!(
                names(&folder, &[first, second]),
                ["a/one.yaml", "b/two.yaml"]
            );
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn nothing_to_run_is_an_error_and_so_is_what_is_not_there() {
    let folder = folder(&[("note.txt", "note")]);
    let found = find(&[folder.path().to_owned()]);
    assert!(
        matches!(found, Err(ScenarioError::Nothing { .. })),
        "{found:?}"
    );
    let found = find(&[folder.path().join("missing.yaml")]);
    assert!(
        matches!(found, Err(ScenarioError::NoSuch { .. })),
        "{found:?}"
    );
    let loaded = super::super::load(Path::new("/nowhere/missing.yaml"));
    assert!(
        matches!(loaded, Err(ScenarioError::Unreadable { .. })),
        "{loaded:?}"
    );
}

/// What people write in place of a path.
#[rstest]
#[case::a_scenario("punch/head-and-tail", 1)]
#[case::a_folder("punch", 2)]
#[case::a_folder_with_its_slash("punch/", 2)]
#[case::half_a_name("punch/head", 0)]
#[case::nothing("", 0)]
#[case::another("no/such", 0)]
fn scenarios_of_the_default_set_have_names(#[case] name: &str, #[case] at_least: usize) {
    let found = crate::named(name).unwrap();
    assert!(found.len() >= at_least, "{}", found.len());
    assert_eq!(found.is_empty(), at_least == 0);
    let below = name.trim_end_matches('/');
    assert!(
        found
            .iter()
            .all(|scenario| scenario.name().starts_with(below))
    );
}

#[rstest]
#[case::a_typo("punch/head-and-tial", "`punch/head-and-tail`")]
#[case::a_stranger("somewhere/else/entirely.yaml", "tdxlab list")]
fn what_is_neither_path_nor_name_is_told_once(#[case] wanted: &str, #[case] help: &str) {
    let error = find(&[wanted.into()]).unwrap_err();
    let shown = format!("{:?}", miette::Report::new(error));
    assert!(shown.contains(help), "{shown}");
    assert_eq!(shown.matches("No such file").count(), 0, "{shown}");
}

const PLAIN: &str = "scenario: here/x\nabout: \"A hole in the middle.\"\nguest: { memory: 64M }\nsteps:\n  \
                     - accept: { range: 0..2M, level: 2M }\n  - punch:\n      range: 0..4K\n";

/// One scenario, as different editors write it.
#[rstest]
#[case::byte_order_mark("\u{feff}", "", "")]
#[case::mark_and_document_start("\u{feff}---\n", "", "")]
#[case::document_start("---\n", "", "")]
#[case::tabs("", ": ", ":\t")]
#[case::many_tabs("", ": ", ":\t\t \t")]
#[case::blank_and_tab("", ": ", ": \t")]
#[case::tab_before_a_comment("", "\n", "\t# note\n")]
#[case::line_ends_of_windows("\u{feff}", "\n", "\r\n")]
#[case::tabs_and_comments("", ": ", ":\t")]
fn files_are_read_as_yaml_has_them(#[case] before: &str, #[case] from: &str, #[case] to: &str) {
    let changed = match from {
        "" => PLAIN.to_owned(),
        from => PLAIN.replace(from, to),
    };
    let text = format!("{before}{changed}");
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.yaml");
    std::fs::write(&path, &text).unwrap();
    let scenario = crate::load(&path)
        .unwrap_or_else(|error| panic!("{text:?}: {:?}", miette::Report::new(error)));
    assert_eq!(scenario.name(), "here/x");
    let plans = crate::expand(&scenario, None).unwrap();
    assert_eq!(plans[0].steps.len(), 2);
    assert_eq!(find(std::slice::from_ref(&path)).unwrap(), [path]);
}

/// Tabs that mean something stay: in texts, and where YAML has none.
#[test]
fn only_tabs_between_key_and_value_are_taken_for_blanks() {
    let text = "a:\tb\nb:\t|\n  c:\td\n\n  e:\tf\n\"g:\th\":\ti\n- j:\tk # l:\tm\n{ n:\to }\np:\t'q:\tr'\n";
    let plain =
        "a: b\nb: |\n  c:\td\n\n  e:\tf\n\"g:\th\": i\n- j: k # l:\tm\n{ n: o }\np: 'q:\tr'\n";
    assert_eq!(crate::yaml::without_tabs(text), plain);
    assert!(matches!(
        crate::yaml::without_tabs("a: b\n"),
        std::borrow::Cow::Borrowed(_)
    ));
}

#[test]
fn a_link_back_to_the_folder_is_not_followed() {
    let folder = folder(&[("one.yaml", "one")]);
    std::os::unix::fs::symlink(folder.path(), folder.path().join("again")).expect("a link");
    let found = find(&[folder.path().to_owned()]).expect("one file");
    assert_eq!(names(&folder, &found), ["one.yaml"]);
}

#[rstest]
#[case::unknown_key(r#"{ "punhc": "0..2M" }"#)]
#[case::two_operations(r#"{ "punch": "0..2M", "fill": "0..2M" }"#)]
#[case::no_operation(r#"{ "expect": { "splits": 1 } }"#)]
#[case::bad_unit(r#"{ "punch": "0..2MB" }"#)]
#[case::bad_level(r#"{ "accept": { "range": "0..2M", "level": "3M" } }"#)]
#[case::missing_key(r#"{ "convert": { "range": "0..2M" } }"#)]
#[case::null(r#"{ "punch": null }"#)]
#[case::expect_in_a_branch(r#"{ "parallel": [{ "punch": "0..2M", "expect": { "splits": 1 } }] }"#)]
#[case::empty_expect(r#"{ "punch": "0..2M", "expect": {} }"#)]
#[case::one_branch(r#"{ "parallel": [{ "punch": "0..2M" }] }"#)]
#[case::no_rounds(r#"{ "repeat": { "times": 0, "steps": [{ "punch": "0..2M" }] } }"#)]
#[case::too_many_rounds(r#"{ "repeat": { "times": 10001, "steps": [{ "punch": "0..2M" }] } }"#)]
fn the_schema_refuses_wrong_steps(#[case] step: &str) {
    let file = |step: &str| -> serde_json::Value {
        let text = format!(
            r#"{{ "scenario": "t", "about": "T.", "guest": {{ "memory": "64M" }}, "steps": [{step}] }}"#
        );
        serde_json::from_str(&text).expect("it is JSON")
    };
    let validator = jsonschema::validator_for(&schema()).expect("the schema is one");
    assert!(validator.is_valid(&file(r#"{ "punch": "0..2M" }"#)));
    assert!(!validator.is_valid(&file(step)));
}

#[rstest]
#[case::no_needs(r#""needs": {}, "guest": { "memory": "64M" }"#)]
#[case::no_vcpus(r#""guest": { "memory": "64M", "vcpus": 0 }"#)]
#[case::too_many_vcpus(r#""guest": { "memory": "64M", "vcpus": 65 }"#)]
#[case::less_than_a_page(r#""guest": { "memory": 512 }"#)]
fn the_schema_refuses_wrong_guests(#[case] keys: &str) {
    let file = |keys: &str| -> serde_json::Value {
        let text = format!(
            r#"{{ "scenario": "t", "about": "T.", {keys}, "steps": [{{ "punch": "0..2M" }}] }}"#
        );
        serde_json::from_str(&text).expect("it is JSON")
    };
    let validator = jsonschema::validator_for(&schema()).expect("the schema is one");
    let right = r#""guest": { "memory": "64M", "vcpus": "$n" }"#;
    assert!(validator.is_valid(&file(right)));
    assert!(!validator.is_valid(&file(keys)));
}
