//! What is in use on machines that are laid out in a folder, and on this one.

use std::fs::File;
use std::io::Write;
use std::os::fd::AsRawFd;

use nix::sys::memfd::{MFdFlags, memfd_create};
use rstest::rstest;

use super::*;

/// A machine in a folder, with these files below it.
fn machine(files: &[(&str, &str)]) -> (tempfile::TempDir, MachineUse) {
    let folder = tempfile::tempdir().unwrap();
    let below = |name: &str| folder.path().join(name);
    for (path, content) in files {
        let path = below(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }
    let machine = MachineUse {
        cgroups: below("cgroup"),
        mm: below("mm"),
        proc: below("proc"),
        debugfs: below("debug"),
    };
    (folder, machine)
}

#[rstest]
#[case::by_the_root(&[("cgroup/misc.current", "sev 0\ntdx 3\n")], Some(3))]
#[case::by_its_children(
    &[("cgroup/a/misc.current", "tdx 1\n"), ("cgroup/b/misc.current", "tdx 2\n"), ("cgroup/c/x", "")],
    Some(3)
)]
#[case::not_counted(&[("cgroup/misc.current", "sev 0\n")], None)]
#[case::no_controller(&[("cgroup/cgroup.procs", "1\n")], None)]
#[case::garbled(&[("cgroup/misc.current", "tdx many\n")], None)]
#[case::no_cgroups(&[], None)]
fn key_ids(#[case] files: &[(&str, &str)], #[case] found: Option<u64>) {
    let (_folder, machine) = machine(files);
    let reading = machine.key_ids();
    assert_eq!(reading.value().copied(), found, "{reading:?}");
    if let Reading::Missing { reason } = reading {
        assert!(reason.contains("misc.current"), "{reason}");
    }
}

/// Files of a pool: its size, free and reserved pages.
fn pool(size: &str, numbers: [&str; 3]) -> Vec<(String, String)> {
    let names = ["nr_hugepages", "free_hugepages", "resv_hugepages"];
    let file = |(name, number): (&str, &str)| {
        let path = format!("mm/hugepages/hugepages-{size}/{name}");
        (path, format!("{number}\n"))
    };
    names.into_iter().zip(numbers).map(file).collect()
}

#[test]
fn pages_in_use_are_those_that_are_not_free_and_those_that_are_reserved() {
    let mut files = pool("2048kB", ["64", "40", "8"]);
    files.extend(pool("1048576kB", ["0", "0", "0"]));
    files.extend(pool("64kB", ["2", "garbled", "0"]));
    let files: Vec<_> = files
        .iter()
        .map(|(a, b)| (a.as_str(), b.as_str()))
        .collect();
    let (_folder, machine) = machine(&files);
    let pools = machine.pools();
    let [two_m, small] = pools.as_slice() else {
        panic!("{pools:?}");
    };
    assert_eq!(
        (two_m.size.as_str(), &two_m.in_use),
        ("2048kB", &Reading::Read(32))
    );
    assert!(matches!(&small.in_use, Reading::Missing { reason } if reason.contains("garbled")));
}

#[test]
fn others_are_vms_and_what_processes_map_and_lock() {
    let status = "Name:\tx\nVmLck:\t  100 kB\nHugetlbPages:\t 2048 kB\n";
    let (_folder, machine) = machine(&[
        ("debug/kvm/812-13/pages_4k", "0"),
        ("debug/kvm/pages_4k", "0"),
        ("proc/812/status", status),
        ("proc/813/status", status),
        // A thread of the kernel has no memory.
        ("proc/2/status", "Name:\tkthreadd\n"),
        ("proc/meminfo", "Unevictable:        1234 kB\n"),
    ]);
    let others = machine.others().unwrap();
    assert_eq!(others.vms, BTreeSet::from(["812-13".to_owned()]));
    assert_eq!((others.huge, others.locked), (4096, 200));
    assert_eq!(machine.unevictable(), Reading::Read(1234));
}

#[test]
fn what_cannot_be_read_is_missing() {
    let (_folder, machine) = machine(&[("proc/meminfo", "MemTotal: 1 kB\n")]);
    assert!(machine.others().unwrap_err().contains("debug/kvm"));
    assert!(machine.unevictable().value().is_none());
    assert_eq!(machine.pools(), []);
}

/// A file of this process is found by its inode, and no other file of that name is taken for it.
#[test]
fn a_file_that_is_still_open_is_found_by_its_inode() {
    let make = || File::from(memfd_create("tdxlab-in-use", MFdFlags::MFD_CLOEXEC).unwrap());
    let (mut file, _other) = (make(), make());
    file.write_all(b"x").unwrap();
    let machine = MachineUse::of_machine(Path::new("/nonexistent"));
    let pid = std::process::id();
    let all = machine.files(pid, "tdxlab-in-use");
    assert_eq!(all.len(), 2);
    let about = fs::metadata(format!("/proc/{pid}/fd/{}", file.as_raw_fd())).unwrap();
    let own = all.iter().copied().find(|one| one.number == about.ino());
    let own = [own.unwrap()];
    let holders = || machine.holders(&own, "tdxlab-in-use");
    let found = holders();
    let names = found.value().unwrap();
    assert!(
        names.len() == 1 && names[0].starts_with(&pid.to_string()),
        "{names:?}"
    );
    drop(file);
    match holders() {
        Reading::Read(names) => assert_eq!(names, [""; 0]),
        // Not root: other processes may have it.
        other => assert!(matches!(other, Reading::Missing { .. })),
    }
}
