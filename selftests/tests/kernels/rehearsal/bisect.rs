//! `git bisect run` over a kernel developer's tree: each commit's KVM is built and judged.

use std::fs;

use tdxlab_selftests::command::root;
use tdxlab_selftests::programs::Repository;
use tdxlab_selftests::turn::Turn;

use super::command::{PROGRAM, said};
use super::own_kernel::{copy, kvm_source};

/// A file of KVM that all commits change.
const FILE: &str = "virt/kvm/guest_memfd.c";

/// How far KVM zaps for a hole, and the same without the last page.
const RIGHT: &str = "min(pgoff + slot->npages, end) - pgoff";
const WRONG: &str = "min(pgoff + slot->npages, end - 1) - pgoff";

const COMMITS: [&str; 8] = [
    "KVM as it is",
    "guest_memfd: say more",
    "guest_memfd: say even more",
    "guest_memfd: do not zap beyond a hole",
    "guest_memfd: say less",
    "guest_memfd: say it otherwise",
    "guest_memfd: correct a word",
    "guest_memfd: correct another",
];
const BAD: usize = 3;

fn commits(repository: &Repository) -> Vec<String> {
    let source = kvm_source();
    for folder in ["arch/x86/kvm", "virt/kvm"] {
        let target = repository.path().join(folder);
        fs::create_dir_all(target.parent().unwrap()).unwrap();
        copy(&source.join(folder), &target);
    }
    let file = repository.path().join(FILE);
    let known = fs::read_to_string(&file).unwrap();
    assert!(known.contains(RIGHT), "{FILE} is otherwise by now");
    let commit = |(number, subject): (usize, &&str)| {
        let body = match number {
            BAD.. => known.replacen(RIGHT, WRONG, 1),
            _ => known.clone(),
        };
        fs::write(&file, format!("{body}/* {subject} */\n")).unwrap();
        repository.commit(subject)
    };
    COMMITS.iter().enumerate().map(commit).collect()
}

#[test]
#[ignore = "builds KVM three times: make test-rehearsal"]
fn git_names_the_commit_that_broke_kvm() {
    let Some(repository) = Repository::new() else {
        return;
    };
    let commits = commits(&repository);
    let _turn = Turn::wait();
    let scenario = root().join("scenarios/stock/hole-then-touch.yaml");
    let command = [
        PROGRAM,
        "rehearse",
        "--offline",
        "--source",
        ".",
        "--out",
        ".git/reports",
        scenario.to_str().unwrap(),
        "--",
        "--bisect",
    ];
    let output = repository.bisect(&commits[7], &commits[0], &command);
    let text = said(&output);
    assert!(output.status.success(), "{text}");
    let first = format!("{} is the first bad commit", commits[BAD]);
    assert!(text.contains(&first), "{text}");
    assert!(text.contains(COMMITS[BAD]), "{text}");
    let log = repository.bisect_log();
    assert!(!log.contains("git bisect skip"), "{log}");
}
