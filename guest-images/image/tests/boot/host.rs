//! A minimal host: just enough page tables and TDCALL for the guest. Tests write the results by
//! hand; the real soft host is in the lab.

use std::collections::VecDeque;
use std::num::NonZero;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::SeqCst};

use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};
use tdxlab_protocol::addr::{Gpa, PageLevel};
use tdxlab_protocol::codec::DELIMITER;
use tdxlab_protocol::frame::{self, Decoder, MAX_FRAME};
use tdxlab_protocol::layout::{
    CONSOLE_PORT, HOST_POOL_START, MAILBOX_START, PML4, PRIVATE_WINDOW, SERIAL_PORT, SHARED_WINDOW,
};
use tdxlab_protocol::mailbox::*;
use tdxlab_protocol::message::{
    Command, Counts, Hello, Reply, Request, Run, Side, Task, VERSION, VcpuId, Windows,
};
use tdxlab_protocol::tdcall::{leaf, reg, vmcall};

use crate::qemu::{MEMORY_BYTES, Qemu};

/// Request of the guest to its host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Ask {
    Tdcall([u64; 16]),
    Fault { gpa: Gpa, side: Side, write: bool },
}

/// Answer of the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// The registers after TDCALL.
    Registers([u64; 16]),
    /// [`ANSWER_RETRY`] and so on.
    Fault(u32),
    /// None now: the test answers itself.
    Later,
}

pub(crate) type Policy = Box<dyn FnMut(&mut Memory, u8, Ask) -> Answer>;

/// Maps every page that faults, and expects no TDCALL.
pub(crate) fn maps_on_fault() -> Policy {
    Box::new(|memory, _, ask| match ask {
        Ask::Fault { gpa, side, .. } => {
            let frame = memory.new_frame();
            memory.map(gpa.align_down(PageLevel::Size4K), side, frame);
            Answer::Fault(ANSWER_RETRY)
        }
        Ask::Tdcall(registers) => panic!("TDCALL {registers:x?}"),
    })
}

/// Answers TDCALLs with `change`, and expects no fault.
pub(crate) fn tdcalls(mut change: impl FnMut(&mut [u64; 16]) + 'static) -> Policy {
    Box::new(move |_, _, ask| match ask {
        Ask::Tdcall(mut registers) => {
            change(&mut registers);
            Answer::Registers(registers)
        }
        fault => panic!("{fault:?}"),
    })
}

/// A guest in QEMU and the tiny host under it.
pub(crate) struct Lab {
    pub(crate) qemu: Qemu,
    pub(crate) memory: Option<Memory>,
    decoder: Decoder<Reply>,
    policy: Policy,
    unread: VecDeque<Reply>,
    module: Module,
    /// In a TD: bytes not yet read by the guest from its serial line.
    to_td: VecDeque<u8>,
    /// In a TD: whether the data port means the divisor.
    divisor_latch: bool,
    /// The same of its second serial port.
    console_divisor_latch: bool,
    /// Output on the second serial line.
    pub(crate) console: Vec<u8>,
    is_td: bool,
    /// Whether requests go through the mailbox; else by the line.
    pub(crate) uses_inbox: bool,
    /// The registers of ReportFatalError, after which the guest gets no answer.
    pub(crate) fatal_error: Option<[u64; 16]>,
}

/// Result of TDG.VP.INFO.
#[derive(Clone, Copy)]
pub(crate) struct Module {
    pub(crate) gpa_width: u8,
    pub(crate) attributes: u64,
    pub(crate) vcpus: u16,
}

impl Lab {
    /// Starts QEMU; `policy` answers the guest's requests, except those of [`Lab::own_answer`].
    pub(crate) fn start(vcpus: u16, policy: Policy) -> Lab {
        Lab::with_topology(&vcpus.to_string(), policy)
    }

    /// Starts QEMU with what `-smp` takes.
    pub(crate) fn with_topology(topology: &str, policy: Policy) -> Lab {
        let module = Module {
            gpa_width: 48,
            attributes: 0,
            vcpus: 0,
        };
        let qemu = Qemu::start(&tdxlab_guest_image::IMAGE[..], topology);
        Lab::new(qemu, module, policy, false)
    }

    /// Starts QEMU on an image that starts as a TD does.
    pub(crate) fn start_td(image: &[u8], vcpus: u16, module: Module, policy: Policy) -> Lab {
        Lab::new(Qemu::start(image, &vcpus.to_string()), module, policy, true)
    }

    fn new(qemu: Qemu, module: Module, policy: Policy, is_td: bool) -> Lab {
        Lab {
            qemu,
            memory: None,
            decoder: Decoder::new(),
            policy,
            unread: VecDeque::new(),
            module,
            to_td: VecDeque::new(),
            divisor_latch: false,
            console_divisor_latch: false,
            console: Vec::new(),
            is_td,
            uses_inbox: false,
            fatal_error: None,
        }
    }

    /// Starts a guest and configures it with windows of the host.
    pub(crate) fn ready(vcpus: u16, policy: Policy) -> Lab {
        let mut lab = Lab::start(vcpus, policy);
        lab.hello();
        lab.configure(Windows::HostOwned);
        assert_eq!(lab.reply(), Reply::Ready { vcpus });
        lab.uses_inbox = true;
        lab
    }

    /// Receives the guest's first word and opens its memory.
    pub(crate) fn hello(&mut self) -> Hello {
        let Reply::Hello(hello) = self.reply() else {
            panic!("the first word is not hello");
        };
        self.open_memory();
        hello
    }

    pub(crate) fn open_memory(&mut self) {
        if self.memory.is_none() {
            self.memory = Some(Memory::new(self.qemu.memory()));
        }
    }

    pub(crate) fn configure(&mut self, windows: Windows) {
        self.send(&Request::Configure {
            version: VERSION,
            windows,
        });
    }

    pub(crate) fn send(&mut self, request: &Request) {
        let mut buffer = frame::EMPTY_FRAME;
        let bytes = frame::encode(request, &mut buffer).expect("the request fits");
        if self.is_td {
            self.to_td.extend(bytes);
        } else if self.uses_inbox {
            self.memory().put_frame(bytes);
            self.qemu.send(&[DELIMITER]);
        } else {
            self.qemu.send(bytes);
        }
    }

    /// The next reply. Serves the guest's requests meanwhile.
    pub(crate) fn reply(&mut self) -> Reply {
        loop {
            if let Some(reply) = self.unread.pop_front() {
                return reply;
            }
            self.step();
        }
    }

    /// Takes the answer of a vCPU, one part, and the end of its task.
    pub(crate) fn finishes(&mut self, of: u16) {
        match self.reply() {
            Reply::Part { vcpu, .. } => assert_eq!(vcpu, VcpuId(of)),
            other => panic!("no part of an answer: {other:?}"),
        }
        match self.reply() {
            Reply::Finished { vcpu, .. } => assert_eq!(vcpu, VcpuId(of)),
            other => panic!("no end of a task: {other:?}"),
        }
    }

    /// Waits for bytes and serves them.
    pub(crate) fn step(&mut self) {
        let (serial, doorbell) = self.qemu.wait();
        self.receive(&serial);
        for vcpu in doorbell {
            self.open_memory();
            if vcpu == OUTBOX_BELL {
                let frame = self.memory().take_frame();
                self.take(&mut Decoder::new(), &frame);
                continue;
            }
            let ask = self.memory().ask(vcpu);
            let own = match &ask {
                Ask::Tdcall(registers) => self.own_answer(*registers),
                Ask::Fault { .. } => None,
            };
            let answer = own.unwrap_or_else(|| {
                let memory = self.memory.as_mut().expect("just opened");
                (self.policy)(memory, vcpu, ask)
            });
            if answer != Answer::Later {
                self.memory().answer(vcpu, &answer);
            }
        }
    }

    fn memory(&self) -> &Memory {
        self.memory.as_ref().expect("the guest has said something")
    }

    /// Takes bytes that the guest has sent on the line.
    fn receive(&mut self, bytes: &[u8]) {
        let mut decoder = std::mem::take(&mut self.decoder);
        self.take(&mut decoder, bytes);
        self.decoder = decoder;
    }

    fn take(&mut self, decoder: &mut Decoder<Reply>, mut bytes: &[u8]) {
        while let Some(result) = decoder.feed(&mut bytes) {
            let reply = result
                .unwrap_or_else(|error| panic!("the guest sent {error}: {:02x?}", decoder.frame()));
            self.unread.push_back(reply);
        }
    }

    /// Answers common to all tests: TDG.VP.INFO and a TD's serial line.
    fn own_answer(&mut self, mut registers: [u64; 16]) -> Option<Answer> {
        let sub_function = registers[reg::R11];
        match registers[reg::RAX] {
            leaf::VP_INFO => {
                registers[reg::RCX] = self.module.gpa_width.into();
                registers[reg::RDX] = self.module.attributes;
                registers[reg::R8] = self.module.vcpus.into();
            }
            leaf::VP_VMCALL if self.is_td && sub_function == vmcall::REPORT_FATAL_ERROR => {
                self.fatal_error = Some(registers);
                return Some(Answer::Later);
            }
            leaf::VP_VMCALL if self.is_td && sub_function == vmcall::IO => {
                assert_eq!((registers[reg::RCX], registers[reg::R10]), (0xfc00, 0));
                assert_eq!(registers[reg::R12], 1, "bytes");
                let port = registers[reg::R14];
                registers[reg::R11] = match registers[reg::R13] {
                    0 => self.read_serial(port),
                    _ => self.write_serial(port, registers[reg::R15] as u8),
                };
                registers[reg::R10] = vmcall::SUCCESS;
            }
            _ => return None,
        }
        registers[reg::RAX] = 0;
        Some(Answer::Registers(registers))
    }

    /// Writes a register of a serial port that a TD sees.
    fn write_serial(&mut self, port: u64, value: u8) -> u64 {
        if let Some(register @ 0..8) = port.checked_sub(CONSOLE_PORT.into()) {
            match register {
                0 if !self.console_divisor_latch => self.console.push(value),
                3 => self.console_divisor_latch = value & 0x80 != 0,
                _ => {}
            }
            return 0;
        }
        match port.checked_sub(SERIAL_PORT.into()) {
            Some(0) if !self.divisor_latch => self.receive(&[value]),
            Some(3) => self.divisor_latch = value & 0x80 != 0,
            Some(0..8) => {}
            _ => panic!("write to port {port:#x}"),
        }
        0
    }

    /// Reads a register of a serial port that a TD sees.
    fn read_serial(&mut self, port: u64) -> u64 {
        const EMPTY: u64 = 0x60;
        if port == u64::from(CONSOLE_PORT) + 5 {
            return EMPTY;
        }
        match port.checked_sub(SERIAL_PORT.into()) {
            Some(0) => self.to_td.pop_front().map_or(0, u64::from),
            Some(5) => EMPTY | u64::from(!self.to_td.is_empty()),
            _ => panic!("read from port {port:#x}"),
        }
    }

    /// Runs a command on the boot processor.
    pub(crate) fn one(&mut self, command: Command) -> Outcome {
        self.run(&[crate::on(0, command)]).remove(0).1
    }

    /// Runs tasks to their end: what each of `vcpus` reported, in order.
    pub(crate) fn run(&mut self, tasks: &[Task]) -> Vec<(Task, Outcome)> {
        const ID: u32 = 7;
        self.send(&Request::Run {
            id: ID,
            tasks: tasks.iter().copied().collect(),
        });
        let mut outcomes: Vec<_> = tasks
            .iter()
            .map(|task| (*task, Outcome::default()))
            .collect();
        let mut of = |vcpu| {
            outcomes
                .iter_mut()
                .position(|(task, _)| task.vcpu == vcpu)
                .expect("only vCPUs with tasks report")
        };
        let mut finished = Vec::new();
        let mut parts = Vec::new();
        loop {
            match self.reply() {
                Reply::Part { id: ID, vcpu, runs } => parts.push((of(vcpu), runs)),
                Reply::Finished {
                    id: ID,
                    vcpu,
                    counts,
                } => finished.push((of(vcpu), counts)),
                Reply::Idle { id: ID } => break,
                other => panic!("unexpected reply {other:?}"),
            }
        }
        for (place, runs) in parts {
            outcomes[place].1.parts += 1;
            outcomes[place].1.runs.extend(runs);
        }
        assert_eq!(finished.len(), tasks.len(), "every task finishes once");
        for (place, counts) in finished {
            outcomes[place].1.counts = counts;
        }
        outcomes
    }
}

/// Result of a task.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Outcome {
    pub(crate) runs: Vec<Run>,
    pub(crate) counts: Counts,
    pub(crate) parts: usize,
}

/// The guest's RAM, with page tables for its windows from the pool up.
pub(crate) struct Memory {
    start: std::ptr::NonNull<libc::c_void>,
    next_frame: u64,
}

impl Memory {
    fn new(memory: OwnedFd) -> Memory {
        let length = NonZero::new(MEMORY_BYTES).expect("not zero");
        let access = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: a new mapping overlaps no other.
        let start = unsafe { mmap(None, length, access, MapFlags::MAP_SHARED, memory, 0) };
        Memory {
            start: start.expect("the memfd can be mapped"),
            next_frame: HOST_POOL_START,
        }
    }

    /// The 8 bytes at a machine address.
    fn word(&self, address: u64) -> &AtomicU64 {
        assert!(address < MEMORY_BYTES as u64 && address.is_multiple_of(8));
        // SAFETY: the address is inside the mapping and aligned.
        unsafe { AtomicU64::from_ptr(self.start.as_ptr().byte_add(address as usize).cast()) }
    }

    /// Writes 8 bytes.
    pub(crate) fn store(&self, address: u64, value: u64) {
        self.word(address).store(value, SeqCst);
    }

    /// Reads 8 bytes.
    pub(crate) fn load(&self, address: u64) -> u64 {
        self.word(address).load(SeqCst)
    }

    /// Reads some bytes.
    pub(crate) fn bytes<const N: usize>(&self, address: u64) -> [u8; N] {
        std::array::from_fn(|at| {
            let at = address + at as u64;
            self.load(at & !7).to_le_bytes()[at as usize % 8]
        })
    }

    /// Writes a byte.
    pub(crate) fn store_byte(&self, address: u64, value: u8) {
        let mut word = self.load(address & !7).to_le_bytes();
        word[address as usize % 8] = value;
        self.store(address & !7, u64::from_le_bytes(word));
    }

    fn half(&self, address: u64) -> &AtomicU32 {
        assert!(address < MEMORY_BYTES as u64 && address.is_multiple_of(4));
        // SAFETY: the address is inside the mapping and aligned.
        unsafe { AtomicU32::from_ptr(self.start.as_ptr().byte_add(address as usize).cast()) }
    }

    fn slot(&self, vcpu: u8) -> u64 {
        MAILBOX_START + SLOTS + u64::from(vcpu) * SLOT_BYTES
    }

    fn take_frame(&self) -> Vec<u8> {
        let outbox = MAILBOX_START + OUTBOX;
        let state = self.half(outbox + BOX_STATE);
        assert_eq!(state.load(SeqCst), BOX_FULL);
        let length = self.half(outbox + BOX_LENGTH).load(SeqCst) as usize;
        let mut frame = self.bytes::<MAX_FRAME>(outbox + BOX_FRAME).to_vec();
        frame.truncate(length);
        state.store(BOX_EMPTY, SeqCst);
        frame
    }

    fn put_frame(&self, frame: &[u8]) {
        let inbox = MAILBOX_START + INBOX;
        let state = self.half(inbox + BOX_STATE);
        while state.load(SeqCst) != BOX_EMPTY {
            std::thread::yield_now();
        }
        for (place, byte) in (inbox + BOX_FRAME..).zip(frame) {
            self.store_byte(place, *byte);
        }
        let length = frame.len() as u32;
        self.half(inbox + BOX_LENGTH).store(length, SeqCst);
        state.store(BOX_FULL, SeqCst);
    }

    fn ask(&self, vcpu: u8) -> Ask {
        let slot = self.slot(vcpu);
        assert_eq!(self.word(MAILBOX_START + HEADER_MAGIC).load(SeqCst), MAGIC);
        assert_eq!(self.half(slot + SLOT_STATE).load(SeqCst), STATE_REQUEST);
        match self.half(slot + SLOT_KIND).load(SeqCst) {
            KIND_TDCALL => Ask::Tdcall(std::array::from_fn(|number| {
                self.word(slot + SLOT_GPRS + number as u64 * 8).load(SeqCst)
            })),
            KIND_FAULT => {
                let info = self.word(slot + SLOT_FAULT_INFO).load(SeqCst);
                Ask::Fault {
                    gpa: Gpa::new(self.word(slot + SLOT_FAULT_GPA).load(SeqCst)),
                    side: match info & FAULT_SHARED {
                        0 => Side::Private,
                        _ => Side::Shared,
                    },
                    write: info & FAULT_WRITE != 0,
                }
            }
            other => panic!("request of kind {other}"),
        }
    }

    /// The instruction that asks.
    pub(crate) fn rip(&self, vcpu: u8) -> u64 {
        self.word(self.slot(vcpu) + SLOT_RIP).load(SeqCst)
    }

    pub(crate) fn answer(&self, vcpu: u8, answer: &Answer) {
        let slot = self.slot(vcpu);
        match answer {
            Answer::Registers(registers) => {
                for (number, value) in registers.iter().enumerate() {
                    self.word(slot + SLOT_GPRS + number as u64 * 8)
                        .store(*value, SeqCst);
                }
            }
            Answer::Fault(answer) => self.half(slot + SLOT_ANSWER).store(*answer, SeqCst),
            Answer::Later => panic!("that is no answer"),
        }
        self.half(slot + SLOT_STATE).store(STATE_ANSWERED, SeqCst);
    }

    /// A zero frame of the pool.
    pub(crate) fn new_frame(&mut self) -> u64 {
        let frame = self.next_frame;
        self.next_frame += 4096;
        assert_eq!(
            self.word(frame).load(SeqCst),
            0,
            "the pool is used up or not zero"
        );
        frame
    }

    /// The entry that maps the 4K page at `gpa`; makes tables as needed.
    fn entry(&mut self, gpa: Gpa, side: Side) -> u64 {
        const TABLE: u64 = 0b111;
        let address = gpa.as_u64()
            + match side {
                Side::Private => PRIVATE_WINDOW,
                Side::Shared => SHARED_WINDOW,
            };
        let mut table = PML4;
        for shift in [39, 30, 21] {
            let entry = table + (address >> shift & 0x1ff) * 8;
            if self.word(entry).load(SeqCst) == 0 {
                let frame = self.new_frame();
                self.word(entry).store(frame | TABLE, SeqCst);
            }
            table = self.word(entry).load(SeqCst) & !0xfff;
        }
        table + (address >> 12 & 0x1ff) * 8
    }

    /// Maps the page at `gpa` to a machine frame.
    pub(crate) fn map(&mut self, gpa: Gpa, side: Side, frame: u64) {
        const LEAF: u64 = 0b110_0011;
        let entry = self.entry(gpa, side);
        self.word(entry).store(frame | LEAF, SeqCst);
    }

    /// Unmaps the page at `gpa` and returns its frame. Follow with [`Memory::kick`].
    pub(crate) fn unmap(&mut self, gpa: Gpa, side: Side) -> u64 {
        let entry = self.entry(gpa, side);
        self.word(entry).swap(0, SeqCst) & !0xfff
    }

    /// The machine frame of the page at `gpa`.
    pub(crate) fn frame(&mut self, gpa: Gpa, side: Side) -> u64 {
        let entry = self.entry(gpa, side);
        self.word(entry).load(SeqCst) & !0xfff
    }

    /// Raises the epoch and waits until no vCPU uses an older translation.
    pub(crate) fn kick(&self, vcpus: u8) {
        let epoch = self
            .half(MAILBOX_START + HEADER_TLB_EPOCH)
            .fetch_add(1, SeqCst)
            + 1;
        for vcpu in 0..vcpus {
            let slot = self.slot(vcpu);
            let is_stale = || {
                self.half(slot + SLOT_RUNNING).load(SeqCst) != 0
                    && self.half(slot + SLOT_STATE).load(SeqCst) != STATE_REQUEST
                    && self.half(slot + SLOT_TLB_SEEN).load(SeqCst) != epoch
            };
            let start = std::time::Instant::now();
            while is_stale() {
                assert!(
                    start.elapsed() < crate::qemu::PATIENCE,
                    "vCPU {vcpu} does not catch up"
                );
                std::hint::spin_loop();
            }
        }
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: no borrow of the mapping is left.
        let _ = unsafe { munmap(self.start, MEMORY_BYTES) };
    }
}
