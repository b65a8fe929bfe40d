//! A session on `kvm`: operations in sequence, and the kernel's witnesses.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use tdxlab_host::attach::{Attachment, GdbStub};
use tdxlab_host::vm::{Vm, Wake};
use tdxlab_host::{HostError, OnHost, Session};
use tdxlab_journal::{Ending, Observed, Reading, Sample, SplitEvent};
use tdxlab_kernel::debugfs::VmFolder;
use tdxlab_kernel::dirty_ring::DirtyRing;
use tdxlab_kernel::instance::threads_of;
use tdxlab_kernel::kmsg::KernelLog;
use tdxlab_kernel::splits::Splits;
use tdxlab_kernel::{once, query_stats};
use tdxlab_plan::{GuestOp, HostKind, HostOp, Kind, Op, VmOp};
use tdxlab_protocol::addr::GpaRange;
use tdxlab_protocol::message::Task;
use tdxlab_qemu::QemuError;
use tdxlab_qemu::agent::collect::Answer;
use tdxlab_qemu::agent::request;

use super::dirty_log::DirtyLog;
use super::hugetlb::Held;
use super::memory::TestMemory;
use super::{Places, registers};
use crate::counted::Counted;
use crate::remains::{Before, Files};

/// Longest a monitor may take for an answer at rest.
const MONITOR_PATIENCE: Duration = Duration::from_secs(10);

/// The witnesses of one VM.
pub(super) struct Watch {
    counters: Result<VmFolder, String>,
    splits: Result<OwnSplits, Reading<Vec<SplitEvent>>>,
    log: KernelLog,
    /// The machine before QEMU was started.
    before: Before,
}

/// Split events of one VM, and the threads that can cause them.
struct OwnSplits {
    splits: Splits,
    pid: u32,
    /// QEMU's threads, also those that have ended, and the lab's own.
    threads: BTreeSet<u32>,
}

impl Watch {
    /// Those of the VM that process `pid` has. Split events are those of its threads, also of
    /// threads to come, and of this thread, which punches the holes.
    pub(super) fn new(places: &Places, pid: u32, before: Before) -> Watch {
        // Re-arm warnings that fired for another guest. If this fails, the report says so.
        let _ = once::rearm(&places.debugfs);
        let splits = OwnSplits::watch(places, pid);
        Watch {
            counters: Err("the VM is not there yet".to_owned()),
            splits,
            log: KernelLog::open(&places.kmsg),
            before,
        }
        .with_counters(places, pid)
    }

    fn with_counters(self, places: &Places, pid: u32) -> Watch {
        // QEMU makes its VM a moment after it has started.
        let mut counters = VmFolder::find(&places.debugfs, pid);
        for _ in 0..400 {
            if counters.is_ok() || !places.debugfs.join("kvm").exists() {
                break;
            }
            std::thread::sleep(Duration::from_millis(5));
            counters = VmFolder::find(&places.debugfs, pid);
        }
        Watch { counters, ..self }
    }

    /// What is left of a VM whose QEMU has gone.
    fn ending(mut self) -> Ending {
        let log = || self.log.lines();
        self.before.ending(&self.counters, &Files::default(), log)
    }
}

impl OwnSplits {
    fn watch(places: &Places, pid: u32) -> Result<OwnSplits, Reading<Vec<SplitEvent>>> {
        let lab = nix::unistd::gettid().as_raw().cast_unsigned();
        let splits = Splits::watch(&places.tracefs, &[pid, lab])?;
        // Those that were started before the filter knew their parent.
        let mut threads = threads_of(pid);
        threads.extend([pid, lab]);
        let all: Vec<u32> = threads.iter().copied().collect();
        let mut events = places.events.iter();
        splits
            .follow(&all)
            .and_then(|()| events.try_for_each(|event| splits.record(event)))
            .map_err(Reading::missing)?;
        Ok(OwnSplits {
            splits,
            pid,
            threads,
        })
    }

    /// The events since the previous reading. An event of a thread outside this VM makes it
    /// incomplete: then the filter is broken, and other events may be foreign, too.
    fn read(&mut self) -> Reading<Vec<SplitEvent>> {
        self.threads.extend(threads_of(self.pid));
        let reading = self.splits.read();
        match stranger(&reading, &self.threads) {
            Some(event) => Reading::incomplete(format!(
                "thread {} split {}, and is neither a vCPU nor another thread of QEMU ({}) nor the \
                 lab's",
                event.tid, event.gpa, self.pid
            )),
            None => reading,
        }
    }
}

/// The first event of a thread that is not among `threads`.
fn stranger(reading: &Reading<Vec<SplitEvent>>, threads: &BTreeSet<u32>) -> Option<SplitEvent> {
    let events = reading.value()?.iter();
    events.copied().find(|event| !threads.contains(&event.tid))
}

/// A plain VM.
pub(super) struct KvmSession {
    vm: Vm,
    memory: TestMemory,
    watch: Watch,
    dirty_log: Option<DirtyLog>,
    /// The pages that it names, while it is on.
    logged: Option<Result<DirtyRing, String>>,
    tracefs: PathBuf,
    patience: Duration,
    /// Second monitor, for a held guest.
    attachment: Option<Attachment>,
    /// Source of the last count of populated pages.
    populated_by: Option<String>,
    /// Dropped last: the guest's pages are free when QEMU has exited and its file is closed.
    _held: Option<Held>,
}

impl KvmSession {
    pub(super) fn new(
        vm: Vm,
        memory: TestMemory,
        (watch, tracefs): (Watch, PathBuf),
        held: Option<Held>,
        patience: Duration,
        attachment: Option<Attachment>,
    ) -> KvmSession {
        KvmSession {
            vm,
            memory,
            watch,
            dirty_log: None,
            logged: None,
            tracefs,
            patience,
            attachment,
            populated_by: None,
            _held: held,
        }
    }

    /// Runs one task to its end.
    fn run(&mut self, task: Task) -> Result<Answer, HostError> {
        let doing = request::describe(&task.command);
        let (request, mut collector) = self.vm.request(&[task])?;
        self.vm.agent().send(&request)?;
        let mut until = Instant::now() + self.patience;
        while !collector.is_over() {
            match self.vm.wait(until, &doing)? {
                Wake::Late => return Err(self.vm.silent(&doing, self.patience)),
                Wake::Events => drop(self.vm.take_events()),
                Wake::Serial | Wake::Extra => {}
            }
            if self.vm.collect(&mut collector)? {
                // A guest that makes progress is not hung, however long it takes as a whole.
                until = Instant::now() + self.patience;
            }
        }
        Ok(collector.into_answers().swap_remove(0))
    }

    /// An operation of the host: its errno.
    fn host_call(&mut self, op: HostOp) -> Result<i32, HostError> {
        match op {
            HostOp::Punch(range) => Ok(self.memory.punch(range)),
            HostOp::Allocate(range) => Ok(self.memory.allocate(range)),
            _ => Err(no_private_memory()),
        }
    }

    /// An operation on the whole VM: its errno.
    fn vm_call(&mut self, op: VmOp) -> Result<i32, HostError> {
        let until = Instant::now() + self.patience;
        match op {
            VmOp::DirtyLog(true) => {
                if self.dirty_log.is_none() {
                    let threads: Vec<u32> =
                        threads_of(self.vm.process().pid()).into_iter().collect();
                    self.logged = Some(DirtyRing::follow(&self.tracefs, &threads));
                    self.dirty_log = Some(DirtyLog::start(&mut self.vm, until)?);
                }
                Ok(0)
            }
            VmOp::DirtyLog(false) => {
                self.logged = None;
                if let Some(log) = self.dirty_log.take() {
                    log.stop(&mut self.vm, until)?;
                }
                Ok(0)
            }
            VmOp::Stop => self.order(&qapi::qmp::stop {}, until),
            VmOp::Cont => self.order(&qapi::qmp::cont {}, until),
        }
    }

    /// Gives an order to the vCPUs.
    fn order<C: qapi::Command>(&mut self, order: &C, until: Instant) -> Result<i32, HostError> {
        let ticket = self
            .vm
            .qmp()
            .send(order)
            .map_err(|error| QemuError::from(error).on(HostKind::Kvm))?;
        self.vm
            .answer(&ticket, until, "stopping or starting the vCPUs")
            .map(|_| 0)
    }
}

fn no_private_memory() -> HostError {
    HostError::GuestRefused {
        reason: "a plain VM has no private memory".to_owned(),
    }
}

impl Session for KvmSession {
    fn perform(&mut self, op: &Op, reads: &[GpaRange]) -> Result<Observed, HostError> {
        let counted = Counted::of_plain(&self.watch.counters);
        let began = Instant::now();
        let mut observed = Observed::default();
        match op.kind() {
            Kind::Host(op) => observed.errno = Some(self.host_call(op)?),
            Kind::Vm(op) => observed.errno = Some(self.vm_call(op)?),
            Kind::Guest(
                _,
                GuestOp::Accept { .. }
                | GuestOp::Release { .. }
                | GuestOp::Convert { .. }
                | GuestOp::Probe { .. },
            ) => {
                return Err(no_private_memory());
            }
            Kind::Guest(
                vcpu,
                op @ (GuestOp::Touch { .. } | GuestOp::Fill { .. } | GuestOp::Verify { .. }),
            ) => {
                for task in request::tasks(vcpu, op, reads) {
                    let answer = self.run(task)?;
                    observed.add(answer.runs, answer.counts.unwrap_or_default());
                }
            }
        }
        observed.took_since(began);
        observed.logged = self.logged.as_mut().map(|ring| match ring {
            Ok(ring) => ring.read(self.memory.range()),
            Err(reason) => Reading::missing(reason.clone()),
        });
        observed.cost = Counted::of_plain(&self.watch.counters).since(counted);
        Ok(observed)
    }

    fn perform_parallel(
        &mut self,
        _branches: &[&[Op]],
        _seed: u64,
    ) -> Result<Vec<Vec<Observed>>, HostError> {
        Err(HostError::GuestRefused {
            reason: "steps of a plain VM do not race".to_owned(),
        })
    }

    fn attach(&mut self) -> Vec<(String, String)> {
        match &self.attachment {
            Some(attachment) => attachment.open(&mut self.vm, GdbStub::Stub),
            None => Vec::new(),
        }
    }

    fn sample(&mut self) -> Sample {
        let (populated, source) = self.memory.populated();
        self.populated_by = Some(source);
        Sample {
            debugfs: match &self.watch.counters {
                Ok(folder) => folder.counters(),
                Err(reason) => Reading::missing(reason.clone()),
            },
            query_stats: query_stats::read(self.vm.qmp(), MONITOR_PATIENCE),
            splits: match &mut self.watch.splits {
                Ok(splits) => splits.read(),
                Err(reading) => reading.clone(),
            },
            populated,
            exits: Reading::missing(
                "a plain VM has no ACCEPTs, and KVM does not tell other faults apart",
            ),
            kernel_log: self.watch.log.lines(),
        }
    }

    fn evidence(&mut self) -> Vec<(String, Vec<u8>)> {
        let mut evidence = self.vm.evidence();
        evidence.extend(registers::registers(&mut self.vm));
        if let Ok(splits) = &self.watch.splits
            && let Some(text) = splits.splits.others()
        {
            evidence.push(("trace.txt".to_owned(), text.into_bytes()));
        }
        if let Some(source) = &self.populated_by {
            let text = format!("populated pages: {source}\n");
            evidence.push(("witnesses.txt".to_owned(), text.into_bytes()));
        }
        evidence
    }

    fn end(mut self: Box<Self>) -> Result<Ending, HostError> {
        self.vm.end()?;
        // Its pages are back once the file is closed.
        drop(self.memory);
        Ok(self.watch.ending())
    }
}

#[cfg(test)]
mod tests {
    use tdxlab_protocol::addr::Gpa;

    use super::*;
    use crate::remains::tests::goes_late;

    #[test]
    fn what_the_kernel_says_while_the_vm_goes_belongs_to_its_end() {
        let folder = tempfile::tempdir().unwrap();
        let (vm, log, before) = goes_late(folder.path());
        let watch = Watch {
            counters: Ok(vm),
            splits: Err(Reading::missing("no tracefs")),
            log,
            before,
        };
        let said = Reading::Read(vec!["WARNING: late".to_owned()]);
        assert_eq!(watch.ending().kernel_log, said);
    }

    #[test]
    fn a_split_by_a_thread_of_nobody_is_found() {
        let event = |tid| SplitEvent {
            gpa: Gpa::new(0x4000_0000),
            level: 2,
            errno: 0,
            tid,
        };
        let threads = BTreeSet::from([7, 8]);
        let read = |tids: [u32; 2]| Reading::Read(tids.map(event).to_vec());
        assert_eq!(stranger(&read([7, 8]), &threads), None);
        assert_eq!(stranger(&read([7, 9]), &threads), Some(event(9)));
        assert_eq!(stranger(&Reading::missing("no tracefs"), &threads), None);
    }
}
