//! A copy of the sources with every mutant built in at once.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use tdxlab_selftests::command::root;

use super::places::Mutant;

/// What every changed place calls: a crate of the tree's own.
const SUPPORT: &str = "
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

const MANIFEST: &str = "[package]
name = \"mutant\"
version = \"0.0.0\"
edition = \"2024\"
";

/// Crates that can be changed.
const CHANGED: [&str; 3] = ["tdxmodule", "softkvm", "predict"];

/// The copy, with everything built from it.
pub(super) struct Tree {
    /// The lab.
    pub(super) tdxlab: PathBuf,
    /// The tests of the predictor.
    pub(super) of_predictor: Vec<Tests>,
    /// The tests of the software host.
    pub(super) of_host: Vec<Tests>,
    /// Mutants that do not compile.
    pub(super) left_out: BTreeSet<usize>,
    /// Folder for the findings of hunts.
    pub(super) room: PathBuf,
}

/// A program of tests, and the folder of its package, in which it runs.
pub(super) struct Tests {
    pub(super) program: PathBuf,
    pub(super) package: PathBuf,
}

/// The crates of the lab, as they are.
pub(super) fn crates() -> PathBuf {
    root().join("lab")
}

impl Tree {
    /// Copies what git knows, changes it in all places, and builds it.
    pub(super) fn build(mutants: &[Mutant]) -> Tree {
        let tree = root().join("target/mutants");
        let _ = fs::remove_dir_all(&tree);
        copy(&tree);
        add_support(&tree);
        let left_out = write_all(&tree, mutants);
        // The next build of another copy goes to the same place.
        let keep = |built: &Path| {
            let kept = tree.join(built.file_name().expect("a file"));
            fs::copy(built, &kept).expect("room");
            kept
        };
        let tests = |package: &str| -> Vec<Tests> {
            let built = executables(&tree, &format!("tdxlab-{package}"), &["test", "--no-run"]);
            let tests = built.iter().map(|program| Tests {
                program: keep(program),
                package: tree.join("lab").join(package),
            });
            tests.collect()
        };
        let tdxlab = executables(&tree, "tdxlab", &["build", "--bin", "tdxlab"]);
        let tdxlab = keep(&tdxlab[0]);
        let of_predictor = tests("predict");
        let of_host = ["tdxmodule", "softkvm", "host-soft"];
        let of_host = of_host.into_iter().flat_map(tests).collect();
        let room = tree.join("hunts");
        fs::create_dir_all(&room).expect("room");
        Tree {
            tdxlab,
            of_predictor,
            of_host,
            left_out,
            room,
        }
    }
}

/// Adds the crate that every changed place calls.
fn add_support(tree: &Path) {
    let support = tree.join("lab/mutant");
    fs::create_dir_all(support.join("src")).expect("room");
    fs::write(support.join("Cargo.toml"), MANIFEST).expect("room");
    fs::write(support.join("src/lib.rs"), SUPPORT.trim_start()).expect("room");
    for name in CHANGED {
        let manifest = tree.join("lab").join(name).join("Cargo.toml");
        let text = fs::read_to_string(&manifest).expect("a manifest");
        let with_it = "[dependencies]\nmutant = { path = \"../mutant\" }\n";
        let text = text.replacen("[dependencies]\n", with_it, 1);
        assert!(text.contains(with_it), "{name} has no dependencies");
        fs::write(&manifest, text).expect("room");
    }
}

/// Builds a package; returns its executables, as listed by the compiler.
fn executables(tree: &Path, package: &str, arguments: &[&str]) -> Vec<PathBuf> {
    let built = cargo(tree, arguments)
        .args(["--package", package, "--message-format", "json"])
        .stderr(Stdio::inherit())
        .output()
        .expect("cargo");
    assert!(built.status.success(), "the tree does not compile");
    let said = String::from_utf8_lossy(&built.stdout);
    let found: Vec<PathBuf> = said
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .filter_map(|message| Some(message.get("executable")?.as_str()?.into()))
        .collect();
    assert!(!found.is_empty(), "{package} has no program");
    found
}

/// Writes every file with its mutants in it, except those left out.
fn write(
    sources: &Path,
    mutants: &[Mutant],
    originals: &BTreeMap<PathBuf, String>,
    out: &BTreeSet<usize>,
) {
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
            // Errors of the compiler are located by line.
            let lines = |text: &str| text.matches('\n').count();
            let lost = lines(&text[start..end.max(start)]).saturating_sub(lines(&by));
            changed += &"\n".repeat(lost);
            at = end.max(start);
        }
        changed += &text[at..];
        fs::write(sources.join(file), changed).expect("room for the tree");
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
        // Cargo tells packages of the tree and of the copy apart by nothing but their files.
        .env("CARGO_TARGET_DIR", root().join("target/mutants-build"));
    cargo
}

/// Writes all mutants that compile; returns the others.
fn write_all(tree: &Path, mutants: &[Mutant]) -> BTreeSet<usize> {
    let sources = tree.join("lab");
    let originals = mutants
        .iter()
        .map(|mutant| {
            let text = fs::read_to_string(sources.join(&mutant.file)).expect("a source");
            (mutant.file.clone(), text)
        })
        .collect();
    let mut out = BTreeSet::new();
    loop {
        write(&sources, mutants, &originals, &out);
        let mut check = cargo(
            tree,
            &["check", "--keep-going", "--message-format", "short"],
        );
        for name in CHANGED {
            check.arg("--package").arg(format!("tdxlab-{name}"));
        }
        let checked = check.output().expect("cargo");
        if checked.status.success() {
            return out;
        }
        let said = String::from_utf8_lossy(&checked.stderr).into_owned();
        let before = out.len();
        for line in said.lines().filter(|line| line.contains("error")) {
            let mut parts = line.split(':');
            let (Some(file), Some(number)) = (parts.next(), parts.next()) else {
                continue;
            };
            for (id, mutant) in mutants.iter().enumerate() {
                if Path::new(file).ends_with(&mutant.file) && number.parse() == Ok(mutant.line) {
                    out.insert(id);
                }
            }
        }
        assert!(out.len() > before, "the tree does not compile:\n{said}");
    }
}
