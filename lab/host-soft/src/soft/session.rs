//! A session on `soft`: operations in sequence.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tdxlab_host::attach::{Attachment, GdbStub};
use tdxlab_host::vm::Wake;
use tdxlab_host::{BootOptions, HostError, Session};
use tdxlab_journal::interleaving::Interleaving;
use tdxlab_journal::{Ending, Observed, Reading, Sample};
use tdxlab_kernel::emulated::EmulatedFiles;
use tdxlab_plan::{Op, VcpuId};
use tdxlab_protocol::addr::GpaRange;
use tdxlab_protocol::message::{Request, Task};
use tdxlab_qemu::agent::collect::{Answer, Collector};
use tdxlab_qemu::agent::request;
use tdxlab_softkvm::{HostCall, PhysicalMemory};

use super::SoftHost;
use super::core::Core;
use super::kept::Kept;
use super::qemu::Qemu;
use super::schedule::Schedule;
use crate::calls::{self, Work};
use crate::software;
use crate::software_host::MakePolicy;

/// Stages of one request or call between two checks of the clock.
const STAGES_BETWEEN_LOOKS: u32 = 4096;

/// A guest and the host under it.
pub(super) struct SoftSession {
    pub(super) qemu: Qemu,
    /// Where the QEMU goes after a guest that ended in good order; `None` if it ends with its guest.
    kept: Option<Arc<Kept>>,
    /// Whether all that was asked of the guest was done.
    in_order: bool,
    pub(super) core: Core,
    kernel: EmulatedFiles,
    /// Makes the policy of each plan.
    policy: MakePolicy,
    memory: GpaRange,
    pub(super) patience: Duration,
    pub(super) schedule: Schedule,
    /// The order the next race shall follow, and the one the last took.
    pub(super) follow: Option<Interleaving>,
    pub(super) interleaving: Option<Interleaving>,
    /// Second monitor, for a held guest.
    attachment: Option<Attachment>,
}

impl SoftSession {
    pub(super) fn new(
        qemu: Qemu,
        core: Core,
        kernel: EmulatedFiles,
        host: &SoftHost,
        memory: GpaRange,
        options: &BootOptions,
        attachment: Option<Attachment>,
    ) -> SoftSession {
        let keeps = !options.fresh && attachment.is_none();
        SoftSession {
            qemu,
            kept: keeps.then(|| Arc::clone(&host.kept)),
            in_order: true,
            core,
            kernel,
            policy: Arc::clone(&host.software.policy),
            memory,
            patience: options.patience,
            schedule: Schedule::new(),
            follow: None,
            interleaving: None,
            attachment,
        }
    }

    /// Waits for the guest and serves its vCPUs, each request to its end.
    pub(super) fn serve(&mut self, until: Instant, doing: &str) -> Result<(), HostError> {
        match self.qemu.vm.wait(until, doing)? {
            Wake::Serial => Ok(()),
            Wake::Events => {
                self.qemu.vm.take_events();
                Ok(())
            }
            Wake::Late => Err(self.qemu.vm.silent(doing, self.patience)),
            Wake::Extra => {
                for vcpu in self.take_requests()? {
                    self.complete(vcpu, until, doing)?;
                }
                Ok(())
            }
        }
    }

    /// Takes what vCPUs that have rung ask for, and replies.
    pub(super) fn take_requests(&mut self) -> Result<Vec<VcpuId>, HostError> {
        self.core
            .take_requests(&self.qemu.doorbell, self.qemu.vm.agent())
    }

    /// Brings a request to its end.
    fn complete(&mut self, vcpu: VcpuId, until: Instant, doing: &str) -> Result<(), HostError> {
        let mut stages = 0u32;
        while !self.core.advance(vcpu)? {
            stages += 1;
            if stages.is_multiple_of(STAGES_BETWEEN_LOOKS) {
                self.look_at_clock(until, || {
                    format!("{doing}: vCPU {} exits again and again", vcpu.0)
                })?;
            }
        }
        Ok(())
    }

    /// An error if it is late.
    pub(super) fn look_at_clock(
        &self,
        until: Instant,
        doing: impl FnOnce() -> String,
    ) -> Result<(), HostError> {
        if self.qemu.vm.is_interrupted() {
            return Err(HostError::Interrupted);
        }
        if Instant::now() < until {
            return Ok(());
        }
        Err(HostError::GuestSilent {
            doing: doing(),
            waited: self.patience,
        })
    }

    /// Sends tasks to the guest, which starts them together.
    pub(super) fn send(&mut self, tasks: &[Task]) -> Result<Collector, HostError> {
        let (request, collector) = self.qemu.vm.request(tasks)?;
        self.send_request(&request, "starting tasks")?;
        Ok(collector)
    }

    /// Sends a request through the mailbox.
    pub(super) fn send_request(&mut self, request: &Request, doing: &str) -> Result<(), HostError> {
        let put = |frame: &[u8]| self.core.mailbox().put_frame(frame);
        self.qemu.vm.send_beside(request, put, doing)
    }

    /// Runs one task to its end, or to the TD's.
    fn run(&mut self, task: Task) -> Result<Answer, HostError> {
        let doing = request::describe(&task.command);
        let until = Instant::now() + self.patience;
        let mut collector = self.send(&[task])?;
        while !collector.is_over() && self.core.kvm.death().is_none() {
            self.serve(until, &doing)?;
            self.qemu.vm.collect(&mut collector)?;
        }
        Ok(collector.into_answers().swap_remove(0))
    }

    /// Makes host calls one after the other, up to the first that fails; the errno.
    fn call(&mut self, calls: &[HostCall]) -> Result<i32, HostError> {
        let until = Instant::now() + self.patience;
        for &call in calls {
            self.core.kvm.begin(call);
            let mut stages = 0u32;
            let errno = loop {
                if let Some(errno) = self.core.advance_call()? {
                    break errno;
                }
                stages += 1;
                if stages.is_multiple_of(STAGES_BETWEEN_LOOKS) {
                    self.look_at_clock(until, || {
                        format!("a host call that does not end: {call:?}")
                    })?;
                }
            };
            if errno != 0 {
                return Ok(errno);
            }
        }
        Ok(0)
    }

    /// Adds the counts since the last call to an operation.
    pub(super) fn account(&mut self, observed: &mut Observed) {
        let looked = self.core.kvm.take_entries_looked_at();
        let zapped = self.core.kvm.take_leaves_zapped();
        *observed.entries_looked_at.get_or_insert(0) += looked;
        *observed.leaves_zapped.get_or_insert(0) += zapped;
        software::account(&mut observed.cost, self.core.kvm.take_work());
    }

    /// Notes the end of an operation: how the TD died, if it did, and whether memory ran out.
    pub(super) fn conclude(
        &mut self,
        observed: &mut Observed,
        began: Instant,
    ) -> Result<(), HostError> {
        self.account(observed);
        observed.took_since(began);
        observed.cost.shared_apart = Some(self.core.kvm.shared_apart());
        observed.death = self.core.kvm.death().map(software::death);
        if observed.death.is_some() {
            self.core.kvm.machine_mut().stop();
        }
        self.core.check_pool(observed)?;
        // Bytes a TD writes to ports go nowhere here, and must not pile up.
        self.core.kvm.take_port_writes();
        Ok(())
    }

    /// Does an operation to its end, which leaves the guest at rest.
    fn do_op(&mut self, op: &Op, reads: &[GpaRange]) -> Result<Observed, HostError> {
        self.core.check_alive()?;
        let began = Instant::now();
        let mut observed = Observed::default();
        match calls::work(&self.core.kvm, op, reads)? {
            Work::Host(calls) => {
                observed.errno = Some(self.call(&calls)?);
                observed.error_at = self.core.kvm.take_error_at();
            }
            Work::Guest(tasks) => {
                for task in tasks {
                    let answer = self.run(task)?;
                    observed.add(answer.runs, answer.counts.unwrap_or_default());
                    if self.core.kvm.death().is_some() {
                        break;
                    }
                }
            }
        }
        self.conclude(&mut observed, began)?;
        Ok(observed)
    }

    /// Whether the guest did all it was asked to, and all its vCPUs wait for more.
    fn is_at_rest(&self) -> bool {
        self.in_order && self.core.kvm.death().is_none() && !self.core.is_asked()
    }
}

impl Session for SoftSession {
    fn perform(&mut self, op: &Op, reads: &[GpaRange]) -> Result<Observed, HostError> {
        let done = self.do_op(op, reads);
        self.in_order &= done.is_ok();
        done
    }

    fn perform_parallel(
        &mut self,
        branches: &[&[Op]],
        seed: u64,
    ) -> Result<Vec<Vec<Observed>>, HostError> {
        self.core.check_alive()?;
        let done = self.race(branches, seed);
        self.in_order &= done.is_ok();
        done
    }

    fn follow(&mut self, order: &Interleaving) {
        self.follow = Some(order.clone());
    }

    fn take_interleaving(&mut self) -> Option<Interleaving> {
        self.interleaving.take()
    }

    fn attach(&mut self) -> Vec<(String, String)> {
        match &self.attachment {
            Some(attachment) => attachment.open(&mut self.qemu.vm, GdbStub::Stub),
            None => Vec::new(),
        }
    }

    fn fault_reached(&self) -> Option<bool> {
        self.core.kvm.fault_reached()
    }

    fn guests_before(&self) -> u32 {
        self.qemu.guests_before
    }

    fn next_plan(&mut self, seed: u64) {
        self.core.kvm.decide_anew((self.policy)(), seed);
        self.schedule = Schedule::new();
    }

    fn sample(&mut self) -> Sample {
        let kvm = &mut self.core.kvm;
        Sample {
            debugfs: self.kernel.counters(&kvm.debugfs()),
            query_stats: Reading::missing("TCG, no KVM to query"),
            splits: self.kernel.splits(&kvm.take_trace()),
            populated: Reading::Read(kvm.populated(self.memory)),
            exits: Reading::Read(software::exits(kvm.exits())),
            kernel_log: self.kernel.kernel_log(&kvm.take_log()),
        }
    }

    fn evidence(&mut self) -> Vec<(String, Vec<u8>)> {
        let mut evidence = self.qemu.vm.evidence();
        let memory = format!(
            "# As the software KVM and its TDX module have it at the end (found, not predicted).\n{}",
            self.core.kvm.describe_memory()
        );
        evidence.push(("memory.txt".to_owned(), memory.into_bytes()));
        if let Some(schedule) = self.schedule.to_text() {
            evidence.push(("schedule.txt".to_owned(), schedule.into_bytes()));
        }
        evidence
    }

    fn end(mut self: Box<Self>) -> Result<Ending, HostError> {
        let kept = self.kept.take().filter(|_| self.is_at_rest());
        if kept.is_none() {
            self.qemu.vm.end()?;
        }
        let kvm = &mut self.core.kvm;
        kvm.machine_mut().stop();
        kvm.tear_down();
        let counters = self.kernel.counters(&kvm.debugfs());
        let ending = Ending {
            taken: software::taken(&counters, kvm.frames_in_use()),
            kernel_log: self.kernel.kernel_log(&kvm.take_log()),
        };
        if let Some(kept) = kept {
            let pool = kvm.machine().pool();
            kept.keep(self.qemu, &pool);
        }
        Ok(ending)
    }
}
