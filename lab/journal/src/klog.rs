//! Classifies lines of the kernel log: complaints of the kernel about itself, and others.
//!
//! Sources: `lib/bug.c`, `kernel/panic.c`, `kernel/{hung_task,watchdog,workqueue,smp,cfi}.c`,
//! `kernel/locking/lockdep.c`, `kernel/rcu/`, `kernel/sched/core.c`, `lib/{ubsan,list_debug}.c`,
//! `mm/` (SLUB, KASAN, KFENCE, page allocator, memory failure, OOM killer), `arch/x86/kernel/`,
//! `arch/x86/mm/`, `virt/kvm`, `arch/x86/kvm` and both `tdx.c`, Linux 6.16 to 7.3.
//!
//! Lines are matched by their prefix where the kernel has a fixed one: the rest may contain text of
//! user programs (process names, paths, audit records).

use std::fmt;

use tdxlab_plan::addr::Gpa;

use super::seamcall::{CallStatus, leaf};

/// A complaint of the kernel about itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Complaint {
    /// Kind of complaint.
    pub kind: Kind,
    /// Its decoded numbers, if known.
    pub decoded: Option<String>,
}

impl Complaint {
    /// What is said of the line that it was found in: its kind, the line, its decoded numbers.
    pub fn of(&self, line: &str) -> String {
        let decoded = self.decoded.as_ref();
        let decoded = decoded.map(|decoded| format!(" ({decoded})"));
        let decoded = decoded.unwrap_or_default();
        format!("{}: {}{decoded}", self.kind, line.trim())
    }
}

/// Kinds of complaints.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// WARN, WARN_ON and their kin; KVM_BUG_ON is one.
    Warn,
    /// BUG_ON, or a bug reported as one.
    Bug,
    /// An exception in the kernel.
    Oops,
    /// The kernel stopped.
    Panic,
    /// Found by lockdep.
    Lockdep,
    /// A processor or task that does not get on.
    Stall,
    /// Found by UBSAN.
    Ubsan,
    /// Memory that is not freed.
    Leak,
    /// Memory or page tables with wrong content.
    Corruption,
    /// An MSR that the processor does not have.
    Msr,
    /// A VMX instruction that failed.
    Vmx,
    /// A SEAMCALL that failed where KVM expects it not to.
    Seamcall,
    /// A key id of TDX that no TD will get any more.
    KeyLeak,
    /// Memory that the hardware found broken.
    BrokenMemory,
    /// Private memory that somebody in the kernel wrote past TDX.
    WrittenPastTdx,
    /// What the hardware reports, of whatever part of it.
    Hardware,
}

impl Kind {
    /// Name of the kind in findings.
    pub const fn name(self) -> &'static str {
        match self {
            Kind::Warn => "WARN",
            Kind::Bug => "BUG",
            Kind::Oops => "oops",
            Kind::Panic => "panic",
            Kind::Lockdep => "lockdep splat",
            Kind::Stall => "stall",
            Kind::Ubsan => "UBSAN splat",
            Kind::Leak => "memory leak",
            Kind::Corruption => "corruption",
            Kind::Msr => "MSR access error",
            Kind::Vmx => "failed VMX instruction",
            Kind::Seamcall => "failed SEAMCALL",
            Kind::KeyLeak => "leaked key id",
            Kind::BrokenMemory => "broken memory",
            Kind::WrittenPastTdx => "private memory written past TDX",
            Kind::Hardware => "hardware error",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// How a line is known.
enum Mark {
    /// The line starts with this.
    Starts(&'static str),
    /// The line contains this at the start of a word.
    Says(&'static str),
    /// The line starts with the first, after the prefix of a subsystem, and contains the second.
    Both(&'static str, &'static str),
}

use Mark::{Both, Says, Starts};

/// The first that fits counts.
const MARKS: &[(Mark, Kind)] = &[
    // Lockdep has its own WARNINGs and BUGs.
    (Starts("WARNING: possible circular locking"), Kind::Lockdep),
    (Starts("WARNING: possible recursive locking"), Kind::Lockdep),
    (
        Starts("WARNING: possible irq lock inversion"),
        Kind::Lockdep,
    ),
    (Starts("WARNING: inconsistent lock state"), Kind::Lockdep),
    (Starts("WARNING: suspicious RCU usage"), Kind::Lockdep),
    (Starts("WARNING: bad unlock balance"), Kind::Lockdep),
    (Starts("WARNING: bad contention"), Kind::Lockdep),
    (Starts("WARNING: held lock freed"), Kind::Lockdep),
    (Starts("WARNING: lock held when returning"), Kind::Lockdep),
    (Starts("WARNING: Nested lock was not taken"), Kind::Lockdep),
    (Starts("WARNING: chain_key collision"), Kind::Lockdep),
    (
        Both("WARNING: ", "unsafe lock order detected"),
        Kind::Lockdep,
    ),
    (Both("WARNING: ", "still has locks held!"), Kind::Lockdep),
    (Says("[ BUG: Invalid wait context ]"), Kind::Lockdep),
    (Starts("INFO: possible"), Kind::Lockdep),
    (
        Starts("INFO: trying to register non-static key"),
        Kind::Lockdep,
    ),
    (Starts("INFO: suspicious RCU usage"), Kind::Lockdep),
    // Stalls.
    (Both("INFO: task ", " for more than "), Kind::Stall),
    (Both("INFO: rcu", "stall"), Kind::Stall),
    (Says("soft lockup - CPU"), Kind::Stall),
    (Says("hard LOCKUP"), Kind::Stall),
    (Says("BUG: workqueue lockup"), Kind::Stall),
    (Says("non-responsive CSD lock"), Kind::Stall),
    // Exceptions and panics.
    (Starts("Kernel panic - not syncing"), Kind::Panic),
    (Says("PANIC: double fault"), Kind::Panic),
    (Says("Fatal Machine check"), Kind::Panic),
    (Starts("Oops: "), Kind::Oops),
    (Starts("general protection fault"), Kind::Oops),
    (Says("Corrupted page table at address"), Kind::Oops),
    // Broken memory comes before BUG: it is about the machine, not about a statement of a file.
    (Says("TDX private memory error"), Kind::WrittenPastTdx),
    (Both("Machine Check Exception", "Bank"), Kind::BrokenMemory),
    (Starts("Memory failure: "), Kind::BrokenMemory),
    // do_sigbus(): a process that touches what is poisoned already.
    (
        Both("MCE: Killing", "hardware memory corruption"),
        Kind::BrokenMemory,
    ),
    (
        Says("Uncorrected hardware memory error"),
        Kind::BrokenMemory,
    ),
    (
        Says("[Hardware Error]: Machine check: "),
        Kind::BrokenMemory,
    ),
    // What has failed follows, as `section_type: memory error`; a corrected one has another severity.
    (Says("event severity: fatal"), Kind::Hardware),
    (Says("event severity: recoverable"), Kind::Hardware),
    (Both("EDAC MC", " UE "), Kind::BrokenMemory),
    // Page tables and memory.
    (Says("Invalid SPTE change"), Kind::Corruption),
    (Says("Unexpected SPTE change"), Kind::Corruption),
    (Both("SPTE ", "shadow-present at free"), Kind::Corruption),
    (
        Says("reserved bits set on MMU-present spte"),
        Kind::Corruption,
    ),
    (Says("bad pgd "), Kind::Corruption),
    (Says("bad p4d "), Kind::Corruption),
    (Says("bad pud "), Kind::Corruption),
    (Says("bad pmd "), Kind::Corruption),
    (Says("bad pte "), Kind::Corruption),
    (Says("Bad swap file entry"), Kind::Corruption),
    (Says("Bad swap offset entry"), Kind::Corruption),
    (Says("list_add corruption"), Kind::Corruption),
    (Says("list_del corruption"), Kind::Corruption),
    (Says("pagealloc: memory corruption"), Kind::Corruption),
    (Says("pagealloc: single bit error"), Kind::Corruption),
    (Says("Kernel memory exposure attempt"), Kind::Corruption),
    (Says("Kernel memory overwrite attempt"), Kind::Corruption),
    (Starts("CFI failure at"), Kind::Bug),
    (Starts("huh, entered softirq"), Kind::Bug),
    // kvm_mmu_page_fault(): what KVM says must not happen, and is followed by an exit.
    (
        Says("unexpected emulation request on private memory"),
        Kind::Warn,
    ),
    // Remaining lines of the general kinds.
    (Starts("WARNING: "), Kind::Warn),
    (Starts("kernel BUG at"), Kind::Bug),
    (Both("BUG: ", ""), Kind::Bug),
    (Both("BUG ", "): "), Kind::Corruption),
    (Starts("UBSAN: "), Kind::Ubsan),
    (Says("new suspected memory leaks"), Kind::Leak),
    (Starts("unchecked MSR access error"), Kind::Msr),
    // vmx_insn_failed(): after the first of a boot there is no WARN beside it.
    (Says("vmread failed: "), Kind::Vmx),
    (Says("vmwrite failed: "), Kind::Vmx),
    (Says("vmclear failed: "), Kind::Vmx),
    (Says("vmptrld failed: "), Kind::Vmx),
    (Says("invvpid failed: "), Kind::Vmx),
    (Says("invept failed: "), Kind::Vmx),
];

impl Mark {
    fn fits(&self, line: &str) -> bool {
        match *self {
            Starts(text) => line.starts_with(text),
            Says(text) => says(line, text),
            // What subsystems put before their messages ends with a colon.
            Both(first, second) => {
                let begins = line.starts_with(first) || line.contains(&format!(": {first}"));
                begins && line.contains(second)
            }
        }
    }
}

/// Whether `line` has `text`, and no letter just before it: `DEBUG: ` does not say `BUG: `.
fn says(line: &str, text: &str) -> bool {
    line.match_indices(text).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        !before.is_some_and(char::is_alphanumeric)
    })
}

/// Prefixes of lines that quote or describe user programs.
const OF_PROGRAMS: &[&str] = &["traps: ", "audit: ", "process '"];

/// The complaint in a line of the kernel log; `None` for other messages.
pub fn complaint(line: &str) -> Option<Complaint> {
    let line = bare(line);
    // `traps: PANIC: double fault` is the kernel's own.
    let quoted = OF_PROGRAMS.iter().any(|start| line.starts_with(start));
    if quoted && !line.starts_with("traps: PANIC: ") {
        return None;
    }
    if let Some(failed) = failed_seamcall(line) {
        return Some(Complaint {
            kind: Kind::Seamcall,
            decoded: failed.decoded(),
        });
    }
    if line.contains("HKID") && line.contains("is leaked") {
        return Some(Complaint {
            kind: Kind::KeyLeak,
            decoded: None,
        });
    }
    let kind = match MARKS.iter().find(|(mark, _)| mark.fits(line)) {
        Some((_, kind)) => *kind,
        None if is_die(line) => Kind::Oops,
        None => return None,
    };
    Some(Complaint {
        kind,
        decoded: None,
    })
}

/// The line without the prefix of a console or `dmesg`: `<4>`, `[   12.345678] `, `[ T9] `.
fn bare(line: &str) -> &str {
    let mut line = line.trim();
    if let Some((level, rest)) = line.strip_prefix('<').and_then(|rest| rest.split_once('>'))
        && level.chars().all(|digit| digit.is_ascii_digit())
    {
        line = rest.trim_start();
    }
    for _ in 0..2 {
        let Some((stamp, rest)) = line.strip_prefix('[').and_then(|rest| rest.split_once(']'))
        else {
            break;
        };
        let stamp = stamp.trim();
        let number = stamp.strip_prefix(['T', 'C']).unwrap_or(stamp);
        if number.is_empty() || !number.chars().all(|c| c.is_ascii_digit() || c == '.') {
            break;
        }
        line = rest.trim_start();
    }
    line
}

/// The head line of an exception in the kernel before Linux 6.10: `divide error: 0000 [#1] SMP`.
fn is_die(line: &str) -> bool {
    line.split_once(" [#").is_some_and(|(head, tail)| {
        let digits = tail.split_once(']').map_or("", |(digits, _)| digits);
        let code = head.rsplit(": ").next().unwrap_or_default();
        !digits.is_empty()
            && digits.bytes().all(|digit| digit.is_ascii_digit())
            && code.len() == 4
            && code.bytes().all(|digit| digit.is_ascii_hexdigit())
    })
}

/// A failed SEAMCALL, from the kernel's message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FailedSeamcall {
    /// Its name or number as in the message, and the name of the number.
    pub name: Option<String>,
    /// Its return value; `None` if the message has none.
    pub status: Option<CallStatus>,
}

impl FailedSeamcall {
    /// Decoded, in words.
    pub fn decoded(&self) -> Option<String> {
        let status = self.status.map(|status| status.to_string());
        match (&self.name, status) {
            (Some(name), Some(status)) => Some(format!("{name}: {status}")),
            (name, status) => name.clone().or(status),
        }
    }
}

/// The failed SEAMCALL in a line.
///
/// | line | printed by |
/// |---|---|
/// | `SEAMCALL TDH_MEM_PAGE_AUG failed: 0x..., entry 0x...` | TDX_BUG_ON(), pr_tdx_error() of KVM |
/// | `TDH_VP_RD[VMCS.0x681e] failed 0x...`, `TDH_VP_WR[...]...` | tdh_vp_rd_failed(), tdh_vp_wr_failed() |
/// | `SEAMCALL (0x0000000000000021) failed: 0x...` | seamcall_err() of arch/x86/virt |
/// | `SEAMCALL failed: leaf 35, error 0x...` | the same, before Linux 6.8 |
/// | `TDH.SYS.DISABLE failed: 0x...` | tdx_sys_disable() |
/// | `TD vp_enter_ret 0x...` | __tdx_handle_exit() |
/// | `tdh_mng_vpflushdone() failed` | tdx_mmu_release_hkid() |
pub fn failed_seamcall(line: &str) -> Option<FailedSeamcall> {
    let line = bare(line);
    if let Some((_, rest)) = line.split_once("TD vp_enter_ret ") {
        return Some(FailedSeamcall {
            name: Some("TDH.VP.ENTER".to_owned()),
            status: number(rest).map(CallStatus::of),
        });
    }
    let (before, after) = line.split_once(" failed")?;
    let words = || before.split_whitespace();
    let of_module = |word: &str| {
        let upper = word.to_ascii_uppercase();
        upper.starts_with("TDH_") || upper.starts_with("TDH.")
    };
    let name = match words().find(|word| word.eq_ignore_ascii_case("SEAMCALL")) {
        // "failed: leaf 35, error 0x..."
        Some(_) if before.trim_end().ends_with("SEAMCALL") => after
            .split_once("leaf ")
            .and_then(|(_, rest)| number(rest))
            .map(leaf),
        Some(_) => words().next_back().map(called),
        None => Some(words().find(|word| of_module(word)).map(called)?),
    };
    // Statuses are long; operands that follow them need not be.
    let status = match after.split_once("error ") {
        Some((_, rest)) => number(rest),
        None => number(after.trim_start_matches(':').trim_start()),
    };
    // "tdh_mng_vpflushdone() failed. HKID 5 is leaked." follows a line that has the status.
    if status.is_none() && line.contains("HKID") {
        return None;
    }
    Some(FailedSeamcall {
        name,
        status: status.map(CallStatus::of),
    })
}

/// `(0x21)` as number and name, any other word unchanged.
fn called(word: &str) -> String {
    let bare = word.trim_matches(|c| matches!(c, '(' | ')' | ':'));
    match number(bare) {
        Some(number) => leaf(number),
        None => bare.to_owned(),
    }
}

/// The number at the beginning of a text, hexadecimal after `0x`.
fn number(text: &str) -> Option<u64> {
    let (digits, radix) = match text.strip_prefix("0x") {
        Some(digits) => (digits, 16),
        None => (text, 10),
    };
    let end = digits
        .find(|c: char| !c.is_digit(radix))
        .unwrap_or(digits.len());
    u64::from_str_radix(&digits[..end], radix).ok()
}

/// The process that the OOM killer has ended.
pub fn oom_victim(line: &str) -> Option<u32> {
    let line = bare(line);
    let killed = line.contains("ut of memory") || line.starts_with("oom-kill");
    let (_, rest) = line.split_once("Killed process ")?;
    let pid = number(rest)?;
    killed.then(|| u32::try_from(pid).ok())?
}

/// The page of a TD that was used before it was accepted, in KVM's message of that. It ends a TD that
/// runs with SEPT_VE_DISABLE. Source: `tdx_handle_ept_violation()`.
pub fn used_before_accept(line: &str) -> Option<Gpa> {
    let (_, gpa) = line.split_once("Guest access before accepting ")?;
    number(gpa).map(Gpa::new)
}

#[cfg(test)]
mod tests;
