//! The commands of the micro guest as programs that stop at every TDCALL and every access.

use std::fmt;

use tdxlab_protocol::addr::{Gpa, GpaRange, PageLevel};
use tdxlab_protocol::message::{
    AcceptSize, Access, AccessKind, Command, Content, INSTRUCTION_COPIES, OnVe, Run, Side,
};
use tdxlab_protocol::pattern::Generation;
use tdxlab_protocol::tdcall::{
    ATTR_RD_PENDING, EXIT_REASON_EPT_VIOLATION, leaf, reg, status, vmcall,
};
use tdxlab_softkvm::SHARED_BIT;
use tdxlab_softkvm::memory::{SimMachine, Translation};

/// How often a page is accepted that becomes pending again before it is accessed.
const ACCEPTS: u32 = 8;

/// How often MapGPA may say "retry" without getting ahead.
const STANDSTILLS: u32 = 1000;

/// TDG.VP.VMCALL: registers R10 to R15.
const MASK_R10_TO_R15: u64 = 0xfc00;

/// Addresses of the instructions: TDCALL, and the first copy of each that makes an access.
pub(super) const TDCALL_RIP: u64 = 0x10_0000;
const LOAD_RIP: u64 = 0x10_1000;
const ADD_RIP: u64 = 0x10_2000;
const STORE_RIP: u64 = 0x10_3000;
/// Distance between copies.
const COPY_BYTES: u64 = 16;

/// #VE information.
#[derive(Clone, Copy, Debug)]
pub(super) struct VeInfo {
    pub(super) reason: u32,
    pub(super) gpa: Gpa,
}

/// Reply to a program's request.
#[derive(Clone, Copy, Debug)]
pub(super) enum Reply {
    /// Start of the program.
    Start,
    /// Its TDCALL is over.
    Registers([u64; 16]),
    /// Its access succeeds.
    Translated(Translation),
    /// Its access raised #VE.
    Ve(VeInfo),
    /// Pending; repeat the access.
    Again,
}

/// Next request of a program.
#[derive(Clone, Copy, Debug)]
pub(super) enum Next {
    Tdcall([u64; 16]),
    Access(Gpa, Side),
    Finished,
}

/// A command under way.
#[derive(Clone, Debug)]
pub(super) enum Program {
    Accept(Accept),
    Access(Accesses),
    Convert(Convert),
    Probe(Probe),
}

impl Program {
    pub(super) fn new(command: &Command) -> Program {
        let accesses = |range: GpaRange, stride, side, on_ve, what| {
            Program::Access(Accesses {
                next: range.start(),
                end: range.end(),
                stride,
                side,
                on_ve,
                what,
                accepts: 0,
            })
        };
        match *command {
            Command::Release { range, level } => Program::Accept(Accept {
                leaf: leaf::MEM_PAGE_RELEASE,
                next: range.start(),
                end: range.end(),
                size: AcceptSize::Exactly(level),
                trying: level,
            }),
            Command::Accept { range, size } => Program::Accept(Accept {
                leaf: leaf::MEM_PAGE_ACCEPT,
                next: range.start(),
                end: range.end(),
                size,
                trying: PageLevel::Size4K,
            }),
            Command::Touch {
                range,
                stride,
                access,
                side,
                on_ve,
                same_rip,
            } => {
                let what = What::Touch { access, same_rip };
                accesses(range, stride, side, on_ve, what)
            }
            Command::Fill {
                range,
                generation,
                side,
            } => {
                let what = What::Fill(generation);
                accesses(range, PageLevel::Size4K, side, OnVe::Skip, what)
            }
            Command::Verify { range, side } => {
                accesses(range, PageLevel::Size4K, side, OnVe::Skip, What::Verify)
            }
            Command::Convert { range, to } => Program::Convert(Convert {
                left: range,
                end: range.end(),
                to,
                calls: 0,
                standstills: 0,
            }),
            Command::Probe { range, stride } => Program::Probe(Probe {
                next: range.start(),
                end: range.end(),
                stride,
            }),
        }
    }

    /// Whether its accesses write.
    pub(super) fn writes(&self) -> bool {
        match self {
            Program::Access(accesses) => matches!(
                accesses.what,
                What::Fill(_)
                    | What::Touch {
                        access: AccessKind::Write,
                        ..
                    }
            ),
            Program::Accept(_) | Program::Convert(_) | Program::Probe(_) => false,
        }
    }

    /// The instruction of its next access, on a vCPU that has made so many.
    pub(super) fn rip(&self, accesses: u64) -> u64 {
        let what = match self {
            Program::Access(accesses) => accesses.what,
            Program::Accept(_) | Program::Convert(_) | Program::Probe(_) => return TDCALL_RIP,
        };
        let (first, same_rip) = match what {
            What::Verify => (LOAD_RIP, false),
            What::Fill(_) => (STORE_RIP, false),
            What::Touch { access, same_rip } => match access {
                AccessKind::Read => (LOAD_RIP, same_rip),
                AccessKind::Write => (ADD_RIP, same_rip),
            },
        };
        let copy = match same_rip {
            true => INSTRUCTION_COPIES,
            false => accesses % INSTRUCTION_COPIES,
        };
        first + copy * COPY_BYTES
    }

    /// Continues with the reply, up to the next TDCALL or access. With `fine`, an access covers one
    /// page; otherwise it may cover all that its translation covers.
    pub(super) fn resume(
        &mut self,
        reply: Reply,
        machine: &mut SimMachine,
        fine: bool,
        runs: &mut Vec<Run>,
    ) -> Next {
        match self {
            Program::Accept(accept) => accept.resume(reply, runs),
            Program::Access(accesses) => accesses.resume(reply, machine, fine, runs),
            Program::Convert(convert) => convert.resume(reply, runs),
            Program::Probe(probe) => probe.resume(reply, runs),
        }
    }
}

impl fmt::Display for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, next) = match self {
            Program::Accept(accept) => ("accept", accept.next),
            Program::Access(accesses) => match accesses.what {
                What::Touch { .. } => ("touch", accesses.next),
                What::Fill(_) => ("fill", accesses.next),
                What::Verify => ("verify", accesses.next),
            },
            Program::Convert(convert) => ("convert", convert.left.start()),
            Program::Probe(probe) => ("probe", probe.next),
        };
        write!(f, "{name} at {next}")
    }
}

/// Adds a result, joined with the one before where it continues it.
fn push(runs: &mut Vec<Run>, run: Run, stride: PageLevel) {
    let rest = match runs.last_mut() {
        Some(last) => last.absorb(run, stride),
        None => Some(run),
    };
    runs.extend(rest);
}

/// ACCEPT of one page.
fn accept_call(gpa: Gpa, level: PageLevel) -> Next {
    page_call(leaf::MEM_PAGE_ACCEPT, gpa, level)
}

/// A TDCALL on one page.
fn page_call(leaf: u64, gpa: Gpa, level: PageLevel) -> Next {
    let mut gprs = [0; 16];
    gprs[reg::RAX] = leaf;
    gprs[reg::RCX] = gpa.as_u64() | u64::from(level.tdx());
    Next::Tdcall(gprs)
}

/// TDG.MEM.PAGE.ACCEPT or RELEASE over a range.
#[derive(Clone, Debug)]
pub(super) struct Accept {
    /// Which of the two.
    leaf: u64,
    next: Gpa,
    end: Gpa,
    size: AcceptSize,
    /// The size of the ACCEPT under way.
    trying: PageLevel,
}

impl Accept {
    fn resume(&mut self, reply: Reply, runs: &mut Vec<Run>) -> Next {
        if let Reply::Registers(gprs) = reply {
            let code = gprs[reg::RAX];
            let level = self.trying;
            let run = Run::Accept {
                start: self.next,
                level,
                count: 1,
                status: code,
            };
            push(runs, run, level);
            match (self.size, code) {
                (AcceptSize::Exactly(_), _) | (AcceptSize::Linux, status::SUCCESS) => {
                    self.next = page_end(self.next, level);
                }
                (AcceptSize::Linux, _) => {
                    // Any refusal means the next smaller size; a refused 4K ends the command.
                    return match self.largest_below(level) {
                        Some(level) => self.call(level),
                        None => Next::Finished,
                    };
                }
            }
        }
        if self.next >= self.end {
            return Next::Finished;
        }
        let level = match self.size {
            AcceptSize::Exactly(level) => Some(level),
            AcceptSize::Linux => self.largest(PageLevel::ALL.len()),
        };
        level.map_or(Next::Finished, |level| self.call(level))
    }

    fn call(&mut self, level: PageLevel) -> Next {
        self.trying = level;
        page_call(self.leaf, self.next, level)
    }

    fn largest_below(&self, level: PageLevel) -> Option<PageLevel> {
        self.largest(usize::from(level.tdx()))
    }

    /// The largest of the `sizes` smallest levels that fits here.
    fn largest(&self, sizes: usize) -> Option<PageLevel> {
        let left = self.end.checked_sub(self.next).unwrap_or(0);
        PageLevel::ALL[..sizes]
            .iter()
            .rev()
            .copied()
            .find(|level| self.next.is_aligned(*level) && level.bytes() <= left)
    }
}

/// The address a page of `level` further.
fn page_end(start: Gpa, level: PageLevel) -> Gpa {
    Gpa::new(start.as_u64().saturating_add(level.bytes()))
}

/// Accesses to memory: touch, fill, verify.
#[derive(Clone, Debug)]
pub(super) struct Accesses {
    next: Gpa,
    end: Gpa,
    stride: PageLevel,
    side: Side,
    on_ve: OnVe,
    what: What,
    /// How often the page at hand was accepted.
    accepts: u32,
}

/// Operation on a page.
#[derive(Clone, Copy, Debug)]
enum What {
    Touch {
        access: AccessKind,
        /// One instruction makes all accesses.
        same_rip: bool,
    },
    Fill(Generation),
    Verify,
}

impl Accesses {
    fn resume(
        &mut self,
        reply: Reply,
        machine: &mut SimMachine,
        fine: bool,
        runs: &mut Vec<Run>,
    ) -> Next {
        match reply {
            Reply::Translated(translation) => self.access(translation, machine, fine, runs),
            Reply::Ve(info) => {
                let fits = info.reason == EXIT_REASON_EPT_VIOLATION
                    && self.side == Side::Private
                    && info.gpa.gfn() == self.next.gfn();
                if !fits && !matches!(self.what, What::Verify) {
                    self.refused(
                        Access::StrangeVe {
                            reason: info.reason,
                            gpa: info.gpa,
                        },
                        runs,
                    );
                } else if self.on_ve == OnVe::Accept && self.accepts < ACCEPTS {
                    self.accepts += 1;
                    return accept_call(self.next.align_down(PageLevel::Size4K), PageLevel::Size4K);
                } else {
                    self.refused(Access::Ve, runs);
                }
            }
            Reply::Registers(gprs) => match gprs[reg::RAX] {
                status::SUCCESS => {}
                status => self.refused(Access::AcceptFailed { status }, runs),
            },
            Reply::Start | Reply::Again => {}
        }
        if self.next >= self.end {
            Next::Finished
        } else {
            Next::Access(self.next, self.side)
        }
    }

    /// The access succeeds.
    fn access(
        &mut self,
        translation: Translation,
        machine: &mut SimMachine,
        fine: bool,
        runs: &mut Vec<Run>,
    ) {
        let start = self.next;
        let leaf = start.page(translation.level);
        let left = self.end.checked_sub(start).unwrap_or(0);
        let covered = leaf.end().checked_sub(start).unwrap_or(0).min(left);
        let results = if fine || self.accepts > 0 {
            1
        } else {
            (covered / self.stride.bytes()).max(1)
        };
        let offset = start.checked_sub(leaf.start()).unwrap_or(0) >> 12;
        let frame = translation.frame.add(offset);
        let pages = results * self.stride.pages_4k();
        match self.what {
            What::Verify => {
                let mut at = start.gfn();
                machine.read(frame, pages, start, &mut |count, content| {
                    push_content(runs, Gpa::from_gfn(at), count, content);
                    at += count;
                });
            }
            What::Fill(generation) => {
                machine.fill(frame, pages, start, generation);
                push_access(runs, start, results, Access::Done, self.stride);
            }
            // A locked add of 0 leaves the content alone.
            What::Touch { .. } => {
                let outcome = if self.accepts > 0 {
                    Access::Accepted
                } else {
                    Access::Done
                };
                push_access(runs, start, results, outcome, self.stride);
            }
        }
        self.accepts = 0;
        self.next = Gpa::new(start.as_u64().saturating_add(results * self.stride.bytes()));
    }

    /// The access does not go through; the page is left alone.
    fn refused(&mut self, outcome: Access, runs: &mut Vec<Run>) {
        match self.what {
            What::Verify => push_content(runs, self.next, 1, Content::NotAccepted),
            What::Touch { .. } | What::Fill(_) => {
                push_access(runs, self.next, 1, outcome, self.stride);
            }
        }
        self.accepts = 0;
        self.next = page_end(self.next, self.stride);
    }
}

fn push_access(runs: &mut Vec<Run>, start: Gpa, count: u64, outcome: Access, stride: PageLevel) {
    let run = Run::Access {
        start,
        count: u32::try_from(count).unwrap_or(u32::MAX),
        outcome,
    };
    push(runs, run, stride);
}

fn push_content(runs: &mut Vec<Run>, start: Gpa, count: u64, content: Content) {
    let run = Run::Content {
        start,
        count: u32::try_from(count).unwrap_or(u32::MAX),
        content,
    };
    push(runs, run, PageLevel::Size4K);
}

/// MapGPA over a range, called again while the host says RETRY.
#[derive(Clone, Debug)]
pub(super) struct Convert {
    left: GpaRange,
    end: Gpa,
    to: Side,
    calls: u32,
    standstills: u32,
}

impl Convert {
    fn resume(&mut self, reply: Reply, runs: &mut Vec<Run>) -> Next {
        if let Reply::Registers(gprs) = reply {
            let code = gprs[reg::R10];
            let stopped_at = if code == vmcall::SUCCESS {
                self.end
            } else {
                Gpa::new(gprs[reg::R11] & !SHARED_BIT)
            };
            let inside = self.left.contains(stopped_at) && stopped_at.is_aligned(PageLevel::Size4K);
            let rest = GpaRange::new(stopped_at, self.end).filter(|_| inside);
            match rest {
                Some(rest) if code == vmcall::RETRY && self.standstills <= STANDSTILLS => {
                    self.standstills = if rest == self.left {
                        self.standstills + 1
                    } else {
                        0
                    };
                    self.left = rest;
                }
                _ => {
                    runs.push(Run::MapGpa {
                        status: code,
                        stopped_at,
                        calls: self.calls,
                    });
                    return Next::Finished;
                }
            }
        }
        self.calls += 1;
        let half = match self.to {
            Side::Private => 0,
            Side::Shared => SHARED_BIT,
        };
        let mut gprs = [0; 16];
        gprs[reg::RAX] = leaf::VP_VMCALL;
        gprs[reg::RCX] = MASK_R10_TO_R15;
        gprs[reg::R11] = vmcall::MAP_GPA;
        gprs[reg::R12] = self.left.start().as_u64() | half;
        gprs[reg::R13] = self.left.bytes();
        Next::Tdcall(gprs)
    }
}

/// TDG.MEM.PAGE.ATTR.RD over a range.
#[derive(Clone, Debug)]
pub(super) struct Probe {
    next: Gpa,
    end: Gpa,
    stride: PageLevel,
}

impl Probe {
    fn resume(&mut self, reply: Reply, runs: &mut Vec<Run>) -> Next {
        if let Reply::Registers(gprs) = reply {
            let run = Run::Probe {
                start: self.next,
                count: 1,
                status: gprs[reg::RAX],
                level: (gprs[reg::RCX] & 0b111) as u8,
                pending: gprs[reg::RCX] & ATTR_RD_PENDING != 0,
                attributes: gprs[reg::RDX],
            };
            push(runs, run, self.stride);
            self.next = page_end(self.next, self.stride);
        }
        if self.next >= self.end {
            return Next::Finished;
        }
        let mut gprs = [0; 16];
        gprs[reg::RAX] = leaf::MEM_PAGE_ATTR_RD;
        gprs[reg::RCX] = self.next.as_u64();
        Next::Tdcall(gprs)
    }
}
