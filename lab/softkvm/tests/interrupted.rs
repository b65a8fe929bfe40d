//! DEMOTE interrupted: by version of the module, and what undoes it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tdxlab_protocol::addr::{Gpa, GpaRange};
use tdxlab_protocol::message::VcpuId;
use tdxlab_protocol::tdcall::{leaf, reg};
use tdxlab_softkvm::memory::SimMachine;
use tdxlab_softkvm::policy::OnInterrupt;
use tdxlab_softkvm::{
    Advance, Config, Faithful, HostCall, KvmDesign, MemSlot, ModuleVersion, Policy, Request,
    SoftKvm, Status,
};
use tdxlab_tdxmodule::{Outcome, Platform, Seamcall, SeamcallRegs, TdParams};

const M: u64 = 1 << 20;
const BASE: Gpa = Gpa::new(1 << 30);

/// Answers everything right, and counts.
struct Counting(Arc<AtomicU64>);

impl Policy for Counting {
    fn on_interrupted_demote(&mut self) -> OnInterrupt {
        self.0.fetch_add(1, Ordering::Relaxed);
        OnInterrupt::Again
    }
}

/// Splits 32 leaves by ACCEPTs of 4K; how many DEMOTEs gave way to an interrupt.
fn interrupted_demotes(module: ModuleVersion) -> u64 {
    let memory = GpaRange::with_len(BASE, 64 * M).unwrap();
    let config = Config {
        memory,
        slots: vec![MemSlot {
            range: memory,
            gmem_offset: 0,
        }],
        vcpus: 1,
        sept_ve_disable: false,
        image: Vec::new(),
        control: Gpa::new(0x3fe0_0000),
        design: KvmDesign::HeadTail,
        module,
        seed: 7,
    };
    let count = Arc::new(AtomicU64::new(0));
    let machine = SimMachine::new(256 * M);
    let policy = Box::new(Counting(Arc::clone(&count)));
    let mut core = SoftKvm::new(machine, config, policy).unwrap();
    core.begin(HostCall::Prefault { range: memory });
    while core.advance_call().is_none() {}
    for region in 0..32 {
        let mut gprs = [0; 16];
        gprs[reg::RAX] = leaf::MEM_PAGE_ACCEPT;
        gprs[reg::RCX] = BASE.as_u64() + region * 2 * M;
        core.submit(VcpuId(0), Request::Tdcall { rip: 0 }, gprs);
        let end = loop {
            match core.advance(VcpuId(0)) {
                Advance::Working => {}
                end => break end,
            }
        };
        assert_eq!((end, core.gprs(VcpuId(0))[reg::RAX]), (Advance::Done, 0));
    }
    assert!(core.death().is_none());
    count.load(Ordering::Relaxed)
}

#[test]
fn kvm_calls_an_interrupted_demote_again() {
    for version in ModuleVersion::ALL {
        let interrupted = interrupted_demotes(version);
        let interruptible = version.demote_is_interruptible();
        assert_eq!(interrupted > 0, interruptible, "{version}: {interrupted}");
    }
}

#[test]
fn unblock_undoes_a_split_that_was_given_up() {
    let params = TdParams {
        vcpus: 1,
        sept_ve_disable: false,
        wide: false,
    };
    let machine = SimMachine::new(64 * M);
    let policy = Box::new(Faithful);
    let mut hardware = Platform::new(machine, policy, ModuleVersion::V1_5_25, params);
    let make = |hardware: &mut Platform<SimMachine>, call, level: u64, page: u64| {
        let mut regs = SeamcallRegs {
            rcx: if level == 3 {
                level
            } else {
                BASE.as_u64() | level
            },
            r8: page,
            ..SeamcallRegs::default()
        };
        hardware.seamcall(call, &mut regs)
    };
    for (call, level, page) in [
        (Seamcall::SeptAdd, 3, 0x40_0000),
        (Seamcall::SeptAdd, 2, 0x40_1000),
        (Seamcall::PageAug, 1, 0x60_0000),
    ] {
        assert_eq!(make(&mut hardware, call, level, page), Status::SUCCESS);
    }
    hardware.finalize();
    let mut gprs = [0; 16];
    gprs[reg::RAX] = leaf::MEM_PAGE_ACCEPT;
    gprs[reg::RCX] = BASE.as_u64() | 1;
    let accepted = Outcome::Complete(Status::SUCCESS);
    assert_eq!(hardware.tdcall(0, &mut gprs), accepted);
    let block = make(&mut hardware, Seamcall::RangeBlock, 1, 0);
    assert_eq!(block, Status::SUCCESS);
    assert_eq!(make(&mut hardware, Seamcall::Track, 1, 0), Status::SUCCESS);
    hardware.reenter_all();

    hardware.set_interrupt(Some(0));
    let demote = make(&mut hardware, Seamcall::PageDemote, 1, 0x40_2000);
    assert_eq!(demote, Status::INTERRUPTED_RESTARTABLE);
    hardware.set_interrupt(None);
    let blocked = hardware.access(0, BASE, true);
    assert!(matches!(blocked, Outcome::Exit(_)), "{blocked:?}");

    let unblock = make(&mut hardware, Seamcall::RangeUnblock, 1, 0);
    assert_eq!(unblock, Status::SUCCESS);
    assert_eq!(hardware.access(0, BASE, true), accepted);
    let demote = make(&mut hardware, Seamcall::PageDemote, 1, 0x40_2000);
    assert_eq!(demote, Status::GPA_RANGE_NOT_BLOCKED.rcx());
}
