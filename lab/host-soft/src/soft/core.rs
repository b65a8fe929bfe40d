//! The software KVM, and its channel to vCPUs: a byte on the doorbell, the rest in the mailbox.

use std::io::{self, PipeReader, Read};

use tdxlab_host::HostError;
use tdxlab_journal::Observed;
use tdxlab_plan::VcpuId;
use tdxlab_protocol::mailbox::{ANSWER_DEAD, ANSWER_RETRY, ANSWER_VE, OUTBOX_BELL};
use tdxlab_qemu::agent::Agent;
use tdxlab_softkvm::{Advance, PhysicalMemory, Request, SoftKvm};

use super::machine::SoftMachine;
use super::mailbox::Mailbox;
use super::ram::LARGEST_POOL;

/// Free frames of the pool below which a failure is put down to the pool.
const ALMOST_EMPTY: u64 = 4 * 512;

/// The software KVM under a guest.
pub(super) struct Core {
    pub(super) kvm: SoftKvm<SoftMachine>,
    mailbox: Mailbox,
    /// Unanswered request of each vCPU.
    asked: Vec<Option<Request>>,
}

impl Core {
    pub(super) fn new(kvm: SoftKvm<SoftMachine>, mailbox: Mailbox, vcpus: u16) -> Core {
        Core {
            kvm,
            mailbox,
            asked: vec![None; usize::from(vcpus)],
        }
    }

    /// Hands the requests of all vCPUs that have rung to the software KVM, in the order in which they
    /// rang, and replies to `agent`. Never blocks.
    pub(super) fn take_requests(
        &mut self,
        mut doorbell: &PipeReader,
        agent: &mut Agent,
    ) -> Result<Vec<VcpuId>, HostError> {
        // Each vCPU waits for its answer, and one at a time has a reply. What does not fit stays.
        let mut bells = [0; 64];
        let count = match doorbell.read(&mut bells) {
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
            Err(source) => {
                return Err(HostError::System {
                    doing: "reading the doorbell".into(),
                    source,
                });
            }
        };
        let mut asking = Vec::new();
        let lies = |what| HostError::GuestLies { what };
        for &bell in &bells[..count] {
            if bell == OUTBOX_BELL {
                agent.receive_frame(&self.mailbox.take_frame().map_err(lies)?)?;
            } else {
                asking.push(self.take_request(bell).map_err(lies)?);
            }
        }
        Ok(asking)
    }

    fn take_request(&mut self, bell: u8) -> Result<VcpuId, String> {
        let (vcpu, request, gprs) = self.mailbox.request(bell)?;
        let asked = &mut self.asked[usize::from(vcpu.0)];
        if asked.is_some() {
            return Err(format!("vCPU {bell} rang again before it was answered"));
        }
        *asked = Some(request);
        self.kvm.submit(vcpu, request, gprs);
        Ok(vcpu)
    }

    /// One stage of a vCPU's request; whether it was answered. A dead TD no longer answers.
    pub(super) fn advance(&mut self, vcpu: VcpuId) -> Result<bool, HostError> {
        let advance = self.kvm.advance(vcpu);
        self.kvm.machine_mut().trouble()?;
        if advance == Advance::Working {
            return Ok(false);
        }
        match (self.asked[usize::from(vcpu.0)].take(), advance) {
            (Some(Request::Tdcall { .. }), Advance::Done) => {
                let gprs = self.kvm.gprs(vcpu);
                self.mailbox.answer_tdcall(vcpu, &gprs);
            }
            (Some(Request::Fault { .. }), Advance::Done) => {
                self.mailbox.answer_fault(vcpu, ANSWER_RETRY);
            }
            (Some(Request::Fault { .. }), Advance::Ve) => {
                self.mailbox.answer_fault(vcpu, ANSWER_VE);
            }
            // A TDCALL cannot be answered with death: its vCPU waits until QEMU ends.
            (Some(Request::Tdcall { .. }), _) | (None, _) => {}
            (Some(Request::Fault { .. }), _) => self.mailbox.answer_fault(vcpu, ANSWER_DEAD),
        }
        Ok(true)
    }

    /// The guest's mailbox.
    pub(super) fn mailbox(&self) -> &Mailbox {
        &self.mailbox
    }

    /// Whether a vCPU waits for an answer.
    pub(super) fn is_waiting(&self, vcpu: VcpuId) -> bool {
        self.asked
            .get(usize::from(vcpu.0))
            .is_some_and(Option::is_some)
    }

    /// Whether any vCPU waits for an answer.
    pub(super) fn is_asked(&self) -> bool {
        self.asked.iter().any(Option::is_some)
    }

    /// Whether there still is a TD to do anything with.
    pub(super) fn check_alive(&self) -> Result<(), HostError> {
        match self.kvm.death() {
            None => Ok(()),
            Some(death) => Err(HostError::GuestRefused {
                reason: format!("the TD is dead: {}", death.text),
            }),
        }
    }

    /// Tells a machine whose memory the lab made too small from a host that leaks. Only the largest
    /// pool can be too small: any smaller pool covers all of test memory, so if it is exhausted the
    /// software KVM has leaked frames.
    pub(super) fn check_pool(&self, observed: &Observed) -> Result<(), HostError> {
        if observed.errno != Some(libc::ENOMEM) && observed.death.is_none() {
            return Ok(());
        }
        let pool = self.kvm.machine().pool();
        let frames = pool.end.0 - pool.start.0;
        // The largest request is for 512 frames in one piece and the tables above them.
        let too_small = frames << 12 == LARGEST_POOL;
        if !too_small || frames - self.kvm.frames_used() > ALMOST_EMPTY {
            return Ok(());
        }
        Err(HostError::System {
            doing: format!(
                "the soft host's {} MiB of machine memory are used up",
                frames >> 8
            ),
            source: io::ErrorKind::OutOfMemory.into(),
        })
    }

    /// One stage of the host call under way; its errno when it is over.
    pub(super) fn advance_call(&mut self) -> Result<Option<i32>, HostError> {
        let errno = self.kvm.advance_call();
        self.kvm.machine_mut().trouble()?;
        Ok(errno)
    }
}
