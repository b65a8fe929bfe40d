//! Rules of the house, checked over the source tree.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use tdxlab_selftests::command::root;

/// Longest source file, in lines that are neither empty nor comments.
const MOST_LINES: usize = 550;

/// Longest crate of the lab, in lines of Rust with its tests.
const MOST_LINES_OF_A_CRATE: usize = 8000;

fn sources() -> Vec<PathBuf> {
    let mut files = Vec::new();
    for folder in ["lab", "selftests", "guest-images"] {
        collect(&root().join(folder), &mut files);
    }
    assert!(files.len() > 50, "only {} source files found", files.len());
    files
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() && !path.ends_with("target") {
            collect(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap()
}

/// Lists all that break a rule, so that one run shows them all.
fn none(broken: Vec<String>, rule: &str) {
    assert!(broken.is_empty(), "{rule}:\n{}", broken.join("\n"));
}

#[test]
fn every_file_says_what_it_is_for() {
    let broken = sources()
        .iter()
        .filter(|path| !read(path).starts_with("//! "))
        .map(|path| path.display().to_string())
        .collect();
    none(broken, "a file starts with a line `//! ...`");
}

#[test]
fn no_file_is_too_long() {
    let broken = sources()
        .iter()
        .filter_map(|path| {
            let text = read(path);
            let lines = text.lines().map(str::trim);
            let code = lines.filter(|line| !line.is_empty() && !line.starts_with("//"));
            let code = code.count();
            (code > MOST_LINES).then(|| format!("{}: {code}", path.display()))
        })
        .collect();
    none(broken, "a file has at most 550 lines of code");
}

#[test]
fn nothing_is_left_to_do() {
    // Put together here, so that this file does not break its own rule.
    let marks = ["todo", "unimplemented", "dbg"].map(|name| format!("{name}!("));
    let words =
        ["TO", "FIX"].map(|start| format!("{start}{}", if start == "TO" { "DO" } else { "ME" }));
    let mut broken = Vec::new();
    for path in sources() {
        for (number, line) in read(&path).lines().enumerate() {
            if marks
                .iter()
                .chain(&words)
                .any(|mark| line.contains(mark.as_str()))
            {
                broken.push(format!(
                    "{}:{}: {}",
                    path.display(),
                    number + 1,
                    line.trim()
                ));
            }
        }
    }
    none(broken, "nothing is left to do");
}

/// The edges between crates are those of the table in lab/README.md, and only the command line knows
/// clap and indicatif.
#[test]
fn crates_name_what_the_table_lets_them() {
    let metadata = std::process::Command::new(env!("CARGO"))
        .args([
            "metadata",
            "--no-deps",
            "--offline",
            "--format-version",
            "1",
        ])
        .current_dir(root())
        .output()
        .unwrap();
    let metadata: serde_json::Value = serde_json::from_slice(&metadata.stdout).unwrap();
    let table = table(&read(&root().join("lab/README.md")));
    let mut broken = Vec::new();
    let mut seen = BTreeSet::new();
    for package in metadata["packages"].as_array().unwrap() {
        let manifest = Path::new(package["manifest_path"].as_str().unwrap());
        let folder = manifest.parent().unwrap();
        if folder.parent() != Some(&root().join("lab")) {
            continue;
        }
        let name = folder.file_name().unwrap().to_str().unwrap().to_owned();
        let dependencies = |dev: bool| -> BTreeSet<String> {
            let all = package["dependencies"].as_array().unwrap().iter();
            all.filter(|one| (one["kind"] == "dev") == dev)
                .map(|one| one["name"].as_str().unwrap().to_owned())
                .collect()
        };
        let of_lab = |all: &BTreeSet<String>| -> BTreeSet<String> {
            let all = all.iter();
            all.filter_map(|one| one.strip_prefix("tdxlab-").map(str::to_owned))
                .collect()
        };
        let (normal, dev) = (dependencies(false), dependencies(true));
        if name == "tdxlab" {
            seen.insert(name);
            continue;
        }
        let (named, allowed) = (of_lab(&normal), table.get(&name).cloned());
        if allowed.as_ref() != Some(&named) {
            broken.push(format!(
                "{name} names {named:?}, the table says {allowed:?}"
            ));
        }
        for one in ["clap", "indicatif"] {
            if normal.contains(one) {
                broken.push(format!("{name} names {one}"));
            }
        }
        let strangers: &[&str] = match name.as_str() {
            "predict" => &["softkvm", "tdxmodule"],
            "softkvm" | "tdxmodule" => &["predict"],
            _ => &[],
        };
        let met = strangers.iter().filter(|one| of_lab(&dev).contains(**one));
        broken.extend(met.map(|one| format!("{name} meets {one} in tests")));
        seen.insert(name);
    }
    let listed: BTreeSet<String> = table.into_keys().collect();
    if listed != seen {
        broken.push(format!("the table lists {listed:?}, there are {seen:?}"));
    }
    none(
        broken,
        "crates name what the table in lab/README.md lets them",
    );
}

/// Rows of the table: each crate with those that it names.
fn table(text: &str) -> BTreeMap<String, BTreeSet<String>> {
    let quoted = |cell: &str| -> Vec<String> {
        let parts = cell.split('`').skip(1).step_by(2);
        parts.map(str::to_owned).collect()
    };
    let rows = text.lines().filter(|line| line.starts_with("| `"));
    rows.filter_map(|line| {
        let cells: Vec<&str> = line.split('|').collect();
        let name = quoted(cells.get(1)?).pop()?;
        Some((name, quoted(cells.get(2)?).into_iter().collect()))
    })
    .collect()
}

/// No crate exceeds this size.
#[test]
fn no_crate_is_too_large() {
    let mut broken = Vec::new();
    for folder in fs::read_dir(root().join("lab")).unwrap() {
        let folder = folder.unwrap().path();
        let mut files = Vec::new();
        if folder.is_dir() {
            collect(&folder, &mut files);
        }
        let lines: usize = files.iter().map(|file| read(file).lines().count()).sum();
        if lines > MOST_LINES_OF_A_CRATE {
            broken.push(format!("{}: {lines}", folder.display()));
        }
    }
    none(broken, "a crate has at most 8000 lines");
}
