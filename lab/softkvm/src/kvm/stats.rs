//! KVM's interfaces: counters in debugfs, split events in tracefs, lines in the log.

use std::fmt::Write;

use tdxlab_protocol::addr::PageLevel;
use tdxlab_protocol::message::VcpuId;
use tdxlab_tdxmodule::policy::SplitTrace;

/// KVM's gauges of mapped leaves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PageGauges([i64; 3]);

impl PageGauges {
    /// Moves the gauge of one level.
    pub(crate) fn add(&mut self, level: PageLevel, delta: i64) {
        self.0[usize::from(level.tdx())] += delta;
    }

    /// The files of the VM's debugfs directory with their text. The kernel prints a gauge as an
    /// unsigned number, so one that went below zero shows as a very large one.
    pub(crate) fn files(&self) -> Vec<(&'static str, String)> {
        let text = |value: i64| {
            let mut text = String::with_capacity(4);
            // A String takes any text, so writing cannot fail.
            let _ = writeln!(text, "{}", value as u64);
            text
        };
        vec![
            ("pages_4k", text(self.0[0])),
            ("pages_2m", text(self.0[1])),
            ("pages_1g", text(self.0[2])),
            // Splits because of NX huge pages: a TD has none.
            ("nx_lpage_splits", "0\n".to_owned()),
        ]
    }
}

/// The acting thread, as the trace names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Actor {
    /// A vCPU's thread.
    Vcpu(VcpuId),
    /// The thread that makes host calls.
    Host,
}

/// The trace of one VM.
#[derive(Clone, Debug)]
pub(crate) struct Trace {
    lines: String,
    vcpu_threads: Vec<u32>,
    host_thread: u32,
    /// Microseconds of a clock that ticks with the work done, so that a run can be repeated.
    clock: u64,
    pub(crate) actor: Actor,
}

impl Trace {
    /// An empty trace. Threads are numbered from 1001 up until they are named.
    pub(crate) fn new(vcpus: u16) -> Trace {
        Trace {
            lines: String::new(),
            vcpu_threads: (0..u32::from(vcpus)).map(|index| 1001 + index).collect(),
            host_thread: 1000,
            clock: 0,
            actor: Actor::Host,
        }
    }

    /// Sets the names of the threads.
    pub(crate) fn set_threads(&mut self, vcpus: Vec<u32>, host: u32) {
        self.vcpu_threads = vcpus;
        self.host_thread = host;
    }

    /// Advances the clock.
    pub(crate) fn tick(&mut self) {
        self.clock += 1;
    }

    /// Thread of the actor at work.
    pub(crate) fn thread(&self) -> u32 {
        match self.actor {
            Actor::Vcpu(vcpu) => self
                .vcpu_threads
                .get(usize::from(vcpu.0))
                .copied()
                .unwrap_or(self.host_thread),
            Actor::Host => self.host_thread,
        }
    }

    /// Writes one event as tracefs prints it.
    pub(crate) fn split(&mut self, event: &SplitTrace) {
        let (comm, cpu) = match self.actor {
            Actor::Vcpu(vcpu) => (format!("CPU {}/KVM", vcpu.0), vcpu.0),
            Actor::Host => ("tdxlab".to_owned(), 0),
        };
        // A String takes any text, so writing cannot fail.
        let _ = writeln!(
            self.lines,
            "{comm:>16}-{:<7} [{cpu:03}] ..... {:>5}.{:06}: kvm_mmu_split_huge_page: \
             gfn {:x} spte {:x} level {} errno {}",
            self.thread(),
            self.clock / 1_000_000,
            self.clock % 1_000_000,
            event.gfn,
            event.spte,
            event.level,
            event.errno
        );
    }

    /// The lines since the previous call.
    pub(crate) fn take(&mut self) -> String {
        std::mem::take(&mut self.lines)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trace_line_looks_as_the_kernel_prints_it() {
        let mut trace = Trace::new(2);
        trace.set_threads(vec![1233, 1234], 900);
        trace.actor = Actor::Vcpu(VcpuId(1));
        trace.clock = 123_456_789;
        trace.split(&SplitTrace {
            gfn: 0x40000,
            spte: 0x6000_0004_0000_0bf7,
            level: 2,
            errno: -12,
        });
        assert_eq!(
            trace.take(),
            "       CPU 1/KVM-1234    [001] .....   123.456789: kvm_mmu_split_huge_page: \
             gfn 40000 spte 6000000400000bf7 level 2 errno -12\n"
        );
        assert_eq!(trace.take(), "");
    }

    #[test]
    fn gauges_print_as_the_kernel_does() {
        let mut gauges = PageGauges::default();
        gauges.add(PageLevel::Size2M, 31);
        let files = gauges.files();
        assert_eq!(files[1], ("pages_2m", "31\n".to_owned()));
        assert_eq!(files[0].1, "0\n");
    }
}
