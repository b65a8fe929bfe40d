//! Diagnostics for invalid files, word by word.

use rstest::rstest;

use super::{render, scenario};

/// A right file up to its steps, which are to be on line 4 and below.
const HEAD: &str = "scenario: t/t\nabout: A test.\nguest: { memory: 64M, vcpus: 2 }\n";

/// Diagnostics for a file with these steps.
fn steps(steps: &str) -> String {
    whole(&format!("{HEAD}steps:\n{steps}\n"))
}

fn whole(text: &str) -> String {
    match scenario(text) {
        Ok(_) => panic!("nothing is said of\n{text}"),
        Err(error) => render(&error),
    }
}

macro_rules! said {
    ($name:expr, $said:expr) => {
        insta::with_settings!({ omit_expression => true, prepend_module_to_snapshot => false }, {
            insta::assert_snapshot!($name, $said);
        });
    };
}

#[rstest]
#[case("unknown_key", "  - punch: { rnage: 1M..11M }")]
#[case("unknown_operation", "  - acept: { range: 0..2M, level: 2M }")]
#[case("doubled_key", "  - fill: { range: 0..2M, vcpu: 0, range: 2M..4M }")]
#[case("missing_key", "  - accept: { range: 0..2M }")]
#[case("two_operations", "  - fill: 0..2M\n    verify: 0..2M")]
#[case("no_operation", "  - expect: { splits: 0 }")]
#[case("empty_value", "  - punch:")]
#[case("list_for_a_range", "  - punch: [1M, 11M]")]
#[case("scalar_for_a_step", "  - punch")]
#[case("bad_unit", "  - punch: 1M..11Mb")]
#[case("lower_case_unit", "  - punch: 4k..8K")]
#[case("fraction", "  - punch: 1.5M..4M")]
#[case("dash_for_a_range", "  - punch: 1M-4M")]
#[case("unaligned_start", "  - accept: { range: 1M..4M, level: 2M }")]
#[case("unaligned_end", "  - fill: 0..6000")]
#[case("unaligned_hole", "  - punch: 512..4K")]
#[case("out_of_guest", "  - fill: 60M..68M")]
#[case("hole_out_of_guest", "  - punch: 65M..68M")]
#[case("reversed", "  - punch: 11M..1M")]
#[case("empty_range", "  - punch: 1M..1M")]
#[case("bad_level", "  - accept: { range: 0..2M, level: 2m }")]
#[case("bad_word", "  - convert: { range: 0..2M, to: pubilc }")]
#[case("no_such_vcpu", "  - fill: { range: 0..2M, vcpu: 2 }")]
#[case("negative_vcpu", "  - fill: { range: 0..2M, vcpu: -1 }")]
#[case(
    "too_much_work",
    "  - fill: 0..64M\n  - repeat: { times: 20000, steps: [fill: 0..4K] }"
)]
#[case("unknown_variable", "  - punch: $ofset..4M")]
#[case(
    "shared_vcpu",
    "  - parallel:\n      - fill: { range: 0..2M, vcpu: 1 }\n      - fill: { range: 2M..4M, vcpu: 1 }"
)]
#[case(
    "verify_in_parallel",
    "  - parallel:\n      - verify: 0..2M\n      - punch: 0..2M"
)]
#[case(
    "mixed_branch",
    "  - parallel:\n      - - fill: 0..2M\n        - punch: 0..2M\n      - fill: { range: 0..2M, vcpu: 1 }"
)]
#[case("lone_branch", "  - parallel:\n      - fill: 0..2M")]
#[case(
    "expect_in_branch",
    "  - parallel:\n      - fill: 0..2M\n        expect: { splits: 0 }\n      - punch: 0..2M"
)]
#[case(
    "expect_on_repeat",
    "  - repeat: { times: 2, steps: [punch: 0..2M] }\n    expect: { splits: 0 }"
)]
#[case(
    "step_after_death",
    "  - touch: 0..4K\n    expect: { td: killed }\n  - fill: 0..4K"
)]
#[case(
    "status_of_a_hole",
    "  - punch: 0..2M\n    expect: { status: success }"
)]
#[case("errno_of_a_fill", "  - fill: 0..2M\n    expect: { errno: ok }")]
#[case(
    "bad_number",
    "  - punch: 0..2M\n    expect: { splits: two, pages_2m: --, pages_4k: 1.0 }"
)]
#[case(
    "counter_twice",
    "  - repeat: { times: 2, as: i, draw: { i: [1] }, steps: [punch: 0..2M] }"
)]
#[case(
    "nothing_to_draw",
    "  - repeat: { times: 2, draw: { at: { within: 1K..2K } }, steps: [punch: $at..+4K] }"
)]
#[case("anchor", "  - &a punch: 0..2M\n  - *a")]
#[case("not_yaml", "  - punch: { range: 0..2M")]
#[case("tabs", "\t- punch: 0..2M")]
fn wrong_steps(#[case] name: &str, #[case] text: &str) {
    said!(name, steps(text));
}

#[rstest]
#[case("empty_file", "")]
#[case("list_of_scenarios", "- scenario: t\n- scenario: u\n")]
#[case("second_document", "scenario: t\n---\nscenario: u\n")]
#[case("everything_missing", "scenario: t\n")]
#[case(
    "bad_name",
    "scenario: Punch/Head And Tail\nabout: ''\nguest: { memory: 64M }\nsteps: [fill: 0..4K]\n"
)]
#[case(
    "bad_guest",
    "scenario: t\nabout: T.\nguest: { memory: 6000, vcpus: 65, sept_ve_disable: maybe }\nsteps: [fill: 0..4K]\n"
)]
#[case(
    "huge_guest",
    "scenario: t\nabout: T.\nguest: { memory: 64T }\nsteps: [fill: 0..4K]\n"
)]
#[case(
    "bad_slots",
    "scenario: t\nabout: T.\nguest:\n  memory: 16M\n  slots:\n    - { range: 0..8M, gmem: 0 }\n    - { range: 8M..16M, gmem: 4M }\nsteps: [fill: 0..4K]\n"
)]
#[case(
    "slots_with_a_gap",
    "scenario: t\nabout: T.\nguest:\n  memory: 16M\n  slots:\n    - { range: 0..4M, gmem: 0 }\n    - { range: 8M..16M, gmem: 8M }\nsteps: [fill: 0..4K]\n"
)]
#[case(
    "slots_too_short",
    "scenario: t\nabout: T.\nguest: { memory: 16M, slots: [{ range: 0..4M, gmem: 0 }] }\nsteps: [fill: 0..4K]\n"
)]
#[case(
    "image_twice",
    "scenario: t\nabout: T.\nguest: { memory: 16M, image: [0..64K, 32K..128K] }\nsteps: [fill: 0..4K]\n"
)]
#[case(
    "unused_variable",
    "scenario: t\nabout: T.\nguest: { memory: 16M }\nmatrix: { offset: [0, 4K], ofset: [0, 4K] }\nsteps: [fill: $offset..8K]\n"
)]
#[case(
    "variable_twice",
    "scenario: t\nabout: T.\nguest: { memory: 16M }\nmatrix: { at: [0, 4K] }\ndraw: { at: [0, 4K] }\nsteps: [fill: $at..8K]\n"
)]
#[case(
    "uneven_cases",
    "scenario: t\nabout: T.\nguest: { memory: 16M }\ncases:\n  head: { hole: 1M..2M, splits: 1 }\n  tail: { hole: 1M..2M, split: 1 }\nsteps: [punch: $hole]\n"
)]
#[case(
    "wrong_at_one_point_of_the_matrix",
    "scenario: t\nabout: T.\nguest: { memory: 16M }\nmatrix: { start: [0, 4K, 16M] }\nsteps: [fill: $start..+4K]\n"
)]
#[case(
    "wrong_value_of_a_variable",
    "scenario: t\nabout: T.\nguest: { memory: 16M }\nmatrix: { hole: [1M..2M, 4M..3M], level: [2M, 3M] }\nsteps:\n  - punch: $hole\n  - accept: { range: 0..2M, level: $level }\n"
)]
#[case(
    "impossible_needs",
    "scenario: t\nabout: T.\nneeds: { private_leaf: 2M, private_leaf_at_most: 4K }\nguest: { memory: 16M }\nsteps: [fill: 0..4K]\n"
)]
#[case(
    "a_leaf_that_cannot_be",
    "scenario: t\nabout: T.\nneeds: { private_leaf: 1G }\nguest: { memory: 16M }\nsteps: [fill: 0..4K]\n"
)]
#[case(
    "huge_matrix",
    "scenario: t\nabout: T.\nguest: { memory: 16M }\nmatrix:\n  a: [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11]\n  b: [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11]\n  c: [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11]\nsteps: [fill: $a*4K..$a*4K+$b*4K+$c*4K+4K]\n"
)]
#[case(
    "several_at_once",
    "scenario: t\nabout: T.\nguest: { memory: 16M }\nsteps:\n  - punch: 4M..2M\n  - fill: 0..32M\n  - accept: { range: 1M..2M, level: 2M, vcpu: 7 }\n"
)]
#[case(
    "keys_of_all_kinds",
    "scenario: t\nabuot: T.\nguest: { memory: 16M, cpus: 2 }\nneeds: { leaf: 2M }\nsteps:\n  - punch: 4M..2M\n    expects: { splits: 1 }\n"
)]
fn wrong_files(#[case] name: &str, #[case] text: &str) {
    said!(name, whole(text));
}

#[test]
fn places_are_right_behind_letters_of_several_bytes() {
    let error = scenario(&format!(
        "{}steps:\n  - punch: 4M..2M  # ÄÖÜ\n",
        HEAD.replace("A test.", "Größe “≥” 2M → geteilt.")
    ));
    said!("several_bytes", render(&error.expect_err("reversed")));
}

#[rstest]
#[case(
    "contradicts_the_predictor",
    "needs: { private_leaf: 2M, hole_alignment: 4K }\nsteps:\n  \
     - accept: { range: 0..4M, level: 2M }\n    expect: { pages_2m: +2, accept_exits: 1 }\n  \
     - punch: 1M..3M\n    expect: { splits: 1, pages_4k: +512, errno: EINVAL }\n"
)]
#[case(
    "contradicts_some_designs",
    "steps:\n  - accept: { range: 0..4M, level: 2M }\n    \
     expect: { pages_2m: +2, status: success }\n"
)]
#[case(
    "contradicts_in_a_repeat",
    "steps:\n  - repeat:\n      times: 3\n      as: i\n      steps:\n        \
     - accept: { range: $i*4K..+4K, level: 4K }\n          expect: { status: already_accepted }\n"
)]
#[case(
    "alive_after_all",
    "steps:\n  - touch: 0..4K\n    expect: { td: killed }\n"
)]
#[case("nothing_to_verify", "steps:\n  - verify: 0..2M\n")]
fn what_the_predictor_says(#[case] name: &str, #[case] text: &str) {
    let text = format!("{HEAD}{text}");
    let scenario = scenario(&text).unwrap_or_else(|error| panic!("{}", render(&error)));
    let plans = super::expand(&scenario, None).expect("it was parsed");
    let errors: Vec<String> = plans
        .iter()
        .filter_map(|plan| super::super::check(plan, &scenario).err())
        .map(|error| render(&error))
        .collect();
    said!(name, errors.join("\n"));
}

#[test]
fn death_that_the_author_did_not_see() {
    let text = "scenario: t\nabout: T.\nguest: { memory: 64M, sept_ve_disable: true }\nsteps:\n  \
                - touch: 0..4K\n  - fill: 0..4K\n";
    let scenario = scenario(text).expect("it is well formed");
    let plan = &super::expand(&scenario, None).expect("it was parsed")[0];
    let error = super::super::check(plan, &scenario).expect_err("the TD is dead");
    said!("unforeseen_death", render(&error));
}
