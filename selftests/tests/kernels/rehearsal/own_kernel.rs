//! Other kernels, and trees of a developer's own, of which each mistake is told once and by name.

use std::fs;
use std::path::{Path, PathBuf};

use tdxlab::l1::rehearse::{self, Distributed};

use super::command::{rehearse, said};

/// KVM's source in the parts of a rehearsal.
pub(super) fn kvm_source() -> PathBuf {
    let parts = rehearse::ready(&rehearse::cache_folder().unwrap(), &Distributed::Newest);
    let launcher = parts.expect("parts are prepared").qemu();
    launcher.with_file_name("build").join("usr/src/kvm-source")
}

/// Copies a folder of it to `target`, which is not there.
pub(super) fn copy(from: &Path, target: &Path) {
    let done = std::process::Command::new("cp")
        .arg("-r")
        .args([from, target])
        .status();
    assert!(done.unwrap().success());
}

/// What `rehearse --source` says of a tree that it cannot build, in one line.
fn refused(tree: &Path) -> String {
    let out = tempfile::tempdir().unwrap();
    let output = rehearse(out.path(), &["--source", tree.to_str().unwrap()]);
    assert!(!output.status.success());
    let text = said(&output).replace('│', " ");
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[test]
#[ignore = "builds KVM's modules: make test-rehearsal"]
fn what_is_wrong_with_a_tree_is_told_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let tree = folder.path().join("linux");
    let text = refused(&tree);
    assert!(text.contains("has no arch/x86/kvm/x86.c"), "{text}");

    copy(&kvm_source(), &tree);
    let tdx = tree.join("arch/x86/kvm/vmx/tdx.c");
    let known = fs::read_to_string(&tdx).unwrap();
    fs::remove_file(&tdx).unwrap();
    let text = refused(&tree);
    assert!(text.contains("KVM runs TDs from Linux 6.16 on"), "{text}");

    let gone = known.replace("tdx_reclaim_page", "tdx_take_page_back");
    let gone = gone.replace("KVM_BUG_ON(level != PG_LEVEL_4K, kvm)", "0");
    fs::write(&tdx, gone).unwrap();
    let text = refused(&tree);
    assert!(
        text.contains("tdx_sept_map_leaf_spte() does not have"),
        "{text}"
    );
    assert!(text.contains("tdx.c has no __tdx_reclaim_page"), "{text}");

    let broken = known.replace("page_add_src = src_page;", "page_ad_src = src_page;");
    fs::write(&tdx, broken).unwrap();
    let text = refused(&tree);
    assert!(text.contains("page_ad_src"), "{text}");
    assert!(text.contains("arch/x86/kvm/vmx/tdx.c:"), "{text}");
}

#[test]
#[ignore = "takes an emulated machine: make test-rehearsal"]
fn linux_7_2_is_judged_like_the_newest() {
    let version = Distributed::Version("7.2".parse().unwrap());
    if rehearse::ready(&rehearse::cache_folder().unwrap(), &version).is_none() {
        eprintln!("skipped: no parts (`tdxlab rehearse --kernel 7.2 --prepare`, 466 MB)");
        return;
    }
    let out = tempfile::tempdir().unwrap();
    let plans = [
        "punch/head-and-tail",
        "punch/table-stays",
        "accept/4k-inside-pending-2m",
        "convert/part-of-one-leaf",
    ];
    let arguments = [&["--kernel", "7.2", "--design", "headtail"], &plans[..]].concat();
    let output = rehearse(out.path(), &arguments);
    let text = said(&output);
    assert!(output.status.success(), "{text}");
    assert!(text.contains("REHEARSAL on Linux 7.2."), "{text}");
}

/// Without a pool, memory is mapped at 4K, which the predictor does not expect.
#[test]
#[ignore = "takes an emulated machine: make test-rehearsal"]
fn fragmented_memory_is_mapped_at_2m_out_of_a_pool() {
    let script = "parameters=/sys/module/kvm/parameters
        echo fragmented >$parameters/softtdx_lies
        for folios in 0 64; do
            echo $folios >$parameters/softtdx_pool
            \"$1\" run --host tdx --design headtail-attributes --jobs 1 --out \"$2\" \\
                punch/head-and-tail || true
            sed \"s/^/pool of $folios: /\" /sys/kernel/debug/softtdx/pool
        done";
    let out = tempfile::tempdir().unwrap();
    let command = [
        "--design",
        "headtail",
        "--command",
        "/bin/sh",
        "--",
        "-c",
        script,
        "sh",
        super::command::PROGRAM,
        out.path().to_str().unwrap(),
    ];
    let text = said(&rehearse(out.path(), &command));
    assert!(text.contains("pool of 0: taken 0"), "{text}");
    assert!(text.contains("fail: 1 scenario"), "{text}");
    assert!(text.contains("pass: 1 scenario"), "{text}");
    let taken = text.split("pool of 64: taken ").nth(1).unwrap();
    let taken: u32 = taken.lines().next().unwrap().parse().unwrap();
    assert!(taken >= 8, "{text}");
}
