//! Commands in the documentation work, and print the output shown.

use std::fs;
use std::process::Command as Process;

use rstest::rstest;
use tdxlab_selftests::command::root;
use tdxlab_selftests::tdxlab;

/// A line `$ command` of a block marked `console` in a document, with the lines below it.
struct Shown {
    command: String,
    output: Vec<String>,
}

fn commands(document: &str) -> Vec<Shown> {
    let text = fs::read_to_string(root().join(document)).unwrap();
    let mut inside = false;
    let mut commands: Vec<Shown> = Vec::new();
    for line in text.lines() {
        if line.starts_with("```") {
            inside = line == "```console";
        } else if inside && let Some(command) = line.strip_prefix("$ ") {
            commands.push(Shown {
                command: command.to_owned(),
                output: Vec::new(),
            });
        } else if inside && let Some(shown) = commands.last_mut() {
            shown.output.push(line.to_owned());
        }
    }
    commands
}

/// A line without what differs from run to run: times, the name of the report's folder, and the
/// width of columns that hold them.
fn lasting(line: &str) -> String {
    let mut words: Vec<&str> = Vec::new();
    for word in line.split_whitespace() {
        let unit = word.trim_end_matches([')', ',']);
        match words.last_mut() {
            Some(last) if ["us", "ms", "s"].contains(&unit) => *last = "some",
            Some(&mut "report:") => words.push("some"),
            _ if !word.starts_with('─') => words.push(word),
            _ => {}
        }
    }
    words.join(" ")
}

/// `...` stands for any number of lines.
fn check_output(shown: &Shown, said: &str) {
    let mut said = said.lines().map(lasting);
    let mut anywhere = false;
    for line in &shown.output {
        if line.trim() == "..." {
            anywhere = true;
            continue;
        }
        let wanted = lasting(line);
        let found = if anywhere {
            said.find(|line| *line == wanted)
        } else {
            said.next()
        };
        assert_eq!(found.as_ref(), Some(&wanted), "output of {}", shown.command);
        anywhere = false;
    }
}

#[rstest]
#[case::readme("README.md", 6)]
#[case::tour("docs/tour.md", 4)]
#[case::hosts("docs/hosts.md", 3)]
#[case::report("docs/report.md", 6)]
#[case::tdx_host("docs/tdx-host.md", 1)]
#[case::replay("docs/replay.md", 5)]
fn commands_of_the_documentation_work(#[case] document: &str, #[case] at_least: usize) {
    let out = tempfile::tempdir().unwrap();
    tdxlab!(
        "run",
        "scenarios/punch/head-and-tail.yaml",
        "--host",
        "sim",
        "--out",
        out.path()
    )
    .assert()
    .success();
    let commands = commands(document);
    assert!(
        commands.len() >= at_least,
        "{} in {document}",
        commands.len()
    );
    for shown in &commands {
        let line = &shown.command;
        let mut words = line.split_whitespace();
        match words.next() {
            Some("make") => {
                let status = Process::new("make")
                    .arg("--dry-run")
                    .args(words)
                    .current_dir(root())
                    .output()
                    .unwrap()
                    .status;
                assert!(status.success(), "{line}");
            }
            Some("tdxlab") => {
                let mut command = tdxlab!();
                for word in words {
                    // Reports of the test go elsewhere.
                    match word.strip_prefix("reports/") {
                        Some(rest) => command.arg(out.path().join(rest)),
                        None => command.arg(word),
                    };
                }
                let writes = ["run", "replay", "judge", "fuzz"];
                if line
                    .split(' ')
                    .nth(1)
                    .is_some_and(|name| writes.contains(&name))
                {
                    command.arg("--out").arg(out.path());
                }
                let done = command.env("TDXLAB_HOST", "sim").assert().success();
                check_output(shown, &String::from_utf8_lossy(&done.get_output().stdout));
            }
            other => panic!("{document} shows {other:?}, which no test knows"),
        }
    }
}
