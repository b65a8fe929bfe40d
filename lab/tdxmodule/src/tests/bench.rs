//! A TD to try calls on.

use tdxlab_protocol::addr::{Gpa, PageLevel};
use tdxlab_protocol::tdcall::{leaf, reg};

use super::super::{ModuleVersion, Outcome, Platform, Status, TdParams};
use crate::entry::Level;
use crate::memory::SimMachine;
use crate::physical_memory::Pfn;
use crate::policy::Faithful;

pub(super) const REGION: Gpa = Gpa::new(0x4000_0000);
pub(super) const PAGE: Gpa = Gpa::new(0x4000_3000);
pub(super) const FOLIO: Pfn = Pfn(0x1000);

/// One SEAMCALL, or an action of a vCPU in between.
#[derive(Clone, Copy, Debug)]
pub(super) enum Do {
    Finalize,
    SeptAdd(Gpa, Level),
    Add(Gpa),
    Aug(Gpa, PageLevel),
    Block(Gpa, PageLevel),
    Track,
    Demote(Gpa, PageLevel),
    Remove(Gpa, PageLevel),
    Kick,
    Accept(Gpa, PageLevel),
}

use Do::*;

pub(super) fn platform(vcpus: u16, sept_ve_disable: bool) -> Platform<SimMachine> {
    let params = TdParams {
        vcpus,
        sept_ve_disable,
        wide: false,
    };
    let machine = SimMachine::new(256 << 20);
    Platform::new(machine, Box::new(Faithful), ModuleVersion::V1_5_25, params)
}

pub(super) struct Bench {
    pub(super) hardware: Platform<SimMachine>,
    tables: u64,
}

impl Bench {
    pub(super) fn new() -> Bench {
        Bench::with(false)
    }

    pub(super) fn with(sept_ve_disable: bool) -> Bench {
        Bench {
            hardware: platform(2, sept_ve_disable),
            tables: 0,
        }
    }

    /// With tables down to the entries of 2M, running.
    pub(super) fn running() -> Bench {
        Bench::new().after(&[
            SeptAdd(Level::Pgd.base(REGION), Level::Pgd),
            SeptAdd(REGION, Level::Pud),
            Finalize,
        ])
    }

    pub(super) fn after(mut self, steps: &[Do]) -> Bench {
        for &step in steps {
            let status = self.call(step);
            assert!(status.is_success(), "{step:?}: {status}");
        }
        self
    }

    pub(super) fn call(&mut self, step: Do) -> Status {
        let hardware = &mut self.hardware;
        self.tables += 1;
        let table = Pfn(0x300 + self.tables);
        match step {
            Finalize => hardware.td.finalize(),
            Kick => hardware.td.reenter_all(),
            SeptAdd(gpa, level) => return hardware.sept_add(gpa, level, table),
            Add(gpa) => return hardware.page_add(gpa, FOLIO.add(gpa.gfn() % 512)),
            Aug(gpa, level) => {
                return hardware.page_aug(gpa, level, FOLIO.add(gpa.gfn() % 512));
            }
            Block(gpa, level) => return hardware.range_block(gpa, level),
            Track => return hardware.track(),
            Demote(gpa, level) => return hardware.page_demote(gpa, level, table, None),
            Remove(gpa, level) => return hardware.page_remove(gpa, level),
            Accept(gpa, level) => match accept(hardware, gpa, level) {
                Outcome::Complete(status) => return status,
                other => panic!("{other:?}"),
            },
        }
        Status::SUCCESS
    }
}

pub(super) fn accept(hardware: &mut Platform<SimMachine>, gpa: Gpa, level: PageLevel) -> Outcome {
    let mut gprs = [0; 16];
    gprs[reg::RAX] = leaf::MEM_PAGE_ACCEPT;
    gprs[reg::RCX] = gpa.as_u64() | u64::from(level.tdx());
    let outcome = hardware.tdcall(0, &mut gprs);
    if let Outcome::Complete(status) = outcome {
        assert_eq!(gprs[reg::RAX], status.0);
    }
    outcome
}

pub(super) const OPERAND_INVALID_RCX: u64 = 0xc000_0100_0000_0001;
pub(super) const WALK_FAILED: u64 = 0xc000_0b00_0000_0001;
pub(super) const STATE_INCORRECT: u64 = 0xc000_0b0d_0000_0001;
pub(super) const NOT_BLOCKED: u64 = 0xc000_0b06_0000_0001;
pub(super) const ALREADY_BLOCKED: u64 = 0x0000_0b07_0000_0001;
pub(super) const TRACKING_NOT_DONE: u64 = 0xc000_0b08_0000_0001;
pub(super) const EPOCH_BUSY: u64 = 0x8000_0201_0000_0000;
/// The TD is in operation state 2, runnable.
pub(super) const RUNNABLE: u64 = 0xc000_0608_0000_0002;
