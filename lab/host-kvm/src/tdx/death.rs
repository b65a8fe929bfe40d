//! What a dead TD looks like, and who killed it.
//!
//! A TD that KVM gives up does not end QEMU: KVM_RUN fails from then on, and QEMU stops with
//! `internal-error`. What the reason was is said elsewhere, if at all.
//!
//! | seen | killed by |
//! |---|---|
//! | `Guest access before accepting` in the kernel log, then STOP and internal-error | access before ACCEPT, with SEPT_VE_DISABLE |
//! | GUEST_PANICKED, `type: tdx` | the guest: ReportFatalError |
//! | `REPORT_FATAL_ERROR: invalid error code` in stderr | the guest: ReportFatalError with a code that QEMU does not take |
//! | SHUTDOWN or RESET, `guest-reset` | the guest: a triple fault |
//! | `ram_block_discard_guest_memfd_range` in stderr | QEMU: it punches where it should convert in place |
//! | a WARN of KVM in the kernel log, or KVM_RUN failed with EIO, and internal-error | KVM: a bug |
//! | any other STOP or end | QEMU |

use tdxlab_journal::{Death, Killer};
use tdxlab_qemu::qmp::Event;

/// What is known of a TD that no longer runs.
#[derive(Clone, Debug, Default)]
pub struct Signs {
    /// QMP events, oldest first.
    pub events: Vec<Event>,
    /// `query-status`, where QEMU still answers.
    pub run_state: Option<String>,
    /// What QEMU has said on stderr.
    pub stderr: String,
    /// Kernel log lines since the last step; `None` where the log cannot be read.
    pub kernel_log: Option<Vec<String>>,
    /// Whether QEMU has ended.
    pub ended: bool,
}

/// KVM's words about an access before ACCEPT, `tdx_handle_ept_violation()`.
const ACCESS_BEFORE_ACCEPT: &str = "Guest access before accepting";

/// QEMU's words about a guest that gives up with a code it cannot pass on,
/// `tdx_handle_report_fatal_error()`.
const ODD_FATAL_ERROR: &str = "REPORT_FATAL_ERROR: invalid error code";

/// QEMU's words about a hole of a conversion that the kernel refuses,
/// `ram_block_discard_guest_memfd_range()`.
const REFUSED_HOLE: &str = "ram_block_discard_guest_memfd_range: Failed to fallocate";

/// Whether an event may be the first sign of a death: worth looking at the rest.
pub fn is_sign(event: &Event) -> bool {
    matches!(
        event.name.as_str(),
        "STOP" | "SHUTDOWN" | "RESET" | "GUEST_PANICKED"
    )
}

/// How the TD died; `None` where it did not.
pub fn recognise(signs: &Signs) -> Option<Death> {
    let log = signs.kernel_log.as_deref().unwrap_or_default();
    let logged = |text: &str| log.iter().find(|line| line.contains(text));
    let said = |text: &str| signs.stderr.lines().find(|line| line.contains(text));
    let death = |by, text: String| Some(Death { by, text });

    let stopped = signs.run_state.as_deref().is_some_and(|state| {
        matches!(
            state,
            "internal-error" | "guest-panicked" | "shutdown" | "io-error"
        )
    });
    if !stopped && !signs.ended && !signs.events.iter().any(is_sign) {
        return None;
    }
    // The kernel's own words come first: everything else follows from what they say.
    if let Some(line) = logged(ACCESS_BEFORE_ACCEPT).cloned() {
        return death(Killer::AccessBeforeAccept, line);
    }
    if let Some(line) = said(ACCESS_BEFORE_ACCEPT) {
        return death(Killer::AccessBeforeAccept, line.to_owned());
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
    if let Some(line) = said(REFUSED_HOLE) {
        return death(
            Killer::Vmm,
            format!(
                "QEMU punches a hole for each conversion, and this kernel refuses it: take a QEMU \
                 that converts in place, as designs with huge pages need ({})",
                line.trim()
            ),
        );
    }
    if let Some(line) = log.iter().find(|line| is_warning_of_kvm(line)) {
        return death(Killer::KvmBug, line.clone());
    }
    if let Some(event) = signs.events.iter().find(|event| was_reset(event)) {
        return death(
            Killer::Guest,
            format!("{} by the guest, as after a triple fault", event.name),
        );
    }
    if let Some(line) = said("kvm run failed") {
        let unknown = match signs.kernel_log {
            Some(_) => "the kernel log says nothing about it",
            None => "the kernel log, which would say why, cannot be read",
        };
        return death(Killer::KvmBug, format!("{line} ({unknown})"));
    }
    if !stopped && !signs.ended {
        return None;
    }
    let what = match (&signs.run_state, signs.ended) {
        (_, true) => "QEMU has ended".to_owned(),
        (Some(state), false) => format!("QEMU has stopped ({state})"),
        (None, false) => "QEMU has stopped".to_owned(),
    };
    let last = signs.stderr.lines().rfind(|line| !line.trim().is_empty());
    death(
        Killer::Vmm,
        match last {
            Some(last) => format!("{what}; its last line: {last}"),
            None => what,
        },
    )
}

/// The guest's last words in a GUEST_PANICKED of type tdx, which generated schemas do not know.
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

fn was_reset(event: &Event) -> bool {
    matches!(event.name.as_str(), "SHUTDOWN" | "RESET") && event.data["reason"] == "guest-reset"
}

/// A WARN that points into KVM: KVM_BUG_ON is one.
fn is_warning_of_kvm(line: &str) -> bool {
    (line.contains("WARNING: ") || line.contains("kernel BUG at"))
        && (line.contains("kvm") || line.contains("KVM") || line.contains("tdx"))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rstest::rstest;

    use super::*;

    /// As QEMU 11.1.3 has sent them; see `selftests/tests/rehearsal/lies.rs`, which makes it send them.
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

    #[rstest]
    #[case::access(&[STOP], FAILED, Some(&[BEFORE][..]), Killer::AccessBeforeAccept, "0x40000000")]
    #[case::bug(&[STOP], FAILED, Some(&[WARN][..]), Killer::KvmBug, "tdx.c:1721")]
    #[case::bug_without_words(&[STOP], FAILED, Some(&[][..]), Killer::KvmBug, "says nothing")]
    #[case::bug_without_log(&[STOP], FAILED, None, Killer::KvmBug, "cannot be read")]
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
            kernel_log: log.map(|log| log.iter().map(|&line| line.to_owned()).collect()),
            ended: false,
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
            kernel_log: Some(vec![WARN.to_owned()]),
            ..Signs::default()
        };
        assert_eq!(recognise(&signs), None);
        signs.events = events(&[r#"{"event":"RESUME"}"#]);
        assert_eq!(recognise(&signs), None);
        // Stopped by the lab itself.
        signs.events = events(&[STOP]);
        signs.kernel_log = Some(Vec::new());
        signs.run_state = Some("paused".to_owned());
        assert_eq!(recognise(&signs), None);
    }

    #[test]
    fn an_end_without_a_word_is_qemus() {
        let death = recognise(&Signs {
            ended: true,
            ..Signs::default()
        })
        .unwrap();
        assert_eq!(
            (death.by, death.text.as_str()),
            (Killer::Vmm, "QEMU has ended")
        );
    }
}
