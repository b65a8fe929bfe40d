//! Boots a session for a plan's guest.

use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Instant;

use tdxlab_host::attach::Attachment;
use tdxlab_host::vm::{Vm, Wake};
use tdxlab_host::{BootOptions, HostError, OnHost};
use tdxlab_kernel::emulated::EmulatedFiles;
use tdxlab_plan::{Guest, HostKind};
use tdxlab_protocol::message::{Hello, Reply, Request, VERSION, Windows};
use tdxlab_qemu::qmp::Ticket;
use tdxlab_qemu::qmp::commands::QueryCpus;
use tdxlab_qemu::{
    Accelerator, Cpu, Line, QemuCommand, QemuError, Ram as QemuRam, RamBacking, fds,
};
use tdxlab_softkvm::{Config, SoftKvm};

use super::SoftHost;
use super::core::Core;
use super::machine::SoftMachine;
use super::mailbox::Mailbox;
use super::ram::{Ram, RamLayout};
use super::session::SoftSession;
use crate::software;

/// Boots a guest up to the point where it takes commands.
pub(super) fn boot(
    host: &SoftHost,
    guest: &Guest,
    options: &BootOptions,
) -> Result<SoftSession, HostError> {
    // Errors in the plan are reported before anything starts.
    let config = software::config(HostKind::Soft, guest, options, host.software.module)?;
    let until = Instant::now() + options.patience;
    let layout = RamLayout::for_memory(guest.memory);
    let attachment = Attachment::if_wanted(host.attachable)?;
    let monitor = attachment.as_ref().map(Attachment::monitor);
    let (mut vm, doorbell) = start(host, guest, &layout, monitor)?;
    if let Some(nice) = host.nice {
        renice(vm.process().pid(), nice)?;
    }
    let parts = match get_ready(&mut vm, host, guest, options, layout, config, until) {
        Ok(parts) => parts,
        Err(error) => {
            vm.leave_evidence(&options.folder);
            return Err(error);
        }
    };
    let core = Core::new(parts.kvm, parts.mailbox, doorbell, guest.vcpus).map_err(|source| {
        HostError::System {
            doing: "using a socket pair".into(),
            source,
        }
    })?;
    let patience = options.patience;
    let mut session = SoftSession::new(
        vm,
        core,
        parts.kernel,
        Arc::clone(&host.software.policy),
        guest.memory,
        patience,
        attachment,
    );
    match session.configure(guest.vcpus, until) {
        Ok(()) => Ok(session),
        Err(error) => {
            session.vm.leave_evidence(&options.folder);
            Err(error)
        }
    }
}

/// Parts connected to a guest before it continues.
struct Parts {
    kvm: SoftKvm<SoftMachine>,
    mailbox: Mailbox,
    kernel: EmulatedFiles,
}

/// Waits for the guest's greeting, and puts a software KVM under it.
fn get_ready(
    vm: &mut Vm,
    host: &SoftHost,
    guest: &Guest,
    options: &BootOptions,
    layout: RamLayout,
    config: Config,
    until: Instant,
) -> Result<Parts, HostError> {
    // Query now, so that the answer is available when needed.
    let cpus = vm
        .qmp()
        .send(&QueryCpus {})
        .map_err(|error| QemuError::from(error).on(HostKind::Soft))?;
    hello(vm, guest, options, until)?;

    let mut taken =
        fds::take(vm.process(), fds::MEMORY_BACKEND).map_err(|error| error.on(HostKind::Soft))?;
    let taken = taken.swap_remove(0);
    let ram = Ram::map(taken.file, layout).map_err(|source| HostError::System {
        doing: "mapping the memory of QEMU".into(),
        source,
    })?;
    let ram = Arc::new(ram);
    let mailbox = Mailbox::new(ram.clone(), guest.vcpus);
    mailbox
        .check()
        .map_err(|what| HostError::GuestLies { what })?;

    let machine = SoftMachine::new(ram, mailbox.clone(), options.patience);
    let mut kvm = SoftKvm::new(machine, config, (host.software.policy)())
        .map_err(|error| software::refused(HostKind::Soft, &error))?;
    kvm.machine_mut().trouble()?;
    let threads = threads(vm, &cpus, until)?;
    kvm.set_threads(threads, nix::unistd::gettid().as_raw().cast_unsigned());

    let pid = vm.process().pid();
    let kernel = EmulatedFiles::new(&options.folder, pid, taken.number).map_err(|source| {
        HostError::System {
            doing: format!("laying out kernel files in {}", options.folder.display()),
            source,
        }
    })?;
    Ok(Parts {
        kvm,
        mailbox,
        kernel,
    })
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
fn start(
    host: &SoftHost,
    guest: &Guest,
    layout: &RamLayout,
    monitor: Option<Line>,
) -> Result<(Vm, UnixStream), HostError> {
    let mut doorbell = None;
    let vm = Vm::start(
        HostKind::Soft,
        tdxlab_guest_image::IMAGE,
        host.interrupt,
        |ends| {
            let (ours, theirs) = ends.another_line()?;
            doorbell = Some(ours);
            Ok(QemuCommand {
                program: host.qemu.program.clone(),
                version: host.qemu.version,
                accelerator: Accelerator::Tcg,
                cpu: Cpu::Max,
                vcpus: guest.vcpus,
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
    Ok((vm, doorbell))
}

/// Waits for the guest's first word.
fn hello(
    vm: &mut Vm,
    guest: &Guest,
    options: &BootOptions,
    until: Instant,
) -> Result<Hello, HostError> {
    const DOING: &str = "booting the guest";
    loop {
        match vm.agent().next_reply()? {
            Some(Reply::Hello(hello)) if hello.vcpus != guest.vcpus || hello.td => {
                return Err(HostError::GuestLies {
                    what: format!("{hello:?} in a machine of {} vCPUs", guest.vcpus),
                });
            }
            Some(Reply::Hello(hello)) => return Ok(hello),
            Some(reply) => {
                return Err(HostError::GuestLies {
                    what: format!("{reply:?} in place of a greeting"),
                });
            }
            None => {}
        }
        if vm.wait(None, until, DOING)? == Wake::Late {
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

impl SoftSession {
    /// Makes the guest use the windows, whose tables are set up now.
    fn configure(&mut self, vcpus: u16, until: Instant) -> Result<(), HostError> {
        const DOING: &str = "setting up the guest";
        let request = Request::Configure {
            version: VERSION,
            windows: Windows::HostOwned,
        };
        self.vm.send(&request, DOING)?;
        loop {
            match self.vm.agent().next_reply() {
                Ok(Some(Reply::Ready { vcpus: ready })) if ready == vcpus => return Ok(()),
                Ok(Some(reply)) => {
                    return Err(HostError::GuestLies {
                        what: format!("{reply:?} where {vcpus} vCPUs should be ready"),
                    });
                }
                Ok(None) => {}
                Err(error) => return Err(error.into()),
            }
            // The guest calls TDG.VP.INFO meanwhile.
            self.serve(until, DOING)?;
        }
    }
}
