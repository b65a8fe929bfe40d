//! Memory that is plugged into a running guest, by virtio-mem: QEMU offers it, Linux asks for it, adds it
//! and has it.
//!
//! A guest must have all of it. A TD has it in name only today: Linux adds it to what is free without
//! accepting it, and no TD survives the first use of such a page. A scenario that says so (`ends: true`) has
//! it used at once, and is judged by that end.

use std::thread;
use std::time::{Duration, Instant};

use tdxlab_journal::verdict::{Finding, Witness};
use tdxlab_journal::{Reading, klog};
use tdxlab_linux::account::{self, MemInfo, Resource};
use tdxlab_linux::machine::PLUGGED;
use tdxlab_linux::{LinuxError, LinuxGuest};
use tdxlab_plan::addr::{Gpa, GpaRange, PageLevel};
use tdxlab_protocol::linux::{Ask, Load, Witness as File};
use tdxlab_qemu::qmp::QmpError;
use tdxlab_qemu::qmp::commands::{GetNumber, SetNumber};

use crate::court::Court;
use crate::ending::Left;
use crate::laws;

/// Longest that QEMU may take for a command.
const MONITOR: Duration = Duration::from_secs(10);

/// Longest that Linux may take to add what it was offered.
const PATIENCE: Duration = Duration::from_secs(120);

/// Interval of looks at it.
const TICK: Duration = Duration::from_millis(300);

/// Linux's name for memory of virtio-mem in /proc/iomem. Source: `virtio_mem_probe()`.
const RESOURCE: &str = "System RAM (virtio_mem)";

/// What came of it.
#[derive(Debug)]
pub(crate) enum Plugged {
    /// QEMU refused to offer it.
    Refused(String),
    /// The guest lives.
    Lives {
        /// What it had before.
        before: Memory,
        /// What it has now.
        after: Memory,
    },
    /// The guest ended.
    Ended {
        /// Where the memory was to appear.
        region: GpaRange,
        /// The error that every other step would end with.
        why: String,
    },
}

/// A guest's memory, as QEMU and Linux see it, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Memory {
    /// What the device has plugged.
    device: u64,
    /// Memory of virtio-mem in /proc/iomem.
    listed: u64,
    /// MemTotal.
    total: u64,
}

/// Offers `bytes` more, and waits until Linux has them, or is no more. `ends`: whether to have them used,
/// so that the guest ends.
pub(crate) fn perform(
    guest: &mut LinuxGuest,
    bytes: u64,
    ends: bool,
) -> Result<Plugged, LinuxError> {
    let before = look(guest)?;
    let start = monitor(guest, &GetNumber::of(PLUGGED, "memaddr"))?;
    let offer = SetNumber::of(PLUGGED, "requested-size", before.device + bytes);
    match guest.qmp().execute(&offer, MONITOR) {
        Ok(_) => {}
        Err(QmpError::Refused { reason, .. }) => return Ok(Plugged::Refused(reason)),
        // Why it ended is found out below.
        Err(QmpError::Closed) => {}
        Err(error) => return Err(failed(error)),
    }
    let region = GpaRange::with_len(Gpa::new(start + before.device), bytes);
    let region = region.ok_or_else(|| LinuxError::Lies {
        doing: "while memory was plugged".to_owned(),
        what: format!("QEMU's monitor names {start:#x} as the address of memory"),
    })?;
    let until = Instant::now() + PATIENCE;
    let mut added = || {
        loop {
            let after = look(guest)?;
            let has = after.total >= before.total.saturating_add(bytes);
            if has && ends {
                use_it(guest, bytes)?;
                return look(guest);
            } else if has || Instant::now() > until {
                return Ok(after);
            }
            thread::sleep(TICK);
        }
    };
    match added() {
        Ok(after) => Ok(Plugged::Lives { before, after }),
        Err(error @ (LinuxError::Ended { .. } | LinuxError::Panic { .. })) => {
            let why = error.to_string();
            Ok(Plugged::Ended { region, why })
        }
        Err(error) => Err(error),
    }
}

/// Writes to more memory than there was before `bytes` were added.
fn use_it(guest: &mut LinuxGuest, bytes: u64) -> Result<(), LinuxError> {
    let memory = MemInfo::parse(&guest.read(File::MemInfo)?);
    let available = memory.bytes("MemAvailable").unwrap_or(bytes);
    let bytes = available.saturating_sub(bytes / 4) & !(PageLevel::Size4K.bytes() - 1);
    let load = Load::Touch {
        bytes,
        processes: 1,
    };
    // How it ends is of no interest where the guest lives.
    guest.ask(Ask::Load(load)).map(|_| ())
}

fn look(guest: &mut LinuxGuest) -> Result<Memory, LinuxError> {
    // The guest first: it knows why it ended, the monitor only that.
    let total = MemInfo::parse(&guest.read(File::MemInfo)?).bytes("MemTotal");
    let resources = account::iomem(&guest.read(File::IoMem)?);
    let of_device = |resource: &&Resource| resource.name == RESOURCE;
    let listed = resources.iter().filter(of_device);
    Ok(Memory {
        device: monitor(guest, &GetNumber::of(PLUGGED, "size"))?,
        listed: listed.map(|resource| resource.range.bytes()).sum(),
        total: total.ok_or_else(|| LinuxError::Lies {
            doing: "while reading meminfo".to_owned(),
            what: "it has no MemTotal".to_owned(),
        })?,
    })
}

fn monitor(guest: &mut LinuxGuest, command: &GetNumber) -> Result<u64, LinuxError> {
    guest.qmp().execute(command, MONITOR).map_err(failed)
}

fn failed(error: QmpError) -> LinuxError {
    LinuxError::System {
        doing: "plugging memory by QEMU's monitor".to_owned(),
        source: std::io::Error::other(error),
    }
}

/// In words, each with the way it is judged.
pub(crate) fn text(bytes: u64, ends: bool) -> Vec<String> {
    match ends {
        true => vec![
            "must hold: the guest ends when it uses what was plugged, as Linux does not accept it, and \
             the host's kernel says so of a page in it"
                .to_owned(),
        ],
        false => vec![format!(
            "exactly: {} MiB more at QEMU's device, in /proc/iomem and in MemTotal",
            bytes >> 20
        )],
    }
}

/// Judges a guest that must live and have the memory.
pub(crate) fn judge(court: &mut Court, bytes: u64, seen: &Plugged) {
    court.hear(Witness::Agent);
    match seen {
        Plugged::Lives { before, after } => {
            let since = |after: u64, before: u64| after.saturating_sub(before) >> 10;
            court.show(format!(
                "MemTotal {} MiB, before {} MiB",
                after.total >> 20,
                before.total >> 20
            ));
            for (what, after, before) in [
                ("KiB plugged by QEMU", after.device, before.device),
                ("KiB more in /proc/iomem", after.listed, before.listed),
                ("KiB more in MemTotal", after.total, before.total),
            ] {
                court.equal(Witness::Agent, what, bytes >> 10, since(after, before));
            }
        }
        Plugged::Refused(reason) => {
            court.find(Finding::wrong(Witness::Agent, "memory plugged", reason));
        }
        Plugged::Ended { why, .. } => {
            court.find(Finding::wrong(Witness::Agent, "a guest that lives", why));
        }
    }
}

const ENDS: &str = "a guest that ends when memory is plugged";

/// Judges a guest that must end by it. `left` looks at what it left.
///
/// QEMU and the agent see an end and not its reason: the host's kernel log alone tells this death from
/// every other, so nothing is judged where it cannot be read, and no other witness counts as heard. There is
/// none without KVM, where `left` gives `None`.
pub(crate) fn judge_end(court: &mut Court, seen: &Plugged, left: impl FnOnce() -> Option<Left>) {
    let (region, why) = match seen {
        Plugged::Ended { region, why } => (region, why),
        Plugged::Refused(reason) => {
            let found = format!("QEMU offers nothing: {reason}");
            court.find(Finding::wrong(Witness::Agent, ENDS, found));
            return;
        }
        Plugged::Lives { before, after } => {
            let found = format!(
                "it lives, and MemTotal has grown by {} MiB: this kernel seems to support it; take \
                 `ends` out of the scenario, and let it fill that memory",
                after.total.saturating_sub(before.total) >> 20
            );
            court.find(Finding::wrong(Witness::Agent, ENDS, found));
            return;
        }
    };
    court.show(format!("plugged at {region}"));
    court.show(why.clone());
    let Some((left, complaints)) = left() else {
        court.miss(Witness::KernelLog, "there is no KVM");
        return;
    };
    for line in complaints.left().into_iter().flatten() {
        court.show(format!("the host's kernel: {line}"));
    }
    let told = complaints.left().is_some_and(|complaints| {
        let mut used = complaints
            .iter()
            .filter_map(|line| klog::used_before_accept(line));
        used.any(|gpa| region.contains(gpa))
    });
    let judged = match &complaints {
        // What the kernel said of this death cannot be taken back by lines that were lost.
        _ if told => {
            court.hear(Witness::KernelLog);
            true
        }
        Reading::Read(complaints) => {
            let expected = format!("a page of {region} used before it was accepted");
            let found = complaints.first().map_or("no such line", String::as_str);
            court.find(Finding::wrong(Witness::KernelLog, expected, found));
            true
        }
        Reading::Incomplete { reason, .. } => {
            let expected = "the line that tells why it ended, or a log without it";
            court.find(Finding::impossible(Witness::KernelLog, expected, reason));
            false
        }
        Reading::Missing { reason } => {
            court.miss(Witness::KernelLog, reason);
            false
        }
    };
    match left {
        Reading::Read(left) if judged || left > 0 => {
            court.equal(Witness::Remains, laws::VMS, 0, left);
        }
        Reading::Read(_) => {}
        Reading::Missing { reason } | Reading::Incomplete { reason, .. } => {
            court.miss(Witness::Remains, &reason);
        }
    }
}

#[cfg(test)]
mod tests {
    use tdxlab_journal::verdict::{Judgement, Verdict};

    use super::*;

    const BYTES: u64 = 128 << 20;

    fn memory(device: u64, listed: u64, total: u64) -> Memory {
        Memory {
            device,
            listed,
            total,
        }
    }

    fn lives(after: Memory) -> Plugged {
        let before = memory(0, 0, 500 << 20);
        Plugged::Lives { before, after }
    }

    fn ended() -> Plugged {
        Plugged::Ended {
            region: GpaRange::with_len(Gpa::new(4 << 30), BYTES).unwrap(),
            why: "QEMU ended".to_owned(),
        }
    }

    fn lived(seen: &Plugged) -> Judgement {
        let mut court = Court::default();
        judge(&mut court, BYTES, seen);
        court.finish().0
    }

    fn died(seen: &Plugged, left: u64, says: &str) -> Judgement {
        let mut court = Court::default();
        let complaints = Reading::Read(vec![says.to_owned()]);
        judge_end(&mut court, seen, || Some((Reading::Read(left), complaints)));
        court.finish().0
    }

    fn fails(judgement: &Judgement, says: &str) {
        assert_eq!(judgement.verdict, Verdict::Fail, "{says}");
        let said = judgement.findings[0].to_string();
        assert!(said.contains(says), "{said}");
    }

    #[test]
    fn a_guest_that_lives_has_all_of_it_everywhere() {
        let all = lives(memory(BYTES, BYTES, BYTES + (500 << 20)));
        assert_eq!(lived(&all).verdict, Verdict::Pass);
        let not_online = lives(memory(BYTES, BYTES, 500 << 20));
        fails(&lived(&not_online), "found 0 KiB more in MemTotal");
        let part = lives(memory(BYTES / 2, BYTES, BYTES + (500 << 20)));
        fails(&lived(&part), "found 65536 KiB plugged by QEMU");
        fails(&lived(&ended()), "QEMU ended");
        fails(&lived(&Plugged::Refused("no slot".to_owned())), "no slot");
    }

    #[test]
    fn a_death_that_nobody_can_tell_from_others_is_not_judged() {
        let judged = |left: Option<Left>| {
            let mut court = Court::default();
            judge_end(&mut court, &ended(), || left);
            court.finish().0
        };
        let no_log = || Reading::missing("no /dev/kmsg");
        for left in [
            None,
            Some((Reading::missing("no debugfs"), no_log())),
            Some((Reading::Read(0), no_log())),
        ] {
            let judgement = judged(left);
            assert_eq!(judgement.verdict, Verdict::Error, "{judgement:?}");
            assert_eq!(judgement.heard, [], "no other witness tells deaths apart");
            let missing = judgement.missing.iter().map(|missing| missing.witness);
            assert!(missing.into_iter().any(|one| one == Witness::KernelLog));
        }
        let stays = judged(Some((Reading::Read(1), no_log())));
        fails(&stays, "0 VMs of this QEMU");
    }

    #[test]
    fn a_death_is_told_by_what_is_left_of_the_log_and_by_nothing_that_is_lost() {
        let judged = |line: &str| {
            let complaints = Reading::Incomplete {
                reason: "records were overwritten".to_owned(),
                rest: Some(vec![line.to_owned()]),
            };
            let mut court = Court::default();
            judge_end(&mut court, &ended(), || {
                Some((Reading::Read(0), complaints))
            });
            court.finish().0.verdict
        };
        let says = "kvm_intel: Guest access before accepting 0x100000000 on vCPU 0";
        assert_eq!(judged(says), Verdict::Pass);
        assert_eq!(judged("kvm: x"), Verdict::Error);
    }

    #[test]
    fn a_guest_that_ends_was_at_what_was_plugged() {
        let says = |gpa: &str| format!("kvm_intel: Guest access before accepting {gpa} on vCPU 0");
        let right = died(&ended(), 0, &says("0x100000000"));
        assert_eq!(right.verdict, Verdict::Pass);
        fails(
            &died(&ended(), 0, &says("0x7e000")),
            "before it was accepted",
        );
        fails(&died(&ended(), 0, "x"), "found x");
        fails(
            &died(&ended(), 1, &says("0x100000000")),
            "0 VMs of this QEMU",
        );
        let changed = lives(memory(BYTES, BYTES, BYTES + (500 << 20)));
        fails(&died(&changed, 0, "x"), "take `ends` out of the scenario");
    }
}
