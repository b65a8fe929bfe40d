//! Two examples for every command, for its help and its manual page. A test checks that they parse.

use clap::Command;

/// The command, words after `tdxlab`; the command line and its purpose.
type Examples = (&'static str, &'static [(&'static str, &'static str)]);

const EXAMPLES: &[Examples] = &[
    (
        "run",
        &[
            (
                "tdxlab run scenarios/punch --host sim",
                "fast, needs nothing installed",
            ),
            (
                "tdxlab run --host tdx --design stock",
                "the default set on a TDX host",
            ),
        ],
    ),
    (
        "check",
        &[
            ("tdxlab check my.yaml", "one file"),
            ("tdxlab check scenarios/punch", "every file in a folder"),
        ],
    ),
    (
        "predict",
        &[
            (
                "tdxlab predict scenarios/punch/head-and-tail.yaml",
                "as a table",
            ),
            (
                "tdxlab predict my.yaml --design v5 --json",
                "everything, for programs",
            ),
        ],
    ),
    (
        "compare",
        &[
            ("tdxlab compare my.yaml", "v3, v5 and headtail"),
            (
                "tdxlab compare mixed/boot-like --designs stock,headtail --all",
                "every step",
            ),
        ],
    ),
    (
        "list",
        &[
            ("tdxlab list", "the default set"),
            (
                "tdxlab list --plans scenarios/punch",
                "every case and point of a matrix",
            ),
        ],
    ),
    (
        "linux",
        &[
            (
                "tdxlab linux",
                "every scenario in scenarios/linux, in a checkout",
            ),
            ("tdxlab linux --host kvm my.yaml", "one of them, on KVM"),
        ],
    ),
    (
        "rehearse",
        &[
            (
                "tdxlab rehearse --prepare",
                "download and build the parts, once",
            ),
            ("tdxlab rehearse scenarios/stock", "run on them"),
        ],
    ),
    (
        "faults",
        &[
            ("tdxlab faults", "all of them"),
            ("tdxlab faults split", "those about splits"),
        ],
    ),
    (
        "qualify",
        &[
            ("tdxlab qualify", "every fault, on sim"),
            (
                "tdxlab qualify my.yaml --fault tail-split-missing --findings",
                "does my scenario catch it?",
            ),
        ],
    ),
    (
        "fuzz",
        &[
            ("tdxlab fuzz --for 10m", "ten minutes on sim"),
            (
                "tdxlab fuzz --seed 7 --count 1000 --design v5",
                "the same every time with -j 1",
            ),
        ],
    ),
    (
        "replay",
        &[
            ("tdxlab replay", "what did not pass in the last run"),
            (
                "tdxlab replay reports/latest --scenario punch/head-and-tail --step",
                "step by step",
            ),
        ],
    ),
    (
        "judge",
        &[
            (
                "tdxlab judge reports/latest",
                "by the rules of this version",
            ),
            (
                "tdxlab judge reports/latest --design v5",
                "by another design",
            ),
        ],
    ),
    (
        "report",
        &[
            ("tdxlab report show", "the summary of the last run"),
            ("tdxlab report diff BEFORE AFTER", "what got worse"),
        ],
    ),
    (
        "report show",
        &[
            ("tdxlab report show", "the last run"),
            (
                "tdxlab report show reports/20261122T174825Z-effcc5",
                "an earlier one",
            ),
        ],
    ),
    (
        "report files",
        &[
            ("tdxlab report files", "of the last run"),
            (
                "tdxlab report files part-3/latest",
                "of one that was killed",
            ),
        ],
    ),
    (
        "report html",
        &[
            ("tdxlab report html", "of the last run"),
            (
                "tdxlab report html reports/2026* --output trend.html",
                "with the trend of many",
            ),
        ],
    ),
    (
        "report kcidb",
        &[
            ("tdxlab report kcidb > submission.json", "the last run"),
            (
                "tdxlab report kcidb --origin mylab --build mylab:1234",
                "with the build under test",
            ),
        ],
    ),
    (
        "report lava",
        &[
            ("tdxlab report lava", "the last run"),
            ("tdxlab report lava merged/latest", "another one"),
        ],
    ),
    (
        "report github",
        &[
            ("tdxlab report github", "the last run"),
            (
                "tdxlab report github reports/latest >> summary.md",
                "into a file",
            ),
        ],
    ),
    (
        "report diff",
        &[
            (
                "tdxlab report diff monday/latest tuesday/latest",
                "exits with 1 where it is worse",
            ),
            (
                "tdxlab report diff reports/20261122T174825Z-effcc5 reports/latest",
                "since an earlier run",
            ),
        ],
    ),
    (
        "report trend",
        &[
            ("tdxlab report trend", "runs like the newest below reports/"),
            (
                "tdxlab report trend --scenario punch --design v5",
                "some scenarios, one design",
            ),
        ],
    ),
    (
        "report cost",
        &[
            ("tdxlab report cost", "of the last run, as tables"),
            (
                "tdxlab report cost old/latest new/latest --csv",
                "two kernels, for a spreadsheet",
            ),
        ],
    ),
    (
        "report kernels",
        &[
            (
                "tdxlab report kernels old/latest new/latest",
                "two kernels side by side",
            ),
            (
                "tdxlab report kernels nightly/2026* > kernels.md",
                "into a file",
            ),
        ],
    ),
    (
        "report merge",
        &[
            (
                "tdxlab report merge part-1/latest part-2/latest",
                "all shards of a run",
            ),
            (
                "tdxlab report merge --mixed host-a/latest host-b/latest",
                "different machines",
            ),
        ],
    ),
    (
        "l1",
        &[
            (
                "tdxlab l1 -- run scenarios/kvm --host kvm",
                "plain VMs on a real KVM",
            ),
            (
                "tdxlab l1 --kernel newest -- uname -r",
                "any command, on another kernel",
            ),
        ],
    ),
    (
        "init",
        &[
            ("tdxlab init my-lab", "a scenario and its schema"),
            (
                "tdxlab init my-lab --ci github",
                "with a workflow for every night",
            ),
        ],
    ),
    (
        "kselftest",
        &[
            (
                "tdxlab kselftest linux/tools/testing/selftests/tdxlab",
                "then `make -C linux/tools/testing/selftests TARGETS=tdxlab run_tests`",
            ),
            ("tdxlab kselftest /tmp/tdxlab-selftest", "anywhere else"),
        ],
    ),
    (
        "doctor",
        &[
            ("tdxlab doctor", "look, change nothing"),
            (
                "tdxlab doctor --deep --out reports/doctor",
                "boot a TD and use it",
            ),
        ],
    ),
    (
        "schema",
        &[
            ("tdxlab schema > scenario.schema.json", "for an editor"),
            ("tdxlab schema report", "of report.json"),
        ],
    ),
    (
        "completions",
        &[
            (
                "tdxlab completions bash > ~/.local/share/bash-completion/completions/tdxlab",
                "bash",
            ),
            (
                "tdxlab completions fish > ~/.config/fish/completions/tdxlab.fish",
                "fish",
            ),
        ],
    ),
    (
        "man",
        &[
            ("tdxlab man report diff | man -l -", "read a page"),
            (
                "tdxlab man --out ~/.local/share/man/man1",
                "install all: then `man tdxlab-run`",
            ),
        ],
    ),
];

/// Puts the examples at the end of every command's help.
pub(super) fn with_examples(command: Command) -> Command {
    EXAMPLES.iter().fold(command, |command, (path, examples)| {
        let words: Vec<&str> = path.split(' ').collect();
        add(command, &words, &text(examples))
    })
}

fn add(command: Command, words: &[&str], text: &str) -> Command {
    match words.split_first() {
        None => command.after_help(text.to_owned()),
        Some((first, rest)) => command.mut_subcommand(first, |inner| add(inner, rest, text)),
    }
}

fn text(examples: &[(&str, &str)]) -> String {
    let mut text = "Examples:\n".to_owned();
    for (line, what) in examples {
        text += &format!("  {line}\n      {what}\n");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Words as a shell takes them; what follows a redirection or a pipe is the shell's.
    fn words(line: &str) -> Vec<&str> {
        line.split_whitespace()
            .take_while(|word| ![">", ">>", "|"].contains(word))
            .collect()
    }

    #[test]
    fn every_example_parses() {
        for (path, examples) in EXAMPLES {
            for (line, _) in *examples {
                let command = super::super::command_line();
                let parsed = command.try_get_matches_from(words(line));
                assert!(parsed.is_ok(), "{line}: {}", parsed.unwrap_err());
                assert!(line.starts_with(&format!("tdxlab {path}")), "{line}");
            }
        }
    }

    #[test]
    fn every_command_has_two() {
        fn check(command: &Command, path: &str) {
            for inner in command.get_subcommands().filter(|one| !one.is_hide_set()) {
                let path = format!("{path}{}", inner.get_name());
                let examples = EXAMPLES.iter().find(|(of, _)| *of == path);
                assert_eq!(examples.map(|(_, lines)| lines.len()), Some(2), "{path}");
                check(inner, &format!("{path} "));
            }
        }
        check(&super::super::command_line(), "");
    }
}
