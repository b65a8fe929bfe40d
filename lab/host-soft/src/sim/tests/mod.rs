//! `sim` through its sessions, as the runner uses them.
//!
//! Expected numbers are typed in from the tables of the reference, not computed.

mod faults;
mod memory;
mod operations;
mod parallel;
mod witnesses;
mod zero_step;

use std::path::PathBuf;
use std::time::Duration;

use tdxlab_host::{BootOptions, Host, Session};
use tdxlab_journal::{Observed, Reading, Sample};
use tdxlab_plan::{
    AccessKind, Generation, Gone, Guest, LOW_BASE, OnVe, Op, Side, Size, Slot, VcpuId,
};
use tdxlab_protocol::addr::{Gpa, GpaRange, PageLevel};
use tdxlab_protocol::message::Run;

use super::SimHost;

const K: u64 = 1 << 10;
const M: u64 = 1 << 20;

/// A session with short helpers. Ranges are offsets into test memory.
struct Bench {
    session: Box<dyn Session>,
    before: Sample,
}

/// Changes made by a step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Change {
    /// Exits on private memory, of either type.
    exits: u64,
    splits: usize,
    pages_2m: i64,
    pages_4k: i64,
    populated: i64,
}

fn guest(bytes: u64) -> Guest {
    let memory = GpaRange::with_len(LOW_BASE, bytes).unwrap();
    Guest {
        vcpus: 2,
        ..Guest::over(memory)
    }
}

fn options(design: &str) -> BootOptions {
    BootOptions {
        design: design.to_owned(),
        module: None,
        seed: 1,
        folder: PathBuf::new(),
        patience: Duration::from_secs(10),
        fresh: true,
    }
}

fn range(start: u64, end: u64) -> GpaRange {
    let at = |offset| LOW_BASE.checked_add(offset).unwrap();
    GpaRange::new(at(start), at(end)).unwrap()
}

fn accept(start: u64, end: u64, size: Size) -> Op {
    Op::Accept {
        range: range(start, end),
        size,
        vcpu: VcpuId(0),
    }
}

fn touch(start: u64, end: u64, side: Side, on_ve: OnVe) -> Op {
    Op::Touch {
        range: range(start, end),
        stride: PageLevel::Size4K,
        access: AccessKind::Write,
        side,
        on_ve,
        same_rip: false,
        vcpu: VcpuId(0),
    }
}

fn fill(start: u64, end: u64, generation: u16) -> Op {
    Op::Fill {
        range: range(start, end),
        generation: Generation::new(generation).unwrap(),
        side: Side::Private,
        vcpu: VcpuId(0),
    }
}

fn convert(start: u64, end: u64, to: Side) -> Op {
    Op::Convert {
        range: range(start, end),
        to,
        vcpu: VcpuId(0),
    }
}

fn punch(start: u64, end: u64) -> Op {
    Op::Punch {
        range: range(start, end),
    }
}

fn prefault(start: u64, end: u64) -> Op {
    Op::Prefault {
        range: range(start, end),
    }
}

fn probe(start: u64, end: u64) -> Op {
    Op::Probe {
        range: range(start, end),
        stride: PageLevel::Size4K,
        vcpu: VcpuId(0),
    }
}

impl Bench {
    fn new(design: &str) -> Bench {
        Bench::with(&guest(64 * M), design)
    }

    fn with(guest: &Guest, design: &str) -> Bench {
        Bench::on(&SimHost::in_memory(), guest, design)
    }

    fn on(host: &SimHost, guest: &Guest, design: &str) -> Bench {
        let mut session = host.boot(guest, &options(design)).unwrap();
        let before = session.sample();
        Bench { session, before }
    }

    /// Does an operation whose result is not checked.
    fn given(mut self, op: Op) -> Bench {
        self.perform(&op);
        self.change();
        self
    }

    fn perform(&mut self, op: &Op) -> Observed {
        self.session.perform(op, &[]).unwrap()
    }

    /// Does an operation and returns its changes.
    fn observe(&mut self, op: &Op) -> (Observed, Change) {
        self.change();
        let observed = self.perform(op);
        (observed, self.change())
    }

    fn change(&mut self) -> Change {
        let after = self.session.sample();
        let [old, new] =
            [&self.before, &after].map(|sample| *sample.debugfs.value().expect("debugfs"));
        let exits = |sample: &Sample| {
            let exits = sample.exits.value().expect("exits");
            exits.accept + exits.access
        };
        let populated = |sample: &Sample| *sample.populated.value().expect("populated") as i64;
        let change = Change {
            exits: exits(&after) - exits(&self.before),
            splits: after.splits.value().expect("splits").len(),
            pages_2m: new.pages_2m.wrapping_sub(old.pages_2m).cast_signed(),
            pages_4k: new.pages_4k.wrapping_sub(old.pages_4k).cast_signed(),
            populated: populated(&after) - populated(&self.before),
        };
        self.before = after;
        change
    }

    /// Reads a range in the guest.
    fn verify(&mut self, start: u64, end: u64) -> Vec<Run> {
        self.verify_side(start, end, Side::Private)
    }

    fn verify_side(&mut self, start: u64, end: u64, side: Side) -> Vec<Run> {
        let op = Op::Verify {
            range: range(start, end),
            gone: Gone::Every,
            side,
            vcpu: VcpuId(0),
        };
        self.session
            .perform(&op, &[range(start, end)])
            .unwrap()
            .runs
    }
}

/// The status of every ACCEPT, as (count, RAX).
fn statuses(observed: &Observed) -> Vec<(u32, u64)> {
    let mut found: Vec<(u32, u64)> = Vec::new();
    for run in &observed.runs {
        if let Run::Accept { count, status, .. } = run {
            match found.last_mut() {
                Some(last) if last.1 == *status => last.0 += count,
                _ => found.push((*count, *status)),
            }
        }
    }
    found
}

fn missing<T>(reading: &Reading<T>) -> bool {
    matches!(reading, Reading::Missing { .. })
}

fn gpa(offset: u64) -> Gpa {
    LOW_BASE.checked_add(offset).unwrap()
}
