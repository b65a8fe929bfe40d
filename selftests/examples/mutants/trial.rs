//! Finds which check notices a mutant.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::places::Mutant;
use super::tree::Tree;

/// Longest a trial may take, of the two seconds that the slowest takes: a mutant that never ends is
/// noticed, too.
const PATIENCE: Duration = Duration::from_secs(10);

/// Designs under which the default set and hunts run.
const DESIGNS: [&str; 4] = ["headtail", "v3", "stock", "v5"];

/// Random scenarios of a hunt, for each design.
const HUNTED: &str = "300";

/// A number that no mutant has.
const NONE: usize = usize::MAX >> 33;

/// The check that notices a mutant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum By {
    /// The default set on `sim`, under one of the designs.
    Set,
    /// The default set and, of a mutant of the predictor, the predictor's own tests as well.
    Both,
    /// Only tests.
    Tests,
    /// Only random scenarios.
    Hunt,
    /// None: the mutant survives.
    Nobody,
}

impl By {
    pub(super) fn name(self) -> &'static str {
        match self {
            By::Set | By::Both => "the default set",
            By::Tests => "only tests",
            By::Hunt => "only a hunt",
            By::Nobody => "nobody",
        }
    }
}

/// Whether a mutant is one of the predictor, whose own tests must notice it.
pub(super) fn is_predictor(mutant: &Mutant) -> bool {
    mutant.file.starts_with("predict")
}

/// Without a mutant, no check may fail.
pub(super) fn without_a_mutant(tree: &Tree) {
    assert!(set_passes(tree, NONE), "the default set must pass");
    for predictor in [true, false] {
        assert!(tests_pass(tree, NONE, predictor), "tests must pass");
    }
    assert!(hunt_passes(tree, NONE), "a hunt must find nothing");
}

/// The check that notices a mutant. The tests of the predictor are always run, the others only if
/// the default set passes.
pub(super) fn notices(tree: &Tree, id: usize, mutant: &Mutant) -> By {
    let set = !set_passes(tree, id);
    let predictor = is_predictor(mutant);
    let tests = (predictor || !set) && !tests_pass(tree, id, predictor);
    match (set, tests) {
        (true, true) => By::Both,
        (true, false) => By::Set,
        (false, true) => By::Tests,
        (false, false) if !hunt_passes(tree, id) => By::Hunt,
        (false, false) => By::Nobody,
    }
}

fn set_passes(tree: &Tree, id: usize) -> bool {
    let rounds = DESIGNS.len().to_string();
    let designs = DESIGNS.join(",");
    let arguments = ["run", "--host", "sim", "--jobs", "1", "--seed", "1"];
    let rest = ["--no-report", "--repeat", &rounds, "--design", &designs];
    passes(
        &tree.tdxlab,
        id,
        &[&arguments[..], &rest].concat(),
        &tree.room,
    )
}

fn tests_pass(tree: &Tree, id: usize, predictor: bool) -> bool {
    let tests = match predictor {
        true => &tree.of_predictor,
        false => &tree.of_host,
    };
    tests
        .iter()
        .all(|tests| passes(&tests.program, id, &["--test-threads", "1"], &tests.package))
}

fn hunt_passes(tree: &Tree, id: usize) -> bool {
    DESIGNS.iter().all(|design| {
        let arguments = ["fuzz", "--host", "sim", "--jobs", "1", "--seed", "1"];
        let rest = ["--count", HUNTED, "--design", design, "--out", "."];
        let room = tree.room.join(format!("{id}-{design}"));
        std::fs::create_dir_all(&room).expect("room for reports");
        let passes = passes(&tree.tdxlab, id, &[&arguments[..], &rest].concat(), &room);
        // The finding shows which scenario is missing.
        if passes {
            let _ = std::fs::remove_dir_all(&room);
        }
        passes
    })
}

/// Whether a program that is run in a folder ends with 0.
fn passes(program: &Path, id: usize, arguments: &[&str], folder: &Path) -> bool {
    let mut child = Command::new(program)
        .args(arguments)
        .current_dir(folder)
        .env("TDXLAB_MUTANT", id.to_string())
        .stdin(Stdio::null())
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
