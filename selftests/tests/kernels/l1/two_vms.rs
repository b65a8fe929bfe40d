//! Two VMs at once on a real kernel: events of one must not show in the witnesses of the other.

use std::path::Path;
use std::sync::Barrier;
use std::time::{Duration, Instant};

use super::skip::{is_inside, skip};
use tdxlab::addr::{GpaRange, PageLevel};
use tdxlab::host::{BootOptions, Host, Session};
use tdxlab::host_kvm::kvm::KvmHost;
use tdxlab::journal::{PageCounters, Reading, Sample};
use tdxlab::kernel::debugfs;
use tdxlab::plan::{AccessKind, Backing, Guest, LOW_BASE, OnVe, Op, Side, VcpuId};
use tdxlab::qemu::{CommandLine, Process};

const LEAF: u64 = PageLevel::Size2M.bytes();

/// Leaves that each VM maps.
const LEAVES: u64 = 4;

/// Far longer than any of them takes.
const PATIENCE: Duration = Duration::from_secs(240);

fn host() -> Option<KvmHost> {
    KvmHost::find()
        .map_err(|error| skip(is_inside(), &error.to_string()))
        .ok()
}

fn range(bytes: u64) -> GpaRange {
    GpaRange::with_len(LOW_BASE, bytes).unwrap()
}

fn touch() -> Op {
    Op::Touch {
        range: range(LEAVES * LEAF),
        stride: PageLevel::Size2M,
        access: AccessKind::Write,
        side: Side::Private,
        on_ve: OnVe::Skip,
        same_rip: false,
        vcpu: VcpuId(0),
    }
}

#[track_caller]
fn read<T>(reading: &Reading<T>) -> &T {
    match reading {
        Reading::Read(value) => value,
        Reading::Missing { reason } | Reading::Incomplete { reason, .. } => panic!("{reason}"),
    }
}

/// Both sources of the counters, which agree, and the number of splits.
#[track_caller]
fn seen(sample: &Sample) -> (PageCounters, usize) {
    assert_eq!(read(&sample.debugfs), read(&sample.query_stats));
    (*read(&sample.debugfs), read(&sample.splits).len())
}

/// Witnesses of a VM after each of three phases: its memory is mapped, one VM logs dirty pages,
/// then the other does.
fn life(
    host: &KvmHost,
    folder: &Path,
    is_first: bool,
    together: &Barrier,
) -> [(PageCounters, usize); 3] {
    let mut guest = Guest::over(range(16 * LEAF));
    guest.backing = Some(Backing::Hugetlb2M);
    let options = BootOptions {
        design: "plain".to_owned(),
        module: None,
        seed: 1,
        folder: folder.to_owned(),
        patience: PATIENCE,
        fresh: true,
    };
    let booted = host.boot(&guest, &options);
    let mut session: Box<dyn Session> = match booted {
        Ok(session) => session,
        // The other must not wait for this one.
        Err(error) => {
            eprintln!("{error}");
            std::process::exit(1);
        }
    };
    session.perform(&touch(), &[]).unwrap();
    // From here to the end both live.
    together.wait();
    let mapped = seen(&session.sample());
    together.wait();
    let mut phases = [mapped; 3];
    for (phase, mine) in [(1, is_first), (2, !is_first)] {
        if mine {
            session.perform(&Op::DirtyLog { on: true }, &[]).unwrap();
        }
        together.wait();
        phases[phase] = seen(&session.sample());
        together.wait();
    }
    session.end().unwrap();
    phases
}

#[test]
fn what_one_vm_does_shows_in_no_witness_of_the_other() {
    let Some(host) = host() else { return };
    let folders = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let together = Barrier::new(2);
    let [first, second] = std::thread::scope(|scope| {
        let run = |index: usize| {
            let (host, together, folder) = (&host, &together, folders[index].path());
            scope.spawn(move || life(host, folder, index == 0, together))
        };
        [run(0), run(1)].map(|thread| thread.join().unwrap())
    });
    let split = |(before, _): (PageCounters, usize)| {
        let after = PageCounters {
            pages_4k: before.pages_4k + LEAVES * 512,
            pages_2m: before.pages_2m - LEAVES,
            pages_1g: before.pages_1g,
        };
        (after, usize::try_from(LEAVES).unwrap())
    };
    assert_eq!(first[0].0.pages_2m, LEAVES, "{first:?}");
    assert_eq!(second[0].0.pages_2m, LEAVES, "{second:?}");
    assert_eq!((first[0].1, second[0].1), (0, 0));
    // The first logs, and splits; the second stays as it was.
    assert_eq!(first[1], split(first[0]));
    assert_eq!(second[1], second[0]);
    // The other way round.
    assert_eq!(second[2], split(second[0]));
    assert_eq!(first[2], (first[1].0, 0));
}

/// The kernel makes no second folder of a name, and the first is of another VM.
#[test]
fn a_vm_under_the_number_of_another_is_not_taken_for_it() {
    let line = CommandLine {
        program: env!("CARGO_BIN_EXE_hold-two-vms").into(),
        args: Vec::new(),
        only_small_pages: false,
    };
    let mut process = Process::start(&line, Vec::new()).unwrap();
    let until = Instant::now() + PATIENCE;
    let number = loop {
        let ended = process.ended();
        let said = String::from_utf8(process.said()).unwrap();
        if let Some(number) = said.trim_end().strip_prefix("held ") {
            break number.to_owned();
        }
        if ended.is_some() {
            return skip(is_inside(), &said);
        }
        assert!(Instant::now() < until, "it says {said:?} and lives on");
        std::thread::sleep(Duration::from_millis(5));
    };
    let root = Path::new(debugfs::ROOT);
    let name = format!("{}-{number}", process.pid());
    if !root.join("kvm").join(&name).exists() {
        return skip(is_inside(), &format!("no kvm/{name} in {}", root.display()));
    }
    let error = debugfs::VmFolder::find(root, process.pid()).unwrap_err();
    assert!(error.contains("has 2 VMs"), "{error}");
    eprintln!("found: {error}");
}
