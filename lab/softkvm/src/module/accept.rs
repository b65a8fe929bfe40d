//! TDG.MEM.PAGE.ACCEPT.
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
//!
//! Source: `src/td_dispatcher/vm_exits/tdg_mem_page_accept.c`.

use tdxlab_protocol::addr::{Gpa, PageLevel, Side};

use super::super::entry::{Level, SeptEntry, State};
use super::super::physical_memory::PhysicalMemory;
use super::status::Status;
use super::tdcall::{Exit, Outcome};
use super::{Platform, SHARED_BIT};

/// Extended exit qualification of an EPT violation.
///
/// ```text
/// bits 3:0     type: 0 none, 1 ACCEPT, 6 access to a pending page
/// bits 34:32   requested level
/// bits 37:35   level where the walk ended
/// bits 45:38   S-EPT state code there
/// bit 46       leaf
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Eeq(pub(crate) u64);

impl Eeq {
    const TYPE_ACCEPT: u64 = 1;
    const TYPE_PENDING: u64 = 6;

    /// A plain access.
    pub(crate) const NONE: Eeq = Eeq(0);
    /// An access to a pending page with SEPT_VE_DISABLE set.
    pub(crate) const PENDING: Eeq = Eeq(Eeq::TYPE_PENDING);

    fn accept(requested: PageLevel, level: Level, entry: SeptEntry) -> Eeq {
        let leaf = u64::from(entry.is_leaf(level));
        Eeq(Eeq::TYPE_ACCEPT
            | (u64::from(requested.tdx()) << 32)
            | (level.tdx() << 35)
            | (entry.state(level).code() << 38)
            | (leaf << 46))
    }

    /// The level of the ACCEPT that caused the exit; `None` for other exits.
    pub(crate) fn accept_level(self) -> Option<PageLevel> {
        if self.0 & 0xf == Eeq::TYPE_ACCEPT {
            PageLevel::from_tdx(((self.0 >> 32) & 0b111) as u8)
        } else {
            None
        }
    }

    /// Whether the exit is about a pending page.
    pub(crate) fn is_pending(self) -> bool {
        self.0 & 0xf == Eeq::TYPE_PENDING
    }
}

/// RCX of ACCEPT and ATTR.RD taken apart; `None` where it is not valid.
///
/// ```text
/// bits 2:0     level
/// bits 11:3    zero
/// bits 51:12   address, aligned to the level
/// bits 63:52   zero
/// ```
fn operand(rcx: u64) -> Option<(Gpa, PageLevel)> {
    let level = match PageLevel::from_tdx((rcx & 0b111) as u8)? {
        PageLevel::Size1G => return None,
        level => level,
    };
    let gpa = Gpa::new(rcx & !0b111);
    (gpa.as_u64() < SHARED_BIT && gpa.is_aligned(level)).then_some((gpa, level))
}

impl<M: PhysicalMemory> Platform<M> {
    /// TDG.MEM.PAGE.ACCEPT with this RCX.
    pub(super) fn page_accept(&mut self, rcx: u64) -> Outcome {
        let Some((gpa, level)) = operand(rcx) else {
            return Outcome::Complete(Status::OPERAND_INVALID.rcx());
        };
        if let Some(status) = self.policy.accept_refused(gpa, level) {
            return Outcome::Complete(status);
        }
        let found = self.walk(gpa, level.into());
        let same_level = found.level == Level::from(level);
        let status = match found.state() {
            State::Mapped => Status::PAGE_ALREADY_ACCEPTED.level(found.level),
            State::NonLeaf => Status::PAGE_SIZE_MISMATCH.level(found.level),
            State::Pending if same_level => {
                let done = found.entry.progress();
                let goal = self
                    .policy
                    .accept_burst()
                    .saturating_add(done)
                    .min(level.pages_4k());
                let zeroed = self.policy.accept_zeroes(level, done..goal);
                if zeroed.start < zeroed.end {
                    self.machine.zero_frames(
                        found.entry.frame().add(zeroed.start),
                        zeroed.end - zeroed.start,
                    );
                }
                if goal < level.pages_4k() {
                    self.replace(&found, found.entry.with_progress(goal));
                    return Outcome::Restart;
                }
                let entry = self.policy.accepted_entry(level, found.entry.frame());
                self.replace(&found, entry);
                Status::SUCCESS
            }
            State::Free | State::Pending | State::Blocked | State::PendingBlocked => {
                return Outcome::Exit(Exit::EptViolation {
                    gpa,
                    side: Side::Private,
                    eeq: Eeq::accept(level, found.level, found.entry),
                });
            }
        };
        Outcome::Complete(self.policy.accept_status(level, status))
    }
}
