//! Boots a session for a plan's guest: a QEMU, and the software KVM under it.

use std::time::Instant;

use tdxlab_host::attach::Attachment;
use tdxlab_host::{BootOptions, HostError};
use tdxlab_kernel::emulated::EmulatedFiles;
use tdxlab_plan::{Guest, HostKind};
use tdxlab_protocol::message::{Reply, Request, VERSION, Windows};
use tdxlab_softkvm::{Config, SoftKvm};

use super::SoftHost;
use super::core::Core;
use super::machine::SoftMachine;
use super::mailbox::Mailbox;
use super::qemu::Qemu;
use super::ram::RamLayout;
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
    if !options.fresh
        && let Some(qemu) = host.kept.take(guest.vcpus, &layout)
        && let Ok(session) = connect(qemu, host, config.clone(), &layout, options, None, until)
    {
        return Ok(session);
    }
    // If a used QEMU failed, that says nothing about this guest: a new one decides.
    let attachment = Attachment::if_wanted(host.attachable)?;
    let monitor = attachment.as_ref().map(Attachment::monitor);
    let qemu = Qemu::start(host, guest.vcpus, &layout, monitor, options, until)?;
    connect(qemu, host, config, &layout, options, attachment, until)
}

/// Puts a software KVM under a QEMU whose vCPUs are idle, and has the guest open its windows.
fn connect(
    mut qemu: Qemu,
    host: &SoftHost,
    config: Config,
    layout: &RamLayout,
    options: &BootOptions,
    attachment: Option<Attachment>,
    until: Instant,
) -> Result<SoftSession, HostError> {
    let (memory, vcpus) = (config.memory, config.vcpus);
    let mailbox = Mailbox::new(qemu.ram.clone(), vcpus);
    let machine = SoftMachine::new(
        qemu.ram.clone(),
        layout.pool(),
        mailbox.clone(),
        options.patience,
    );
    let mut kvm = SoftKvm::new(machine, config, (host.software.policy)())
        .map_err(|error| software::refused(HostKind::Soft, &error))?;
    kvm.machine_mut().trouble()?;
    kvm.set_threads(
        qemu.threads.clone(),
        nix::unistd::gettid().as_raw().cast_unsigned(),
    );
    let pid = qemu.vm.process().pid();
    let kernel = EmulatedFiles::new(&options.folder, pid, qemu.ram_fd).map_err(|source| {
        HostError::System {
            doing: format!("laying out kernel files in {}", options.folder.display()),
            source,
        }
    })?;
    let mut session = SoftSession::new(
        qemu,
        Core::new(kvm, mailbox, vcpus),
        kernel,
        host,
        memory,
        options,
        attachment,
    );
    match session.configure(vcpus, until) {
        Ok(()) => Ok(session),
        Err(error) => {
            session.qemu.vm.leave_evidence(&options.folder);
            Err(error)
        }
    }
}

impl SoftSession {
    /// Makes the guest use the windows, whose tables are set up now.
    fn configure(&mut self, vcpus: u16, until: Instant) -> Result<(), HostError> {
        const DOING: &str = "setting up the guest";
        let request = Request::Configure {
            version: VERSION,
            windows: Windows::HostOwned,
        };
        self.send_request(&request, DOING)?;
        loop {
            match self.qemu.vm.agent().next_reply() {
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
