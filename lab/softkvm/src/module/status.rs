//! Completion status codes of the TDX module.

use std::fmt;

use super::super::entry::Level;

/// RAX of a SEAMCALL or TDCALL: class and number in bits 63:32, detail in bits 31:0.
///
/// Source: `tdx_error_codes_defs.h` of the public 1.5.01 module.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Status(pub u64);

impl Status {
    /// TDX_SUCCESS.
    pub const SUCCESS: Status = Status(0);
    /// TDX_OPERAND_INVALID.
    pub const OPERAND_INVALID: Status = Status(0xc000_0100_0000_0000);
    /// TDX_OPERAND_BUSY.
    pub const OPERAND_BUSY: Status = Status(0x8000_0200_0000_0000);
    /// TDX_PREVIOUS_TLB_EPOCH_BUSY.
    pub const PREVIOUS_TLB_EPOCH_BUSY: Status = Status(0x8000_0201_0000_0000);
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
    /// TDX_PAGE_ALREADY_ACCEPTED.
    pub const PAGE_ALREADY_ACCEPTED: Status = Status(0x0000_0b0a_0000_0000);
    /// TDX_PAGE_SIZE_MISMATCH.
    pub const PAGE_SIZE_MISMATCH: Status = Status(0xc000_0b0b_0000_0000);
    /// TDX_EPT_ENTRY_STATE_INCORRECT.
    pub const EPT_ENTRY_STATE_INCORRECT: Status = Status(0xc000_0b0d_0000_0000);
    /// TDX_METADATA_FIELD_ID_INCORRECT.
    pub const METADATA_FIELD_ID_INCORRECT: Status = Status(0xc000_0c00_0000_0000);
    /// TDX_METADATA_FIELD_VALUE_NOT_VALID.
    pub const METADATA_FIELD_VALUE_NOT_VALID: Status = Status(0xc000_0c03_0000_0000);

    /// Operand RAX as detail.
    pub const RAX: u64 = 0;
    /// Operand RCX as detail.
    pub const RCX: u64 = 1;

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
