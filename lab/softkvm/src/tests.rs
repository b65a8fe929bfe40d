//! Tests through the API: stages, hypercalls, and consequences of wrong decisions.

mod others;
mod wrong;
mod zero_step;

use rstest::rstest;
use tdxlab_protocol::addr::{Gpa, PageLevel, Side};
use tdxlab_protocol::tdcall::{leaf, reg, vmcall};
use tdxlab_tdxmodule::memory::SimMachine;
use tdxlab_tdxmodule::policy::{Allocation, ConversionStage, Failure, HoleStage, Kick, Why};

use super::*;
use crate::api::Killer;

/// Where test memory starts.
const LOW_BASE: Gpa = Gpa::new(1 << 30);

/// The page of the positive control, outside test memory.
const CONTROL_PAGE: Gpa = Gpa::new(0x3fe0_0000);

const M: u64 = 1 << 20;
const CPU: VcpuId = VcpuId(0);
const OTHER: VcpuId = VcpuId(1);

fn config(design: KvmDesign) -> Config {
    let memory = GpaRange::with_len(LOW_BASE, 64 * M).unwrap();
    Config {
        memory,
        slots: vec![MemSlot {
            range: memory,
            gmem_offset: 0,
        }],
        vcpus: 2,
        sept_ve_disable: false,
        image: Vec::new(),
        control: CONTROL_PAGE,
        design,
        module: ModuleVersion::default(),
        seed: 0,
    }
}

fn core(design: KvmDesign, policy: impl Policy + 'static) -> SoftKvm<SimMachine> {
    SoftKvm::new(SimMachine::new(256 * M), config(design), Box::new(policy)).unwrap()
}

fn gpa(offset: u64) -> Gpa {
    LOW_BASE.checked_add(offset).unwrap()
}

fn accept_gprs(offset: u64, level: PageLevel) -> [u64; 16] {
    let mut gprs = [0; 16];
    gprs[reg::RAX] = leaf::MEM_PAGE_ACCEPT;
    gprs[reg::RCX] = gpa(offset).as_u64() | u64::from(level.tdx());
    gprs
}

/// Works a request off; how it ended and RAX.
fn run(core: &mut SoftKvm<SimMachine>, vcpu: VcpuId) -> (Advance, u64) {
    for _ in 0..10_000 {
        match core.advance(vcpu) {
            Advance::Working => {}
            end => return (end, core.gprs(vcpu)[reg::RAX]),
        }
    }
    (Advance::Working, 0)
}

fn accept(core: &mut SoftKvm<SimMachine>, offset: u64, level: PageLevel) -> (Advance, u64) {
    core.submit(CPU, Request::Tdcall { rip: 0 }, accept_gprs(offset, level));
    run(core, CPU)
}

fn call(core: &mut SoftKvm<SimMachine>, call: HostCall) -> i32 {
    core.begin(call);
    loop {
        if let Some(errno) = core.advance_call() {
            return errno;
        }
    }
}

fn punch(core: &mut SoftKvm<SimMachine>, offset: u64, len: u64) -> i32 {
    call(core, HostCall::Punch { offset, len })
}

/// A hypercall with R11 and R12 up; R10, R11.
fn hypercall(core: &mut SoftKvm<SimMachine>, function: u64, args: &[u64]) -> (Advance, u64, u64) {
    let mut gprs = [0; 16];
    gprs[reg::RAX] = leaf::VP_VMCALL;
    gprs[reg::RCX] = 0xfc00;
    gprs[reg::R11] = function;
    gprs[reg::R12..reg::R12 + args.len()].copy_from_slice(args);
    core.submit(CPU, Request::Tdcall { rip: 0 }, gprs);
    let (end, _) = run(core, CPU);
    let gprs = core.gprs(CPU);
    (end, gprs[reg::R10], gprs[reg::R11])
}

fn pages(core: &SoftKvm<SimMachine>) -> (i64, i64) {
    let files = core.debugfs();
    let number = |name| {
        let (_, text) = files.iter().find(|(file, _)| *file == name).unwrap();
        text.trim_end().parse::<u64>().unwrap() as i64
    };
    (number("pages_4k"), number("pages_2m"))
}

const DONE: (Advance, u64) = (Advance::Done, 0);

#[test]
fn a_leaf_that_the_guest_gave_back_is_split_by_a_smaller_accept() {
    let mut core = core(KvmDesign::V5, Faithful);
    assert_eq!(accept(&mut core, 0, PageLevel::Size2M), DONE);
    let mut release = |offset, level| {
        let mut gprs = accept_gprs(offset, level);
        gprs[reg::RAX] = leaf::MEM_PAGE_RELEASE;
        core.submit(CPU, Request::Tdcall { rip: 0 }, gprs);
        run(&mut core, CPU)
    };
    assert_eq!(
        release(0, PageLevel::Size4K).1,
        Status::PAGE_SIZE_MISMATCH.level(Level::Pmd).0
    );
    assert_eq!(release(0, PageLevel::Size2M), DONE);
    assert_eq!(
        release(0, PageLevel::Size2M).1,
        Status::EPT_ENTRY_STATE_INCORRECT.rcx().0
    );
    assert_eq!(pages(&core), (0, 1));
    assert_eq!(accept(&mut core, 0, PageLevel::Size4K), DONE);
    assert_eq!(pages(&core), (512, 0));
}

#[test]
fn a_fault_between_zap_and_truncate_waits_for_the_end_of_the_hole() {
    let mut core = core(KvmDesign::HeadTail, Faithful);
    assert_eq!(accept(&mut core, 0, PageLevel::Size2M), DONE);
    core.begin(HostCall::Punch {
        offset: 0,
        len: 2 * M,
    });
    while pages(&core).1 == 1 {
        assert_eq!(core.advance_call(), None);
    }
    assert_eq!(
        core.populated(GpaRange::with_len(gpa(0), 2 * M).unwrap()),
        512
    );
    core.submit(
        CPU,
        Request::Tdcall { rip: 0 },
        accept_gprs(0, PageLevel::Size2M),
    );
    for _ in 0..100 {
        assert_eq!(core.advance(CPU), Advance::Working);
    }
    assert_eq!(pages(&core), (0, 0), "nothing is mapped into the hole");
    while core.advance_call().is_none() {}
    assert_eq!(
        core.populated(GpaRange::with_len(gpa(0), 2 * M).unwrap()),
        0
    );
    assert_eq!(run(&mut core, CPU), DONE);
    assert_eq!(pages(&core), (0, 1));
}

#[test]
fn a_page_looked_up_before_the_hole_is_not_mapped_after_it() {
    let mut core = core(KvmDesign::V5, Faithful);
    core.submit(
        CPU,
        Request::Tdcall { rip: 0 },
        accept_gprs(0, PageLevel::Size2M),
    );
    // The exit, then the look-up.
    assert_eq!(core.advance(CPU), Advance::Working);
    assert_eq!(core.advance(CPU), Advance::Working);
    let memory = GpaRange::with_len(gpa(0), 2 * M).unwrap();
    assert_eq!(core.populated(memory), 512);
    assert_eq!(punch(&mut core, 0, 2 * M), 0);
    assert_eq!(core.populated(memory), 0);
    assert_eq!(run(&mut core, CPU), DONE);
    assert_eq!(core.populated(memory), 512, "it was looked up again");
}

#[test]
fn a_conversion_waits_for_a_hole() {
    let mut core = core(KvmDesign::HeadTail, Faithful);
    accept(&mut core, 0, PageLevel::Size2M);
    core.begin(HostCall::Punch {
        offset: 0,
        len: 4096,
    });
    assert_eq!(core.advance_call(), None);
    let mut gprs = [0; 16];
    gprs[reg::RAX] = leaf::VP_VMCALL;
    gprs[reg::RCX] = 0xfc00;
    gprs[reg::R11] = vmcall::MAP_GPA;
    gprs[reg::R12] = gpa(0).as_u64() | SHARED_BIT;
    gprs[reg::R13] = 2 * M;
    core.submit(OTHER, Request::Tdcall { rip: 0 }, gprs);
    for _ in 0..50 {
        assert_eq!(core.advance(OTHER), Advance::Working);
    }
    while core.advance_call().is_none() {}
    assert_eq!(run(&mut core, OTHER), DONE);
    assert_eq!(pages(&core), (0, 0));
}

#[rstest]
#[case::ok(LOW_BASE.as_u64() | SHARED_BIT, 2 * M, vmcall::SUCCESS, vmcall::MAP_GPA)]
#[case::unaligned_start(LOW_BASE.as_u64() + 512, 4096, vmcall::ALIGN_ERROR, LOW_BASE.as_u64() + 512)]
#[case::unaligned_size(LOW_BASE.as_u64(), 100, vmcall::ALIGN_ERROR, LOW_BASE.as_u64())]
#[case::wraps(LOW_BASE.as_u64(), u64::MAX, vmcall::INVALID_OPERAND, LOW_BASE.as_u64())]
#[case::crosses_the_halves(SHARED_BIT - 4096, 8192, vmcall::INVALID_OPERAND, SHARED_BIT - 4096)]
#[case::no_memory_there(0x1000, 4096, vmcall::INVALID_OPERAND, 0x1000)]
#[case::runs_out_of_memory(
    LOW_BASE.as_u64() + 63 * M, 4 * M, vmcall::INVALID_OPERAND, LOW_BASE.as_u64() + 63 * M)]
fn map_gpa_operands(
    #[case] address: u64,
    #[case] size: u64,
    #[case] status: u64,
    #[case] r11: u64,
) {
    let mut core = core(KvmDesign::V5, Faithful);
    assert_eq!(
        hypercall(&mut core, vmcall::MAP_GPA, &[address, size]),
        (Advance::Done, status, r11)
    );
}

#[test]
fn an_interrupted_map_gpa_says_where_to_go_on() {
    struct Interrupted(bool);
    impl Policy for Interrupted {
        fn map_gpa_interrupted(&mut self, _: Gpa, _: bool) -> bool {
            std::mem::replace(&mut self.0, false)
        }
    }
    let mut core = core(KvmDesign::V5, Interrupted(true));
    let start = gpa(M).as_u64() | SHARED_BIT;
    let (_, status, r11) = hypercall(&mut core, vmcall::MAP_GPA, &[start, 8 * M]);
    assert_eq!((status, r11), (vmcall::RETRY, start + 2 * M));
    let (_, status, _) = hypercall(&mut core, vmcall::MAP_GPA, &[r11, 6 * M]);
    assert_eq!(status, vmcall::SUCCESS);
}

#[test]
fn interrupts_come_by_the_seed() {
    let stops = |seed| {
        let memory = GpaRange::with_len(LOW_BASE, 512 * M).unwrap();
        let config = Config {
            seed,
            memory,
            slots: vec![MemSlot {
                range: memory,
                gmem_offset: 0,
            }],
            ..config(KvmDesign::V5)
        };
        let mut core = SoftKvm::new(SimMachine::new(256 * M), config, Box::new(Faithful)).unwrap();
        let mut stops = Vec::new();
        let mut next = gpa(0).as_u64();
        let end = next + 512 * M;
        loop {
            let args = [next | SHARED_BIT, end - next];
            let (_, status, r11) = hypercall(&mut core, vmcall::MAP_GPA, &args);
            if status == vmcall::SUCCESS {
                return stops;
            }
            assert_eq!(status, vmcall::RETRY);
            next = r11 & !SHARED_BIT;
            assert_eq!(next % (2 * M), 0);
            stops.push(next);
        }
    };
    assert_eq!(stops(1), stops(1));
    assert_ne!(stops(1), stops(2));
    assert!((1..64).contains(&stops(1).len()));
}

#[test]
fn ports_and_unknown_calls() {
    let mut core = core(KvmDesign::V5, Faithful);
    let (_, status, data) = hypercall(&mut core, vmcall::IO, &[1, 0, 0x3f8, 0]);
    assert_eq!((status, data), (0, 0xff));
    hypercall(&mut core, vmcall::IO, &[1, 1, 0xf4, 0x1_2f]);
    assert_eq!(
        core.take_port_writes(),
        [PortWrite {
            vcpu: CPU,
            port: 0xf4,
            value: 0x2f
        }]
    );
    assert_eq!(
        hypercall(&mut core, vmcall::IO, &[3, 0, 0, 0]).1,
        vmcall::INVALID_OPERAND
    );
    assert_eq!(hypercall(&mut core, vmcall::HLT, &[0]).1, vmcall::SUCCESS);
    assert_eq!(
        hypercall(&mut core, 0x77, &[]).1,
        vmcall::SUBFUNCTION_UNSUPPORTED
    );
    let mut gprs = [0; 16];
    gprs[reg::RCX] = 1 << reg::RSP;
    core.submit(CPU, Request::Tdcall { rip: 0 }, gprs);
    assert_eq!(run(&mut core, CPU).1, 0xc000_0100_0000_0001);
}

#[test]
fn a_fatal_error_is_reported_with_its_text() {
    let mut core = core(KvmDesign::V5, Faithful);
    let mut gprs = [0; 16];
    gprs[reg::RCX] = 0xffcc;
    gprs[reg::R11] = vmcall::REPORT_FATAL_ERROR;
    gprs[reg::R12] = 3 << 16;
    gprs[reg::R14] = u64::from_le_bytes(*b"no stack");
    gprs[reg::R15] = u64::from_le_bytes(*b" left\0\0\0");
    core.submit(CPU, Request::Tdcall { rip: 0 }, gprs);
    assert_eq!(run(&mut core, CPU).0, Advance::Dead);
    let death = core.death().unwrap();
    assert_eq!(death.by, Killer::Guest);
    assert_eq!(
        death.text,
        "guest reported a fatal error, code 0x30000: no stack left"
    );
}

#[test]
fn an_access_where_no_memory_is_ends_the_vm() {
    for side in [Side::Private, Side::Shared] {
        for address in [Gpa::new(0x1000), Gpa::new(u64::MAX - 0xfff)] {
            let mut core = core(KvmDesign::V5, Faithful);
            let request = Request::Fault {
                gpa: address,
                side,
                write: false,
                rip: 0,
            };
            core.submit(CPU, request, [0; 16]);
            assert_eq!(run(&mut core, CPU).0, Advance::Dead);
            assert_eq!(core.death().unwrap().by, Killer::Vmm);
        }
    }
}

#[test]
fn vcpus_that_do_not_exist_harm_nothing() {
    let mut core = core(KvmDesign::V5, Faithful);
    core.submit(VcpuId(9), Request::Tdcall { rip: 0 }, [0; 16]);
    assert_eq!(core.advance(VcpuId(9)), Advance::Dead);
    assert_eq!(core.gprs(VcpuId(9)), [0; 16]);
    assert_eq!(accept(&mut core, 0, PageLevel::Size2M), DONE);
}

/// Fails the n-th allocation of a kind, once.
struct NoMemory(Allocation, u32);

impl Policy for NoMemory {
    fn allocates(&mut self, what: Allocation) -> bool {
        if what != self.0 {
            return true;
        }
        let now = self.1 == 0;
        self.1 = self.1.wrapping_sub(1);
        !now
    }
}

#[test]
fn a_configuration_that_makes_no_sense_is_refused() {
    let good = config(KvmDesign::V5);
    let memory = good.memory;
    let refused =
        |config: Config| match SoftKvm::new(SimMachine::new(4 * M), config, Box::new(Faithful)) {
            Ok(_) => panic!("accepted"),
            Err(error) => error.to_string(),
        };
    let outside = GpaRange::with_len(gpa(64 * M), 4096).unwrap();
    for (config, word) in [
        (
            Config {
                vcpus: 0,
                ..good.clone()
            },
            "vCPU",
        ),
        (
            Config {
                image: vec![outside],
                ..good.clone()
            },
            "outside",
        ),
        (
            Config {
                control: LOW_BASE,
                ..good.clone()
            },
            "control page",
        ),
        (
            Config {
                image: vec![memory],
                ..good.clone()
            },
            "could not be added",
        ),
        (
            Config {
                slots: vec![MemSlot {
                    range: outside,
                    gmem_offset: 0,
                }],
                ..good
            },
            "outside test memory",
        ),
    ] {
        let error = refused(config);
        assert!(error.contains(word), "{error}");
    }
    assert!("v4".parse::<KvmDesign>().is_err());
    for design in KvmDesign::ALL {
        assert_eq!(design.to_string().parse(), Ok(design));
    }
}
