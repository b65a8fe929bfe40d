//! Which small changes to the software host and to the predictor the default set notices.
//!
//! Rebuilding the lab for each mutant would take days. All of them are built in at once instead:
//! every place that can be changed asks whether its number is the one in `TDXLAB_MUTANT`. So one
//! build serves for all, and the default set runs on `sim` once for each.
//!
//! `cargo run -p tdxlab-selftests --example mutants -- [FOLDER or FILE below lab/src]...`

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use syn::spanned::Spanned;
use syn::visit::{self, Visit};
use tdxlab_selftests::command::root;

/// Where there is something to change unless said otherwise: the TDX module, KVM, the predictor.
const SUBJECTS: [&str; 3] = ["host/softkvm/module", "host/softkvm/kvm", "predict"];

/// Longest a run of the default set may take: a mutant that never ends is noticed, too.
const PATIENCE: Duration = Duration::from_secs(20);

/// What every changed place calls.
const SUPPORT: &str = "
//! Says whether a mutant is the one that is tried.
#![allow(missing_docs, clippy::all)]
use std::ops::{Add, Sub};
use std::sync::LazyLock;
static TRIED: LazyLock<u32> = LazyLock::new(|| {
    std::env::var(\"TDXLAB_MUTANT\").ok().and_then(|id| id.parse().ok()).unwrap_or(u32::MAX)
});
pub fn on(id: u32) -> bool { *TRIED == id }
pub fn eq<T: PartialEq + ?Sized>(id: u32, a: &T, b: &T) -> bool { (a == b) != on(id) }
pub fn ne<T: PartialEq + ?Sized>(id: u32, a: &T, b: &T) -> bool { (a != b) != on(id) }
pub fn lt<T: PartialOrd + ?Sized>(id: u32, a: &T, b: &T) -> bool { if on(id) { a <= b } else { a < b } }
pub fn le<T: PartialOrd + ?Sized>(id: u32, a: &T, b: &T) -> bool { if on(id) { a < b } else { a <= b } }
pub fn gt<T: PartialOrd + ?Sized>(id: u32, a: &T, b: &T) -> bool { if on(id) { a >= b } else { a > b } }
pub fn ge<T: PartialOrd + ?Sized>(id: u32, a: &T, b: &T) -> bool { if on(id) { a > b } else { a >= b } }
pub fn add<T: Add<Output = T> + Sub<Output = T>>(id: u32, a: T, b: T) -> T { if on(id) { a - b } else { a + b } }
pub fn sub<T: Add<Output = T> + Sub<Output = T>>(id: u32, a: T, b: T) -> T { if on(id) { a + b } else { a - b } }
";

/// A place that can be changed.
#[derive(Clone, Debug)]
struct Mutant {
    file: PathBuf,
    line: usize,
    what: &'static str,
    code: String,
    /// Bytes to replace, and by what; `#` stands for the number of the mutant.
    edits: Vec<(usize, usize, String)>,
}

impl Mutant {
    fn describe(&self, tree: &Path) -> String {
        let file = self.file.strip_prefix(tree).unwrap_or(&self.file);
        format!(
            "{}:{}: {}: {}",
            file.display(),
            self.line,
            self.what,
            self.code
        )
    }
}

/// Finds the places of a file.
struct Finder<'a> {
    file: &'a Path,
    text: &'a str,
    found: Vec<Mutant>,
}

impl Finder<'_> {
    fn note(&mut self, at: &impl Spanned, what: &'static str, edits: Vec<(usize, usize, String)>) {
        let span = at.span();
        let range = span.byte_range();
        self.found.push(Mutant {
            file: self.file.to_owned(),
            line: span.start().line,
            what,
            code: self.text[range]
                .split_whitespace()
                .collect::<Vec<_>>()
                .join(" "),
            edits,
        });
    }

    fn call(&mut self, whole: &syn::ExprBinary, function: &str, by_reference: bool) {
        let (a, b) = (
            whole.left.span().byte_range(),
            whole.right.span().byte_range(),
        );
        let mark = if by_reference { "&" } else { "" };
        self.note(
            whole,
            match function {
                "eq" | "ne" => "the opposite",
                "add" | "sub" => "the other sign",
                _ => "the bound moved by one",
            },
            vec![
                (
                    a.start,
                    a.start,
                    format!("crate::mutant::{function}(#, {mark}("),
                ),
                (a.end, b.start, format!("), {mark}(")),
                (b.end, b.end, "))".to_owned()),
            ],
        );
    }

    fn around(&mut self, at: &syn::Expr, what: &'static str, before: &str, after: &str) {
        let range = at.span().byte_range();
        let edits = vec![
            (range.start, range.start, before.to_owned()),
            (range.end, range.end, after.to_owned()),
        ];
        self.note(at, what, edits);
    }
}

/// Whether an expression binds names, so that it cannot be wrapped.
fn binds(expression: &syn::Expr) -> bool {
    match expression {
        syn::Expr::Let(_) => true,
        syn::Expr::Binary(binary) => binds(&binary.left) || binds(&binary.right),
        _ => false,
    }
}

fn is_test(attributes: &[syn::Attribute]) -> bool {
    attributes
        .iter()
        .any(|attribute| attribute.path().is_ident("cfg"))
}

impl<'ast> Visit<'ast> for Finder<'_> {
    fn visit_item_mod(&mut self, item: &'ast syn::ItemMod) {
        if !is_test(&item.attrs) {
            visit::visit_item_mod(self, item);
        }
    }

    fn visit_item_fn(&mut self, item: &'ast syn::ItemFn) {
        if item.sig.constness.is_none() {
            visit::visit_item_fn(self, item);
        }
    }

    fn visit_impl_item_fn(&mut self, item: &'ast syn::ImplItemFn) {
        if item.sig.constness.is_none() {
            visit::visit_impl_item_fn(self, item);
        }
    }

    fn visit_item_const(&mut self, _: &'ast syn::ItemConst) {}
    fn visit_impl_item_const(&mut self, _: &'ast syn::ImplItemConst) {}
    fn visit_item_static(&mut self, _: &'ast syn::ItemStatic) {}
    fn visit_type(&mut self, _: &'ast syn::Type) {}
    fn visit_pat(&mut self, _: &'ast syn::Pat) {}

    fn visit_expr_binary(&mut self, whole: &'ast syn::ExprBinary) {
        use syn::BinOp::{Add, And, Eq, Ge, Gt, Le, Lt, Ne, Or, Sub};
        match whole.op {
            Eq(_) => self.call(whole, "eq", true),
            Ne(_) => self.call(whole, "ne", true),
            Lt(_) => self.call(whole, "lt", true),
            Le(_) => self.call(whole, "le", true),
            Gt(_) => self.call(whole, "gt", true),
            Ge(_) => self.call(whole, "ge", true),
            Add(_) => self.call(whole, "add", false),
            Sub(_) => self.call(whole, "sub", false),
            And(_) | Or(_) => {
                for side in [&whole.left, &whole.right] {
                    if !binds(side) {
                        let (what, before) = match whole.op {
                            And(_) => ("left out of &&", "(crate::mutant::on(#) || ("),
                            _ => ("left out of ||", "(!crate::mutant::on(#) && ("),
                        };
                        self.around(side, what, before, "))");
                    }
                }
            }
            _ => {}
        }
        visit::visit_expr_binary(self, whole);
    }

    fn visit_expr_if(&mut self, whole: &'ast syn::ExprIf) {
        if !binds(&whole.cond) {
            self.around(&whole.cond, "always", "(crate::mutant::on(#) || (", "))");
            self.around(&whole.cond, "never", "(!crate::mutant::on(#) && (", "))");
        }
        visit::visit_expr_if(self, whole);
    }

    fn visit_stmt(&mut self, statement: &'ast syn::Stmt) {
        if let syn::Stmt::Expr(expression, Some(_)) = statement
            && let syn::Expr::MethodCall(_) | syn::Expr::Call(_) | syn::Expr::Assign(_) = expression
        {
            let range = statement.span().byte_range();
            let edits = vec![
                (
                    range.start,
                    range.start,
                    "if !crate::mutant::on(#) { ".to_owned(),
                ),
                (range.end, range.end, " }".to_owned()),
            ];
            self.note(statement, "left out", edits);
        }
        visit::visit_stmt(self, statement);
    }
}

fn sources(path: &Path, into: &mut Vec<PathBuf>) {
    if path.is_dir() {
        let mut inside: Vec<_> = fs::read_dir(path)
            .expect("a folder of sources")
            .map(|entry| entry.expect("an entry").path())
            .collect();
        inside.sort();
        inside.iter().for_each(|path| sources(path, into));
    } else if path.extension().is_some_and(|end| end == "rs") && !path.ends_with("tests.rs") {
        into.push(path.to_owned());
    }
}

fn mutants(tree: &Path, subjects: &[String]) -> Vec<Mutant> {
    let mut files = Vec::new();
    for subject in subjects {
        sources(&tree.join("lab/src").join(subject), &mut files);
    }
    let mut all = Vec::new();
    for file in files {
        let text = fs::read_to_string(&file).expect("a source");
        let mut finder = Finder {
            file: &file,
            text: &text,
            found: Vec::new(),
        };
        finder.visit_file(&syn::parse_file(&text).expect("it compiles"));
        all.extend(finder.found);
    }
    all
}

/// Writes every file with its mutants in it, except those left out.
fn write(mutants: &[Mutant], originals: &BTreeMap<PathBuf, String>, out: &BTreeSet<usize>) {
    for (file, text) in originals {
        let mut edits: Vec<(usize, usize, usize, usize, String)> = Vec::new();
        for (id, mutant) in mutants.iter().enumerate() {
            if mutant.file != *file || out.contains(&id) {
                continue;
            }
            let whole = mutant.edits[mutant.edits.len() - 1].1 - mutant.edits[0].0;
            for (start, end, by) in &mutant.edits {
                // Of those that begin at one place the widest goes first, of those that end at one
                // place the narrowest.
                let order = match *start == mutant.edits[0].0 {
                    true => usize::MAX - whole,
                    false => whole,
                };
                let phase = usize::from(*start == mutant.edits[0].0);
                edits.push((*start, phase, order, *end, by.replace('#', &id.to_string())));
            }
        }
        edits.sort();
        let mut changed = String::new();
        let mut at = 0;
        for (start, _, _, end, by) in edits {
            changed += &text[at.min(start)..start];
            changed += &by;
            at = end.max(start);
        }
        changed += &text[at..];
        fs::write(file, changed).expect("room for the tree");
    }
}

/// A copy of what git knows, beside the build.
fn copy(tree: &Path) {
    let listed = Command::new("git")
        .args(["ls-files", "-z"])
        .current_dir(root())
        .output()
        .expect("git");
    for name in String::from_utf8_lossy(&listed.stdout).split_terminator('\0') {
        let to = tree.join(name);
        fs::create_dir_all(to.parent().expect("below the tree")).expect("room for the tree");
        fs::copy(root().join(name), to).expect("room for the tree");
    }
}

fn cargo(tree: &Path, arguments: &[&str]) -> Command {
    let mut cargo = Command::new(env!("CARGO"));
    cargo
        .args(arguments)
        .current_dir(tree)
        .env("CARGO_TARGET_DIR", root().join("target"));
    cargo
}

/// Builds the tree; mutants on lines that do not compile are left out.
fn build(
    tree: &Path,
    mutants: &[Mutant],
    originals: &BTreeMap<PathBuf, String>,
) -> BTreeSet<usize> {
    let mut out = BTreeSet::new();
    for _ in 0..8 {
        write(mutants, originals, &out);
        let checked = cargo(
            tree,
            &["check", "--package", "tdxlab", "--message-format", "short"],
        )
        .output()
        .expect("cargo");
        if checked.status.success() {
            break;
        }
        let said = String::from_utf8_lossy(&checked.stderr).into_owned();
        let before = out.len();
        for line in said.lines().filter(|line| line.contains("error")) {
            let mut parts = line.split(':');
            let (Some(file), Some(number)) = (parts.next(), parts.next()) else {
                continue;
            };
            for (id, mutant) in mutants.iter().enumerate() {
                if mutant.file.ends_with(file) && number.parse() == Ok(mutant.line) {
                    out.insert(id);
                }
            }
        }
        assert!(out.len() > before, "the tree does not compile:\n{said}");
    }
    let built = cargo(tree, &["build", "--package", "tdxlab"]).status();
    assert!(built.expect("cargo").success(), "the tree does not compile");
    out
}

/// Whether the default set notices a mutant: under some design a plan does not pass or never ends.
fn is_noticed(tdxlab: &Path, id: usize) -> bool {
    ["headtail", "v3", "stock", "v5"]
        .iter()
        .any(|design| !passes(tdxlab, id, design))
}

fn passes(tdxlab: &Path, id: usize, design: &str) -> bool {
    let reports = tempfile::tempdir().expect("room for reports");
    let mut child = Command::new(tdxlab)
        .args([
            "run",
            "--host",
            "sim",
            "--fail-fast",
            "--quiet",
            "--jobs",
            "1",
        ])
        .args(["--design", design, "--out"])
        .arg(reports.path())
        .env("TDXLAB_MUTANT", id.to_string())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("the lab was built");
    let started = Instant::now();
    loop {
        match child.try_wait().expect("it is a child") {
            Some(status) => return status.success(),
            None if started.elapsed() > PATIENCE => {
                let _ = child.kill();
                let _ = child.wait();
                return false;
            }
            None => std::thread::sleep(Duration::from_millis(5)),
        }
    }
}

fn main() {
    let mut subjects: Vec<String> = std::env::args().skip(1).collect();
    if subjects.is_empty() {
        subjects = SUBJECTS.map(str::to_owned).to_vec();
    }
    let tree = root().join("target/mutants");
    let _ = fs::remove_dir_all(&tree);
    copy(&tree);
    fs::write(tree.join("lab/src/mutant.rs"), SUPPORT.trim_start()).expect("room");
    let library = tree.join("lab/src/lib.rs");
    let text = fs::read_to_string(&library).expect("the library");
    fs::write(
        &library,
        text.replace("pub mod agent;", "pub mod agent;\npub mod mutant;"),
    )
    .expect("room");

    let mutants = mutants(&tree, &subjects);
    let originals: BTreeMap<PathBuf, String> = mutants
        .iter()
        .map(|mutant| {
            (
                mutant.file.clone(),
                fs::read_to_string(&mutant.file).expect("a source"),
            )
        })
        .collect();
    let out = build(&tree, &mutants, &originals);
    // The next build of the real tree goes to the same place.
    let tdxlab = tree.join("tdxlab");
    fs::copy(root().join("target/debug/tdxlab"), &tdxlab).expect("room");
    assert!(
        !is_noticed(&tdxlab, usize::MAX >> 33),
        "without a mutant the default set must pass"
    );

    let next = AtomicUsize::new(0);
    let noticed = Mutex::new(BTreeMap::new());
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                loop {
                    let id = next.fetch_add(1, Ordering::Relaxed);
                    if id >= mutants.len() {
                        return;
                    }
                    if !out.contains(&id) {
                        let seen = is_noticed(&tdxlab, id);
                        if !seen {
                            eprintln!("{}", mutants[id].describe(&tree));
                        }
                        noticed.lock().expect("no worker panics").insert(id, seen);
                    }
                }
            });
        }
    });
    report(
        &tree,
        &mutants,
        &noticed.into_inner().expect("no worker panics"),
        out.len(),
    );
}

fn report(tree: &Path, mutants: &[Mutant], noticed: &BTreeMap<usize, bool>, left_out: usize) {
    let mut files: BTreeMap<&Path, (usize, usize)> = BTreeMap::new();
    for (id, seen) in noticed {
        let count = files.entry(&mutants[*id].file).or_default();
        count.0 += usize::from(*seen);
        count.1 += 1;
    }
    for (file, (seen, all)) in &files {
        let file = file.strip_prefix(tree).unwrap_or(file);
        println!("{seen:>4} of {all:>4} noticed in {}", file.display());
    }
    for (id, _) in noticed.iter().filter(|(_, seen)| !**seen) {
        println!("survives: {}", mutants[*id].describe(tree));
    }
    let seen = noticed.values().filter(|seen| **seen).count();
    println!(
        "{seen} of {} mutants noticed by the default set on sim, {left_out} left out because they \
         do not compile",
        noticed.len()
    );
}
