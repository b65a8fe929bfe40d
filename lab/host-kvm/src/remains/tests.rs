//! What is left of guests on machines that are laid out in a folder.

use std::fs;
use std::io::Write;
use std::path::Path;

use rstest::rstest;
use tdxlab_kernel::kmsg::KernelLog;

use super::*;

/// A machine without VMs, three key ids in use, a pool of hugetlb pages, and locked memory.
fn machine(folder: &Path) -> MachineUse {
    let machine = MachineUse {
        cgroups: folder.join("cgroup"),
        mm: folder.join("mm"),
        proc: folder.join("proc"),
        debugfs: folder.join("debug"),
    };
    set(folder, "cgroup/misc.current", "tdx 3");
    for (name, number) in [("nr", "64"), ("free", "60"), ("resv", "0")] {
        let path = format!("mm/hugepages/hugepages-2048kB/{name}_hugepages");
        set(folder, &path, number);
    }
    set(folder, "proc/meminfo", "Unevictable: 100 kB");
    set(
        folder,
        "proc/7/status",
        "VmLck: 100 kB\nHugetlbPages: 8192 kB",
    );
    fs::create_dir_all(folder.join("debug/kvm")).unwrap();
    machine
}

fn set(folder: &Path, path: &str, content: &str) {
    let path = folder.join(path);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, content).unwrap();
}

/// A VM that has gone, the kernel's log, which has a complaint from when what it took is looked at and no
/// earlier, and the machine before it.
pub(crate) fn goes_late(folder: &Path) -> (VmFolder, KernelLog, Before) {
    let before = Before::of(machine(folder), true);
    let (log, key_ids) = (folder.join("kmsg"), folder.join("cgroup/misc.current"));
    fs::write(&log, "").unwrap();
    let opened = KernelLog::open(&log);
    fs::remove_file(&key_ids).unwrap();
    nix::unistd::mkfifo(&key_ids, nix::sys::stat::Mode::S_IRWXU).unwrap();
    std::thread::spawn(move || {
        // It opens when somebody reads it.
        let mut count = fs::File::create(&key_ids).unwrap();
        fs::write(&log, "4,1,1,-;WARNING: late\n").unwrap();
        count.write_all(b"tdx 3").unwrap();
    });
    let vm = VmFolder::new(&folder.join("debug"), 812, 13);
    (vm, opened, before)
}

fn after(before: &Before, folder: &Path) -> Vec<Taken> {
    let own = Ok(VmFolder::new(&folder.join("debug"), 812, 13));
    before.taken(&own, &Files::default())
}

/// What is in use then, by the first word of what it is; `None` where it could not be told.
fn read(taken: &[Taken], what: &str) -> Option<bool> {
    let one = taken.iter().find(|one| one.what.starts_with(what));
    let one = one.unwrap_or_else(|| panic!("{what}: {taken:?}"));
    one.after.value().map(|_| one.is_too_much())
}

#[rstest]
#[case::all_is_back(&[], [Some(false); 3])]
#[case::a_key_id_is_not(&[("cgroup/misc.current", "tdx 4")], [Some(true), Some(false), Some(false)])]
#[case::huge_pages_are_not(
    &[("mm/hugepages/hugepages-2048kB/free_hugepages", "40")],
    [Some(false), Some(true), Some(false)]
)]
#[case::a_reservation_is_not(
    &[("mm/hugepages/hugepages-2048kB/resv_hugepages", "32")],
    [Some(false), Some(true), Some(false)]
)]
#[case::the_pool_was_made_smaller(
    &[("mm/hugepages/hugepages-2048kB/nr_hugepages", "8"), ("mm/hugepages/hugepages-2048kB/free_hugepages", "4")],
    [Some(false); 3]
)]
#[case::locked_memory_is_not(
    &[("proc/meminfo", "Unevictable: 65536 kB")],
    [Some(false), Some(false), Some(true)]
)]
#[case::a_little_is_no_news(&[("proc/meminfo", "Unevictable: 900 kB")], [Some(false); 3])]
// Others may have moved it.
#[case::another_vm_came(
    &[("cgroup/misc.current", "tdx 4"), ("debug/kvm/99-9/pages_4k", "0")],
    [None, None, None]
)]
#[case::another_process_maps_huge_pages(
    &[
        ("mm/hugepages/hugepages-2048kB/free_hugepages", "40"),
        ("proc/7/status", "VmLck: 100 kB\nHugetlbPages: 40960 kB"),
    ],
    [Some(false), None, Some(false)]
)]
#[case::another_process_locks_memory(
    &[("proc/meminfo", "Unevictable: 65536 kB"), ("proc/7/status", "VmLck: 65000 kB\nHugetlbPages: 8192 kB")],
    [Some(false), Some(false), None]
)]
// What cannot be read is not 0.
#[case::no_longer_readable(&[("cgroup/misc.current", "")], [None, Some(false), Some(false)])]
fn what_a_guest_took_is_looked_for(
    #[case] changes: &[(&str, &str)],
    #[case] wanted: [Option<bool>; 3],
) {
    let [key_ids, huge, locked] = wanted;
    let folder = tempfile::tempdir().unwrap();
    let before = Before::of(machine(folder.path()), true);
    for (path, content) in changes {
        set(folder.path(), path, content);
    }
    let taken = after(&before, folder.path());
    assert_eq!(read(&taken, "VMs"), Some(false));
    assert_eq!(read(&taken, "private key ids"), key_ids, "{taken:?}");
    assert_eq!(read(&taken, "hugetlb pages of 2048kB"), huge, "{taken:?}");
    assert_eq!(read(&taken, "KiB"), locked, "{taken:?}");
}

/// A TD that was made before ours, and took its key id and its pages while ours lived.
#[rstest]
#[case::a_key_id("cgroup/misc.current", "tdx 4")]
#[case::reserved_pages("mm/hugepages/hugepages-2048kB/resv_hugepages", "32")]
#[case::memory("proc/meminfo", "Unevictable: 65536 kB")]
fn what_another_vm_took_meanwhile_is_not_blamed_on_ours(#[case] path: &str, #[case] content: &str) {
    let folder = tempfile::tempdir().unwrap();
    let machine = machine(folder.path());
    set(folder.path(), "debug/kvm/99-9/pages_4k", "0");
    let before = Before::of(machine, true);
    set(folder.path(), path, content);
    let taken = after(&before, folder.path());
    assert_eq!(read(&taken, "VMs"), Some(false));
    for what in ["private key ids", "hugetlb pages", "KiB"] {
        assert_eq!(read(&taken, what), None, "{taken:?}");
    }
}

#[test]
fn a_machine_that_hides_its_vms_tells_nothing_of_one_guest() {
    let folder = tempfile::tempdir().unwrap();
    let machine = machine(folder.path());
    fs::remove_dir_all(folder.path().join("debug")).unwrap();
    let before = Before::of(machine, true);
    set(folder.path(), "cgroup/misc.current", "tdx 4");
    let taken = after(&before, folder.path());
    for what in ["private key ids", "hugetlb pages", "KiB"] {
        assert_eq!(read(&taken, what), None, "{taken:?}");
    }
}

/// A guest_memfd that any process has still open, which is named.
#[test]
fn an_open_file_is_found_and_its_holder_named() {
    let folder = tempfile::tempdir().unwrap();
    let machine = MachineUse {
        proc: "/proc".into(),
        ..machine(folder.path())
    };
    let held =
        nix::sys::memfd::memfd_create("tdxlab-remains", nix::sys::memfd::MFdFlags::MFD_CLOEXEC)
            .unwrap();
    let before = Before::of(machine, true);
    let files = before.files(std::process::id(), "tdxlab-remains");
    assert_eq!(files.inodes.len(), 1);
    let open = before.still_open(&files, Instant::now());
    assert!(open.is_too_much());
    assert!(
        open.detail.starts_with(&std::process::id().to_string()),
        "{open:?}"
    );
    drop(held);
    assert!(!before.still_open(&files, Instant::now()).is_too_much());
}

/// A plain VM takes no key id.
#[test]
fn a_plain_vm_is_not_asked_for_key_ids() {
    let folder = tempfile::tempdir().unwrap();
    let before = Before::of(machine(folder.path()), false);
    let taken = after(&before, folder.path());
    assert!(
        !taken.iter().any(|one| one.what.contains("key ids")),
        "{taken:?}"
    );
}
