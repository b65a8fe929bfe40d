//! Real guest_memfds: the code of the host `tdx`, applied to a VM held by a child process. Needs no
//! TDX, only a kernel with guest_memfd.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use super::skip::{is_inside, is_newest, skip};
use tdxlab::addr::{Gpa, GpaRange};
use tdxlab::host_kvm::tdx::gmem::{self, Change, Gmems};
use tdxlab::host_kvm::tdx::layout::{Piece, RamLayout};
use tdxlab::journal::Reading;
use tdxlab::kernel::debugfs;
use tdxlab::qemu::{CommandLine, Process};

const RAM: u64 = 8 << 20;
const IMAGE: u64 = 64 << 10;
const PAGE: u64 = 4096;
const ALL: Piece = Piece {
    offset: 0,
    bytes: RAM,
};

/// Both ways in which kernels name a guest_memfd.
const SPELLINGS: [&str; 2] = ["anon_inode:[kvm-gmem]", "/[kvm-gmem] (deleted)"];

/// How long a child may take for what takes it a millisecond.
const PATIENCE: Duration = Duration::from_secs(60);

/// A child with a VM and two guest_memfds; `None`, with a message, if this kernel has none.
fn child() -> Option<Process> {
    let line = CommandLine {
        program: env!("CARGO_BIN_EXE_hold-gmem").into(),
        args: vec![RAM.to_string().into(), IMAGE.to_string().into()],
        only_small_pages: false,
    };
    let mut process = Process::start(&line, Vec::new()).unwrap();
    let until = Instant::now() + PATIENCE;
    loop {
        let ended = process.ended();
        let said = String::from_utf8(process.said()).unwrap();
        match (said.trim_end(), ended) {
            ("held", None) => return Some(process),
            (why, Some(status)) => {
                assert_eq!(status.code(), Some(69), "{why}");
                let why = format!("this kernel has no guest_memfd to test with: {why}");
                skip(is_inside() && is_newest(), &why);
                return None;
            }
            _ => assert!(Instant::now() < until, "it says {said:?} and lives on"),
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn held() -> Option<(Process, Gmems)> {
    let process = child()?;
    let gmems = gmem::take(&process, RAM, IMAGE).unwrap();
    Some((process, gmems))
}

fn populated(gmems: &Gmems) -> u64 {
    match gmem::populated(&gmems.ram.file, &[ALL]) {
        Reading::Read(pages) => pages,
        Reading::Missing { reason } | Reading::Incomplete { reason, .. } => panic!("{reason}"),
    }
}

fn piece(offset: u64, bytes: u64) -> [Piece; 1] {
    [Piece { offset, bytes }]
}

#[test]
fn it_is_found_by_its_name_and_told_apart_by_its_size() {
    let Some((process, gmems)) = held() else {
        return;
    };
    let image = gmems.image.as_ref().unwrap();
    assert_eq!((gmems.ram.bytes, image.bytes), (RAM, IMAGE));
    for file in [&gmems.ram, image] {
        let link = format!("/proc/{}/fd/{}", process.pid(), file.number);
        let text = fs::read_link(link).unwrap();
        let text = text.to_str().unwrap();
        assert!(SPELLINGS.contains(&text), "a third spelling: {text}");
        eprintln!("named {text}");
    }
    assert!(
        gmem::take(&process, RAM + PAGE, IMAGE).is_err(),
        "none of that size"
    );
}

#[test]
fn what_is_allocated_and_punched_is_counted_to_the_page() {
    let Some((_process, gmems)) = held() else {
        return;
    };
    let file = &gmems.ram.file;
    assert_eq!(populated(&gmems), 0);
    assert_eq!(gmem::change(file, Change::Allocate, &[ALL]).errno, 0);
    assert_eq!(populated(&gmems), RAM / PAGE);
    for (offset, bytes, left) in [
        (0, PAGE, 2047),
        (3 << 20, 2 << 20, 2047 - 512),
        (RAM - PAGE, PAGE, 2046 - 512),
        (0, PAGE, 2046 - 512),
    ] {
        let hole = piece(offset, bytes);
        assert_eq!(gmem::change(file, Change::Punch, &hole).errno, 0);
        assert_eq!(populated(&gmems), left, "after a hole at {offset:#x}");
        assert_eq!(gmem::populated(file, &hole), Reading::Read(0));
    }
    assert_eq!(gmem::change(file, Change::Punch, &[ALL]).errno, 0);
    assert_eq!(populated(&gmems), 0);
}

#[test]
fn a_hole_off_the_pages_is_refused_and_changes_nothing() {
    let Some((_process, gmems)) = held() else {
        return;
    };
    let file = &gmems.ram.file;
    assert_eq!(gmem::change(file, Change::Allocate, &[ALL]).errno, 0);
    for (offset, bytes) in [(512, PAGE), (PAGE, PAGE + 512), (0, 1)] {
        let changed = gmem::change(file, Change::Punch, &piece(offset, bytes));
        assert_eq!(changed.errno, libc_einval(), "{offset}+{bytes}");
    }
    assert_eq!(populated(&gmems), RAM / PAGE);
}

fn libc_einval() -> i32 {
    nix::errno::Errno::EINVAL as i32
}

/// The kernel reports no error for a hole past the end, so the lab must.
#[test]
fn a_hole_past_the_end_is_caught_by_the_lab_alone() {
    let Some((_process, gmems)) = held() else {
        return;
    };
    let file = &gmems.ram.file;
    assert_eq!(gmem::change(file, Change::Allocate, &[ALL]).errno, 0);
    for (offset, bytes) in [(RAM, PAGE), (RAM + (1 << 30), 2 << 20)] {
        assert_eq!(
            gmem::change(file, Change::Punch, &piece(offset, bytes)).errno,
            0
        );
    }
    assert_eq!(populated(&gmems), RAM / PAGE);
    let beyond = gmem::change(file, Change::Allocate, &piece(RAM, PAGE));
    assert_eq!(beyond.errno, libc_einval());

    let larger = RamLayout::new(2 * RAM);
    let range = GpaRange::new(Gpa::new(RAM - PAGE), Gpa::new(RAM + PAGE)).unwrap();
    let refused = gmem::calls(range, larger, gmems.ram.bytes).unwrap_err();
    assert!(
        refused.contains("guest_memfd that ends at 0x800000"),
        "{refused}"
    );
}

#[test]
fn the_vm_dies_with_the_last_of_its_files() {
    let Some((mut process, gmems)) = held() else {
        return;
    };
    let root = Path::new(debugfs::ROOT);
    let folder = match debugfs::VmFolder::find(root, process.pid()) {
        Ok(folder) => folder.path().to_owned(),
        Err(reason) => {
            let why = format!("nothing here shows whether a VM is alive: {reason}");
            skip(is_inside(), &why);
            return;
        }
    };
    process.kill().unwrap();
    let hole = piece(0, PAGE);
    assert_eq!(gmem::change(&gmems.ram.file, Change::Punch, &hole).errno, 0);
    assert!(folder.exists(), "a duplicate keeps the VM alive");
    drop(gmems);
    let until = Instant::now() + PATIENCE;
    while folder.exists() {
        assert!(Instant::now() < until, "{} stays", folder.display());
        std::thread::sleep(Duration::from_millis(5));
    }
}
