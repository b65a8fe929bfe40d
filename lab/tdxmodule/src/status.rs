//! Completion status codes of the TDX module.

use std::fmt;

use crate::entry::Level;

/// RAX of a SEAMCALL or TDCALL: class and number in bits 63:32, detail in bits 31:0.
///
/// Source: `tdx_error_codes_defs.h` of the public module, 1.5.01 and 1.5.25.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Status(pub u64);

impl Status {
    /// TDX_SUCCESS.
    pub const SUCCESS: Status = Status(0);
    /// TDX_OPERAND_INVALID.
    pub const OPERAND_INVALID: Status = Status(0xc000_0100_0000_0000);
    /// TDX_OPERAND_ADDR_RANGE_ERROR: a host-physical address outside every TDMR.
    pub const OPERAND_ADDR_RANGE_ERROR: Status = Status(0xc000_0101_0000_0000);
    /// TDX_OPERAND_BUSY.
    pub const OPERAND_BUSY: Status = Status(0x8000_0200_0000_0000);
    /// TDX_PREVIOUS_TLB_EPOCH_BUSY.
    pub const PREVIOUS_TLB_EPOCH_BUSY: Status = Status(0x8000_0201_0000_0000);
    /// TDX_OPERAND_BUSY_HOST_PRIORITY: the host failed to take the entry's lock before.
    pub const OPERAND_BUSY_HOST_PRIORITY: Status = Status(0x8000_0204_0000_0000);
    /// TDX_INTERRUPTED_BUSY: given up for another call that has priority on the S-EPT tree.
    pub const INTERRUPTED_BUSY: Status = Status(0x8000_0206_0000_0000);
    /// TDX_PAGE_METADATA_INCORRECT: PAMT says that the page is another's, or of another size.
    pub const PAGE_METADATA_INCORRECT: Status = Status(0xc000_0300_0000_0000);
    /// TDX_PAGE_NOT_FREE: a page given to PAMT is in use.
    pub const PAGE_NOT_FREE: Status = Status(0xc000_0303_0000_0000);
    /// TDX_HPA_RANGE_NOT_FREE: PAMT.ADD for a range that has PAMT pages or is a 2M page.
    pub const HPA_RANGE_NOT_FREE: Status = Status(0xc000_0304_0000_0000);
    /// TDX_NO_PAMT_PAGE_PAIR: PAMT.REMOVE for a range without.
    pub const NO_PAMT_PAGE_PAIR: Status = Status(0xc000_0305_0000_0000);
    /// TDX_PAMT_PAGE_NOT_EMPTY: PAMT.REMOVE for a range with pages in use.
    pub const PAMT_PAGE_NOT_EMPTY: Status = Status(0xc000_0306_0000_0000);
    /// TDX_MISSING_PAMT_PAGE_PAIR: a 4K page in a range without PAMT pages.
    pub const MISSING_PAMT_PAGE_PAIR: Status = Status(0x8000_0308_0000_0000);
    /// TDX_TD_FATAL.
    pub const TD_FATAL: Status = Status(0xe000_0604_0000_0000);
    /// TDX_TD_KEYS_NOT_CONFIGURED.
    pub const TD_KEYS_NOT_CONFIGURED: Status = Status(0x8000_0810_0000_0000);
    /// TDX_INTERRUPTED_RESTARTABLE.
    pub const INTERRUPTED_RESTARTABLE: Status = Status(0x8000_0004_0000_0000);
    /// TDX_OP_STATE_INCORRECT: the TD is in a state that does not allow the operation.
    pub const OP_STATE_INCORRECT: Status = Status(0xc000_0608_0000_0000);
    /// TDX_NO_VALID_VE_INFO.
    pub const NO_VALID_VE_INFO: Status = Status(0xc000_0704_0000_0000);
    /// TDX_EPT_WALK_FAILED.
    pub const EPT_WALK_FAILED: Status = Status(0xc000_0b00_0000_0000);
    /// TDX_GPA_RANGE_NOT_BLOCKED.
    pub const GPA_RANGE_NOT_BLOCKED: Status = Status(0xc000_0b06_0000_0000);
    /// TDX_GPA_RANGE_ALREADY_BLOCKED.
    pub const GPA_RANGE_ALREADY_BLOCKED: Status = Status(0x0000_0b07_0000_0000);
    /// TDX_TLB_TRACKING_NOT_DONE.
    pub const TLB_TRACKING_NOT_DONE: Status = Status(0xc000_0b08_0000_0000);
    /// TDX_EPT_INVALID_PROMOTE_CONDITIONS.
    pub const EPT_INVALID_PROMOTE_CONDITIONS: Status = Status(0xc000_0b09_0000_0000);
    /// TDX_PAGE_ALREADY_ACCEPTED.
    pub const PAGE_ALREADY_ACCEPTED: Status = Status(0x0000_0b0a_0000_0000);
    /// TDX_PAGE_SIZE_MISMATCH.
    pub const PAGE_SIZE_MISMATCH: Status = Status(0xc000_0b0b_0000_0000);
    /// TDX_EPT_ENTRY_STATE_INCORRECT.
    pub const EPT_ENTRY_STATE_INCORRECT: Status = Status(0xc000_0b0d_0000_0000);
    /// TDX_EPT_PAGE_NOT_FREE: SEPT.REMOVE of a table with entries in use.
    pub const EPT_PAGE_NOT_FREE: Status = Status(0xc000_0b0e_0000_0000);
    /// TDX_METADATA_FIELD_ID_INCORRECT.
    pub const METADATA_FIELD_ID_INCORRECT: Status = Status(0xc000_0c00_0000_0000);
    /// TDX_METADATA_FIELD_VALUE_NOT_VALID.
    pub const METADATA_FIELD_VALUE_NOT_VALID: Status = Status(0xc000_0c03_0000_0000);

    /// Operand RAX as detail.
    pub const RAX: u64 = 0;
    /// Operand RCX as detail.
    pub const RCX: u64 = 1;
    /// Operand RDX as detail.
    pub const RDX: u64 = 2;
    /// Operand R8 as detail.
    pub const R8: u64 = 8;
    /// Operand R12 as detail.
    pub const R12: u64 = 12;
    /// Operand R13 as detail.
    pub const R13: u64 = 13;
    /// The S-EPT tree as detail.
    pub const SEPT_TREE: u64 = 0x92;
    /// The TD's epoch as detail.
    pub const TD_EPOCH: u64 = 0xa9;
    /// The TD's operation state as detail.
    pub const OP_STATE: u64 = 0xac;

    /// The same status with this detail.
    #[must_use]
    pub const fn detail(self, detail: u64) -> Status {
        Status((self.0 & 0xffff_ffff_0000_0000) | detail)
    }

    /// The same status with operand RCX as detail.
    #[must_use]
    pub const fn rcx(self) -> Status {
        self.detail(Status::RCX)
    }

    /// The same status with a level as detail.
    #[must_use]
    pub const fn level(self, level: Level) -> Status {
        self.detail(level.tdx())
    }

    /// Class and number, without detail.
    #[must_use]
    pub const fn class(self) -> Status {
        self.detail(0)
    }

    /// Whether it is TDX_SUCCESS.
    pub const fn is_success(self) -> bool {
        self.0 == 0
    }

    /// Whether it is TDX_OPERAND_BUSY, whatever the operand.
    pub const fn is_busy(self) -> bool {
        self.class().0 == Status::OPERAND_BUSY.0
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#018x}", self.0)
    }
}
