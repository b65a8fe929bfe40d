//! The filter against zero-stepping: a host that makes one instruction fault again and again.
//!
//! The module counts EPT violations of private addresses at the instruction where the guest was
//! entered. From the seventh on it records the address, and lets the vCPU in again only once none
//! of the recorded ones would fault.
//!
//! Source: `src/td_transitions/td_exit_stepping.c`. Exits of ACCEPT and ATTR.RD do not count.

use tdxlab_protocol::addr::Gpa;

/// STEPPING_EPF_THRESHOLD.
const THRESHOLD: u8 = 6;

/// EPF_GPA_LIST_SIZE.
const NOTED: usize = 32;

/// The filter's state of a vCPU.
#[derive(Clone, Debug, Default)]
pub(super) struct Stepping {
    /// Where the guest is.
    pub(super) rip: u64,
    /// Where it was at its last entry.
    pub(super) entry_rip: u64,
    /// Violations since it last got further, as far as they are counted.
    pub(super) faults: u8,
    /// Addresses of those beyond.
    pub(super) noted: Vec<Gpa>,
}

impl Stepping {
    /// Counts an EPT violation of a private address. `moved`: at another instruction than that of the
    /// last entry.
    pub(super) fn count(&mut self, gpa: Gpa, moved: bool) {
        if moved {
            self.noted.clear();
            self.faults = 0;
        }
        if self.faults < THRESHOLD {
            self.faults += 1;
        } else if self.noted.len() < NOTED && !self.noted.contains(&gpa) {
            self.noted.push(gpa);
        }
    }
}
