//! What is refused, whatever is drawn and however the file is written; and that this takes no time.

use std::time::{Duration, Instant};

use rstest::rstest;

use super::super::{Problem, check};
use super::{ScenarioError, plans, render, scenario};

/// What is wrong with `text`, each with the text that is underlined.
fn wrong(text: &str) -> Vec<(String, String)> {
    of(text, scenario(text).map(|_| ()).expect_err("it is wrong"))
}

fn of(text: &str, error: ScenarioError) -> Vec<(String, String)> {
    let ScenarioError::Wrong(wrong) = error else {
        panic!("{}", render(&error))
    };
    let both = |problem: Problem| {
        let start = problem.span.offset();
        let at = &text[start..start + problem.span.len()];
        (at.to_owned(), problem.message)
    };
    wrong.problems.into_iter().map(both).collect()
}

#[track_caller]
fn assert_said(said: &[(String, String)], place: &str, message: &str) {
    let found = said
        .iter()
        .any(|(at, what)| at == place && what.contains(message));
    assert!(found, "no `{message}` at `{place}`: {said:?}");
}

/// A file with these variables and steps, in a guest of 64M.
fn guest(variables: &str, steps: &str) -> String {
    let head = "scenario: t\nabout: T.\nguest: { memory: 64M }";
    format!("{head}\n{variables}\nsteps:\n{steps}")
}

/// JSON on one line.
fn json(steps: &str) -> String {
    format!(r#"{{"scenario":"t","about":"T.","guest":{{"memory":"64M"}},"steps":[{steps}]}}"#)
}

#[rstest]
#[case::far_out(json(&format!(r#"{}{{"fill":"0..5K"}}"#, r#"{"fill":"0..4K"},"#.repeat(3900))), "[test.yaml:1:66372]")]
#[case::long(json(&format!(r#"{{"fill":"0..{}"}}"#, "x".repeat(70_000))), "0..xxx")]
#[case::letters_of_several_bytes(json(&format!(r#"{{"fill":"0..{}"}}"#, "≥".repeat(70_000))), "≥≥≥")]
#[case::beside_a_long_line(guest(&format!("# {}\n", "x".repeat(70_000)), "  - fill: 0..5K\n"), "0..5K")]
fn places_on_long_lines_are_shown(#[case] text: String, #[case] shown: &str) {
    let error = scenario(&text).map(|_| ()).expect_err("it is wrong");
    let said = render(&error);
    assert!(said.contains(shown), "{said}");
    assert!(said.contains("[test.yaml:"), "{said}");
    let longest = said.lines().map(|line| line.chars().count()).max();
    assert!(longest < Some(1000), "{longest:?}");
}

#[rstest]
#[case::line_separator("# old:\u{2028}  - punch: 0..4K\n", "\u{2028}", "U+2028")]
#[case::paragraph_separator("# old:\u{2029}seed: 5\n", "\u{2029}", "U+2029")]
#[case::next_line("# old:\u{85}  - punch: 0..4K\n", "\u{85}", "U+0085")]
#[case::bell("# a\u{7}b\n", "\u{7}", "U+0007, which YAML does not allow")]
#[case::escape("# a\u{1b}[31mb\n", "\u{1b}", "U+001B")]
#[case::byte_order_mark("# a\n\u{feff}seed: 5\n", "\u{feff}", "a byte order mark, inside")]
#[case::no_letter("# a\u{ffff}\n", "\u{ffff}", "U+FFFF")]
fn letters_that_are_not_seen(#[case] line: &str, #[case] at: &str, #[case] message: &str) {
    let text = guest("", &format!("  - fill: 0..4K\n{line}"));
    let error = scenario(&text).map(|_| ()).expect_err("it is wrong");
    let said = render(&error);
    assert!(!said.contains(['\u{1b}', '\u{7}', '\u{2028}']), "{said}");
    assert_said(&of(&text, error), at, message);
}

#[rstest]
#[case::comment("about: In its #VE handler\n", "In its", "begins a comment")]
#[case::two_lines(
    "about: A guest\n  in its #VE handler\n",
    "A guest",
    "begins a comment"
)]
#[case::blanks("about: T.   # note\n", "T.", "begins a comment")]
#[case::steers_a_terminal("about: \"\\e[31mred\"\n", "\"\\e[31mred\"", "U+001B")]
fn descriptions_that_are_cut(#[case] about: &str, #[case] at: &str, #[case] message: &str) {
    let text = guest("", "  - fill: 0..4K\n").replace("about: T.\n", about);
    assert_said(&wrong(&text), at, message);
}

#[rstest]
#[case("about: \"In its #VE handler\"  # note\n", "In its #VE handler")]
#[case("about: 'its #VE'\n", "its #VE")]
#[case("about: a#b\n# note\n", "a#b")]
#[case("about: >\n  In its #VE handler\n  # 4\n", "In its #VE handler # 4")]
fn descriptions_in_whole(#[case] about: &str, #[case] whole: &str) {
    let text = guest("", "  - fill: 0..4K\n").replace("about: T.\n", about);
    assert_eq!(plans(&text)[0].about, whole);
}

#[test]
fn a_name_is_taken_as_it_is_written() {
    let named = |name: &str| {
        guest("", "  - fill: 0..4K\n").replace("scenario: t", &format!("scenario: {name}"))
    };
    assert_eq!(plans(&named("0x10"))[0].name, "0x10");
    assert_eq!(plans(&named("5"))[0].name, "5");
    assert_said(&wrong(&named("1.0")), "1.0", "`1.0` cannot be the name");
    assert_said(&wrong(&named("t_t")), "t_t", "`t_t` cannot be the name");
}

const STEP: &str = "  - fill: $a..16M\n";

#[rstest]
#[case::line(r#"cases: { "x\nok 99 - forged": { a: 0 } }"#, "U+000A")]
#[case::escape(r#"cases: { "\e[31mred": { a: 0 } }"#, "U+001B")]
#[case::nul(r#"cases: { "a\0b": { a: 0 } }"#, "U+0000")]
#[case::no_letter(r#"cases: { "a\uffffb": { a: 0 } }"#, "U+FFFF")]
#[case::separator(r#"cases: { "a\Lb": { a: 0 } }"#, "U+2028")]
#[case::nothing(r#"cases: { "": { a: 0 }, x: { a: 0 } }"#, "a case without a name")]
#[case::blank(r#"cases: { " ": { a: 0 } }"#, "a case without a name")]
#[case::value(
    r#"matrix: { a: ["0\n::error::x"] }"#,
    "a value that names a plan has the letter U+000A"
)]
#[case::blanks_around(r#"matrix: { a: ["1M", " 1M"] }"#, "`1M` is there twice")]
#[case::commas(
    r#"matrix: { a: ["1M,b=2", 1M], b: ["3", "2,b=3"] }"#,
    "two plans have the name `[a=1M,b=2,b=3]`"
)]
fn names_that_would_forge_or_collide(#[case] variables: &str, #[case] message: &str) {
    let said = wrong(&guest(variables, STEP));
    assert!(
        said.iter().any(|(_, what)| what.contains(message)),
        "{said:?}"
    );
}

#[test]
fn values_are_compared_as_they_are_written() {
    let made = plans(&guest("matrix: { a: [0x1000, 4096, 4K] }", STEP));
    let names: Vec<&str> = made.iter().map(|plan| plan.name.as_str()).collect();
    assert_eq!(names, ["t[a=0x1000]", "t[a=4096]", "t[a=4K]"]);
}

#[rstest]
#[case::word("draw: { a: [0, 4K, 8K, banana] }", STEP, "(`$a` is `banana` here)")]
#[case::variable("draw: { a: [0, $zz] }", STEP, "a variable cannot stand for another")]
#[case::end(
    "draw: { a: { within: 0..66M } }",
    "  - fill: $a..+4K\n",
    "has 64M of test memory (where `a` is drawn as `67580K`)"
)]
#[case::start(
    "draw: { a: { within: 0..64M, align: 4K } }",
    "  - fill: $a-4K..+4K\n",
    "an address cannot be -4096"
)]
#[case::at_a_point(
    "matrix: { b: [4K] }\ndraw: { a: [64M, 0, 0, 0, 0, 0, 0, 0, 0] }",
    "  - fill: $a..+$b\n",
    "(in `[b=4K]`, where `a` is drawn as `64M`)"
)]
#[case::in_a_repeat(
    "",
    "  - repeat: { times: 1, draw: { a: [0, 0, 0, 0, 0, 0, 0, 0, 1] }, steps: [fill: $a..4K] }\n",
    "the start of the range, 1, is not a multiple of 4K (where `a` is drawn as `1`)"
)]
fn what_is_not_drawn_is_looked_at(
    #[case] variables: &str,
    #[case] steps: &str,
    #[case] message: &str,
) {
    let text = guest(variables, steps);
    let said = wrong(&text);
    let found = said.iter().any(|(_, what)| what.contains(message));
    assert!(found, "{said:?}");
    // Whatever seed the file has.
    for seed in 0..8 {
        assert!(scenario(&format!("{text}\nseed: {seed}\n")).is_err());
    }
}

#[rstest]
#[case::counter("as: i, steps: [fill: 0..4K]", "i", "`$i` is never used")]
#[case::drawn("draw: { q: [1] }, steps: [fill: 0..4K]", "q", "`$q` is never used")]
fn variables_of_a_repeat_are_used(#[case] keys: &str, #[case] at: &str, #[case] message: &str) {
    let step = format!("  - repeat: {{ times: 2, {keys} }}\n");
    assert_said(&wrong(&guest("", &step)), at, message);
    // One that is used elsewhere is another one.
    let used = "  - repeat: { times: 2, as: i, draw: { q: [1] }, steps: [fill: $i*$q*4K..16K] }\n";
    assert_eq!(plans(&guest("", used)).len(), 1);
    assert_said(&wrong(&guest("", &format!("{used}{step}"))), at, message);
}

#[test]
fn after_an_error_a_repeat_begins_anew_in_the_next_variant() {
    let steps = "  - repeat:\n      times: 2\n      as: i\n      steps:\n        - touch: $i*4K..8K\n          \
                 expect: { td: killed }\n";
    let said = wrong(&guest("matrix: { b: [0, 1] }", steps));
    let twice = |(_, what): &(String, String)| what.contains("defined twice");
    assert!(!said.iter().any(twice), "{said:?}");
}

#[rstest]
#[case::of_one_list(
    guest(
        "needs: { private_leaf: 2M }",
        "  [ { accept: { range: 0..4M, level: 2M }, expect: { splits: 0 } }, \
         { convert: { range: 2M..+4K, to: shared }, expect: { splits: 5 } }, \
         { convert: { range: 0..+4K, to: shared }, expect: { splits: 7 } } ]\n",
    ),
    &[("5", "`splits: 5` contradicts"), ("7", "`splits: 7` contradicts")]
)]
#[case::behind_rounds(
    json(r#"{"repeat":{"times":3,"as":"i","steps":[{"accept":{"range":"$i*4K..+4K","level":"4K"},"expect":{"accept_exits":1}}]}},{"punch":"0..4K","expect":{"splits":9}}"#),
    &[("9", "`splits: 9` contradicts")]
)]
#[case::that_nobody_could_judge(
    guest(
        "",
        "  [ { fill: 0..4K }, { verify: { range: 0..4K, side: shared } }, {fill: 0..4K, expect: { splits: 0 } } ]\n",
    ),
    &[("verify", "nobody could judge")]
)]
fn steps_on_one_line_are_told_apart(#[case] text: String, #[case] wanted: &[(&str, &str)]) {
    let file = scenario(&text).unwrap_or_else(|error| panic!("{}", render(&error)));
    let plan = &super::expand(&file, None).expect("it is right")[0];
    let mut said = of(&text, check(plan, &file).expect_err("it contradicts"));
    for (place, message) in wanted {
        assert_said(&said, place, message);
    }
    said.retain(|(at, _)| wanted.iter().all(|(place, _)| place != at));
    assert!(said.is_empty(), "{said:?}");
}

/// A matrix of 1024 points.
fn matrix() -> String {
    let values: Vec<String> = (0..1024).map(|value| value.to_string()).collect();
    format!("matrix: {{ a: [{}] }}", values.join(", "))
}

#[rstest]
#[case::wrong_steps(guest(
    &matrix(),
    &format!("  - punch: $a*0..4K\n{}", "  - fill: 1\n".repeat(30_000)),
))]
#[case::one_wrong_step_often(guest(
    &matrix(),
    &format!("  - repeat: {{ times: 190, steps: [punch: $a*0..4K{}] }}\n", ", fill: 1".repeat(15_000)),
))]
#[case::long_sums(guest(&matrix(), &format!("  - fill: {}..4K\n", ["$a*0"; 50_000].join("+"))))]
#[case::long_words(guest(
    &matrix(),
    &format!("  - convert: {{ range: $a*0..4K, to: {} }}\n", "shared".repeat(50_000)),
))]
#[case::long_values(guest(
    &matrix(),
    &format!("  - repeat: {{ times: 190, steps: [fill: \"$a*0..4K{}\"] }}\n", " ".repeat(450)),
))]
fn what_is_wrong_is_found_soon(#[case] text: String) {
    let start = Instant::now();
    let said = wrong(&text);
    assert!(!said.is_empty() && said.len() <= 50);
    let long = said
        .iter()
        .filter(|(_, what)| what.contains("all plans together"));
    assert!(long.count() <= usize::from(said.len() == 1), "{said:?}");
    // Without a bound each of them takes many minutes in a debug build.
    let took = start.elapsed();
    assert!(took < Duration::from_secs(120), "{took:?}");
}
