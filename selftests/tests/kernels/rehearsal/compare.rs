//! What a hole costs KVM's own code, by the two ways of finding the leaves to split.

use tdxlab_selftests::command::{assert_says, root, tdxlab};
use tdxlab_selftests::turn::Turn;

use super::command::{PROGRAM, said};

/// Entries looked at, and leaves split, as the lines of the comparison say them.
fn counts(text: &str, mapped: &str, design: &str) -> (u64, u64) {
    let of = |line: &&str| line.contains(mapped) && line.contains(&format!("mapped, {design}:"));
    let line = text.lines().find(of);
    let line = line.unwrap_or_else(|| panic!("no line of {mapped}, {design} in:\n{text}"));
    let number = |before: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let at = words.iter().position(|word| word.starts_with(before));
        words[at.unwrap() - 1].parse().unwrap()
    };
    (number("entries"), number("splits"))
}

#[test]
#[ignore = "takes an emulated machine: make test-rehearsal"]
fn arithmetic_looks_at_two_places_and_a_walk_at_all_entries() {
    let _turn = Turn::wait();
    let mut command = tdxlab(PROGRAM);
    command.current_dir(root()).args([
        "compare",
        "--host",
        "rehearsal",
        "scale/hole-growth[length=1G]",
    ]);
    let output = command.output().unwrap();
    let text = said(&output);
    assert!(output.status.success(), "{text}");
    for (mapped, splits) in [("some (6)", 1), ("all (1048576)", 2)] {
        let (walked, by_walk) = counts(&text, mapped, "walk");
        let (looked, by_arithmetic) = counts(&text, mapped, "headtail");
        assert_eq!((by_walk, by_arithmetic), (splits, splits), "{text}");
        // A hole of 1G covers an entry for each 2M.
        assert!(walked >= 512 && looked <= 12, "{text}");
    }
}

#[test]
fn a_design_that_the_modules_do_not_have_is_refused_before_anything_is_booted() {
    let mut command = tdxlab(PROGRAM);
    command.args([
        "compare",
        "--host",
        "rehearsal",
        "--designs",
        "walk,run",
        "scale/hole-growth",
    ]);
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(64), "{}", said(&output));
    assert_says(&said(&output), &["no design `run`", "headtail"]);
}
