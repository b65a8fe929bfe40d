//! Rules of the house, checked over the source tree.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use syn::visit::Visit;
use tdxlab_selftests::command::root;

/// Longest source file, in lines that are neither empty nor comments.
const MOST_LINES: usize = 550;

/// What the predictor and the software host may both name: types of addresses. Everything else of
/// the one is strange to the other; that is what makes their agreement evidence.
const COMMON: [&str; 4] = [
    "crate::addr::Gpa",
    "crate::addr::GpaRange",
    "crate::addr::PageLevel",
    "crate::addr::Side",
];

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

#[test]
fn predictor_and_software_host_are_strangers() {
    let predictor = names(&root().join("lab/src/predict"));
    let host = names(&root().join("lab/src/host/softkvm"));
    for name in &predictor {
        assert!(
            !name.starts_with("crate::host"),
            "the predictor names {name}"
        );
        assert!(
            !name.starts_with("tdxlab_protocol::"),
            "the predictor names {name}"
        );
    }
    for name in &host {
        assert!(
            !name.starts_with("crate::predict"),
            "the software host names {name}"
        );
    }
    let common: BTreeSet<&str> = predictor.intersection(&host).map(String::as_str).collect();
    let allowed = BTreeSet::from(COMMON);
    let strange: Vec<String> = common
        .difference(&allowed)
        .map(|name| (*name).into())
        .collect();
    none(
        strange,
        "predictor and software host share address types only",
    );
}

/// Every item from outside that the files of a folder name, tests aside.
fn names(folder: &Path) -> BTreeSet<String> {
    let mut files = Vec::new();
    collect(folder, &mut files);
    let mut named = Named::default();
    for file in files {
        let is_test = file
            .components()
            .any(|part| part.as_os_str() == "tests" || part.as_os_str() == "tests.rs");
        if !is_test {
            named.visit_file(&syn::parse_file(&read(&file)).unwrap());
        }
    }
    assert!(named.0.len() > 3, "{}: {:?}", folder.display(), named.0);
    named.0
}

#[derive(Default)]
struct Named(BTreeSet<String>);

impl Named {
    fn tree(&mut self, before: &str, tree: &syn::UseTree) {
        let join = |name: &syn::Ident| match before {
            "" => name.to_string(),
            before => format!("{before}::{name}"),
        };
        match tree {
            syn::UseTree::Path(path) => self.tree(&join(&path.ident), &path.tree),
            syn::UseTree::Name(name) => self.note(join(&name.ident)),
            syn::UseTree::Rename(rename) => self.note(join(&rename.ident)),
            syn::UseTree::Glob(_) => self.note(format!("{before}::*")),
            syn::UseTree::Group(group) => {
                for tree in &group.items {
                    self.tree(before, tree);
                }
            }
        }
    }

    fn note(&mut self, name: String) {
        if name.starts_with("crate::") || name.starts_with("tdxlab_protocol::") {
            self.0.insert(name);
        }
    }
}

impl<'ast> Visit<'ast> for Named {
    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        self.tree("", &item.tree);
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let names: Vec<String> = path
            .segments
            .iter()
            .map(|segment| segment.ident.to_string())
            .collect();
        // An item and what is in it (`crate::addr::Gpa::new`) are the same acquaintance.
        self.note(names[..names.len().min(3)].join("::"));
        syn::visit::visit_path(self, path);
    }

    fn visit_item_mod(&mut self, item: &'ast syn::ItemMod) {
        if item.ident != "tests" {
            syn::visit::visit_item_mod(self, item);
        }
    }
}
