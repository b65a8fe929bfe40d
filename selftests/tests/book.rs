//! The book in docs/: every chapter is listed, every link leads somewhere.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use tdxlab_selftests::command::root;

/// Targets of `[text](target)` outside of code, without anchors and addresses of the web.
fn links(document: &Path) -> Vec<String> {
    let text = fs::read_to_string(document).unwrap();
    let mut inside_code = false;
    let mut links = Vec::new();
    for line in text.lines() {
        if line.starts_with("```") {
            inside_code = !inside_code;
        }
        if inside_code {
            continue;
        }
        for part in line.split("](").skip(1) {
            let target = part.split(')').next().unwrap_or_default();
            let file = target.split('#').next().unwrap_or_default();
            if !file.is_empty() && !target.contains("://") {
                links.push(file.to_owned());
            }
        }
    }
    links
}

fn chapters() -> BTreeSet<PathBuf> {
    fs::read_dir(root().join("docs"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|end| end == "md"))
        .collect()
}

#[test]
fn every_chapter_is_in_the_summary_once() {
    let docs = root().join("docs");
    let listed = links(&docs.join("SUMMARY.md"));
    let unique: BTreeSet<PathBuf> = listed.iter().map(|file| docs.join(file)).collect();
    assert_eq!(listed.len(), unique.len());
    let mut all = chapters();
    all.remove(&docs.join("SUMMARY.md"));
    assert_eq!(unique, all);
}

#[test]
fn every_link_leads_somewhere() {
    let mut documents = chapters();
    documents.insert(root().join("README.md"));
    documents.insert(root().join("CONTRIBUTING.md"));
    for document in documents {
        let folder = document.parent().unwrap();
        for link in links(&document) {
            assert!(
                folder.join(&link).exists(),
                "{}: {link}",
                document.display()
            );
        }
    }
}

#[test]
fn mdbook_builds_it_clean() {
    let Ok(version) = Command::new("mdbook").arg("--version").output() else {
        eprintln!("skipped: mdbook is not installed (cargo install mdbook)");
        return;
    };
    assert!(version.status.success());
    let place = tempfile::tempdir().unwrap();
    let built = Command::new("mdbook")
        .args(["build", "--dest-dir"])
        .arg(place.path())
        .arg(root().join("docs"))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&built.stderr);
    assert!(built.status.success(), "{said}");
    assert!(!said.contains("WARN") && !said.contains("ERROR"), "{said}");
    assert!(place.path().join("tour.html").is_file());
}
