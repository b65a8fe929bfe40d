//! Files in the kernel's shapes and formats.

use std::fs;

use super::*;

#[test]
fn counters_and_events_are_files_in_the_kernels_formats() {
    let folder = tempfile::tempdir().unwrap();
    let options = BootOptions {
        folder: folder.path().to_path_buf(),
        ..options("v5")
    };
    let mut session = SimHost::new().boot(&guest(64 * M), &options).unwrap();
    session.perform(&prefault(0, 4 * M), &[]).unwrap();
    session
        .perform(&accept(2 * M, 2 * M + 4 * K, Size::Size4K), &[])
        .unwrap();
    let sample = session.sample();
    let debugfs = folder.path().join("debugfs/kvm");
    let vm = fs::read_dir(&debugfs).unwrap().next().unwrap().unwrap();
    let text = |name| fs::read_to_string(vm.path().join(name)).unwrap();
    assert_eq!(text("pages_2m"), "1\n");
    assert_eq!(text("pages_4k"), "512\n");
    assert_eq!(text("pages_1g"), "0\n");
    let instances = folder.path().join("tracefs/instances");
    let instance = fs::read_dir(instances).unwrap().next().unwrap().unwrap();
    let trace = fs::read_to_string(instance.path().join("trace_pipe")).unwrap();
    let event = trace.lines().last().unwrap();
    assert!(
        event.contains(": kvm_mmu_split_huge_page: gfn 40200 spte ")
            && event.ends_with(" level 2 errno 0"),
        "{event}"
    );
    let splits = sample.splits.value().unwrap();
    assert_eq!(splits.len(), 1);
    assert_eq!((splits[0].gpa, splits[0].level), (gpa(2 * M), 2));
    assert!(missing(&sample.query_stats));
    assert_eq!(
        session.sample().splits.value().map(Vec::len),
        Some(0),
        "an event is told once"
    );
}

#[test]
fn an_unreadable_file_is_missing_and_not_zero() {
    let folder = tempfile::tempdir().unwrap();
    let options = BootOptions {
        folder: folder.path().to_path_buf(),
        ..options("v5")
    };
    let mut session = SimHost::new().boot(&guest(64 * M), &options).unwrap();
    session.sample();
    session.perform(&prefault(0, 2 * M), &[]).unwrap();
    fs::remove_dir_all(folder.path().join("debugfs")).unwrap();
    assert!(missing(&session.sample().debugfs));
}

#[test]
fn evidence_says_what_is_mapped() {
    let mut bench = Bench::new("headtail")
        .given(accept(0, 4 * M, Size::Size2M))
        .given(prefault(4 * M, 6 * M))
        .given(punch(4 * K, 8 * K));
    let evidence = bench.session.evidence();
    let (_, sept) = evidence
        .iter()
        .find(|(name, _)| name == "sept.txt")
        .unwrap();
    assert_eq!(
        String::from_utf8_lossy(sept),
        "0x40000000..0x40001000 4K Mapped\n\
         0x40002000..0x40200000 4K Mapped\n\
         0x40200000..0x40400000 2M Mapped\n\
         0x40400000..0x40600000 2M Pending\n"
    );
}

#[test]
fn what_the_micro_guest_would_refuse_is_refused() {
    let mut bench = Bench::new("v5");
    let mut refused = |op: Op| {
        let error = bench.session.perform(&op, &[]).unwrap_err().to_string();
        assert!(error.contains("refused"), "{error}");
    };
    refused(accept(512, 4 * K, Size::Size4K));
    refused(accept(0, 3 * M, Size::Size2M));
    refused(Op::Probe {
        range: range(0, 4 * K),
        stride: PageLevel::Size4K,
        vcpu: VcpuId(7),
    });
}
