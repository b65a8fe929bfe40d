//! The filter against zero-stepping: a host that makes one instruction fault again and again.
//!
//! The module counts EPT violations of private addresses that find the guest where it was entered.
//! From the seventh on it notes the address, and lets the vCPU in again only once none of those noted
//! would fault.
//!
//! Source: `src/td_transitions/td_exit_stepping.c`. Exits of ACCEPT and ATTR.RD do not count.

use tdxlab_protocol::addr::Gpa;

use super::super::entry::{Level, State};
use super::super::physical_memory::PhysicalMemory;
use super::Platform;
use super::lock::Hold;
use super::status::Status;

/// STEPPING_EPF_THRESHOLD.
const THRESHOLD: u8 = 6;

/// EPF_GPA_LIST_SIZE.
const NOTED: usize = 32;

/// What the filter keeps of a vCPU.
#[derive(Clone, Debug, Default)]
pub(super) struct Stepping {
    /// Where the guest is.
    rip: u64,
    /// Where it was at its last entry.
    entry_rip: u64,
    /// Violations since it last got further, as far as they are counted.
    faults: u8,
    /// Addresses of those beyond.
    noted: Vec<Gpa>,
}

/// How an entry went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry {
    /// The vCPU runs.
    Allowed,
    /// It does not: the host is told of an EPT violation, for a write, at this address.
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
        if stepping.noted.is_empty() {
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
        let noted = &self.td.vcpus[vcpu].stepping.noted;
        match noted.iter().find(|&&gpa| self.would_fault(gpa)) {
            Some(&gpa) => Entry::Refused(gpa),
            None => Entry::Allowed,
        }
    }

    /// Whether an access there would leave the TD.
    fn would_fault(&self, gpa: Gpa) -> bool {
        match self.walk(gpa, Level::Pte).state() {
            State::Mapped => false,
            State::Pending => {
                self.td.params.sept_ve_disable || !self.version.stepping_admits_pending()
            }
            _ => true,
        }
    }

    /// Counts an EPT violation of a private address.
    pub(super) fn count_violation(&mut self, vcpu: usize, gpa: Gpa) {
        let stepping = &mut self.td.vcpus[vcpu].stepping;
        if stepping.rip != stepping.entry_rip {
            stepping.noted.clear();
            stepping.faults = 0;
        }
        if stepping.faults < THRESHOLD {
            stepping.faults += 1;
        } else if stepping.noted.len() < NOTED && !stepping.noted.contains(&gpa) {
            stepping.noted.push(gpa);
        }
    }
}
