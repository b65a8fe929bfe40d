//! The guest's side of the module: TDCALL leaves, and plain accesses to private memory.

use tdxlab_protocol::addr::{Gpa, PageLevel, Side};
use tdxlab_protocol::layout::PRIVATE_WINDOW;
use tdxlab_protocol::tdcall::{ATTR_RD_PENDING, EXIT_REASON_EPT_VIOLATION, leaf, reg};

use super::exit::{Eeq, Exit, Gprs, Outcome, VeInfo, Vmcall};
use super::platform::{ATTRIBUTE_SEPT_VE_DISABLE, GPA_WIDTH, Platform};
use super::status::Status;
use crate::entry::{Level, State};
use crate::physical_memory::PhysicalMemory;
use crate::policy::PendingAccess;

/// TDG.VM.WR, which the guest may try on TD_CTLS.
const LEAF_VM_WR: u64 = 8;

/// Metadata field CONFIG_FLAGS; FLEXIBLE_PENDING_VE is bit 1, which KVM never sets.
const FIELD_CONFIG_FLAGS: u64 = 0x1110_0003_0000_0016;

/// Metadata field TD_CTLS; PENDING_VE_DISABLE is bit 0.
const FIELD_TD_CTLS: u64 = 0x1110_0003_0000_0017;

impl<M: PhysicalMemory> Platform<M> {
    /// Runs the TDCALL that the registers describe. On completion RAX and results are in `gprs`.
    pub fn tdcall(&mut self, vcpu: usize, gprs: &mut Gprs) -> Outcome {
        // The version in bits 23:16 makes no difference for these leaves.
        let outcome = match gprs[reg::RAX] & 0xffff {
            leaf::VP_VMCALL => vmcall(gprs),
            leaf::VP_INFO => self.vp_info(vcpu, gprs),
            leaf::VP_VEINFO_GET => self.veinfo_get(vcpu, gprs),
            leaf::MEM_PAGE_ACCEPT => self.accept_and_count(vcpu, gprs[reg::RCX]),
            leaf::MEM_PAGE_RELEASE => self.page_release(gprs[reg::RCX]),
            leaf::VM_RD => self.vm_rd(gprs),
            LEAF_VM_WR => vm_wr(gprs),
            leaf::MEM_PAGE_ATTR_RD => self.page_attr_rd(gprs),
            _ => Outcome::Complete(Status::OPERAND_INVALID.detail(Status::RAX)),
        };
        if let Outcome::Complete(status) = outcome {
            gprs[reg::RAX] = status.0;
        }
        outcome
    }

    /// TDG.MEM.PAGE.ACCEPT, whose exits a right filter does not count.
    fn accept_and_count(&mut self, vcpu: usize, rcx: u64) -> Outcome {
        let outcome = self.page_accept(rcx);
        if let Outcome::Exit(Exit::EptViolation { gpa, .. }) = outcome
            && self.policy.counts_accepts()
        {
            self.count_violation(vcpu, gpa);
        }
        outcome
    }

    /// A load or store of private memory for which no translation was found.
    pub fn access(&mut self, vcpu: usize, gpa: Gpa, write: bool) -> Outcome {
        let found = self.walk(gpa, Level::Pte);
        let violation = |hardware: &mut Self, eeq| {
            // Only private addresses are counted.
            if hardware.is_private(gpa) {
                hardware.count_violation(vcpu, gpa);
            }
            Outcome::Exit(Exit::EptViolation {
                gpa: gpa.align_down(PageLevel::Size4K),
                side: Side::Private,
                qualification: Exit::qualification(write),
                eeq,
            })
        };
        match found.state() {
            State::Mapped => Outcome::Complete(Status::SUCCESS),
            State::Pending => match self.policy.pending_access(self.td.params.sept_ve_disable) {
                PendingAccess::Ve => self.inject_ve(vcpu, gpa, write),
                PendingAccess::Exit => violation(self, Eeq::PENDING),
                PendingAccess::Allow => {
                    let level = found.level.page().unwrap_or(PageLevel::Size4K);
                    let entry = self.policy.accepted_entry(level, found.entry.frame());
                    self.replace(&found, entry);
                    Outcome::Complete(Status::SUCCESS)
                }
            },
            State::Free
            | State::Removed
            | State::NonLeaf
            | State::NonLeafBlocked
            | State::Blocked
            | State::PendingBlocked => violation(self, Eeq::NONE),
        }
    }

    fn inject_ve(&mut self, vcpu: usize, gpa: Gpa, write: bool) -> Outcome {
        let reported = self.policy.ve_address(gpa);
        let state = &mut self.td.vcpus[vcpu];
        if state.ve.is_some() {
            return Outcome::DoubleFault;
        }
        // Bits 8:7 of an EPT violation's qualification: the linear address is valid, and this was
        // the access itself, not a walk of page tables.
        state.ve = Some(VeInfo {
            reason: EXIT_REASON_EPT_VIOLATION,
            qualification: 0x180 | Exit::qualification(write),
            gla: PRIVATE_WINDOW + gpa.as_u64(),
            gpa: reported.as_u64(),
        });
        Outcome::Ve
    }

    fn vp_info(&self, vcpu: usize, gprs: &mut Gprs) -> Outcome {
        let vcpus = self.td.vcpus.len() as u64;
        gprs[reg::RCX] = u64::from(GPA_WIDTH);
        gprs[reg::RDX] = if self.td.params.sept_ve_disable {
            ATTRIBUTE_SEPT_VE_DISABLE
        } else {
            0
        };
        gprs[reg::R8] = vcpus | (vcpus << 32);
        gprs[reg::R9] = vcpu as u64;
        gprs[reg::R10] = 0;
        gprs[reg::R11] = 0;
        Outcome::Complete(Status::SUCCESS)
    }

    fn veinfo_get(&mut self, vcpu: usize, gprs: &mut Gprs) -> Outcome {
        let Some(info) = self.td.vcpus[vcpu].ve.take() else {
            return Outcome::Complete(Status::NO_VALID_VE_INFO);
        };
        gprs[reg::RCX] = u64::from(info.reason);
        gprs[reg::RDX] = info.qualification;
        gprs[reg::R8] = info.gla;
        gprs[reg::R9] = info.gpa;
        gprs[reg::R10] = 0;
        Outcome::Complete(Status::SUCCESS)
    }

    fn vm_rd(&self, gprs: &mut Gprs) -> Outcome {
        gprs[reg::R8] = match gprs[reg::RDX] {
            FIELD_TD_CTLS => u64::from(self.td.params.sept_ve_disable),
            FIELD_CONFIG_FLAGS => 0,
            _ => {
                gprs[reg::R8] = 0;
                return Outcome::Complete(Status::METADATA_FIELD_ID_INCORRECT);
            }
        };
        Outcome::Complete(Status::SUCCESS)
    }

    /// TDG.MEM.PAGE.ATTR.RD: reads attributes without an access. A missing page causes a plain EPT
    /// violation, so the host maps one. RDX would hold the attributes of the page in L2 VMs; those
    /// of the TD itself are returned as 0.
    fn page_attr_rd(&mut self, gprs: &mut Gprs) -> Outcome {
        let gpa = Gpa::new(gprs[reg::RCX]).align_down(PageLevel::Size4K);
        if !self.is_private(gpa) {
            (gprs[reg::RCX], gprs[reg::RDX]) = (0, 0);
            return Outcome::Complete(Status::OPERAND_INVALID.rcx());
        }
        let found = self.walk(gpa, Level::Pte);
        if let Err(status) = self.lock_entry_for_guest(&found) {
            (gprs[reg::RCX], gprs[reg::RDX]) = (0, 0);
            return Outcome::Complete(status);
        }
        let pending = match found.state() {
            State::Mapped => false,
            State::Pending => true,
            State::Free
            | State::Removed
            | State::NonLeaf
            | State::NonLeafBlocked
            | State::Blocked
            | State::PendingBlocked => {
                return Outcome::Exit(Exit::EptViolation {
                    gpa,
                    side: Side::Private,
                    qualification: 0,
                    eeq: Eeq::NONE,
                });
            }
        };
        let (level, pending) = self.policy.attributes_read(found.level, pending);
        gprs[reg::RCX] =
            found.base.as_u64() | level.tdx() | if pending { ATTR_RD_PENDING } else { 0 };
        gprs[reg::RDX] = 0;
        Outcome::Complete(Status::SUCCESS)
    }
}

/// TDG.VP.VMCALL: leaves the TD unless the register mask is wrong.
fn vmcall(gprs: &Gprs) -> Outcome {
    let mask = gprs[reg::RCX];
    let forbidden = (1 << reg::RAX) | (1 << reg::RCX) | (1 << reg::RSP) | (1 << reg::RBP);
    if mask & forbidden != 0 || mask >> 32 != 0 {
        return Outcome::Complete(Status::OPERAND_INVALID.rcx());
    }
    let shared = |register: usize| {
        if mask & (1 << register) != 0 {
            gprs[register]
        } else {
            0
        }
    };
    Outcome::Exit(Exit::Vmcall(Vmcall {
        kind: shared(reg::R10),
        function: shared(reg::R11),
        args: [reg::R12, reg::R13, reg::R14, reg::R15].map(shared),
    }))
}

/// TDG.VM.WR: KVM never sets FLEXIBLE_PENDING_VE, so TD_CTLS cannot be changed.
fn vm_wr(gprs: &Gprs) -> Outcome {
    Outcome::Complete(match gprs[reg::RDX] {
        FIELD_TD_CTLS => Status::METADATA_FIELD_VALUE_NOT_VALID,
        _ => Status::METADATA_FIELD_ID_INCORRECT,
    })
}
