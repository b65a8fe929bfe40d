//! QEMUs and guests that misbehave. The lab must name the failure, at once where possible, and
//! leave nothing behind.

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::Instant;

use nix::sys::signal::{Signal, kill};
use rstest::rstest;
use tdxlab::host::HostError;
use tdxlab::qemu::interrupt::Interrupt;

use super::booted::*;

/// Long enough for a guest that answers at all.
const SHORT: Duration = Duration::from_millis(1500);

/// The fake QEMU under the name of its fault.
fn fake(fault: &str) -> (TempDir, PathBuf) {
    let folder = TempDir::new().unwrap();
    let program = folder.path().join(fault);
    symlink(env!("CARGO_BIN_EXE_fake-qemu"), &program).unwrap();
    (folder, program)
}

/// Boots on a fake and fills a little memory; returns the error and the evidence.
fn misadventure(fault: &str) -> (HostError, String) {
    let (_programs, program) = fake(fault);
    let host = match SoftHost::at(&program) {
        Ok(host) => host,
        Err(error) => return (error, String::new()),
    };
    let folder = TempDir::new().unwrap();
    let options = BootOptions {
        patience: match fault {
            "hangs" | "hangs-in-step" | "stopped" | "never-boots" | "silent" => SHORT,
            _ => PATIENCE,
        },
        ..options(&folder, "headtail")
    };
    let mut session = match host.boot(&guest(4 * MIB, 1), &options) {
        Ok(session) => session,
        Err(error) => {
            // Evidence of a guest that never accepted a command.
            let script = std::fs::read_to_string(folder.path().join("qemu.sh")).unwrap();
            assert!(script.contains(&*program.to_string_lossy()), "{script}");
            assert!(folder.path().join("qmp.jsonl").is_file());
            assert!(folder.path().join("serial.log").is_file());
            return (error, script);
        }
    };
    let error = session.perform(&fill(0, 0, 64 << 10, 1), &[]).unwrap_err();
    let evidence = session
        .evidence()
        .into_iter()
        .map(|(name, content)| format!("{name}:\n{}\n", String::from_utf8_lossy(&content)))
        .collect();
    (error, evidence)
}

#[rstest]
#[case::too_old("too-old", "is QEMU 4.2.1, older than 7.0.0")]
#[case::no_qemu("no-qemu", "answers \"hello\", not a QEMU version")]
#[case::no_memfd("no-memfd", "invalid object type: memory-backend-memfd")]
fn a_qemu_that_cannot_be_used_makes_the_host_unusable(#[case] fault: &str, #[case] what: &str) {
    let (error, _) = misadventure(fault);
    let HostError::NotUsable { reason, advice, .. } = &error else {
        panic!("{error}");
    };
    assert!(reason.contains(what), "{reason}");
    assert!(advice.contains("TDXLAB_QEMU"), "{advice}");
}

#[test]
fn a_qemu_that_is_missing_makes_the_host_unusable() {
    let error = SoftHost::at(Path::new("/nonexistent/qemu")).unwrap_err();
    let HostError::NotUsable { reason, advice, .. } = &error else {
        panic!("{error}");
    };
    assert!(reason.contains("/nonexistent/qemu"), "{reason}");
    assert!(advice.contains("apt-get install"), "{advice}");
}

#[rstest]
#[case::dies_at_start("dies-at-start", "the machine is broken")]
#[case::dies_in_step(
    "dies-in-step",
    "while filling 0x40000000..0x40010000; its last line: qemu-system-x86_64: tcg: out of luck"
)]
#[case::hangs("hangs", "hangs: its monitor did not answer")]
#[case::hangs_in_step("hangs-in-step", "hangs: its monitor did not answer")]
#[case::stopped("stopped", "stopped the guest (run state internal-error)")]
#[case::resets("resets", "SHUTDOWN, guest-reset (as after a triple fault)")]
#[case::nonsense_on_qmp("nonsense-on-qmp", "spoke nonsense on its monitor")]
#[case::nonsense_in_step("nonsense-in-step", "*** buffer overflow detected ***")]
fn a_qemu_that_fails_is_told_from_its_guest(#[case] fault: &str, #[case] words: &str) {
    let (error, _) = misadventure(fault);
    assert!(matches!(error, HostError::Qemu { .. }), "{error:?}");
    assert!(error.to_string().contains(words), "{error}");
}

#[rstest]
#[case::never_boots("never-boots", "booting the guest")]
#[case::silent("silent", "filling 0x40000000..0x40010000")]
fn a_guest_that_says_nothing_is_silent(#[case] fault: &str, #[case] words: &str) {
    let (error, _) = misadventure(fault);
    assert!(matches!(error, HostError::GuestSilent { .. }), "{error:?}");
    assert!(error.to_string().contains(words), "{error}");
}

#[test]
fn a_guest_that_panics_says_where() {
    let (error, evidence) = misadventure("panics");
    assert_eq!(
        error.to_string(),
        "guest panicked on vCPU 0 at src/window.rs:77: no such page"
    );
    assert!(evidence.contains("no such page"), "{evidence}");
}

#[test]
fn a_guest_of_another_version_is_refused() {
    let (error, _) = misadventure("other-version");
    assert!(matches!(error, HostError::GuestVersion { .. }), "{error:?}");
}

#[rstest]
#[case::garbage("garbage", "01 ff fe fd")]
#[case::noise("noise", "55 55 55")]
#[case::too_many_vcpus("too-many-vcpus", "in a machine of 1 vCPUs")]
#[case::bell_of_nobody("rings", "vCPU 63 rang, and there are 1")]
#[case::bell_for_nothing("rings-idle", "vCPU 0 rang and asks nothing")]
#[case::bell_without_reply("rings-without-reply", "it rang for a reply, and there is none")]
#[case::long_reply("reply-too-long", "is longer than any")]
#[case::half_a_reply("half-a-reply", "not one whole frame: 00 68 61 6c 66")]
#[case::place("lies-about-place", "a result for 0x40001000 where 0x40000000 is next")]
#[case::count("lies-about-count", "pass 0x40010000")]
#[case::half("says-half", "nothing about 0x40008000 to 0x40010000")]
#[case::flood("floods", "pass 0x40010000")]
#[case::another_request("answers-another-request", "what does not belong here: Idle")]
fn a_guest_that_says_what_cannot_be_lies(#[case] fault: &str, #[case] words: &str) {
    let (error, _) = misadventure(fault);
    assert!(matches!(error, HostError::GuestLies { .. }), "{error:?}");
    assert!(error.to_string().contains(words), "{error}");
}

#[test]
fn a_design_nobody_knows_is_refused_before_anything_starts() {
    let (_programs, program) = fake("dies-at-start");
    let folder = TempDir::new().unwrap();
    let error = SoftHost::at(&program)
        .unwrap()
        .boot(&guest(MIB, 1), &options(&folder, "v9"))
        .err()
        .unwrap();
    assert!(error.to_string().contains("no design `v9`"), "{error}");
}

/// A real QEMU that is killed in the middle of a step.
#[test]
fn a_kill_in_the_middle_is_noticed_at_once() {
    let mut booted = Booted::new(&guest(64 * MIB, 1), "headtail");
    let qemu = super::boot::qemu_of(booted.folder.path());
    booted.perform(&accept(0, 64 * MIB, Size::Size2M));
    let killer = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(20));
        kill(qemu, Signal::SIGKILL)
    });
    let error = loop {
        if let Err(error) = booted.session.perform(&fill(0, 0, 64 * MIB, 1), &[]) {
            break error;
        }
    };
    killer.join().unwrap().unwrap();
    assert!(matches!(error, HostError::Qemu { .. }), "{error:?}");
    assert!(error.to_string().contains("SIGKILL"), "{error}");
}

/// A real QEMU that is stopped from outside: the monitor does not answer either.
#[test]
fn a_stop_in_the_middle_is_a_hang() {
    let host = SoftHost::find().unwrap();
    let folder = TempDir::new().unwrap();
    // Booting has to fit in as well, on a machine that is busy.
    let options = BootOptions {
        patience: Duration::from_secs(5),
        ..options(&folder, "headtail")
    };
    let mut session = host.boot(&guest(4 * MIB, 1), &options).unwrap();
    let qemu = super::boot::qemu_of(folder.path());
    kill(qemu, Signal::SIGSTOP).unwrap();
    let error = session.perform(&fill(0, 0, 4096, 1), &[]).unwrap_err();
    assert!(error.to_string().contains("hangs"), "{error}");
    session.end().unwrap();
    assert!(kill(qemu, None).is_err(), "even a stopped one is gone");
}

#[test]
fn an_interrupt_ends_a_step_and_the_guest() {
    let interrupt: &'static Interrupt = Box::leak(Box::new(Interrupt::new()));
    let (_programs, program) = fake("silent");
    let host = SoftHost::at(&program).unwrap().with_interrupt(interrupt);
    let mut booted = Booted::on(&host, &guest(4 * MIB, 1), "headtail");
    let qemu = super::boot::qemu_of(booted.folder.path());
    std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(50));
        interrupt.raise();
    });
    let began = Instant::now();
    let error = booted
        .session
        .perform(&fill(0, 0, 4096, 1), &[])
        .unwrap_err();
    assert!(matches!(error, HostError::Interrupted), "{error}");
    assert!(began.elapsed() < PATIENCE, "it did not wait for the guest");
    drop(booted);
    assert!(kill(qemu, None).is_err(), "QEMU is gone");
}
