//! vCPUs: requests that alternate between module and KVM until they are done.

use tdxlab_protocol::addr::{Gpa, PageLevel, Side};
use tdxlab_protocol::message::VcpuId;
use tdxlab_protocol::tdcall::{INSTRUCTION_BYTES, reg, vmcall};
use tdxlab_tdxmodule::{Eeq, Entry, Exit, Outcome, PhysicalMemory, SHARED_BIT, Vmcall};

use super::kvm::convert::{MapGpa, MapGpaResult};
use super::kvm::fault::{Fault, FaultProgress};
use super::kvm::stats::Actor;
use super::kvm::{Kvm, death};
use crate::api::{Advance, Killer, PortWrite, Request};

/// Sub-function GetTdVmCallInfo.
const VMCALL_INFO: u64 = 0x10000;

/// Exits of one request after which its vCPU is reported to exit forever. One whose page is
/// repeatedly zapped by others needs a few; a KVM that resumes the guest without progress never
/// stops.
const EXITS_FOR_EVER: u32 = 1000;

/// QEMU's last words where KVM makes nothing of the status of TDH.VP.ENTER: `unhandled_exit` of
/// `tdx_handle_exit()`, which ends in KVM_INTERNAL_ERROR_UNEXPECTED_EXIT_REASON.
const ENTRY_FAILED: &str = "KVM internal error. Suberror: 4 (TDH.VP.ENTER: 0x8000020000000092)";

/// R10 of a hypercall that KVM does not know (-KVM_ENOSYS).
const KVM_ENOSYS: u64 = (-1000_i64) as u64;

/// A vCPU.
#[derive(Clone, Debug)]
pub(crate) struct Vcpu {
    pub(crate) gprs: [u64; 16],
    state: State,
    /// Exits of the current request without progress.
    exits: u32,
    /// Outside the TD since an exit.
    outside: bool,
}

/// State of a vCPU.
#[derive(Clone, Copy, Debug)]
enum State {
    /// Running in the guest, no request.
    Idle,
    /// About to enter the TD, for this.
    Entry(Inside),
    /// Outside the TD; it enters again once the fault is handled.
    Fault(Inside, Fault),
    /// Outside the TD, in the middle of a MapGPA, with what it enters for afterwards.
    MapGpa(Inside, MapGpa),
}

/// What a vCPU does once it is in the TD.
#[derive(Clone, Copy, Debug)]
enum Inside {
    /// Makes this request, perhaps once more.
    Request(Request),
    /// Goes on at this address: a hypercall is over, and its results are in the registers.
    Rip(u64),
}

impl Inside {
    const fn rip(self) -> u64 {
        match self {
            Inside::Request(request) => request.rip(),
            Inside::Rip(rip) => rip,
        }
    }
}

impl Default for Vcpu {
    fn default() -> Self {
        Vcpu {
            gprs: [0; 16],
            state: State::Idle,
            exits: 0,
            outside: false,
        }
    }
}

impl Vcpu {
    /// Starts a request.
    pub(crate) fn submit(&mut self, request: Request, gprs: [u64; 16]) {
        self.gprs = gprs;
        self.state = State::Entry(Inside::Request(request));
        self.exits = 0;
    }

    /// Advances by one step: one TD entry, or the handling of one exit.
    pub(crate) fn advance<M: PhysicalMemory>(
        &mut self,
        id: VcpuId,
        kvm: &mut Kvm<M>,
        io: &mut Vec<PortWrite>,
    ) -> Advance {
        if kvm.death().is_some() {
            return Advance::Dead;
        }
        kvm.trace.actor = Actor::Vcpu(id);
        kvm.trace.tick();
        let (state, advance) = match self.state {
            State::Idle => (State::Idle, Advance::Done),
            State::Entry(inside) => self.enter(id, inside, kvm, io),
            State::Fault(inside, mut fault) => match kvm.handle_fault(&mut fault) {
                FaultProgress::Again => (State::Fault(inside, fault), Advance::Working),
                FaultProgress::Resume => (State::Entry(inside), Advance::Working),
            },
            State::MapGpa(inside, mut map) => match kvm.map_gpa_chunk(&mut map) {
                None => (State::MapGpa(inside, map), Advance::Working),
                Some(result) => self.finish_map_gpa(id, inside, result, kvm, io),
            },
        };
        self.state = state;
        if kvm.death().is_some() {
            Advance::Dead
        } else {
            advance
        }
    }

    fn enter<M: PhysicalMemory>(
        &mut self,
        id: VcpuId,
        inside: Inside,
        kvm: &mut Kvm<M>,
        io: &mut Vec<PortWrite>,
    ) -> (State, Advance) {
        let index = usize::from(id.0);
        kvm.hardware.set_rip(index, inside.rip());
        if self.outside {
            match kvm.hardware.filter_entry(index) {
                Entry::Allowed => {}
                Entry::Busy(_) => {
                    if !kvm.hardware.policy.enters_again() {
                        kvm.die(death(Killer::KvmBug, ENTRY_FAILED.to_owned()));
                    }
                    return (State::Entry(inside), Advance::Working);
                }
                Entry::Refused(gpa) => {
                    kvm.work.exits += 1;
                    let fake = Exit::EptViolation {
                        gpa: gpa.align_down(PageLevel::Size4K),
                        side: Side::Private,
                        qualification: Exit::WRITE,
                        eeq: Eeq::NONE,
                    };
                    return self.exit(id, inside, fake, kvm, io);
                }
            }
        }
        self.outside = false;
        kvm.hardware.td.enter(index);
        let Inside::Request(request) = inside else {
            return (State::Idle, Advance::Done);
        };
        let outcome = match request {
            Request::Tdcall { .. } => kvm.hardware.tdcall(index, &mut self.gprs),
            Request::Fault {
                gpa,
                side: Side::Private,
                write,
                ..
            } if gpa.as_u64() < SHARED_BIT => kvm.hardware.access(index, gpa, write),
            Request::Fault {
                gpa,
                side: Side::Shared,
                ..
            } if gpa.as_u64() < SHARED_BIT && kvm.is_mapped_shared(gpa) => {
                return (State::Idle, Advance::Done);
            }
            // A shared page, or an address that no memory slot can serve.
            Request::Fault { gpa, side, .. } => {
                kvm.hardware.td.leave(index);
                self.outside = true;
                kvm.work.exits += 1;
                self.exited(id, gpa, kvm);
                let fault = Fault {
                    gpa,
                    side,
                    accept: None,
                    lookup: None,
                };
                return (State::Fault(inside, fault), Advance::Working);
            }
        };
        match outcome {
            Outcome::Complete(_) => (State::Idle, Advance::Done),
            Outcome::Restart => {
                self.exits = 0;
                (State::Entry(inside), Advance::Working)
            }
            Outcome::Ve => (State::Idle, Advance::Ve),
            Outcome::DoubleFault => {
                let text = "double fault: #VE before the information of the last was fetched";
                kvm.die(death(Killer::Guest, text.to_owned()));
                (State::Idle, Advance::Dead)
            }
            Outcome::Exit(exit) => {
                kvm.hardware.td.leave(index);
                self.outside = true;
                kvm.work.exits += 1;
                self.exit(id, inside, exit, kvm, io)
            }
        }
    }

    fn exit<M: PhysicalMemory>(
        &mut self,
        id: VcpuId,
        inside: Inside,
        exit: Exit,
        kvm: &mut Kvm<M>,
        io: &mut Vec<PortWrite>,
    ) -> (State, Advance) {
        match exit {
            Exit::EptViolation { gpa, eeq, .. } if eeq.is_pending() => {
                kvm.pending_access(id, gpa);
                self.exited(id, gpa, kvm);
                (State::Entry(inside), Advance::Working)
            }
            Exit::EptViolation { gpa, side, eeq, .. } => {
                let accept = eeq.accept_level();
                if kvm.hardware.policy.counts_exit() {
                    match accept {
                        Some(_) => kvm.exits.accept += 1,
                        None => kvm.exits.access += 1,
                    }
                }
                self.exited(id, gpa, kvm);
                let fault = Fault {
                    gpa,
                    side,
                    accept,
                    lookup: None,
                };
                (State::Fault(inside, fault), Advance::Working)
            }
            Exit::Vmcall(call) => {
                // The module has moved the guest past the instruction.
                let inside = Inside::Rip(inside.rip().wrapping_add(INSTRUCTION_BYTES));
                self.vmcall(id, inside, call, kvm, io)
            }
        }
    }

    /// Counts an exit for `gpa` of the current request. A guest without progress is as good as
    /// dead; a real one would hang here.
    fn exited<M: PhysicalMemory>(&mut self, id: VcpuId, gpa: Gpa, kvm: &mut Kvm<M>) {
        self.exits += 1;
        if self.exits >= EXITS_FOR_EVER {
            let text = format!(
                "vCPU {} exits for ever: {EXITS_FOR_EVER} EPT violations at {gpa} in a row, and the \
                 guest is where it was",
                id.0
            );
            kvm.die(death(Killer::ExitsForEver, text));
        }
    }

    fn vmcall<M: PhysicalMemory>(
        &mut self,
        id: VcpuId,
        inside: Inside,
        call: Vmcall,
        kvm: &mut Kvm<M>,
        io: &mut Vec<PortWrite>,
    ) -> (State, Advance) {
        kvm.work.vmcalls += 1;
        let [r12, r13, r14, r15] = call.args;
        let status = match (call.kind, call.function) {
            (0, vmcall::MAP_GPA) => match MapGpa::new(r12, r13, &mut *kvm.hardware.policy) {
                Ok(map) => return (State::MapGpa(inside, map), Advance::Working),
                Err(result) => return self.finish_map_gpa(id, inside, result, kvm, io),
            },
            (0, vmcall::IO) => match (r12, r13) {
                (1 | 2 | 4, 0) => {
                    // No device answers: all ones.
                    self.gprs[reg::R11] = (1 << (8 * r12)) - 1;
                    vmcall::SUCCESS
                }
                (1 | 2 | 4, 1) => {
                    io.push(PortWrite {
                        vcpu: id,
                        port: r14 as u16,
                        value: (r15 & ((1 << (8 * r12)) - 1)) as u32,
                    });
                    vmcall::SUCCESS
                }
                _ => vmcall::INVALID_OPERAND,
            },
            // Only the lab wakes a vCPU, and it does so at once.
            (0, vmcall::HLT) => vmcall::SUCCESS,
            (0, VMCALL_INFO) => {
                for register in [reg::R11, reg::R12, reg::R13, reg::R14] {
                    self.gprs[register] = 0;
                }
                vmcall::SUCCESS
            }
            (0, vmcall::REPORT_FATAL_ERROR) => {
                kvm.die(fatal_error(&self.gprs));
                return (State::Idle, Advance::Dead);
            }
            (0, _) => vmcall::SUBFUNCTION_UNSUPPORTED,
            _ => KVM_ENOSYS,
        };
        self.finish_vmcall(id, inside, status, kvm, io)
    }

    fn finish_map_gpa<M: PhysicalMemory>(
        &mut self,
        id: VcpuId,
        inside: Inside,
        result: MapGpaResult,
        kvm: &mut Kvm<M>,
        io: &mut Vec<PortWrite>,
    ) -> (State, Advance) {
        if let Some(address) = result.stopped_at {
            self.gprs[reg::R11] = address;
        }
        self.finish_vmcall(id, inside, result.status, kvm, io)
    }

    fn finish_vmcall<M: PhysicalMemory>(
        &mut self,
        id: VcpuId,
        inside: Inside,
        status: u64,
        kvm: &mut Kvm<M>,
        io: &mut Vec<PortWrite>,
    ) -> (State, Advance) {
        self.gprs[reg::R10] = status;
        self.gprs[reg::RAX] = 0;
        self.enter(id, inside, kvm, io)
    }
}

/// Decodes ReportFatalError: a code in R12, and up to 64 bytes of text in eight registers.
fn fatal_error(gprs: &[u64; 16]) -> crate::api::Death {
    let code = gprs[reg::R12];
    if code & 0xffff != 0 {
        let text = format!("TDX: REPORT_FATAL_ERROR: invalid error code: 0x{code:x}");
        return death(Killer::Vmm, text);
    }
    let order = [
        reg::R14,
        reg::R15,
        reg::RBX,
        reg::RDI,
        reg::RSI,
        reg::R8,
        reg::R9,
        reg::RDX,
    ];
    let mask = gprs[reg::RCX];
    let bytes: Vec<u8> = order
        .into_iter()
        .filter(|register| mask & (1 << register) != 0)
        .flat_map(|register| gprs[register].to_le_bytes())
        .take_while(|&byte| byte != 0)
        .collect();
    let message: String = String::from_utf8_lossy(&bytes)
        .chars()
        .filter(|letter| !letter.is_control())
        .collect();
    let mut text = format!("guest reported a fatal error, code {:#x}", code as u32);
    if code & (1 << 63) != 0 {
        text.push_str(&format!(", see {}", Gpa::new(gprs[reg::R13])));
    }
    if !message.is_empty() {
        text.push_str(": ");
        text.push_str(&message);
    }
    death(Killer::Guest, text)
}
