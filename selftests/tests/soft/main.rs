//! The host `soft` from the outside: a real guest in a real QEMU, and everything that can go wrong
//! with either.

mod boot;
mod operations;
mod races;
mod unhappy;

use std::time::Duration;

use tdxlab::addr::{Gpa, GpaRange, PageLevel};
use tdxlab::host::{BootOptions, Host, Session};
use tdxlab::host_soft::soft::SoftHost;
use tdxlab::journal::{Observed, PageCounters, Sample};
use tdxlab::plan::{Guest, Op, Side, Size, Slot, VcpuId};
use tempfile::TempDir;

const MIB: u64 = 1 << 20;

/// Start of test memory.
const BASE: u64 = 1 << 30;

/// Longest that anything may take. No test depends on how long things take.
const PATIENCE: Duration = Duration::from_secs(120);

/// `start..end`, in bytes from the start of test memory.
fn range(start: u64, end: u64) -> GpaRange {
    GpaRange::new(Gpa::new(BASE + start), Gpa::new(BASE + end)).unwrap()
}

/// A guest with so much test memory in one slot.
fn guest(bytes: u64, vcpus: u16) -> Guest {
    let memory = range(0, bytes);
    Guest {
        vcpus,
        ..Guest::over(memory)
    }
}

fn options(folder: &TempDir, design: &str) -> BootOptions {
    BootOptions {
        design: design.into(),
        module: None,
        seed: 1,
        folder: folder.path().to_owned(),
        patience: PATIENCE,
    }
}

/// A booted guest, and the folder of its files.
struct Booted {
    session: Box<dyn Session>,
    folder: TempDir,
}

impl Booted {
    fn new(guest: &Guest, design: &str) -> Booted {
        Booted::on(&SoftHost::find().unwrap(), guest, design)
    }

    fn on(host: &SoftHost, guest: &Guest, design: &str) -> Booted {
        let folder = TempDir::new().unwrap();
        let session = match host.boot(guest, &options(&folder, design)) {
            Ok(session) => session,
            Err(error) => panic!("the guest does not boot: {error}"),
        };
        Booted { session, folder }
    }

    fn perform(&mut self, op: &Op) -> Observed {
        let reads = match op {
            Op::Verify { range, .. } => vec![*range],
            _ => Vec::new(),
        };
        match self.session.perform(op, &reads) {
            Ok(observed) => observed,
            Err(error) => {
                for (name, content) in self.session.evidence() {
                    if name.ends_with(".log") || name.ends_with(".txt") {
                        eprintln!("{name}:\n{}", String::from_utf8_lossy(&content));
                    }
                }
                panic!("{op:?}: {error}")
            }
        }
    }

    fn sample(&mut self) -> Sample {
        self.session.sample()
    }

    fn counters(&mut self) -> PageCounters {
        *self.sample().debugfs.value().unwrap()
    }
}

fn accept(start: u64, end: u64, size: Size) -> Op {
    accept_on(0, start, end, size)
}

fn accept_on(vcpu: u16, start: u64, end: u64, size: Size) -> Op {
    Op::Accept {
        range: range(start, end),
        size,
        vcpu: VcpuId(vcpu),
    }
}

fn fill(vcpu: u16, start: u64, end: u64, generation: u16) -> Op {
    Op::Fill {
        range: range(start, end),
        generation: tdxlab::plan::Generation::new(generation).unwrap(),
        side: Side::Private,
        vcpu: VcpuId(vcpu),
    }
}

fn verify(start: u64, end: u64) -> Op {
    Op::Verify {
        range: range(start, end),
        gone: tdxlab::plan::Gone::Every,
        side: Side::Private,
        vcpu: VcpuId(0),
    }
}

fn punch(start: u64, end: u64) -> Op {
    Op::Punch {
        range: range(start, end),
    }
}

/// One 4K page, where a level is asked for.
const SMALL: PageLevel = PageLevel::Size4K;
