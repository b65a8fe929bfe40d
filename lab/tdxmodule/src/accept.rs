//! TDG.MEM.PAGE.ACCEPT and RELEASE.
//!
//! | S-EPT at the address | ACCEPT 4K | ACCEPT 2M |
//! |---|---|---|
//! | nothing at level 2 | exit | exit |
//! | table, 4K entry free | exit | SIZE_MISMATCH |
//! | 4K pending | success | SIZE_MISMATCH |
//! | 4K mapped | ALREADY_ACCEPTED, 0 | SIZE_MISMATCH |
//! | 2M pending | exit: the host must split | success |
//! | 2M mapped | ALREADY_ACCEPTED, 1 | ALREADY_ACCEPTED, 1 |
//! | blocked leaf | exit | exit for 2M, SIZE_MISMATCH for 4K |
//! | blocked table | exit | SIZE_MISMATCH |
//! | removed | SIZE_MISMATCH, or exit | SIZE_MISMATCH, or exit |
//!
//! An entry of that level locked by another call is BUSY.
//!
//! Source: `src/td_dispatcher/vm_exits/tdg_mem_page_accept.c`.

use tdxlab_protocol::addr::{PageLevel, Side};

use super::exit::{Eeq, Exit, Outcome};
use super::lock::GuestLock;
use super::platform::Platform;
use super::sept::Found;
use super::status::Status;
use crate::entry::{Level, SeptEntry, State};
use crate::physical_memory::PhysicalMemory;

impl<M: PhysicalMemory> Platform<M> {
    /// TDG.MEM.PAGE.ACCEPT with this RCX.
    pub(super) fn page_accept(&mut self, rcx: u64) -> Outcome {
        let Ok(info) = self.page_info(rcx, Level::Pte..=Level::Pmd) else {
            return Outcome::Complete(Status::OPERAND_INVALID.rcx());
        };
        let (gpa, level) = (info.gpa, info.level.page_or_1g());
        if let Some(status) = self.policy.accept_refused(gpa, level) {
            return Outcome::Complete(status);
        }
        let found = self.walk(gpa, info.level);
        let violation = Outcome::Exit(Exit::EptViolation {
            gpa,
            side: Side::Private,
            qualification: Exit::WRITE,
            eeq: Eeq::accept(level, found.level, found.entry),
        });
        // An entry above is not locked: it can only block the walk.
        let same_level = found.level == info.level;
        if same_level && let Err(status) = self.lock_entry_for_guest(&found) {
            return Outcome::Complete(status);
        }
        let status = match found.state() {
            State::Mapped => Status::PAGE_ALREADY_ACCEPTED.level(found.level),
            State::Removed if self.version.accept_exits_on_removed() => return violation,
            State::NonLeaf | State::NonLeafBlocked | State::Removed if same_level => {
                Status::PAGE_SIZE_MISMATCH.level(found.level)
            }
            State::Pending if same_level => match self.accept_pages(&found, level) {
                Some(status) => status,
                None => return Outcome::Restart,
            },
            State::Free
            | State::Removed
            | State::Pending
            | State::Blocked
            | State::PendingBlocked
            | State::NonLeafBlocked
            | State::NonLeaf => return violation,
        };
        Outcome::Complete(self.policy.accept_status(level, status))
    }
    /// TDG.MEM.PAGE.RELEASE with this RCX: an accepted page is pending again, without an exit to
    /// the host. This follows Linux's use of it (unaccept_memory(), RFC of June 2026); the module's
    /// answers for other pages are not public, and a plan that needs them is refused.
    pub(super) fn page_release(&mut self, rcx: u64) -> Outcome {
        let Ok(info) = self.page_info(rcx, Level::Pte..=Level::Pmd) else {
            return Outcome::Complete(Status::OPERAND_INVALID.rcx());
        };
        let found = self.walk(info.gpa, info.level);
        if found.level != info.level || !found.state().is_leaf() {
            return Outcome::Complete(Status::PAGE_SIZE_MISMATCH.level(found.level));
        }
        if let Err(status) = self.lock_entry_for_guest(&found) {
            return Outcome::Complete(status);
        }
        if found.state() != State::Mapped {
            return Outcome::Complete(Status::EPT_ENTRY_STATE_INCORRECT.rcx());
        }
        let level = info.level.page_or_1g();
        let entry = SeptEntry::leaf(State::Pending, level, found.entry.frame());
        self.replace(&found, entry);
        if self.policy.release_flushes() {
            self.machine.kick();
        }
        Outcome::Complete(Status::SUCCESS)
    }

    /// Zeroes the pages of a pending leaf and makes it the guest's; `None` where an interrupt comes in
    /// between, and the TDCALL runs again.
    fn accept_pages(&mut self, found: &Found, level: PageLevel) -> Option<Status> {
        let done = found.entry.progress();
        let left = level.pages_4k() - done;
        // An interrupt is looked for after each page but the last.
        let interrupted = self.interrupt_after.map_or(u64::MAX, |after| after + 1);
        let now = self.policy.accept_burst().max(1).min(interrupted).min(left);
        if let Some(after) = &mut self.interrupt_after {
            *after = after.saturating_sub(now.min(left - 1));
        }
        let zeroed = self.policy.accept_zeroes(level, done..done + now);
        if zeroed.start < zeroed.end {
            self.machine.zero_frames(
                found.entry.frame().add(zeroed.start),
                zeroed.end - zeroed.start,
            );
        }
        if now < left {
            self.replace(found, found.entry.with_progress(done + now));
            return None;
        }
        let entry = self.policy.accepted_entry(level, found.entry.frame());
        self.replace(found, entry);
        Some(Status::SUCCESS)
    }

    /// Locks an entry for the guest.
    pub(super) fn lock_entry_for_guest(&mut self, found: &Found) -> Result<(), Status> {
        match self.td.locks.entries.guest_gets(found.place, found.index()) {
            GuestLock::Taken => Ok(()),
            GuestLock::Busy => Err(Status::OPERAND_BUSY.rcx()),
            GuestLock::HostPriority => Err(Status::OPERAND_BUSY_HOST_PRIORITY.rcx()),
        }
    }
}
