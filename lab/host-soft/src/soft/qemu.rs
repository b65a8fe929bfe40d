//! A QEMU of this host: the processor of a guest, with the micro guest in it.

use std::io::PipeReader;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Instant;

use tdxlab_host::vm::{Vm, Wake};
use tdxlab_host::{BootOptions, HostError, OnHost};
use tdxlab_plan::HostKind;
use tdxlab_protocol::message::Reply;
use tdxlab_qemu::qmp::Ticket;
use tdxlab_qemu::qmp::commands::QueryCpus;
use tdxlab_qemu::{
    Accelerator, Cpu, Line, QemuCommand, QemuError, Ram as QemuRam, RamBacking, fds,
};

use super::SoftHost;
use super::mailbox::Mailbox;
use super::ram::{Ram, RamLayout};

/// A QEMU whose micro guest has said hello.
pub(super) struct Qemu {
    pub(super) vm: Vm,
    pub(super) ram: Arc<Ram>,
    /// The number of the RAM's file in QEMU; the debugfs folder of the VM is named by it.
    pub(super) ram_fd: i32,
    /// Readable when a vCPU makes a request.
    pub(super) doorbell: PipeReader,
    vcpus: u16,
    /// Host threads of the vCPUs, in order of their index.
    pub(super) threads: Vec<u32>,
    /// Guests that ran in it before.
    pub(super) guests_before: u32,
}

impl Qemu {
    /// Starts one, and waits for the greeting.
    pub(super) fn start(
        host: &SoftHost,
        vcpus: u16,
        layout: &RamLayout,
        monitor: Option<Line>,
        options: &BootOptions,
        until: Instant,
    ) -> Result<Qemu, HostError> {
        let (mut vm, doorbell) = start_process(host, vcpus, layout, monitor)?;
        if let Some(nice) = host.nice {
            renice(vm.process().pid(), nice)?;
        }
        match get_ready(&mut vm, vcpus, layout, options, until) {
            Ok((ram, ram_fd, threads)) => Ok(Qemu {
                vm,
                ram: Arc::new(ram),
                ram_fd,
                doorbell,
                vcpus,
                threads,
                guests_before: 0,
            }),
            Err(error) => {
                vm.leave_evidence(&options.folder);
                Err(error)
            }
        }
    }

    /// How many vCPUs it has.
    pub(super) fn vcpus(&self) -> u16 {
        self.vcpus
    }
}

/// Waits for the greeting; the RAM, the number of its file in QEMU, and the threads of the vCPUs.
fn get_ready(
    vm: &mut Vm,
    vcpus: u16,
    layout: &RamLayout,
    options: &BootOptions,
    until: Instant,
) -> Result<(Ram, i32, Vec<u32>), HostError> {
    // Query now, so that the answer is available when needed.
    let cpus = vm
        .qmp()
        .send(&QueryCpus {})
        .map_err(|error| QemuError::from(error).on(HostKind::Soft))?;
    hello(vm, vcpus, options, until)?;

    let mut taken =
        fds::take(vm.process(), fds::MEMORY_BACKEND).map_err(|error| error.on(HostKind::Soft))?;
    let taken = taken.swap_remove(0);
    let ram = Ram::map(taken.file, layout.bytes).map_err(|source| HostError::System {
        doing: "mapping the memory of QEMU".into(),
        source,
    })?;
    Mailbox::check(&ram).map_err(|what| HostError::GuestLies { what })?;
    Ok((ram, taken.number, threads(vm, &cpus, until)?))
}

/// Raises the nice value of a QEMU, which is a process group, and all its threads.
fn renice(pid: u32, nice: i32) -> Result<(), HostError> {
    // SAFETY: takes numbers only.
    match unsafe { libc::setpriority(libc::PRIO_PGRP, pid, nice) } {
        0 => Ok(()),
        _ => Err(HostError::System {
            doing: "making QEMU nicer".into(),
            source: std::io::Error::last_os_error(),
        }),
    }
}

/// Starts QEMU, with a doorbell.
fn start_process(
    host: &SoftHost,
    vcpus: u16,
    layout: &RamLayout,
    monitor: Option<Line>,
) -> Result<(Vm, PipeReader), HostError> {
    let mut doorbell = None;
    let mut vm = Vm::start(
        HostKind::Soft,
        tdxlab_guest_image::IMAGE,
        host.interrupt,
        |ends| {
            let (ours, theirs) = ends.pipe()?;
            doorbell = Some(ours);
            Ok(QemuCommand {
                program: host.qemu.program.clone(),
                version: host.qemu.version,
                accelerator: Accelerator::Tcg,
                cpu: Cpu::Max,
                vcpus,
                ram: QemuRam {
                    mebibytes: layout.bytes >> 20,
                    backing: RamBacking::Memfd,
                },
                image: ends.image.clone(),
                qmp: ends.qmp.clone(),
                monitor,
                serial: ends.serial.clone(),
                console: None,
                doorbell: Some(theirs),
                td: None,
                paused: false,
            })
        },
    )
    .map_err(|error| error.on(HostKind::Soft))?;
    let doorbell = doorbell.expect("the description was asked for");
    vm.watch(doorbell.as_fd())
        .map_err(|error| error.on(HostKind::Soft))?;
    Ok((vm, doorbell))
}

/// Waits for the guest's first word.
fn hello(vm: &mut Vm, vcpus: u16, options: &BootOptions, until: Instant) -> Result<(), HostError> {
    const DOING: &str = "booting the guest";
    loop {
        match vm.agent().next_reply()? {
            Some(Reply::Hello(hello)) if hello.vcpus != vcpus || hello.td => {
                return Err(HostError::GuestLies {
                    what: format!("{hello:?} in a machine of {vcpus} vCPUs"),
                });
            }
            Some(Reply::Hello(_)) => return Ok(()),
            Some(reply) => {
                return Err(HostError::GuestLies {
                    what: format!("{reply:?} in place of a greeting"),
                });
            }
            None => {}
        }
        if vm.wait(until, DOING)? == Wake::Late {
            return Err(vm.silent(DOING, options.patience));
        }
    }
}

/// The host threads of the vCPUs, in order of their index.
fn threads(vm: &mut Vm, asked: &Ticket<QueryCpus>, until: Instant) -> Result<Vec<u32>, HostError> {
    let mut cpus = vm.answer(asked, until, "asking QEMU for its vCPUs")?;
    cpus.sort_by_key(|cpu| cpu.cpu_index);
    Ok(cpus.into_iter().map(|cpu| cpu.thread_id).collect())
}
