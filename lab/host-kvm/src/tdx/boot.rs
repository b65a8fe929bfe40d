//! Boots a TD for a plan's guest, until it accepts commands.

use std::time::{Duration, Instant};

use tdxlab_host::attach::Attachment;
use tdxlab_host::vm::Vm;
use tdxlab_host::{BootOptions, Host, HostError, OnHost};
use tdxlab_plan::{CONTROL_PAGE, Guest, HostKind};
use tdxlab_protocol::addr::GpaRange;
use tdxlab_protocol::layout as machine;
use tdxlab_protocol::message::{Hello, Reply, Request, VERSION, Windows};
use tdxlab_protocol::tdcall::{ATTRIBUTES_REHEARSAL, ATTRIBUTES_SEPT_VE_DISABLE};
use tdxlab_qemu::command::Td;
use tdxlab_qemu::qmp::commands::QueryCpus;
use tdxlab_qemu::{Accelerator, Cpu, Line, QemuCommand, QemuError, RAM_ID, Ram, RamBacking};

use super::console::Console;
use super::gmem::{self, Gmems};
use super::host::TdxHost;
use super::layout::RamLayout;
use super::preflight::{self, Preflight};
use super::session::TdxSession;
use super::tdvf::{self, Section};
use super::watch::Watch;
use super::{mtree, refusal};

/// Longest QEMU may take until its monitor answers: it has made the TD by then.
const MAKING_PATIENCE: Duration = Duration::from_secs(120);

/// Stages of a TD's boot, to tell which one failed.
#[derive(Clone, Debug, Default)]
pub struct Stages {
    /// QEMU has made it: its initial image is added and it is finalised.
    pub made: bool,
    /// Populated before the first instruction: the initial image only.
    pub populated: Option<Preflight>,
    /// It has sent a byte: it runs in 64-bit mode.
    pub first_byte: bool,
    /// The guest's hello.
    pub hello: Option<Hello>,
}

/// Boots a guest up to the point where it takes commands.
pub(super) fn boot(
    host: &TdxHost,
    guest: &Guest,
    options: &BootOptions,
    stages: &mut Stages,
) -> Result<TdxSession, HostError> {
    let layout = layout(guest)?;
    let image = tdvf::with_ranges(tdxlab_guest_image::IMAGE, &guest.image).map_err(unusable)?;
    let sections = tdvf::sections(&image).map_err(unusable)?;

    let attachment = Attachment::if_wanted(host.attachable)?;
    let monitor = attachment.as_ref().map(Attachment::monitor);
    // Before QEMU, to include kernel messages during the creation of the TD.
    let watch = Watch::open(host);
    host.heard_of_seamcalls(watch.seamcalls());
    let (mut vm, console) = start(host, guest, layout, &image, monitor)?;
    let until = Instant::now() + options.patience.max(MAKING_PATIENCE);
    let (gmems, watch) = match paused(&mut vm, host, guest, (layout, &sections), until, stages) {
        Ok((gmems, threads)) => {
            let pid = vm.process().pid();
            (gmems, watch.of(host, pid, threads))
        }
        Err(error) => {
            vm.leave_evidence(&options.folder);
            watch.leave_evidence(&options.folder);
            return Err(error);
        }
    };

    let preflight = stages.populated.clone();
    let (memory, patience) = (guest.memory, options.patience);
    let mut session = TdxSession::new(vm, gmems, layout, watch, memory, patience);
    session.console = console;
    session.attachment = attachment;
    session.preflight = preflight;
    match greeted(&mut session, host, guest, options.patience, stages) {
        Ok(()) => Ok(session),
        Err(error) => {
            let last = session.console.as_mut().and_then(Console::last_line);
            session.leave_evidence(&options.folder);
            Err(after(error, last))
        }
    }
}

/// The same error, with the last line of the guest's text output.
fn after(error: HostError, last: Option<String>) -> HostError {
    match (error, last) {
        (HostError::GuestSilent { doing, waited }, Some(last)) => HostError::GuestSilent {
            doing: format!("{doing} (its console said last: {last:?})"),
            waited,
        },
        (error, _) => error,
    }
}

/// Looks at a TD before its first instruction: its guest_memfds, and the threads of its vCPUs.
fn paused(
    vm: &mut Vm,
    host: &TdxHost,
    guest: &Guest,
    (layout, sections): (RamLayout, &[Section]),
    until: Instant,
    stages: &mut Stages,
) -> Result<(Gmems, Vec<u32>), HostError> {
    made(vm, until).map_err(|error| explained(vm, error))?;
    stages.made = true;
    let gmems = gmem::take(vm.process(), layout.bytes(), machine::IMAGE_BYTES)
        .map_err(|error| error.on(host.kind()))?;
    check_flat_view(vm, layout, guest.memory, until)?;
    stages.populated = Some(preflight::check(&gmems, layout, sections)?);
    Ok((gmems, threads(vm, until)?))
}

/// Lets the guest run until it takes commands.
fn greeted(
    session: &mut TdxSession,
    host: &TdxHost,
    guest: &Guest,
    patience: Duration,
    stages: &mut Stages,
) -> Result<(), HostError> {
    let until = Instant::now() + patience;
    session.go(until)?;
    let hello = hello(session, until, patience);
    stages.first_byte = !session.vm.agent().raw().is_empty();
    let hello = hello?;
    check_hello(&hello, guest, host.rehearsal)?;
    stages.hello = Some(hello);
    configure(session, guest, until, patience)
}

/// The machine for a guest, with the slots that QEMU makes.
fn layout(guest: &Guest) -> Result<RamLayout, HostError> {
    let layout = RamLayout::for_memory(guest.memory)
        .ok_or_else(|| unusable(format!("no q35 machine has RAM at {}", guest.memory)))?;
    for slot in &guest.slots {
        if layout.offset(slot.range.start()) != Some(slot.gmem_offset) && guest.slots.len() > 1 {
            return Err(unusable(format!(
                "the plan lays memory slots out itself ({} at offset {:#x}); QEMU has its own way",
                slot.range, slot.gmem_offset
            )));
        }
    }
    debug_assert!(layout.offset(CONTROL_PAGE).is_some());
    Ok(layout)
}

fn unusable(reason: String) -> HostError {
    HostError::NotUsable {
        host: HostKind::Tdx,
        reason,
        advice: "run this scenario on soft or sim (needs: { hosts: [soft, sim] })".into(),
    }
}

/// Starts QEMU, which stops before the TD's first instruction.
fn start(
    host: &TdxHost,
    guest: &Guest,
    layout: RamLayout,
    image: &[u8],
    monitor: Option<Line>,
) -> Result<(Vm, Option<Console>), HostError> {
    let mut console = None;
    let vm = Vm::start(HostKind::Tdx, image, host.interrupt, |ends| {
        let (ours, theirs) = ends.another_line()?;
        let listening = Console::new(ours).map_err(QemuError::system("using a socket pair"))?;
        console = Some(listening);
        Ok(QemuCommand {
            program: host.qemu.program.clone(),
            version: host.qemu.version,
            accelerator: Accelerator::Kvm,
            cpu: Cpu::Host,
            vcpus: guest.vcpus,
            ram: Ram {
                mebibytes: layout.bytes() >> 20,
                // Shared memory then has 4K pages, whatever the THP setting.
                backing: RamBacking::Memfd,
            },
            image: ends.image.clone(),
            qmp: ends.qmp.clone(),
            monitor,
            serial: ends.serial.clone(),
            console: Some(theirs),
            doorbell: None,
            td: Some(Td {
                sept_ve_disable: guest.sept_ve_disable,
            }),
            paused: true,
        })
    })
    .map_err(|error| error.on(HostKind::Tdx))?;
    Ok((vm, console))
}

/// Waits until the monitor answers: the TD is finalised by then.
fn made(vm: &mut Vm, until: Instant) -> Result<(), HostError> {
    let asked = vm
        .qmp()
        .send(&tdxlab_qemu::qmp::commands::QueryStatus {})
        .map_err(|error| QemuError::from(error).on(HostKind::Tdx))?;
    vm.answer(&asked, until, "making the TD").map(drop)
}

/// QEMU's reason for giving up, with what to do about it.
fn explained(vm: &mut Vm, error: HostError) -> HostError {
    let said = String::from_utf8_lossy(&vm.process().said()).into_owned();
    match refusal::explain(&said) {
        Some((line, advice)) => HostError::NotUsable {
            host: HostKind::Tdx,
            reason: line,
            advice: advice.to_owned(),
        },
        None => error,
    }
}

/// The host threads of the vCPUs.
fn threads(vm: &mut Vm, until: Instant) -> Result<Vec<u32>, HostError> {
    let asked = vm
        .qmp()
        .send(&QueryCpus {})
        .map_err(|error| QemuError::from(error).on(HostKind::Tdx))?;
    let cpus = vm.answer(&asked, until, "asking QEMU for its vCPUs")?;
    Ok(cpus.into_iter().map(|cpu| cpu.thread_id).collect())
}

/// QEMU's own view of its memory against the lab's rule.
fn check_flat_view(
    vm: &mut Vm,
    layout: RamLayout,
    memory: GpaRange,
    until: Instant,
) -> Result<(), HostError> {
    let command = qapi::qmp::human_monitor_command {
        cpu_index: None,
        command_line: "info mtree -f".to_owned(),
    };
    let asked = vm
        .qmp()
        .send(&command)
        .map_err(|error| QemuError::from(error).on(HostKind::Tdx))?;
    let text = vm.answer(&asked, until, "asking QEMU where its memory lies")?;
    let flat = mtree::ranges(&text, RAM_ID);
    mtree::check(&flat, layout, memory).map_err(|what| HostError::Qemu {
        what: format!("lays memory out in another way than the lab knows: {what}"),
        advice: "holes would hit the wrong pages; please report this with QEMU's version".into(),
    })
}

/// Waits for the guest's first word.
fn hello(session: &mut TdxSession, until: Instant, patience: Duration) -> Result<Hello, HostError> {
    const DOING: &str = "booting the guest";
    loop {
        match session.vm.agent().next_reply()? {
            Some(Reply::Hello(hello)) => return Ok(hello),
            Some(reply) => {
                return Err(HostError::GuestLies {
                    what: format!("{reply:?} in place of a greeting"),
                });
            }
            None => session.wait_alive(until, DOING, patience)?,
        }
    }
}

/// The guest's hello must match its configuration.
fn check_hello(hello: &Hello, guest: &Guest, rehearsal: bool) -> Result<(), HostError> {
    let lies = |what: String| Err(HostError::GuestLies { what });
    if !hello.td {
        return lies(format!(
            "it was started as a TD and says it is none: {hello:?}"
        ));
    }
    if hello.vcpus != guest.vcpus {
        return lies(format!("{hello:?} in a machine of {} vCPUs", guest.vcpus));
    }
    let disabled = hello.attributes & ATTRIBUTES_SEPT_VE_DISABLE != 0;
    if disabled != guest.sept_ve_disable {
        return lies(format!(
            "SEPT_VE_DISABLE is {disabled} in a TD made with {}",
            guest.sept_ve_disable
        ));
    }
    match (hello.attributes & ATTRIBUTES_REHEARSAL != 0, rehearsal) {
        (true, false) => Err(HostError::NotUsable {
            host: HostKind::Tdx,
            reason: "the guest says that its TDX module is played, and KVM does not".into(),
            advice: "use `tdxlab rehearse`, whose modules say so".into(),
        }),
        (false, true) => lies("it runs on a real TDX module in what should be a rehearsal".into()),
        _ => Ok(()),
    }
}

/// Has the guest map its windows.
fn configure(
    session: &mut TdxSession,
    guest: &Guest,
    until: Instant,
    patience: Duration,
) -> Result<(), HostError> {
    let windows = Windows::Direct {
        limit: guest.memory.end(),
    };
    session.vm.agent().send(&Request::Configure {
        version: VERSION,
        windows,
    })?;
    loop {
        match session.vm.agent().next_reply()? {
            Some(Reply::Ready { vcpus }) if vcpus == guest.vcpus => return Ok(()),
            Some(reply) => {
                return Err(HostError::GuestLies {
                    what: format!("{reply:?} where {} vCPUs should be ready", guest.vcpus),
                });
            }
            None => session.wait_alive(until, "setting up the guest", patience)?,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_silent_guest_said_last_is_in_the_message() {
        let silent = || HostError::GuestSilent {
            doing: "booting the guest".to_owned(),
            waited: Duration::from_secs(3),
        };
        let told = after(silent(), Some("memory ends at 0x1".to_owned())).to_string();
        assert!(told.contains("said last: \"memory ends at 0x1\""), "{told}");
        assert_eq!(after(silent(), None).to_string(), silent().to_string());
        let other = || unusable("no".to_owned());
        let told = after(other(), Some("said hello".to_owned())).to_string();
        assert_eq!(told, other().to_string());
    }
}
