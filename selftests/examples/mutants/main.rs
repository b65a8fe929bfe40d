//! Mutation tests of the software host and the predictor: which check notices each mutant.
//!
//! Rebuilding the lab for each mutant would take days. Instead all are compiled in at once: every
//! mutated place compares its number with `TDXLAB_MUTANT`. So one build serves for all, and each is
//! tried in a second.
//!
//! | file | what it does |
//! |---|---|
//! | `places` | finds places to mutate in a source |
//! | `tree` | copies the sources, mutates all places, builds |
//! | `trial` | finds which check notices a mutant: the default set, the tests of the crates, a hunt |
//! | `reasons` | accepted survivors, with reasons: `selftests/mutants.yaml` |
//!
//! `cargo run -p tdxlab-selftests --example mutants -- [--list] [FOLDER or FILE below lab]...`
//!
//! Exits with 1 if a mutant survives without a reason, or a reason is unused.

mod places;
mod reasons;
mod tree;
mod trial;

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Mutex;

use places::Mutant;
use reasons::Reasons;
use tdxlab::run::in_parallel;
use tree::Tree;
use trial::By;

/// Sources mutated by default: the software KVM and TDX module, and the predictor.
const SUBJECTS: [&str; 3] = ["tdxmodule/src", "softkvm/src", "predict/src"];

/// Not mutated: faults are made of the first two, the last is only for debugging.
const SPARED: [&str; 3] = [
    "tdxmodule/src/policy.rs",
    "tdxmodule/src/decision.rs",
    "softkvm/src/kvm/dump.rs",
];

fn main() -> ExitCode {
    let mut subjects: Vec<String> = std::env::args().skip(1).collect();
    let only_list = subjects.iter().any(|argument| argument == "--list");
    subjects.retain(|argument| argument != "--list");
    let all = subjects.is_empty();
    if all {
        subjects = SUBJECTS.map(str::to_owned).to_vec();
    }
    let mut mutants = places::find(&tree::crates(), &subjects);
    mutants.retain(|mutant| !SPARED.iter().any(|spared| mutant.file == Path::new(spared)));
    if only_list {
        mutants.iter().for_each(|mutant| println!("{mutant}"));
        println!("{} mutants", mutants.len());
        return ExitCode::SUCCESS;
    }
    let reasons = Reasons::read();
    let tree = Tree::build(&mutants);
    trial::without_a_mutant(&tree);
    let tried = try_all(&tree, &mutants);
    report(&mutants, &tried, tree.left_out.len());
    let bare: Vec<_> = tried
        .iter()
        .filter(|(id, by)| **by == By::Nobody && reasons.of(&mutants[**id]).is_none())
        .collect();
    for (id, _) in &bare {
        println!("survives, and nobody said why it may: {}", mutants[**id]);
    }
    let idle = match all {
        true => reasons.for_nothing(tried.keys().map(|id| &mutants[*id])),
        false => Vec::new(),
    };
    for reason in &idle {
        println!("a reason for no mutant: {reason}");
    }
    match bare.is_empty() && idle.is_empty() {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    }
}

/// Tries all mutants that compile, as many at a time as there are processors.
fn try_all(tree: &Tree, mutants: &[Mutant]) -> BTreeMap<usize, By> {
    let tried = Mutex::new(BTreeMap::new());
    let compiling: Vec<(usize, &Mutant)> = mutants
        .iter()
        .enumerate()
        .filter(|(id, _)| !tree.left_out.contains(id))
        .collect();
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    let Ok(()) = in_parallel(processors, &compiling, |_, &(id, mutant)| {
        let by = trial::notices(tree, id, mutant);
        if !matches!(by, By::Set | By::Both) {
            eprintln!("{}: {mutant}", by.name());
        }
        tried.lock().expect("no worker panics").insert(id, by);
        Ok::<_, Infallible>(true)
    });
    tried.into_inner().expect("no worker panics")
}

fn report(mutants: &[Mutant], tried: &BTreeMap<usize, By>, left_out: usize) {
    let mut files: BTreeMap<&Path, BTreeMap<By, usize>> = BTreeMap::new();
    let mut sums: BTreeMap<By, usize> = BTreeMap::new();
    for (id, by) in tried {
        let counts = files.entry(&mutants[*id].file).or_default();
        *counts.entry(*by).or_default() += 1;
        *sums.entry(*by).or_default() += 1;
    }
    let row = |name: &str, counts: &BTreeMap<By, usize>| {
        let count = |by| counts.get(&by).copied().unwrap_or(0);
        println!(
            "| {name} | {} | {} | {} | {} | {} |",
            counts.values().sum::<usize>(),
            count(By::Set) + count(By::Both),
            count(By::Tests),
            count(By::Hunt),
            count(By::Nobody)
        );
    };
    println!("| where | tried | default set | only tests | only a hunt | nobody |");
    println!("|---|--:|--:|--:|--:|--:|");
    for (file, counts) in &files {
        row(&format!("`{}`", file.display()), counts);
    }
    row("all", &sums);
    let (mut by_tests, mut of_predictor) = (0, 0);
    for (_, by) in tried
        .iter()
        .filter(|(id, _)| trial::is_predictor(&mutants[**id]))
    {
        of_predictor += 1;
        by_tests += usize::from(matches!(by, By::Both | By::Tests));
    }
    println!("its own tests notice {by_tests} of {of_predictor} mutants of the predictor");
    println!("{left_out} left out because they do not compile");
}
