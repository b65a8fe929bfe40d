//! A booted guest for these tests, with short helpers.

pub(super) use std::time::Duration;

pub(super) use tdxlab::addr::{Gpa, GpaRange, PageLevel};
pub(super) use tdxlab::host::{BootOptions, Host, Session};
pub(super) use tdxlab::host_soft::soft::SoftHost;
pub(super) use tdxlab::journal::{Observed, PageCounters, Sample};
pub(super) use tdxlab::plan::{Guest, Op, Side, Size, Slot, VcpuId};
pub(super) use tempfile::TempDir;

pub(super) const MIB: u64 = 1 << 20;

/// Start of test memory.
pub(super) const BASE: u64 = 1 << 30;

/// Longest that anything may take. No test depends on how long things take.
pub(super) const PATIENCE: Duration = Duration::from_secs(120);

/// `start..end`, in bytes from the start of test memory.
pub(super) fn range(start: u64, end: u64) -> GpaRange {
    GpaRange::new(Gpa::new(BASE + start), Gpa::new(BASE + end)).unwrap()
}

/// A guest with so much test memory in one slot.
pub(super) fn guest(bytes: u64, vcpus: u16) -> Guest {
    let memory = range(0, bytes);
    Guest {
        vcpus,
        ..Guest::over(memory)
    }
}

pub(super) fn options(folder: &TempDir, design: &str) -> BootOptions {
    BootOptions {
        design: design.into(),
        module: None,
        seed: 1,
        folder: folder.path().to_owned(),
        patience: PATIENCE,
        fresh: true,
    }
}

/// A booted guest, and the folder of its files.
pub(super) struct Booted {
    pub(super) session: Box<dyn Session>,
    pub(super) folder: TempDir,
}

impl Booted {
    pub(super) fn new(guest: &Guest, design: &str) -> Booted {
        Booted::on(&SoftHost::find().unwrap(), guest, design)
    }

    pub(super) fn on(host: &SoftHost, guest: &Guest, design: &str) -> Booted {
        let folder = TempDir::new().unwrap();
        let session = match host.boot(guest, &options(&folder, design)) {
            Ok(session) => session,
            Err(error) => panic!("the guest does not boot: {error}"),
        };
        Booted { session, folder }
    }

    pub(super) fn perform(&mut self, op: &Op) -> Observed {
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

    pub(super) fn sample(&mut self) -> Sample {
        self.session.sample()
    }

    pub(super) fn counters(&mut self) -> PageCounters {
        *self.sample().debugfs.value().unwrap()
    }
}

pub(super) fn accept(start: u64, end: u64, size: Size) -> Op {
    accept_on(0, start, end, size)
}

pub(super) fn accept_on(vcpu: u16, start: u64, end: u64, size: Size) -> Op {
    Op::Accept {
        range: range(start, end),
        size,
        vcpu: VcpuId(vcpu),
    }
}

pub(super) fn fill(vcpu: u16, start: u64, end: u64, generation: u16) -> Op {
    Op::Fill {
        range: range(start, end),
        generation: tdxlab::plan::Generation::new(generation).unwrap(),
        side: Side::Private,
        vcpu: VcpuId(vcpu),
    }
}

pub(super) fn verify(start: u64, end: u64) -> Op {
    Op::Verify {
        range: range(start, end),
        gone: tdxlab::plan::Gone::Every,
        side: Side::Private,
        vcpu: VcpuId(0),
    }
}

pub(super) fn punch(start: u64, end: u64) -> Op {
    Op::Punch {
        range: range(start, end),
    }
}

/// One 4K page, where a level is asked for.
pub(super) const SMALL: PageLevel = PageLevel::Size4K;
