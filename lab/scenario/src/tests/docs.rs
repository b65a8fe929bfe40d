//! `docs/scenarios.md` is correct: its examples are valid, and it documents every key.

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::Value;

use super::super::{check, expand, parse, schema};
use super::render;

const DOCS: &str = include_str!("../../../../docs/scenarios.md");

const LINUX: &str = include_str!("../../../../docs/linux.md");

/// The code blocks of a language.
fn blocks(language: &str) -> Vec<&'static str> {
    let fence = format!("```{language}\n");
    DOCS.split(fence.as_str())
        .skip(1)
        .map(|rest| rest.split("```").next().expect("split gives one"))
        .collect()
}

#[test]
fn every_example_is_right() {
    let mut whole = 0;
    let mut steps = 0;
    for block in blocks("yaml") {
        let text = if block.starts_with("scenario:") {
            whole += 1;
            block.to_owned()
        } else if block.starts_with("- ") {
            steps += 1;
            format!("scenario: t\nabout: T.\nguest: {{ memory: 64M, vcpus: 2 }}\nsteps:\n{block}")
        } else {
            assert!(block.starts_with("# yaml-language-server"), "{block}");
            continue;
        };
        let scenario = parse(Path::new("example.yaml"), &text)
            .unwrap_or_else(|error| panic!("{}", render(&error)));
        for plan in expand(&scenario, None).expect("it was parsed") {
            check(&plan, &scenario).unwrap_or_else(|error| panic!("{}", render(&error)));
        }
    }
    assert!(
        whole >= 3 && steps >= 9,
        "{whole} files, {steps} lists of steps"
    );
}

#[test]
fn the_diagnostic_shown_is_what_is_said() {
    let text = "\
scenario: punch/slip
about: Two slips.
guest: { memory: 64M }
steps:
  - punch: 11M..1M
  - accept: { range: 1M..4M, level: 2M }
";
    let error = parse(Path::new("slip.yaml"), text).expect_err("it is wrong");
    let said: Vec<String> = render(&error)
        .lines()
        .map(|line| line.trim_end().to_owned())
        .collect();
    let said = said.join("\n");
    let shown = blocks("text");
    assert!(
        shown.iter().any(|block| block.trim() == said.trim()),
        "docs/scenarios.md should show:\n{said}"
    );
}

#[test]
fn every_key_and_word_is_explained() {
    let mut words = BTreeSet::new();
    collect(&schema(), &mut words);
    assert!(words.len() > 50, "{words:?}");
    let missing: Vec<&String> = words
        .iter()
        .filter(|word| {
            let said = |word: &str| DOCS.contains(word) || LINUX.contains(word);
            !said(&format!("`{word}`")) && !said(&format!(": {word}`"))
        })
        .collect();
    assert!(
        missing.is_empty(),
        "docs/scenarios.md and docs/linux.md do not explain {missing:?}"
    );
}

/// All keys and words of a schema.
fn collect(schema: &Value, words: &mut BTreeSet<String>) {
    match schema {
        Value::Object(object) => {
            for (key, value) in object {
                match (key.as_str(), value) {
                    ("properties", Value::Object(keys)) => words.extend(keys.keys().cloned()),
                    ("enum", Value::Array(values)) => {
                        words.extend(values.iter().filter_map(Value::as_str).map(str::to_owned));
                    }
                    _ => {}
                }
                collect(value, words);
            }
        }
        Value::Array(values) => values.iter().for_each(|value| collect(value, words)),
        _ => {}
    }
}

#[test]
fn the_readme_of_the_set_names_plans_that_are_there() {
    let readme = include_str!("../../../../scenarios/README.md");
    let set = super::super::embedded().expect("the set is right");
    let plans: Vec<String> = set
        .iter()
        .flat_map(|scenario| expand(scenario, None).expect("the set is right"))
        .map(|plan| plan.name)
        .collect();
    let named = readme.split('`').skip(1).step_by(2).filter(|word| {
        let rest = word.split_once('/').map(|(_, rest)| rest);
        rest.is_some_and(|rest| !rest.is_empty()) && !word.contains(' ')
    });
    for name in named {
        let there = |plan: &String| plan == name || plan.starts_with(&format!("{name}["));
        assert!(plans.iter().any(there), "scenarios/README.md names {name}");
    }
}
