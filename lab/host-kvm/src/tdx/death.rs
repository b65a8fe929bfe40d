//! Diagnoses the death of a TD.
//!
//! A TD that KVM kills does not end QEMU: KVM_RUN fails from then on, and QEMU stops with
//! `internal-error`. The reason is logged elsewhere, if at all.
//!
//! | seen | killed by |
//! |---|---|
//! | `Guest access before accepting` in the kernel log, then STOP and internal-error | access before ACCEPT, with SEPT_VE_DISABLE |
//! | the OOM killer's line about QEMU, a machine check, SIGBUS | the host's memory |
//! | GUEST_PANICKED, `type: tdx` | the guest: ReportFatalError |
//! | `REPORT_FATAL_ERROR: invalid error code` in stderr | the guest: ReportFatalError with a code that QEMU does not take |
//! | SHUTDOWN or RESET, `guest-reset` | the guest: a triple fault |
//! | a SEAMCALL that failed or a complaint of KVM in the kernel log | KVM |
//! | a message of QEMU listed in `last_words` | as listed |
//! | any other STOP or end | QEMU |

use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;

use tdxlab_journal::klog::{self, Kind};
use tdxlab_journal::{Death, Killer, Reading};
use tdxlab_qemu::qmp::Event;

use super::last_words::last_words;
use super::reports;

/// Evidence about a TD that no longer runs.
#[derive(Clone, Debug)]
pub struct Signs {
    /// QMP events, oldest first.
    pub events: Vec<Event>,
    /// `query-status`, where QEMU still answers.
    pub run_state: Option<String>,
    /// QEMU's stderr.
    pub stderr: String,
    /// Kernel log lines since the last step.
    pub kernel_log: Reading<Vec<String>>,
    /// QEMU's process.
    pub pid: u32,
    /// How QEMU has ended, if it has.
    pub ended: Option<ExitStatus>,
}

/// QEMU's message about a fatal error with a code it cannot pass on,
/// `tdx_handle_report_fatal_error()`.
const ODD_FATAL_ERROR: &str = "REPORT_FATAL_ERROR: invalid error code";

/// What failed, in a hardware error that the firmware reports (`drivers/firmware/efi/cper.c`).
const MEMORY_SECTION: &str = "section_type: memory error";

/// Whether an event may be the first sign of a death: worth looking at the rest.
pub fn is_sign(event: &Event) -> bool {
    matches!(
        event.name.as_str(),
        "STOP" | "SHUTDOWN" | "RESET" | "GUEST_PANICKED"
    )
}

/// How the TD died; `None` where it did not.
pub fn recognise(signs: &Signs) -> Option<Death> {
    let log = signs.kernel_log.left().map_or(&[][..], Vec::as_slice);
    let said = |text: &str| signs.stderr.lines().find(|line| line.contains(text));
    let death = |by, text: String| Some(Death { by, text });

    let stopped = signs.run_state.as_deref().is_some_and(|state| {
        matches!(
            state,
            "internal-error" | "guest-panicked" | "shutdown" | "io-error"
        )
    });
    let ended = signs.ended.is_some();
    if !stopped && !ended && !signs.events.iter().any(is_sign) {
        return None;
    }
    // The kernel's messages come first: all else follows from them.
    let mut lines = log.iter().map(String::as_str).chain(signs.stderr.lines());
    if let Some(line) = lines.find(|line| klog::used_before_accept(line).is_some()) {
        return death(Killer::AccessBeforeAccept, line.to_owned());
    }
    if let Some(line) = log
        .iter()
        .find(|line| klog::oom_victim(line) == Some(signs.pid))
    {
        return death(
            Killer::HostMemory,
            format!("the kernel's OOM killer ended QEMU: {line}"),
        );
    }
    // The exception that it raises is reported first, as broken memory.
    if let Some(line) = log.iter().find(|line| is_of(line, Kind::WrittenPastTdx)) {
        return death(Killer::KvmBug, format!("{}: {line}", Kind::WrittenPastTdx));
    }
    let broken = |line: &&String| is_of(line, Kind::BrokenMemory) || line.contains(MEMORY_SECTION);
    if let Some(line) = log.iter().find(broken) {
        return death(Killer::HostMemory, format!("broken memory: {line}"));
    }
    if let Some(event) = signs.events.iter().find(|event| was_poisoned(event)) {
        let text = format!("broken memory: QEMU says {} {}", event.name, event.data);
        return death(Killer::HostMemory, text);
    }
    if let Some(text) = signs.events.iter().find_map(panicked) {
        return death(Killer::Guest, text);
    }
    if let Some(line) = said(ODD_FATAL_ERROR) {
        return death(
            Killer::Guest,
            format!("the guest gave up with a code that QEMU does not take: {line}"),
        );
    }
    if let Some(text) = complaint_of_kvm(log) {
        return death(Killer::KvmBug, text);
    }
    if let Some(event) = signs.events.iter().find(|event| was_reset(event)) {
        return death(
            Killer::Guest,
            format!("{} by the guest, as after a triple fault", event.name),
        );
    }
    if let Some((by, text)) = last_words(&signs.stderr, &signs.kernel_log) {
        return death(by, text);
    }
    if let Some(text) = signs.events.iter().find_map(asked_to_end) {
        return death(text.0, text.1);
    }
    if !stopped && !ended {
        return None;
    }
    let (by, what) = match (signs.ended, &signs.run_state) {
        (Some(status), _) => by_signal(status, &signs.kernel_log),
        (None, Some(state)) if state == "guest-panicked" => {
            (Killer::Guest, "the guest panicked".to_owned())
        }
        (None, Some(state)) => (Killer::Vmm, format!("QEMU has stopped ({state})")),
        (None, None) => (Killer::Vmm, "QEMU has stopped".to_owned()),
    };
    let last = signs.stderr.lines().rfind(|line| !line.trim().is_empty());
    death(
        by,
        match last {
            Some(last) => format!("{what}; its last line: {last}"),
            None => what,
        },
    )
}

fn is_of(line: &str, kind: Kind) -> bool {
    klog::complaint(line).is_some_and(|complaint| complaint.kind == kind)
}

/// KVM's most telling complaint: a failed SEAMCALL, else a report of KVM's, or one that ends a thread of
/// QEMU.
fn complaint_of_kvm(log: &[String]) -> Option<String> {
    let seamcall = log.iter().find_map(|line| {
        let decoded = klog::failed_seamcall(line)?.decoded()?;
        Some(format!("{line} ({decoded})"))
    });
    let warning = reports::of_kvm(log).map(str::to_owned);
    match (seamcall, warning) {
        (Some(seamcall), Some(warning)) => Some(format!("{seamcall}; {warning}")),
        (seamcall, warning) => seamcall.or(warning),
    }
}

/// Why QEMU shut down in an orderly way.
fn asked_to_end(event: &Event) -> Option<(Killer, String)> {
    let reason = event.data["reason"].as_str()?;
    match (event.name.as_str(), reason) {
        ("SHUTDOWN", "guest-shutdown") => {
            Some((Killer::Guest, "the guest powered itself off".to_owned()))
        }
        ("SHUTDOWN", "guest-panic") => Some((Killer::Guest, "the guest panicked".to_owned())),
        ("SHUTDOWN", "host-signal") => Some((
            Killer::Vmm,
            "a signal from outside the lab told QEMU to end".to_owned(),
        )),
        _ => None,
    }
}

/// Diagnosis from QEMU's exit status alone.
fn by_signal(status: ExitStatus, log: &Reading<Vec<String>>) -> (Killer, String) {
    match status.signal() {
        Some(libc::SIGBUS) => (
            Killer::HostMemory,
            "QEMU was killed by SIGBUS: no page could be had for its memory (an empty hugetlb pool, a \
             full tmpfs), a page is broken, or it touched a mapping of its guest_memfd where that is private"
                .to_owned(),
        ),
        Some(libc::SIGKILL) => {
            let by = match log {
                Reading::Read(_) => "not by the kernel's OOM killer, whose line is not in the kernel log",
                Reading::Missing { .. } => {
                    "and the kernel log, which would name the OOM killer, cannot be read"
                }
                Reading::Incomplete { .. } => {
                    "and of the kernel log, which would name the OOM killer, a part is lost"
                }
            };
            (Killer::Vmm, format!("QEMU was killed by SIGKILL, {by}"))
        }
        Some(libc::SIGSYS) => (
            Killer::Vmm,
            "QEMU was killed by SIGSYS: a seccomp filter (-sandbox, or that of a service) forbids a system \
             call"
                .to_owned(),
        ),
        Some(libc::SIGXCPU | libc::SIGXFSZ) => (
            Killer::Vmm,
            format!("QEMU was killed at a limit of this user ({status}), see ulimit"),
        ),
        Some(libc::SIGTERM | libc::SIGINT | libc::SIGHUP) => (
            Killer::Vmm,
            format!("QEMU was told to end from outside the lab ({status})"),
        ),
        Some(libc::SIGSEGV | libc::SIGABRT | libc::SIGILL | libc::SIGFPE) => {
            (Killer::Vmm, format!("QEMU crashed ({status})"))
        }
        _ if status.success() => (Killer::Vmm, "QEMU has ended".to_owned()),
        _ => (Killer::Vmm, format!("QEMU has ended ({status})")),
    }
}

/// The guest's message in a GUEST_PANICKED of type tdx, which generated schemas lack.
fn panicked(event: &Event) -> Option<String> {
    if event.name != "GUEST_PANICKED" {
        return None;
    }
    let info = &event.data["info"];
    if info["type"] != "tdx" {
        return Some("the guest panicked".to_owned());
    }
    let code = info["error-code"].as_u64().unwrap_or_default();
    let message = info["message"].as_str().unwrap_or_default();
    let mut text = format!("the guest gave up with {code:#x}: {message}");
    if let Some(gpa) = info["gpa"].as_u64() {
        text.push_str(&format!(" (GPA {gpa:#x})"));
    }
    Some(text)
}

/// Whether QEMU tells of memory that failed, and that it did not leave at that.
fn was_poisoned(event: &Event) -> bool {
    event.name == "MEMORY_FAILURE" && event.data["action"] != "ignore"
}

fn was_reset(event: &Event) -> bool {
    matches!(event.name.as_str(), "SHUTDOWN" | "RESET") && event.data["reason"] == "guest-reset"
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rstest::rstest;

    use super::*;

    /// Of a QEMU that says nothing.
    fn signs() -> Signs {
        Signs {
            events: Vec::new(),
            run_state: None,
            stderr: String::new(),
            kernel_log: kernel_log(None),
            pid: PID,
            ended: None,
        }
    }

    fn kernel_log(lines: Option<&[&str]>) -> Reading<Vec<String>> {
        match lines {
            Some(lines) => Reading::Read(lines.iter().map(|&line| line.to_owned()).collect()),
            None => Reading::missing("no /dev/kmsg"),
        }
    }

    /// As QEMU 11.1.3 has sent them; see `selftests/tests/kernels/rehearsal/lies.rs`, which makes it send them.
    fn events(lines: &[&str]) -> Vec<Event> {
        lines
            .iter()
            .map(|line| {
                let value: serde_json::Value = serde_json::from_str(line).unwrap();
                Event {
                    name: value["event"].as_str().unwrap().to_owned(),
                    data: value["data"].clone(),
                    at: Duration::ZERO,
                }
            })
            .collect()
    }

    const PID: u32 = 812;

    const STOP: &str =
        r#"{"event":"STOP","timestamp":{"microseconds":831204,"seconds":1795699923}}"#;
    const TRIPLE_FAULT: &str = r#"{"data":{"guest":true,"reason":"guest-reset"},"event":"SHUTDOWN",
        "timestamp":{"microseconds":617914,"seconds":1795699943}}"#;
    const PANIC: &str = r#"{"data":{"action":"poweroff","info":{"error-code":65536,"message":
        "a lie of a rehearsal","type":"tdx"}},"event":"GUEST_PANICKED",
        "timestamp":{"microseconds":754059,"seconds":1795699923}}"#;
    const PANICKED: &str = r#"{"data":{"guest":true,"reason":"guest-panic"},"event":"SHUTDOWN",
        "timestamp":{"microseconds":842433,"seconds":1795699923}}"#;
    /// No guest of the lab names a GPA, so this one is laid out by its schema.
    const PANIC_AT: &str = r#"{"event":"GUEST_PANICKED","data":{"action":"pause","info":
        {"type":"tdx","error-code":65536,"message":"oh no","gpa":4096}}}"#;
    const ODD_CODE: &str =
        "qemu-system-x86_64: TDX: REPORT_FATAL_ERROR: invalid error code: 0x10001\nEAX=00000000\n";
    const FAILED: &str = "error: kvm run failed Input/output error\nEAX=00000000\n";
    const HOLE_REFUSED: &str = "qemu-system-x86_64: ram_block_discard_guest_memfd_range: \
        Failed to fallocate ram:40100000 +1000 (-22)\nEAX=00000000\n";
    const BEFORE: &str = "kvm_intel: Guest access before accepting 0x40000000 on vCPU 0";
    const WARN: &str =
        "WARNING: CPU: 3 PID: 9 at arch/x86/kvm/vmx/tdx.c:1721 tdx_sept_drop+0x1 [kvm_intel]";

    const SEAMCALL: &str = "kvm_intel: SEAMCALL TDH_PHYMEM_PAGE_RECLAIM failed: 0x8000020000000000";
    const ENTRY: &str = "kvm [812]: TD vp_enter_ret 0x6000000500000000";
    const POISON: &str = r#"{"event":"MEMORY_FAILURE","data":{"recipient":"guest","action":"inject",
        "flags":{"action-required":true,"recursive":false}}}"#;
    const POWER_OFF: &str =
        r#"{"event":"SHUTDOWN","data":{"guest":true,"reason":"guest-shutdown"}}"#;
    const TOLD: &str = r#"{"event":"SHUTDOWN","data":{"guest":false,"reason":"host-signal"}}"#;

    #[rstest]
    #[case::access(&[STOP], FAILED, Some(&[BEFORE][..]), Killer::AccessBeforeAccept, "0x40000000")]
    #[case::bug(&[STOP], FAILED, Some(&[WARN][..]), Killer::KvmBug, "tdx.c:1721")]
    #[case::bug_without_words(&[STOP], FAILED, Some(&[][..]), Killer::KvmBug, "says nothing")]
    #[case::bug_without_log(&[STOP], FAILED, None, Killer::KvmBug, "cannot be read")]
    #[case::seamcall(&[STOP], FAILED, Some(&[SEAMCALL][..]), Killer::KvmBug, "PAGE_RECLAIM: OPERAND_BUSY")]
    #[case::seamcall_and_warning(&[STOP], FAILED, Some(&[WARN, SEAMCALL][..]), Killer::KvmBug, "PAGE_RECLAIM failed")]
    #[case::entry(&[STOP], "KVM internal error. Suberror: 4\n", Some(&[ENTRY][..]), Killer::KvmBug, "NON_RECOVERABLE_TD_NON_ACCESSIBLE")]
    #[case::oops_elsewhere(&[STOP], FAILED, Some(&["Oops: 0002 [#1] SMP"][..]), Killer::KvmBug, "Oops")]
    #[case::past_tdx(&[STOP], FAILED, Some(&["mce: [Hardware Error]: CPU 3: Machine Check Exception: 5 Bank 1: be0", "mce: [Hardware Error]: Machine check: TDX private memory error. Possible kernel bug."][..]), Killer::KvmBug, "written past TDX")]
    #[case::pcie(&[STOP], "error: kvm run failed Bad address\n", Some(&["{1}[Hardware Error]: event severity: recoverable", "{1}[Hardware Error]:   section_type: PCIe error"][..]), Killer::Vmm, "EFAULT")]
    #[case::ghes(&[STOP], FAILED, Some(&["{1}[Hardware Error]: event severity: recoverable", "{1}[Hardware Error]:   section_type: memory error"][..]), Killer::HostMemory, "memory error")]
    #[case::poison_without_log(&[POISON, PANIC], "", None, Killer::HostMemory, "MEMORY_FAILURE")]
    #[case::warning_of_another(&[STOP], "error: kvm run failed Bad address\n", Some(&["WARNING: net/core/dev.c:1 at f+0x1/0x2, CPU#1: x/1"][..]), Killer::Vmm, "EFAULT")]
    #[case::powered_off(&[POWER_OFF], "", Some(&[][..]), Killer::Guest, "powered itself off")]
    #[case::told_to_end(&[TOLD], "", Some(&[][..]), Killer::Vmm, "signal from outside")]
    #[case::panic(
        &[PANIC, STOP, PANICKED], "", Some(&[][..]), Killer::Guest, "0x10000: a lie of a rehearsal"
    )]
    #[case::panic_at(&[PANIC_AT], "", Some(&[][..]), Killer::Guest, "0x10000: oh no (GPA 0x1000)")]
    #[case::odd_code(&[STOP], ODD_CODE, Some(&[][..]), Killer::Guest, "does not take: qemu")]
    #[case::hole_refused(&[STOP], HOLE_REFUSED, Some(&[][..]), Killer::Vmm, "converts in place")]
    #[case::triple_fault(&[TRIPLE_FAULT], "", Some(&[][..]), Killer::Guest, "triple fault")]
    #[case::qemu(&[STOP], "qemu: out of luck\n", Some(&[][..]), Killer::Vmm, "out of luck")]
    fn deaths(
        #[case] lines: &[&str],
        #[case] stderr: &str,
        #[case] log: Option<&[&str]>,
        #[case] by: Killer,
        #[case] says: &str,
    ) {
        let signs = Signs {
            events: events(lines),
            run_state: Some("internal-error".to_owned()),
            stderr: stderr.to_owned(),
            kernel_log: kernel_log(log),
            ..signs()
        };
        let death = recognise(&signs).unwrap();
        assert_eq!(death.by, by, "{}", death.text);
        assert!(death.text.contains(says), "{}", death.text);
    }

    #[test]
    fn a_td_that_runs_is_not_dead() {
        let mut signs = Signs {
            run_state: Some("running".to_owned()),
            // Of an earlier TD, or of a warning that is judged elsewhere.
            kernel_log: kernel_log(Some(&[WARN])),
            ..signs()
        };
        assert_eq!(recognise(&signs), None);
        signs.events = events(&[r#"{"event":"RESUME"}"#]);
        assert_eq!(recognise(&signs), None);
        // Stopped by the lab itself.
        signs.events = events(&[STOP]);
        signs.kernel_log = kernel_log(Some(&[]));
        signs.run_state = Some("paused".to_owned());
        assert_eq!(recognise(&signs), None);
    }

    #[test]
    fn an_end_without_a_word_is_qemus() {
        let death = recognise(&Signs {
            ended: Some(ExitStatus::from_raw(0)),
            ..signs()
        })
        .unwrap();
        assert_eq!(
            (death.by, death.text.as_str()),
            (Killer::Vmm, "QEMU has ended")
        );
    }

    /// QEMU's wait(2) status, kernel messages, expected diagnosis.
    #[rstest]
    #[case::oom(
        9,
        Some("Out of memory: Killed process 812 (qemu-system-x86) total-vm:9kB"),
        Killer::HostMemory,
        "OOM killer ended QEMU: Out of memory"
    )]
    #[case::oom_of_a_cgroup(
        9,
        Some("Memory cgroup out of memory: Killed process 812 (qemu-system-x86) total-vm:9kB"),
        Killer::HostMemory,
        "Memory cgroup"
    )]
    #[case::oom_of_another(
        9,
        Some("Out of memory: Killed process 813 (worker) total-vm:9kB"),
        Killer::Vmm,
        "not by the kernel's OOM killer"
    )]
    #[case::killed_and_no_log(9, None, Killer::Vmm, "cannot be read")]
    #[case::bus(7, Some(""), Killer::HostMemory, "hugetlb pool")]
    #[case::crash(6 | 0x80, Some(""), Killer::Vmm, "crashed")]
    #[case::seccomp(31 | 0x80, Some(""), Killer::Vmm, "seccomp filter")]
    #[case::limit(24, Some(""), Killer::Vmm, "ulimit")]
    #[case::terminated(15, Some(""), Killer::Vmm, "from outside")]
    #[case::exit(1 << 8, Some(""), Killer::Vmm, "exit status: 1")]
    #[case::poison(
        7,
        Some(
            "Memory failure: 0x1234: Sending SIGBUS to qemu-system-x86:812 due to hardware memory corruption"
        ),
        Killer::HostMemory,
        "broken memory: Memory failure"
    )]
    fn ends_of_qemu(
        #[case] status: i32,
        #[case] log: Option<&str>,
        #[case] by: Killer,
        #[case] says: &str,
    ) {
        let death = recognise(&Signs {
            ended: Some(ExitStatus::from_raw(status)),
            kernel_log: kernel_log(log.map(|line| vec![line]).as_deref()),
            ..signs()
        })
        .unwrap();
        assert_eq!(death.by, by, "{}", death.text);
        assert!(death.text.contains(says), "{}", death.text);
    }

    #[test]
    fn what_is_left_of_a_log_is_believed_for_what_it_says() {
        let left = |lines: &[&str]| {
            recognise(&Signs {
                ended: Some(ExitStatus::from_raw(9)),
                kernel_log: Reading::Incomplete {
                    reason: "records were overwritten".to_owned(),
                    rest: Some(lines.iter().map(|&line| line.to_owned()).collect()),
                },
                ..signs()
            })
            .unwrap()
        };
        let bug = left(&[WARN]);
        assert_eq!(bug.by, Killer::KvmBug, "{}", bug.text);
        let unknown = left(&[]);
        assert!(unknown.text.contains("a part is lost"), "{}", unknown.text);
    }
}
