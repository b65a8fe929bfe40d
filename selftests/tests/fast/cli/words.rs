//! Help texts and messages as snapshots, so that their wording is reviewed.
//!
//! `INSTA_UPDATE=always cargo test -p tdxlab-selftests --test fast words` accepts the current
//! texts.

use std::fs;
use std::path::{Path, PathBuf};

use proc_macro2::{Delimiter, TokenStream, TokenTree};
use tdxlab_selftests::command::{root, stdout};
use tdxlab_selftests::tdxlab;

/// Every command, the words after `tdxlab`: there is a manual page for each.
fn commands() -> Vec<Vec<String>> {
    let folder = tempfile::tempdir().unwrap();
    let said = tdxlab!("man", "--out", folder.path()).assert().success();
    let mut all: Vec<Vec<String>> = stdout(&said)
        .lines()
        .map(|path| {
            Path::new(path)
                .file_stem()
                .unwrap()
                .to_string_lossy()
                .into_owned()
        })
        .map(|page| page.split('-').skip(1).map(str::to_owned).collect())
        .collect();
    all.sort();
    assert!(all.len() > 25, "{all:?}");
    all
}

fn help(words: &[String]) -> String {
    let said = tdxlab!()
        .args(words)
        .arg("--help")
        .env_remove("TDXLAB_SHARD")
        .assert()
        .success();
    stdout(&said)
}

#[test]
fn every_help_text() {
    let mut text = String::new();
    for words in commands() {
        let name: String = words.iter().map(|word| format!(" {word}")).collect();
        text += &format!("$ tdxlab{name} --help\n{}\n", help(&words));
    }
    insta::assert_snapshot!(text);
}

#[test]
fn every_help_text_ends_with_examples_and_names_the_program() {
    for words in commands().into_iter().filter(|words| !words.is_empty()) {
        let help = help(&words);
        let examples = help.split("Examples:\n").nth(1);
        let examples = examples.unwrap_or_else(|| panic!("no examples: {help}"));
        assert_eq!(examples.matches("  tdxlab ").count(), 2, "{help}");
        let usage = format!("Usage: tdxlab {}", words.join(" "));
        assert!(help.contains(&usage), "{help}");
    }
}

/// Texts of errors, of advice, and of what commands print, file by file.
#[test]
fn every_message() {
    let mut text = String::new();
    for file in sources(&root().join("lab")) {
        let tokens: TokenStream = fs::read_to_string(&file).unwrap().parse().unwrap();
        let mut messages = Vec::new();
        collect(tokens, false, &mut messages);
        if messages.is_empty() {
            continue;
        }
        let name = file.strip_prefix(root()).unwrap().display().to_string();
        text += &format!("{name}\n");
        for message in messages {
            text += &format!("  {message}\n");
        }
    }
    assert!(text.len() > 10_000, "{text}");
    insta::assert_snapshot!(text);
}

/// Rust files of the lab without tests, in order.
fn sources(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let mut entries: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    entries.sort();
    for path in entries {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() && name != "tests" {
            files.extend(sources(&path));
        } else if name.ends_with(".rs")
            && name != "tests.rs"
            && path.components().any(|part| part.as_os_str() == "src")
        {
            files.push(path);
        }
    }
    files
}

/// Sources of user-visible texts: arguments of these, and texts in formats within.
const SAYING: [&str; 8] = [
    "error", "help", "usage", "usable", "limited", "unusable", "note", "say",
];

fn collect(tokens: TokenStream, said: bool, messages: &mut Vec<String>) {
    let mut says = false;
    let mut tokens = tokens.into_iter().peekable();
    while let Some(token) = tokens.next() {
        match token {
            TokenTree::Ident(ident) => {
                let word = ident.to_string();
                // Unit tests stand at the end of a file.
                if word == "cfg"
                    && matches!(tokens.peek(), Some(TokenTree::Group(group)) if group.stream().to_string() == "test")
                {
                    return;
                }
                says = SAYING.contains(&word.as_str());
            }
            TokenTree::Group(group) => {
                let argument = group.delimiter() == Delimiter::Parenthesis;
                collect(group.stream(), said || (says && argument), messages);
                says = false;
            }
            TokenTree::Literal(literal) if said => {
                if let Ok(text) = syn::parse_str::<syn::LitStr>(&literal.to_string()) {
                    let text = text.value();
                    if text.contains(' ') {
                        messages.push(text.replace('\n', "\\n"));
                    }
                }
            }
            _ => says = false,
        }
    }
}
