//! Names of status codes and error numbers.

use std::fmt;

use tdxlab_protocol::tdcall::{status, vmcall};

use crate::expectation::Interval;
use crate::tdx_status;

/// Statuses (bits 63:32) that the leaves which the lab calls can have. `true` where the low bits of the
/// detail are a level.
const OF_TDCALLS: &[(u64, bool)] = &[
    (status::SUCCESS, false),
    (status::PAGE_ALREADY_ACCEPTED, true),
    (status::PAGE_SIZE_MISMATCH, true),
    (status::OPERAND_INVALID, false),
    (status::OPERAND_BUSY, false),
    (status::NO_VALID_VE_INFO, false),
    // INTERRUPTED_RESTARTABLE, HOST_PRIORITY_BUSY_TIMEOUT, EPT_WALK_FAILED, GPA_RANGE_BLOCKED,
    // EPT_ENTRY_STATE_INCORRECT, PAGE_ATTR_INVALID
    (0x8000_0004_0000_0000, false),
    (0x9000_0205_0000_0000, false),
    (0xc000_0b00_0000_0000, false),
    (0xc000_0b0c_0000_0000, false),
    (0xc000_0b0d_0000_0000, false),
    (0xc000_0b11_0000_0000, false),
];

/// A completion status of a TDCALL (raw RAX), shown by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Status(pub u64);

impl Status {
    /// Whether the TDX module has such a status for the leaves the lab calls. One that has no name
    /// was not made by a TDX module.
    pub fn is_known(self) -> bool {
        self.name().is_some() && (self.0 & status::CLASS_MASK != 0 || self.0 == 0)
    }

    /// The name, and whether the detail is a level.
    fn name(self) -> Option<(&'static str, bool)> {
        let class = self.0 & status::CLASS_MASK;
        let (_, level) = OF_TDCALLS.iter().find(|(known, _)| *known == class)?;
        let (name, _) = tdx_status::find(self.0)?;
        Some((name, *level))
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let detail = self.0 & !status::CLASS_MASK;
        match self.name() {
            Some((name, _)) if self.0 == 0 => f.write_str(name),
            Some((name, true)) => write!(f, "{name} L={detail} ({:#018x})", self.0),
            Some((name, false)) => write!(f, "{name} ({:#018x})", self.0),
            None => write!(f, "{:#018x}, which is no status of the TDX module", self.0),
        }
    }
}

/// A status of TDG.VP.VMCALL (raw R10), shown by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VmcallStatus(pub u64);

impl fmt::Display for VmcallStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            vmcall::SUCCESS => f.write_str("SUCCESS"),
            vmcall::RETRY => f.write_str("RETRY"),
            vmcall::INVALID_OPERAND => f.write_str("INVALID_OPERAND"),
            vmcall::ALIGN_ERROR => f.write_str("ALIGN_ERROR"),
            vmcall::SUBFUNCTION_UNSUPPORTED => f.write_str("SUBFUNCTION_UNSUPPORTED"),
            other => write!(f, "{other:#x}"),
        }
    }
}

/// An errno (0 = success), shown by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Errno(pub i32);

impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 == 0 {
            return f.write_str("success");
        }
        match nix::errno::Errno::from_raw(self.0.abs()) {
            nix::errno::Errno::UnknownErrno => write!(f, "errno {}", self.0),
            known => write!(f, "{known:?}"),
        }
    }
}

/// An interval of counts, without the sign that changes carry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unsigned(pub Interval);

impl fmt::Display for Unsigned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Interval { min, max } = self.0;
        if min == max {
            write!(f, "{min}")
        } else if max >= NO_BOUND {
            write!(f, "at least {min}")
        } else {
            write!(f, "{min} to {max}")
        }
    }
}

/// Larger bounds mean unbounded: no event in a guest can occur so often.
const NO_BOUND: i64 = 1 << 56;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_read_as_the_module_names_them() {
        assert_eq!(Status(0).to_string(), "SUCCESS");
        assert_eq!(
            Status(0xc000_0b0b_0000_0001).to_string(),
            "PAGE_SIZE_MISMATCH L=1 (0xc0000b0b00000001)"
        );
    }

    #[test]
    fn a_status_no_module_has_is_shown_as_bytes() {
        assert!(!Status(0xdead_beef_0000_0000).is_known());
        assert!(!Status(7).is_known());
        assert!(
            Status(0xdead_beef_0000_0000)
                .to_string()
                .contains("0xdeadbeef")
        );
    }

    #[test]
    fn error_numbers_read_as_in_the_manual_pages() {
        assert_eq!(Errno(0).to_string(), "success");
        assert_eq!(Errno(22).to_string(), "EINVAL");
    }
}
