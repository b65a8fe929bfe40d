//! The check of TDH.VP.ENTER against zero-stepping.

use tdxlab_protocol::addr::Gpa;

use super::lock::Hold;
use super::platform::Platform;
use super::status::Status;
use crate::entry::{Level, State};
use crate::physical_memory::PhysicalMemory;

/// How an entry went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry {
    /// The vCPU runs.
    Allowed,
    /// It does not: the host gets an EPT violation, for a write, at this address.
    Refused(Gpa),
    /// It does not: another call has the S-EPT tree.
    Busy(Status),
}

impl<M: PhysicalMemory> Platform<M> {
    /// Where the guest's next instruction is.
    pub fn set_rip(&mut self, vcpu: usize, rip: u64) {
        self.td.vcpus[vcpu].stepping.rip = rip;
    }

    /// Violations counted, and addresses noted.
    pub fn stepping(&self, vcpu: usize) -> (u8, usize) {
        let stepping = &self.td.vcpus[vcpu].stepping;
        (stepping.faults, stepping.noted.len())
    }

    /// The part of TDH.VP.ENTER that looks for zero-stepping.
    pub fn filter_entry(&mut self, vcpu: usize) -> Entry {
        let stepping = &mut self.td.vcpus[vcpu].stepping;
        stepping.entry_rip = stepping.rip;
        let noted = stepping.noted.clone();
        if self.policy.entry_is_busy() {
            return Entry::Busy(Status::OPERAND_BUSY.detail(Status::SEPT_TREE));
        }
        if noted.is_empty() {
            return Entry::Allowed;
        }
        let hold = if self.version.stepping_locks_tree() {
            Hold::Exclusive
        } else {
            Hold::Shared
        };
        if let Err(busy) = self.lock_tree(hold) {
            return Entry::Busy(busy);
        }
        match noted.into_iter().find(|&gpa| self.would_fault(gpa)) {
            Some(gpa) => Entry::Refused(gpa),
            None => Entry::Allowed,
        }
    }

    /// Whether an access there would leave the TD.
    fn would_fault(&mut self, gpa: Gpa) -> bool {
        match self.walk(gpa, Level::Pte).state() {
            State::Mapped => false,
            State::Pending => {
                let admits = self.version.stepping_admits_pending();
                self.td.params.sept_ve_disable || !self.policy.admits_pending(admits)
            }
            _ => true,
        }
    }

    /// Counts an EPT violation of a private address.
    pub(super) fn count_violation(&mut self, vcpu: usize, gpa: Gpa) {
        let stepping = &mut self.td.vcpus[vcpu].stepping;
        let moved = self
            .policy
            .rip_has_moved(stepping.rip != stepping.entry_rip);
        stepping.count(gpa, moved);
    }
}
