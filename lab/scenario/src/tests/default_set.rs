//! The default set of scenarios.

use std::path::{Path, PathBuf};

use rstest::rstest;

use super::super::{check, embedded, expand, find, load, schema};
use super::{assert_fits, render};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../scenarios")
}

#[rstest]
fn every_file_is_right(
    #[files("../../scenarios/**/*.yaml")]
    #[exclude("scenarios/linux/")]
    path: PathBuf,
) {
    let scenario = load(&path).unwrap_or_else(|error| panic!("{}", render(&error)));
    let plans = expand(&scenario, None).unwrap_or_else(|error| panic!("{}", render(&error)));
    for plan in &plans {
        check(plan, &scenario).unwrap_or_else(|error| panic!("{}: {}", plan.name, render(&error)));
    }
    let folder = folder().canonicalize().expect("it is there");
    let path = path.canonicalize().expect("it was read");
    let name = path
        .strip_prefix(folder)
        .expect("below it")
        .with_extension("");
    assert_eq!(
        Path::new(scenario.name()),
        name,
        "a file is named as its scenario"
    );
}

#[test]
fn every_file_fits_the_schema() {
    let validator = jsonschema::validator_for(&schema()).expect("the schema is one");
    for path in find(&[folder()]).expect("the set is there") {
        assert_fits(&validator, &path);
    }
}

#[test]
fn the_set_is_compiled_in_whole() {
    let mut found = find(&[folder()]).expect("the set is there");
    found.retain(|path| path.parent().is_none_or(|folder| !folder.ends_with("cost")));
    let embedded = embedded().unwrap_or_else(|error| panic!("{}", render(&error)));
    assert_eq!(found.len(), embedded.len());
    let plans: usize = embedded
        .iter()
        .map(|scenario| expand(scenario, None).unwrap().len())
        .sum();
    assert!(plans >= 60, "{plans} plans");
}

#[test]
fn the_copy_of_the_schema_is_current() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/scenario.schema.json");
    let current = format!(
        "{}\n",
        serde_json::to_string_pretty(&schema()).expect("it is JSON")
    );
    if std::env::var_os("TDXLAB_BLESS").is_some() {
        std::fs::write(&path, &current).expect("the copy can be written");
    }
    let copy = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        copy == current,
        "docs/scenario.schema.json is old; `TDXLAB_BLESS=1 cargo test -p tdxlab schema` writes it"
    );
}
