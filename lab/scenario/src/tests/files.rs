//! Where scenarios are looked for, and what the schema refuses.

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
        matches!(found, Err(ScenarioError::Unreadable { .. })),
        "{found:?}"
    );
    let loaded = super::super::load(Path::new("/nowhere/missing.yaml"));
    assert!(
        matches!(loaded, Err(ScenarioError::Unreadable { .. })),
        "{loaded:?}"
    );
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
