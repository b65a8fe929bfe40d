//! The book in docs/: every chapter is listed, every link is valid.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use mdbook_driver::MDBook;
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

/// What mdBook warns of.
#[derive(Clone, Default)]
struct Complaints(Arc<Mutex<Vec<u8>>>);

impl Write for Complaints {
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(text)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn mdbook_builds_it_clean() {
    let place = tempfile::tempdir().unwrap();
    let complaints = Complaints::default();
    let all = complaints.clone();
    let listener = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::WARN)
        .with_ansi(false)
        .with_writer(move || all.clone())
        .finish();
    tracing::subscriber::with_default(listener, || {
        let mut book = MDBook::load(root().join("docs")).unwrap();
        book.config.build.build_dir = place.path().to_owned();
        book.build().unwrap();
    });
    let complaints = String::from_utf8(complaints.0.lock().unwrap().clone()).unwrap();
    assert!(complaints.is_empty(), "{complaints}");
    assert!(place.path().join("tour.html").is_file());
}
