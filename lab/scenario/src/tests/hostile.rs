//! Hostile and damaged files: none panics, hangs, or grows beyond a bound.

use std::path::Path;
use std::sync::LazyLock;

use proptest::prelude::*;
use rstest::rstest;

use super::super::{Wrong, embedded, parse};
use super::{ScenarioError, render, scenario};

/// A right file with this list of steps.
fn steps(steps: &str) -> String {
    format!("scenario: t\nabout: T.\nguest: {{ memory: 64M }}\nsteps: {steps}\n")
}

fn wrong(text: &str) -> Wrong {
    match scenario(text) {
        Err(ScenarioError::Wrong(wrong)) => *wrong,
        Err(other) => panic!("{}", render(&other)),
        Ok(_) => panic!("nothing is said of it"),
    }
}

#[rstest]
#[case::nested_lists("[".repeat(100_000))]
#[case::nested_mappings("{a: ".repeat(100_000))]
#[case::nested_blocks((0..2_000).map(|depth| format!("{}a:\n", " ".repeat(depth))).collect::<String>())]
#[case::nested_dashes("- ".repeat(100_000))]
#[case::many_keys((0..60_000).map(|key| format!("k{key}: 1\n")).collect::<String>())]
#[case::same_key("a: 1\n".repeat(20_000))]
#[case::long_line("x".repeat(500_000))]
#[case::long_name(format!("scenario: {}\nabout: T.\nguest: {{ memory: 1M }}\nsteps: [fill: 0..4K]", "a".repeat(100_000)))]
#[case::aliases(format!("a: &a [x, x]\nb: &b [*a, *a]\nc: &c [*b, *b]\n{}", "d: [*c, *c]\n"))]
#[case::directives("%YAML 1.2\n%TAG ! tag:evil,2000:\n---\n!x a".to_owned())]
#[case::tags("scenario: !!binary aGVsbG8=\n".to_owned())]
#[case::nul("scenario: \0\0\0".to_owned())]
#[case::byte_order_mark("\u{feff}scenario: t".to_owned())]
#[case::carriage_returns("scenario: t\r\nabout: T.\r\nguest: { memory: 1M }\r\nsteps: [punch: 2M..1M]\r\n".to_owned())]
#[case::odd_keys("? [a, b]\n: c\n? {d: e}\n: f\n".to_owned())]
#[case::merge_key("<<: { scenario: t }\nabout: T.\n".to_owned())]
#[case::block_scalar("scenario: |\n  t\n  u\nabout: >\n  T.\nguest: { memory: 1M }\nsteps: [fill: 0..4K]".to_owned())]
#[case::repeat_of_repeats(steps(
    "[repeat: { times: 10000, steps: [repeat: { times: 10000, steps: [repeat: { times: 10000, steps: [fill: 0..4K] }] }] }]"
))]
#[case::wrong_in_repeats(steps(
    "[repeat: { times: 10000, steps: [repeat: { times: 10000, steps: [fill: 0..4] }] }]"
))]
#[case::overflow(steps("[fill: 0..16777215T*16777215T]"))]
#[case::parentheses(steps(&format!("[fill: 0..{}4K]", "(".repeat(50_000))))]
#[case::signs(steps(&format!("[fill: 0..{}4K]", "-".repeat(50_000))))]
#[case::many_cases(format!(
    "scenario: t\nabout: T.\nguest: {{ memory: 64M }}\nsteps: [fill: $a..4K]\ncases:\n{}",
    (0..2_000).map(|case| format!("  c{case}: {{ a: 0 }}\n")).collect::<String>()
))]
#[case::many_plans(format!(
    "scenario: t\nabout: T.\nguest: {{ memory: 64M }}\nsteps: [repeat: {{ times: 1000, steps: [fill: $a..4K] }}]\nmatrix: {{ a: [{}] }}",
    (0..1_000).map(|value| format!("{value}*0, ")).collect::<String>()
))]
fn hostile_files_are_refused(#[case] text: String) {
    let wrong = wrong(&text);
    assert!(!wrong.problems.is_empty());
    for problem in &wrong.problems {
        assert!(
            problem.span.offset() + problem.span.len() <= text.len(),
            "{problem:?}"
        );
    }
}

#[test]
fn a_file_above_the_bound_is_refused_unread() {
    let folder = tempfile::tempdir().expect("there is room");
    let path = folder.path().join("large.yaml");
    std::fs::write(&path, "#".repeat((1 << 20) + 1)).expect("there is room");
    let error = super::super::load(&path).expect_err("too large");
    assert!(
        render(&error).contains("at most 1 MiB"),
        "{}",
        render(&error)
    );
}

#[test]
fn a_file_that_is_no_text_is_refused_with_the_line() {
    let folder = tempfile::tempdir().expect("there is room");
    let path = folder.path().join("binary.yaml");
    std::fs::write(&path, b"scenario: t\nabout: \xff\xfe\n").expect("there is room");
    let error = super::super::load(&path).expect_err("no UTF-8");
    assert!(
        render(&error).contains("line 2 is not UTF-8"),
        "{}",
        render(&error)
    );
}

/// The texts of the default set.
static TEXTS: LazyLock<Vec<String>> = LazyLock::new(|| {
    let set = embedded().unwrap_or_else(|error| panic!("{}", render(&error)));
    set.iter()
        .map(|scenario| scenario.text().to_owned())
        .collect()
});

/// One way to damage a text.
#[derive(Clone, Debug)]
enum Damage {
    /// Deletes characters.
    Cut(prop::sample::Index, usize),
    /// Puts a piece in.
    Insert(prop::sample::Index, String),
    /// Copies a line somewhere else.
    CopyLine(prop::sample::Index, prop::sample::Index),
    /// Swaps one word for another of the language.
    Swap(prop::sample::Index, &'static str),
}

const WORDS: &[&str] = &[
    "range",
    "level",
    "punch",
    "accept",
    "repeat",
    "times",
    "parallel",
    "steps",
    "$x",
    "${y}",
    "0..64M",
    "9M..1M",
    "..",
    "16T",
    "-1",
    "{",
    "}",
    "[",
    "]",
    "- ",
    ": ",
    "\n",
    "\t",
    "|",
    ">",
    "&a",
    "*a",
    "!!int",
    "null",
    "~",
    "'",
    "\"",
    "#",
    "0x",
    "1e9",
    "999999999999999999999",
    "%",
    "matrix: { a: [1, 2] }",
    "seed: $a",
    "\u{2028}",
    "\u{0}",
    "é",
    "…",
];

fn damage() -> impl Strategy<Value = Damage> {
    let index = any::<prop::sample::Index>;
    prop_oneof![
        (index(), 0usize..20).prop_map(|(at, many)| Damage::Cut(at, many)),
        (
            index(),
            prop_oneof![
                prop::sample::select(WORDS).prop_map(str::to_owned),
                ".{0,6}"
            ]
        )
            .prop_map(|(at, text)| Damage::Insert(at, text)),
        (index(), index()).prop_map(|(from, to)| Damage::CopyLine(from, to)),
        (index(), prop::sample::select(WORDS)).prop_map(|(at, word)| Damage::Swap(at, word)),
    ]
}

fn apply(text: &str, damage: &Damage) -> String {
    let mut chars: Vec<char> = text.chars().collect();
    let places = chars.len() + 1;
    match damage {
        Damage::Cut(at, many) => {
            let start = at.index(places);
            chars.drain(start..(start + many).min(chars.len()));
            chars.into_iter().collect()
        }
        Damage::Insert(at, piece) => {
            let at = at.index(places);
            chars.splice(at..at, piece.chars());
            chars.into_iter().collect()
        }
        Damage::CopyLine(from, to) => {
            let mut lines: Vec<&str> = text.lines().collect();
            if !lines.is_empty() {
                let line = lines[from.index(lines.len())];
                lines.insert(to.index(lines.len() + 1), line);
            }
            lines.join("\n")
        }
        Damage::Swap(at, word) => {
            let words: Vec<&str> = text.split(' ').collect();
            let at = at.index(words.len());
            let mut words = words;
            words[at] = word;
            words.join(" ")
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, ..ProptestConfig::default() })]

    #[test]
    fn damaged_files_give_plans_or_problems_at_real_places(
        file in any::<prop::sample::Index>(),
        damages in prop::collection::vec(damage(), 1..5),
    ) {
        let original = &TEXTS[file.index(TEXTS.len())];
        let text = damages.iter().fold(original.clone(), |text, damage| apply(&text, damage));
        // A byte order mark is no part of the text that problems are shown in.
        let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
        let read = parse(Path::new("damaged.yaml"), &format!("\u{feff}{text}"));
        match read {
            Ok(scenario) => prop_assert!(super::super::expand(&scenario, Some(2)).is_ok()),
            Err(ScenarioError::Wrong(wrong)) => {
                prop_assert!(!wrong.problems.is_empty());
                for problem in &wrong.problems {
                    let (start, end) = (problem.span.offset(), problem.span.offset() + problem.span.len());
                    prop_assert!(text.is_char_boundary(start) && text.is_char_boundary(end), "{problem:?}");
                }
                render(&ScenarioError::Wrong(wrong));
            }
            Err(other) => prop_assert!(false, "{}", render(&other)),
        }
    }

    #[test]
    fn arbitrary_text_gives_problems(text in "\\PC{0,300}|[-a-z{}\\[\\]:,&*!|>%@`'\"# \n\t0-9?]{0,300}") {
        if let Err(error) = scenario(&text) {
            render(&error);
        }
    }
}
