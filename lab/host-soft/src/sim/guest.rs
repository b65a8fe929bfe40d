//! The in-process guest: a vCPU of the micro guest, step by step.
//!
//! It makes the same TDCALLs with the same registers, reaches memory through the same page tables
//! and reports the same runs. A task can be suspended after every step, so that several vCPUs and
//! the host can interleave.

use tdxlab_plan::{Side, VcpuId};
use tdxlab_protocol::addr::{Gpa, GpaRange, PageLevel};
use tdxlab_protocol::layout::WINDOW_BYTES;
use tdxlab_protocol::message::{Command, Counts, Run};
use tdxlab_protocol::tdcall::{leaf, reg};
use tdxlab_softkvm::memory::SimMachine;
use tdxlab_softkvm::{Advance, Request, SoftKvm};

use super::program::{Next, Program, Reply, TDCALL_RIP, VeInfo};
use super::tlb::Tlb;

/// Steps a single TDCALL or access may take before the guest counts as hung. A concurrent host call
/// is done by then.
const PATIENCE: u32 = 200_000;

/// A vCPU of the guest.
#[derive(Debug, Default)]
pub(crate) struct Cpu {
    tlb: Tlb,
    /// How many accesses it has begun: which copy of an instruction comes next.
    accesses: u64,
}

/// A command on a vCPU.
#[derive(Debug)]
pub(crate) struct Task {
    vcpu: VcpuId,
    program: Program,
    waiting: Waiting,
    waited: u32,
    /// The instruction of the access under way.
    rip: u64,
    /// Whether it proceeds page by page, so that others can interleave.
    fine: bool,
    pub(crate) runs: Vec<Run>,
    pub(crate) counts: Counts,
}

/// What a task waits for.
#[derive(Clone, Copy, Debug)]
enum Waiting {
    /// Its first step.
    Start,
    /// Its turn to make an access.
    Access(Gpa, Side),
    /// A TDCALL of the program.
    Tdcall,
    /// A page that was not mapped.
    Fault(Gpa, Side),
    /// TDG.VP.VEINFO.GET.
    VeInfo,
    /// Nothing; the task is done.
    Over,
}

/// Progress of a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Progress {
    /// The task has more steps.
    Working,
    /// The task is done.
    Finished,
    /// The TD is dead.
    Dead,
    /// A TDCALL or access does not end.
    Hung,
}

/// Why a command is refused.
pub(crate) fn refusal(command: &Command) -> Option<String> {
    let (range, step) = match *command {
        Command::Accept { range, size } => {
            use tdxlab_protocol::message::AcceptSize;
            match size {
                AcceptSize::Exactly(level) => (range, level),
                AcceptSize::Linux => (range, PageLevel::Size4K),
            }
        }
        Command::Touch { range, stride, .. } | Command::Probe { range, stride } => (range, stride),
        Command::Release { range, level } => (range, level),
        Command::Fill { range, .. } | Command::Verify { range, .. } => (range, PageLevel::Size4K),
        // Whether MapGPA takes what is not made of pages is for the VMM to say.
        Command::Convert { range, .. } => {
            let bad = range.is_empty() || range.end().as_u64() > WINDOW_BYTES;
            return bad.then(|| format!("guest refused {range}: empty, or outside the window"));
        }
    };
    is_bad(range, step)
        .then(|| format!("guest refused {range}: not whole steps of {step} inside the window"))
}

fn is_bad(range: GpaRange, step: PageLevel) -> bool {
    !range.start().is_aligned(PageLevel::Size4K)
        || !range.bytes().is_multiple_of(step.bytes())
        || range.end().as_u64() > WINDOW_BYTES
}

impl Task {
    /// A task that has not started. With `fine` it proceeds page by page.
    pub(crate) fn new(vcpu: VcpuId, command: &Command, fine: bool) -> Task {
        Task {
            vcpu,
            program: Program::new(command),
            waiting: Waiting::Start,
            waited: 0,
            rip: 0,
            fine,
            runs: Vec::new(),
            counts: Counts::default(),
        }
    }

    /// The vCPU it runs on.
    pub(crate) fn vcpu(&self) -> VcpuId {
        self.vcpu
    }

    /// The current step, for messages.
    pub(crate) fn describe(&self) -> String {
        match self.waiting {
            Waiting::Start | Waiting::Over => format!("vCPU {} between steps", self.vcpu.0),
            Waiting::Tdcall => format!("vCPU {} in a TDCALL of {}", self.vcpu.0, self.program),
            Waiting::Access(gpa, _) | Waiting::Fault(gpa, _) => {
                format!("vCPU {} at {gpa} in {}", self.vcpu.0, self.program)
            }
            Waiting::VeInfo => format!("vCPU {} in its #VE handler", self.vcpu.0),
        }
    }

    /// One step: up to the next TDCALL or missing page, or one step of the host on its behalf.
    pub(crate) fn step(&mut self, core: &mut SoftKvm<SimMachine>, cpu: &mut Cpu) -> Progress {
        let reply = match self.waiting {
            Waiting::Over => return Progress::Finished,
            Waiting::Start => Reply::Start,
            Waiting::Access(gpa, side) => match self.begin_access(core, cpu, gpa, side) {
                Some(reply) => reply,
                None => return Progress::Working,
            },
            Waiting::Tdcall | Waiting::Fault(..) | Waiting::VeInfo => {
                match core.advance(self.vcpu) {
                    Advance::Working => {
                        self.waited += 1;
                        return if self.waited > PATIENCE {
                            Progress::Hung
                        } else {
                            Progress::Working
                        };
                    }
                    Advance::Dead => return Progress::Dead,
                    Advance::Ve => {
                        self.counts.ve += 1;
                        let mut gprs = [0; 16];
                        gprs[reg::RAX] = leaf::VP_VEINFO_GET;
                        self.tdcall(core, gprs, Waiting::VeInfo);
                        return Progress::Working;
                    }
                    Advance::Done => self.completed(core, cpu),
                }
            }
        };
        match reply {
            Reply::Again => Progress::Working,
            reply => self.resume(reply, core, cpu),
        }
    }

    /// The reply to the program for a completed request.
    fn completed(&mut self, core: &mut SoftKvm<SimMachine>, cpu: &mut Cpu) -> Reply {
        match self.waiting {
            Waiting::Tdcall => Reply::Registers(core.gprs(self.vcpu)),
            Waiting::VeInfo => {
                let gprs = core.gprs(self.vcpu);
                Reply::Ve(VeInfo {
                    reason: gprs[reg::RCX] as u32,
                    gpa: Gpa::new(gprs[reg::R9]),
                })
            }
            // It may be mapped and zapped again: then the access faults again.
            Waiting::Fault(gpa, side) => self.access(core, cpu, gpa, side).unwrap_or(Reply::Again),
            Waiting::Start | Waiting::Access(..) | Waiting::Over => Reply::Again,
        }
    }

    /// Makes an access by the next instruction.
    fn begin_access(
        &mut self,
        core: &mut SoftKvm<SimMachine>,
        cpu: &mut Cpu,
        gpa: Gpa,
        side: Side,
    ) -> Option<Reply> {
        cpu.accesses += 1;
        self.rip = self.program.rip(cpu.accesses);
        self.access(core, cpu, gpa, side)
    }

    /// Makes an access: succeeds with a translation, else faults.
    fn access(
        &mut self,
        core: &mut SoftKvm<SimMachine>,
        cpu: &mut Cpu,
        gpa: Gpa,
        side: Side,
    ) -> Option<Reply> {
        let found = cpu.tlb.translate(core.machine(), side, gpa);
        if found.is_none() {
            self.counts.faults += 1;
            let request = Request::Fault {
                gpa,
                side,
                write: self.program.writes(),
                rip: self.rip,
            };
            core.submit(self.vcpu, request, [0; 16]);
            self.waiting = Waiting::Fault(gpa, side);
        }
        found.map(Reply::Translated)
    }

    fn resume(
        &mut self,
        mut reply: Reply,
        core: &mut SoftKvm<SimMachine>,
        cpu: &mut Cpu,
    ) -> Progress {
        self.waited = 0;
        loop {
            match self
                .program
                .resume(reply, core.machine_mut(), self.fine, &mut self.runs)
            {
                Next::Tdcall(gprs) => {
                    self.tdcall(core, gprs, Waiting::Tdcall);
                    return Progress::Working;
                }
                // With interleaving, the next access waits for the next turn.
                Next::Access(gpa, side) if self.fine => {
                    self.waiting = Waiting::Access(gpa, side);
                    return Progress::Working;
                }
                Next::Access(gpa, side) => match self.begin_access(core, cpu, gpa, side) {
                    Some(next) => reply = next,
                    None => return Progress::Working,
                },
                Next::Finished => {
                    self.waiting = Waiting::Over;
                    return Progress::Finished;
                }
            }
        }
    }

    fn tdcall(&mut self, core: &mut SoftKvm<SimMachine>, gprs: [u64; 16], waiting: Waiting) {
        self.counts.tdcalls += 1;
        let rip = TDCALL_RIP;
        core.submit(self.vcpu, Request::Tdcall { rip }, gprs);
        self.waiting = waiting;
    }
}
