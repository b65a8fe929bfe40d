//! Boots a session for a plan's guest.

use std::fs;
use std::path::Path;
use std::time::Instant;

use tdxlab_host::attach::Attachment;
use tdxlab_host::vm::{Vm, Wake};
use tdxlab_host::{BootOptions, HostError, OnHost};
use tdxlab_plan::{Backing, Guest, HIGH_BASE, HostKind};
use tdxlab_protocol::addr::{Gpa, PageLevel};
use tdxlab_protocol::message::{Hello, Reply, Request, VERSION, Windows};
use tdxlab_qemu::{Accelerator, Cpu, Line, QemuCommand, Ram, RamBacking, TestPages};

use super::memory::{self, TestMemory};
use super::registers::registers;
use super::session::{KvmSession, Watch};
use super::{KvmHost, hugetlb};
use crate::remains::Before;

/// Where q35 cuts memory that reaches beyond 2.75 GiB: the rest is above 4 GiB.
const CUT: Gpa = Gpa::new(2 << 30);

/// Failure of QEMU before 8.0 when its dirty ring reaper, which runs once a second, finds a vCPU
/// that is not created yet ("check if vcpu is created before dirty_ring_reap_one"). The guest has
/// not run by then, and on a machine that is not too busy a retry succeeds.
const REAPED_TOO_SOON: &str = "kvm_dirty_ring_reap_one: Assertion `dirty_gfns && ring_size'";

/// How often such a guest is started again.
const RETRIES: u32 = 5;

/// Boots a guest up to the point where it takes commands.
pub(super) fn boot(
    host: &KvmHost,
    guest: &Guest,
    options: &BootOptions,
) -> Result<KvmSession, HostError> {
    let refused = |reason: &str, advice: &str| HostError::NotUsable {
        host: HostKind::Kvm,
        reason: reason.to_owned(),
        advice: advice.to_owned(),
    };
    let backing = guest.backing.ok_or_else(|| {
        refused(
            "plain VMs have no private memory",
            "say in the scenario with `backing` what is behind it",
        )
    })?;
    if !guest.memory.bytes().is_multiple_of(1 << 20) {
        return Err(refused(
            "QEMU gives memory by the MiB",
            "make `memory` a multiple of 1M",
        ));
    }
    let until = Instant::now() + options.patience;
    let attachment = Attachment::if_wanted(host.attachable)?;
    let monitor = attachment.as_ref().map(Attachment::monitor);
    let short = |reason: &str| refused(reason, "or run fewer scenarios at once, with --jobs");
    let begin = || {
        let begin = || begin(host, guest, backing, monitor.clone(), options, until);
        let mut begun = begin();
        for _ in 0..RETRIES {
            match &begun {
                Err(error) if error.to_string().contains(REAPED_TOO_SOON) => {
                    begun = begin();
                }
                _ => break,
            }
        }
        begun
    };
    let (begun, held) = hugetlb::reserved(
        &host.places.pools(),
        backing,
        guest.memory,
        until,
        short,
        begin,
    )?;
    let Begun { vm, memory, watch } = begun;
    let patience = options.patience;
    let watch = (watch, host.places.tracefs.clone());
    Ok(KvmSession::new(
        vm, memory, watch, held, patience, attachment,
    ))
}

/// A guest that takes commands.
struct Begun {
    vm: Vm,
    memory: TestMemory,
    watch: Watch,
}

fn begin(
    host: &KvmHost,
    guest: &Guest,
    backing: Backing,
    monitor: Option<Line>,
    options: &BootOptions,
    until: Instant,
) -> Result<Begun, HostError> {
    let before = Before::of(host.places.in_use(), false);
    let mut vm = start(host, guest, backing, monitor)?;
    // Before the guest touches memory, so that no event is missed.
    let watch = Watch::new(&host.places, vm.process().pid(), before);
    let ready = hello(&mut vm, guest, options, until)
        .and_then(|_| configure(&mut vm, guest, options, until))
        .and_then(|()| TestMemory::take(vm.process(), guest.memory));
    match ready {
        Ok(memory) => Ok(Begun { vm, memory, watch }),
        Err(error) => {
            leave_evidence(&mut vm, &options.folder);
            Err(error)
        }
    }
}

/// Evidence of a guest that never became a session.
fn leave_evidence(vm: &mut Vm, folder: &Path) {
    vm.leave_evidence(folder);
    if let Some((name, content)) = registers(vm) {
        let _ = fs::write(folder.join(name), content);
    }
}

fn start(
    host: &KvmHost,
    guest: &Guest,
    backing: Backing,
    monitor: Option<Line>,
) -> Result<Vm, HostError> {
    let own = match guest.memory.start() {
        HIGH_BASE => CUT,
        start => start,
    };
    Vm::start(
        HostKind::Kvm,
        tdxlab_guest_image::IMAGE,
        host.interrupt,
        |ends| {
            let test = match backing {
                Backing::Small => TestPages::Small,
                Backing::Transparent => {
                    let file = memory::file(guest.memory)?;
                    TestPages::Transparent(ends.inherit(file))
                }
                Backing::Hugetlb2M => TestPages::Hugetlb(PageLevel::Size2M),
                Backing::Hugetlb1G => TestPages::Hugetlb(PageLevel::Size1G),
            };
            Ok(QemuCommand {
                program: host.qemu.program.clone(),
                version: host.qemu.version,
                accelerator: Accelerator::Kvm,
                cpu: Cpu::Host,
                vcpus: guest.vcpus,
                ram: Ram {
                    mebibytes: (own.as_u64() + guest.memory.bytes()) >> 20,
                    backing: RamBacking::Parted {
                        own_mebibytes: own.as_u64() >> 20,
                        test,
                    },
                },
                image: ends.image.clone(),
                qmp: ends.qmp.clone(),
                monitor,
                serial: ends.serial.clone(),
                console: None,
                doorbell: None,
                td: None,
                paused: false,
            })
        },
    )
    .map_err(|error| error.on(HostKind::Kvm))
}

/// Waits for the guest's first word.
fn hello(
    vm: &mut Vm,
    guest: &Guest,
    options: &BootOptions,
    until: Instant,
) -> Result<Hello, HostError> {
    let lies = |what| Err(HostError::GuestLies { what });
    match reply(vm, options, until, "booting the guest")? {
        Reply::Hello(hello) if hello.vcpus == guest.vcpus && !hello.td => Ok(hello),
        Reply::Hello(hello) => lies(format!("{hello:?} in a plain VM of {} vCPUs", guest.vcpus)),
        reply => lies(format!("{reply:?} in place of a greeting")),
    }
}

/// Has the guest map its windows straight onto its memory.
fn configure(
    vm: &mut Vm,
    guest: &Guest,
    options: &BootOptions,
    until: Instant,
) -> Result<(), HostError> {
    let windows = Windows::Direct {
        limit: guest.memory.end(),
    };
    vm.agent().send(&Request::Configure {
        version: VERSION,
        windows,
    })?;
    match reply(vm, options, until, "setting up the guest")? {
        Reply::Ready { vcpus } if vcpus == guest.vcpus => Ok(()),
        reply => Err(HostError::GuestLies {
            what: format!("{reply:?} where {} vCPUs should be ready", guest.vcpus),
        }),
    }
}

/// Waits for a reply of the guest.
fn reply(
    vm: &mut Vm,
    options: &BootOptions,
    until: Instant,
    doing: &str,
) -> Result<Reply, HostError> {
    loop {
        if let Some(reply) = vm.agent().next_reply()? {
            return Ok(reply);
        }
        match vm.wait(until, doing)? {
            Wake::Late => return Err(vm.silent(doing, options.patience)),
            Wake::Events => drop(vm.take_events()),
            Wake::Serial | Wake::Extra => {}
        }
    }
}
