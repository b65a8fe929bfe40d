//! Completion statuses expected in the guest. Source: TDX module 1.5.01, `tdx_error_codes_defs.h`.

use tdxlab_plan::addr::PageLevel;

/// TDX_SUCCESS.
pub(super) const SUCCESS: u64 = 0;

/// TDX_OPERAND_INVALID for RCX: ACCEPT takes 4K and 2M only.
pub(super) const OPERAND_INVALID: u64 = 0xc000_0100_0000_0001;

/// TDX_OPERAND_BUSY for RCX: the entry is locked by the host at that moment.
pub(super) const OPERAND_BUSY: u64 = 0x8000_0200_0000_0001;

/// TDX_PAGE_SIZE_MISMATCH of a 2M ACCEPT that finds a table.
pub(super) const SIZE_MISMATCH: u64 = 0xc000_0b0b_0000_0001;

/// TDX_PAGE_ALREADY_ACCEPTED; the digit is the level where the walk ended.
pub(super) const fn already_accepted(level: PageLevel) -> u64 {
    0x0000_0b0a_0000_0000 | level.tdx() as u64
}

/// Every status a racing ACCEPT may return.
pub(super) const RACING: [u64; 5] = [
    SUCCESS,
    already_accepted(PageLevel::Size4K),
    already_accepted(PageLevel::Size2M),
    SIZE_MISMATCH,
    OPERAND_BUSY,
];
