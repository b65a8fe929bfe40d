//! Numbers of the TDX guest ABI: leaves, register order, status codes.
//!
//! Source: Intel TDX module 1.5 ABI, `src/td_dispatcher` and `tdx_error_codes_defs.h` of the
//! public 1.5.01 source.

/// Index of a register in [`crate::mailbox::SLOT_GPRS`] and in the TDG.VP.VMCALL register mask.
pub mod reg {
    #![allow(missing_docs, reason = "the names are the registers")]
    pub const RAX: usize = 0;
    pub const RCX: usize = 1;
    pub const RDX: usize = 2;
    pub const RBX: usize = 3;
    pub const RSP: usize = 4;
    pub const RBP: usize = 5;
    pub const RSI: usize = 6;
    pub const RDI: usize = 7;
    pub const R8: usize = 8;
    pub const R9: usize = 9;
    pub const R10: usize = 10;
    pub const R11: usize = 11;
    pub const R12: usize = 12;
    pub const R13: usize = 13;
    pub const R14: usize = 14;
    pub const R15: usize = 15;
}

/// Length of TDCALL, in bytes.
pub const INSTRUCTION_BYTES: u64 = 4;

/// TDCALL leaf numbers (RAX bits 15:0).
pub mod leaf {
    /// TDG.VP.VMCALL.
    pub const VP_VMCALL: u64 = 0;
    /// TDG.VP.INFO.
    pub const VP_INFO: u64 = 1;
    /// TDG.VP.VEINFO.GET.
    pub const VP_VEINFO_GET: u64 = 3;
    /// TDG.MEM.PAGE.ACCEPT.
    pub const MEM_PAGE_ACCEPT: u64 = 6;
    /// TDG.VM.RD.
    pub const VM_RD: u64 = 7;
    /// TDG.MEM.PAGE.ATTR.RD.
    pub const MEM_PAGE_ATTR_RD: u64 = 23;
    /// TDG.MEM.PAGE.RELEASE.
    pub const MEM_PAGE_RELEASE: u64 = 30;
}

/// Sub-functions of TDG.VP.VMCALL (R11, with R10 = 0).
pub mod vmcall {
    /// HLT.
    pub const HLT: u64 = 0x0c;
    /// Port I/O.
    pub const IO: u64 = 0x1e;
    /// RDMSR.
    pub const RDMSR: u64 = 0x1f;
    /// WRMSR.
    pub const WRMSR: u64 = 0x20;
    /// MapGPA.
    pub const MAP_GPA: u64 = 0x10001;
    /// ReportFatalError.
    pub const REPORT_FATAL_ERROR: u64 = 0x10003;

    /// R10 status: done.
    pub const SUCCESS: u64 = 0;
    /// R10 status: continue at the address in R11.
    pub const RETRY: u64 = 1;
    /// R10 status: an operand is wrong.
    pub const INVALID_OPERAND: u64 = 0x8000_0000_0000_0000;
    /// R10 status: the address is not page aligned.
    pub const ALIGN_ERROR: u64 = 0x8000_0000_0000_0002;
    /// R10 status: no such sub-function.
    pub const SUBFUNCTION_UNSUPPORTED: u64 = 0x8000_0000_0000_0003;
}

/// Completion status codes. The class and number sit in bits 63:32, detail in bits 31:0.
pub mod status {
    /// TDX_SUCCESS.
    pub const SUCCESS: u64 = 0;
    /// TDX_PAGE_ALREADY_ACCEPTED; detail is the level where the walk ended.
    pub const PAGE_ALREADY_ACCEPTED: u64 = 0x0000_0b0a_0000_0000;
    /// TDX_PAGE_SIZE_MISMATCH; detail is the level.
    pub const PAGE_SIZE_MISMATCH: u64 = 0xc000_0b0b_0000_0000;
    /// TDX_OPERAND_INVALID; detail is the operand.
    pub const OPERAND_INVALID: u64 = 0xc000_0100_0000_0000;
    /// TDX_OPERAND_BUSY; detail is the operand.
    pub const OPERAND_BUSY: u64 = 0x8000_0200_0000_0000;
    /// TDX_NO_VALID_VE_INFO.
    pub const NO_VALID_VE_INFO: u64 = 0xc000_0704_0000_0000;
    /// The class of a status; the other bits are details.
    pub const CLASS_MASK: u64 = 0xffff_ffff_0000_0000;
}

/// Exit reason of an EPT violation, as #VE information reports it.
pub const EXIT_REASON_EPT_VIOLATION: u32 = 48;

/// TDG.MEM.PAGE.ATTR.RD, RCX bit 62: the page is pending.
pub const ATTR_RD_PENDING: u64 = 1 << 62;

/// TDG.VP.INFO attributes, bit 28: SEPT_VE_DISABLE. An access to a pending page ends the TD instead of
/// raising #VE.
pub const ATTRIBUTES_SEPT_VE_DISABLE: u64 = 1 << 28;

/// TDG.VP.INFO attributes, bit 62, which no TDX module sets: the module is software, in the kernel
/// of a rehearsal. A report must say so.
pub const ATTRIBUTES_REHEARSAL: u64 = 1 << 62;
