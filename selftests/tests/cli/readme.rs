//! Commands that the documentation shows work as shown.

use std::fs;
use std::process::Command as Process;

use rstest::rstest;
use tdxlab_selftests::command::root;
use tdxlab_selftests::tdxlab;

/// Lines `$ command` of blocks marked `console` in a document.
fn commands(document: &str) -> Vec<String> {
    let text = fs::read_to_string(root().join(document)).unwrap();
    let mut inside = false;
    let mut commands = Vec::new();
    for line in text.lines() {
        if line.starts_with("```") {
            inside = line == "```console";
        } else if inside && let Some(command) = line.strip_prefix("$ ") {
            commands.push(command.to_owned());
        }
    }
    commands
}

#[rstest]
#[case::readme("README.md", 6)]
#[case::tour("docs/tour.md", 4)]
#[case::hosts("docs/hosts.md", 3)]
#[case::report("docs/report.md", 6)]
#[case::tdx_host("docs/tdx-host.md", 1)]
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
    assert!(commands.len() >= at_least, "{commands:?}");
    for line in commands {
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
                if line.starts_with("tdxlab run") {
                    command.arg("--out").arg(out.path());
                }
                command.env("TDXLAB_HOST", "sim").assert().success();
            }
            other => panic!("{document} shows {other:?}, which no test knows"),
        }
    }
}
