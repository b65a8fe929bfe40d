//! Guests that come one after the other into one QEMU: nothing of one is seen by the next, and only a
//! guest that ended in good order leaves its QEMU to another.

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tdxlab::plan::{AccessKind, OnVe};
use tdxlab_protocol::message::{Content, Run};

use super::boot::qemu_of;
use super::booted::*;

/// A guest for which a used QEMU will do.
fn boot(host: &SoftHost, guest: &Guest) -> (Booted, Pid) {
    boot_if(host, guest, false)
}

fn boot_if(host: &SoftHost, guest: &Guest, fresh: bool) -> (Booted, Pid) {
    let folder = TempDir::new().unwrap();
    let options = BootOptions {
        fresh,
        ..options(&folder, "headtail")
    };
    let session = host.boot(guest, &options).unwrap();
    let pid = qemu_of(folder.path());
    (Booted { session, folder }, pid)
}

fn touch(vcpu: u16, start: u64, end: u64) -> Op {
    Op::Touch {
        range: range(start, end),
        stride: SMALL,
        access: AccessKind::Read,
        side: Side::Private,
        on_ve: OnVe::Skip,
        same_rip: false,
        vcpu: VcpuId(vcpu),
    }
}

#[test]
fn the_next_guest_finds_nothing_of_the_last() {
    let host = SoftHost::find().unwrap();
    let (mut first, pid) = boot(&host, &guest(64 * MIB, 3));
    for vcpu in 0..3 {
        let start = u64::from(vcpu) * 4 * MIB;
        first.perform(&accept_on(vcpu, start, start + 4 * MIB, Size::Size2M));
        first.perform(&fill(vcpu, start, start + 4 * MIB, 1));
        // Its last translations; an emulated TLB has room for these.
        first.perform(&touch(vcpu, start, start + 256 * 1024));
    }
    assert_eq!(first.counters().pages_2m, 6);
    first.session.end().unwrap();

    let (mut second, used) = boot(&host, &guest(128 * MIB, 3));
    assert_eq!((used, second.session.guests_before()), (pid, 1));
    assert_eq!(second.counters(), PageCounters::default());
    for vcpu in [2, 1, 0] {
        let start = u64::from(vcpu) * 4 * MIB;
        // A translation of the first guest's would read something here, without a fault.
        let missing = second.perform(&touch(vcpu, start, start + 256 * 1024));
        assert_eq!(missing.counts.ve, 64, "vCPU {vcpu}: {:?}", missing.runs);
        second.perform(&accept_on(vcpu, start, start + 4 * MIB, Size::Size2M));
        let seen = second.perform(&verify(start, start + 4 * MIB));
        let zeros = |run: &Run| {
            matches!(
                run,
                Run::Content {
                    content: Content::Zero,
                    ..
                }
            )
        };
        assert!(seen.runs.iter().all(zeros), "vCPU {vcpu}: {:?}", seen.runs);
    }
    let ending = second.session.end().unwrap();
    assert!(
        ending
            .taken
            .iter()
            .all(|taken| taken.after.value() == Some(&0)),
        "{ending:?}"
    );
}

#[test]
fn a_guest_that_wants_a_fresh_qemu_gets_one() {
    let host = SoftHost::find().unwrap();
    let (first, pid) = boot(&host, &guest(64 * MIB, 1));
    first.session.end().unwrap();
    let (second, fresh) = boot_if(&host, &guest(64 * MIB, 1), true);
    assert_ne!(pid, fresh);
    assert_eq!(second.session.guests_before(), 0);
}

#[test]
fn a_qemu_with_other_vcpus_or_ram_is_not_used() {
    let host = SoftHost::find().unwrap();
    let (first, pid) = boot(&host, &guest(64 * MIB, 2));
    first.session.end().unwrap();
    for guest in [guest(64 * MIB, 1), guest(16 << 30, 2)] {
        let (other, pid_of_other) = boot(&host, &guest);
        assert_ne!(pid, pid_of_other);
        other.session.end().unwrap();
    }
    let (_, again) = boot(&host, &guest(32 * MIB, 2));
    assert_eq!(pid, again, "it waits until its like is wanted");
}

#[test]
fn a_td_that_died_takes_its_qemu_along() {
    let host = SoftHost::find().unwrap();
    let deadly = Guest {
        sept_ve_disable: true,
        ..guest(64 * MIB, 1)
    };
    let (mut first, pid) = boot(&host, &deadly);
    let touched = first.perform(&touch(0, 0, 4096));
    assert!(touched.death.is_some(), "{touched:?}");
    first.session.end().unwrap();
    assert_eq!(kill(pid, None), Err(Errno::ESRCH));
    let (second, _) = boot(&host, &guest(64 * MIB, 1));
    assert_eq!(second.session.guests_before(), 0);
}

#[test]
fn a_session_that_is_dropped_takes_its_qemu_along() {
    let host = SoftHost::find().unwrap();
    let (first, pid) = boot(&host, &guest(64 * MIB, 1));
    drop(first);
    assert_eq!(kill(pid, None), Err(Errno::ESRCH));
}

#[test]
fn a_qemu_that_died_while_it_waited_is_not_used() {
    let host = SoftHost::find().unwrap();
    let (first, pid) = boot(&host, &guest(64 * MIB, 1));
    first.session.end().unwrap();
    kill(pid, Signal::SIGKILL).unwrap();
    let (mut second, _) = boot(&host, &guest(64 * MIB, 1));
    assert_eq!(second.session.guests_before(), 0);
    second.perform(&accept(0, 2 * MIB, Size::Size2M));
}

#[test]
fn qemus_that_wait_are_few_and_end_with_their_host() {
    let host = SoftHost::find().unwrap();
    let pids: Vec<Pid> = (1..=10)
        .map(|vcpus| {
            let (booted, pid) = boot(&host, &guest(4 * MIB, vcpus));
            booted.session.end().unwrap();
            pid
        })
        .collect();
    let alive = || pids.iter().filter(|pid| kill(**pid, None).is_ok()).count();
    assert_eq!(alive(), 8);
    assert_eq!(kill(pids[0], None), Err(Errno::ESRCH), "the oldest");
    let other = host.clone();
    drop(host);
    assert_eq!(alive(), 8, "a clone shares them");
    drop(other);
    assert_eq!(alive(), 0);
}
