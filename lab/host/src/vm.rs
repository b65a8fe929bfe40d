//! A guest in QEMU: its process, monitor and serial line, and one place to wait for all of them.
//!
//! Failures of QEMU are noticed at once, not by a timeout: its exit through a pidfd, an invalid
//! message of the monitor when it is read. Hosts add file descriptors of their own, such as the
//! doorbell.

use std::fs::File;
use std::io::{self, PipeReader, Write};
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::memfd::{MFdFlags, memfd_create};
use tdxlab_plan::HostKind;
use tdxlab_protocol::message::{Request, Task};
use tdxlab_qemu::agent::Agent;
use tdxlab_qemu::agent::collect::Collector;
use tdxlab_qemu::command::IMAGE_FILE;
use tdxlab_qemu::conversation::LineError;
use tdxlab_qemu::head_tail::HeadTail;
use tdxlab_qemu::interrupt::Interrupt;
use tdxlab_qemu::qmp::commands::QueryStatus;
use tdxlab_qemu::qmp::{Event, QmpError};
use tdxlab_qemu::{Image, Line, Process, QemuCommand, QemuError, Qmp};

use crate::error::{HostError, OnHost};

/// How long a QEMU that hung up may take to end.
const LAST_BREATH: Duration = Duration::from_secs(5);

/// Longest wait for the monitor when a silent guest is diagnosed.
const MONITOR_PATIENCE: Duration = Duration::from_secs(5);

/// A guest in QEMU. Dropping it ends it.
#[derive(Debug)]
pub struct Vm {
    host: HostKind,
    process: Process,
    qmp: Qmp,
    agent: Agent,
    next_request: u32,
    interrupt: &'static Interrupt,
    command: QemuCommand,
    image: Vec<u8>,
    events: HeadTail<Event>,
    /// All files that are waited for, each with its [`Source`].
    sources: Epoll,
}

/// A file that is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
enum Source {
    Serial,
    Monitor,
    End,
    Stderr,
    Interrupt,
    Extra,
}

/// QEMU's ends of the lines to it, for its description.
#[derive(Debug)]
pub struct Ends {
    /// Where QMP is spoken.
    pub qmp: Line,
    /// The serial port that carries the protocol.
    pub serial: Line,
    /// The guest image.
    pub image: Image,
    inherited: Vec<OwnedFd>,
}

impl Ends {
    /// Another line: the lab's end, and QEMU's for its description.
    ///
    /// # Errors
    ///
    /// Out of file descriptors.
    pub fn another_line(&mut self) -> Result<(UnixStream, Line), QemuError> {
        let (ours, theirs) =
            UnixStream::pair().map_err(QemuError::system("making a socket pair"))?;
        Ok((ours, Line::Inherited(self.inherit(theirs.into()))))
    }

    /// A line on which QEMU only writes: the lab's end, which does not block, and QEMU's for its
    /// description.
    ///
    /// # Errors
    ///
    /// Out of file descriptors.
    pub fn pipe(&mut self) -> Result<(PipeReader, Line), QemuError> {
        let (ours, theirs) = io::pipe().map_err(QemuError::system("making a pipe"))?;
        fcntl(&ours, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))
            .map_err(QemuError::system("making a pipe"))?;
        Ok((ours, Line::Pipe(self.inherit(theirs.into()))))
    }

    /// A file that QEMU inherits under the number that is returned.
    pub fn inherit(&mut self, fd: OwnedFd) -> i32 {
        let number = fd.as_raw_fd();
        self.inherited.push(fd);
        number
    }
}

/// Why a wait has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wake {
    /// The guest has sent data: see [`Vm::agent`].
    Serial,
    /// The extra file is readable.
    Extra,
    /// QEMU has sent events: see [`Vm::take_events`].
    Events,
    /// The deadline has passed.
    Late,
}

impl Vm {
    /// Starts QEMU as `describe` describes it, given its ends of the lines, with `image` to boot.
    ///
    /// # Errors
    ///
    /// QEMU is not there or cannot be started, or the machine is out of something.
    pub fn start(
        host: HostKind,
        image: &[u8],
        interrupt: &'static Interrupt,
        describe: impl FnOnce(&mut Ends) -> Result<QemuCommand, QemuError>,
    ) -> Result<Vm, QemuError> {
        let pair = || UnixStream::pair().map_err(QemuError::system("making a socket pair"));
        let (qmp, qemu_qmp) = pair()?;
        let (serial, qemu_serial) = pair()?;
        let mut ends = Ends {
            qmp: Line::Inherited(qemu_qmp.as_raw_fd()),
            serial: Line::Inherited(qemu_serial.as_raw_fd()),
            image: Image::Path(IMAGE_FILE.into()),
            inherited: vec![qemu_qmp.into(), qemu_serial.into()],
        };
        let memfd = image_file(image).map_err(QemuError::system("making a file of the image"))?;
        ends.image = Image::Inherited(ends.inherit(memfd));

        let command = describe(&mut ends)?;
        let process = Process::start(&command.line(), ends.inherited)?;
        let sources = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)
            .map_err(QemuError::system("waiting for the guest"))?;
        let vm = Vm {
            host,
            qmp: Qmp::new(qmp)?,
            agent: Agent::new(serial).map_err(|error| {
                QemuError::system("using a socket pair")(io::Error::other(error))
            })?,
            next_request: 1,
            process,
            interrupt,
            command,
            image: image.to_vec(),
            events: HeadTail::new(16, 112),
            sources,
        };
        vm.add(vm.agent.socket(), Source::Serial)?;
        vm.add(vm.qmp.socket(), Source::Monitor)?;
        vm.add(vm.process.pidfd(), Source::End)?;
        vm.add(vm.process.stderr(), Source::Stderr)?;
        if let Some(interrupt) = vm.interrupt.as_fd() {
            vm.add(interrupt, Source::Interrupt)?;
        }
        Ok(vm)
    }

    /// Waits for another file from now on, which is [`Wake::Extra`]. It is given once.
    ///
    /// # Errors
    ///
    /// The machine is out of something.
    pub fn watch(&mut self, extra: BorrowedFd<'_>) -> Result<(), QemuError> {
        self.add(extra, Source::Extra)
    }

    fn add(&self, file: BorrowedFd<'_>, source: Source) -> Result<(), QemuError> {
        let event = EpollEvent::new(EpollFlags::EPOLLIN, source as u64);
        self.sources
            .add(file, event)
            .map_err(QemuError::system("waiting for the guest"))
    }

    /// Takes in what QEMU says on stderr.
    fn listen_to_stderr(&mut self) {
        if !self.process.listen() {
            // Closed: it would be readable for ever.
            let _ = self.sources.delete(self.process.stderr());
        }
    }

    /// The guest's side of the conversation.
    pub fn agent(&mut self) -> &mut Agent {
        &mut self.agent
    }

    /// Sends a request whose frame `put` brings to the guest.
    ///
    /// # Errors
    ///
    /// QEMU has ended, the guest does not read, or that of `put`.
    pub fn send_beside(
        &mut self,
        request: &Request,
        put: impl FnOnce(&[u8]) -> Result<(), LineError>,
        doing: &str,
    ) -> Result<(), HostError> {
        match self.agent.send_beside(request, put) {
            Ok(()) => Ok(()),
            Err(LineError::Closed) => Err(self.gone(doing)),
            Err(error) => Err(error.into()),
        }
    }

    /// The request that starts tasks together, not sent yet, and what collects the answers to it.
    ///
    /// # Errors
    ///
    /// More tasks than a request can carry.
    pub fn request(&mut self, tasks: &[Task]) -> Result<(Request, Collector), HostError> {
        let too_many = |_| HostError::GuestRefused {
            reason: format!("{} tasks at once are too many", tasks.len()),
        };
        let id = self.next_request;
        let request = Request::Run {
            id,
            tasks: tasks.try_into().map_err(too_many)?,
        };
        self.next_request = id.wrapping_add(1);
        Ok((request, Collector::new(id, tasks)))
    }

    /// Collects the guest's answers; whether there were any.
    ///
    /// # Errors
    ///
    /// An answer is implausible.
    pub fn collect(&mut self, into: &mut Collector) -> Result<bool, HostError> {
        let mut any = false;
        while let Some(reply) = self.agent.next_reply()? {
            any = true;
            into.take(reply)
                .map_err(|what| HostError::GuestLies { what })?;
        }
        Ok(any)
    }

    /// The monitor.
    pub fn qmp(&mut self) -> &mut Qmp {
        &mut self.qmp
    }

    /// The process.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// Waits until the guest answers, the extra file is readable, QEMU sends an event, or `until`.
    /// `doing` names the operation in the error if QEMU ends meanwhile.
    ///
    /// # Errors
    ///
    /// The run is interrupted, QEMU has ended, or a message is invalid.
    pub fn wait(&mut self, until: Instant, doing: &str) -> Result<Wake, HostError> {
        loop {
            let ready = self.wait_for_sources(until)?;
            if self.interrupt.is_raised() {
                return Err(HostError::Interrupted);
            }
            if ready.stderr {
                self.listen_to_stderr();
            }
            // The guest's last message says more than QEMU's exit.
            if ready.serial {
                match self.agent.receive() {
                    Ok(()) => return Ok(Wake::Serial),
                    Err(LineError::Closed) if self.agent.is_waiting() => return Ok(Wake::Serial),
                    Err(LineError::Closed) => return Err(self.gone(doing)),
                    Err(error) => return Err(error.into()),
                }
            }
            if ready.qmp && self.listen_to_monitor(doing)? {
                return Ok(Wake::Events);
            }
            if ready.ended {
                return Err(self.gone(doing));
            }
            if ready.extra {
                return Ok(Wake::Extra);
            }
            if Instant::now() >= until {
                return Ok(Wake::Late);
            }
        }
    }

    /// Waits for the answer to a command that was sent before.
    ///
    /// # Errors
    ///
    /// As for [`Vm::wait`], or the monitor refuses or does not answer in time.
    pub fn answer<C: qapi::Command>(
        &mut self,
        ticket: &tdxlab_qemu::qmp::Ticket<C>,
        until: Instant,
        doing: &str,
    ) -> Result<C::Ok, HostError> {
        let began = Instant::now();
        loop {
            match self.qmp.answer(ticket) {
                Ok(Some(answer)) => return Ok(answer),
                Ok(None) => {}
                Err(error) => return Err(QemuError::from(error).on(self.host)),
            }
            let ready = self.wait_for_sources(until)?;
            if self.interrupt.is_raised() {
                return Err(HostError::Interrupted);
            }
            if ready.stderr {
                self.listen_to_stderr();
            }
            if ready.qmp {
                self.listen_to_monitor(doing)?;
            } else if ready.ended {
                return Err(self.gone(doing));
            }
            if Instant::now() >= until {
                let silent = QmpError::Silent {
                    command: C::NAME,
                    waited: began.elapsed(),
                };
                return Err(QemuError::from(silent).on(self.host));
            }
        }
    }

    /// Diagnosis of a guest that did not answer in time: whether the guest is silent, or QEMU hangs
    /// or has stopped it.
    pub fn silent(&mut self, doing: &str, waited: Duration) -> HostError {
        let error = match self
            .qmp
            .execute(&QueryStatus {}, waited.min(MONITOR_PATIENCE))
        {
            Ok(status) if status.running => {
                return HostError::GuestSilent {
                    doing: doing.to_owned(),
                    waited,
                };
            }
            Ok(status) => QemuError::Stopped {
                doing: doing.to_owned(),
                state: status.status,
                said: self.process.and_its_last_line(),
            },
            Err(QmpError::Silent { waited, .. }) => QemuError::Hangs {
                doing: doing.to_owned(),
                waited,
                said: self.process.and_its_last_line(),
            },
            Err(QmpError::Closed) => return self.gone(doing),
            Err(error) => error.into(),
        };
        error.on(self.host)
    }

    /// Whether the run is interrupted.
    pub fn is_interrupted(&self) -> bool {
        self.interrupt.is_raised()
    }

    /// QMP events since the previous call.
    pub fn take_events(&mut self) -> Vec<Event> {
        let events: Vec<Event> = self.qmp.take_events().collect();
        for event in &events {
            self.events.push(event.clone());
        }
        events
    }

    /// Events that were taken so far, as far as they are kept.
    pub fn seen_events(&self) -> Vec<Event> {
        let events = self.events.head().chain(self.events.tail());
        events.cloned().collect()
    }

    /// Ends QEMU and reaps it.
    ///
    /// # Errors
    ///
    /// It could not be killed.
    pub fn end(&mut self) -> Result<(), HostError> {
        self.process
            .kill()
            .map(|_| ())
            .map_err(|source| HostError::System {
                doing: "ending QEMU".into(),
                source,
            })
    }

    /// Evidence for a failure, as file name and content.
    pub fn evidence(&mut self) -> Vec<(String, Vec<u8>)> {
        // Include replies that were still in flight.
        let _ = self.agent.receive();
        let _ = self.qmp.receive();
        let mut evidence = vec![
            (
                "serial.log".to_owned(),
                self.agent.transcript().into_bytes(),
            ),
            ("serial.raw".to_owned(), self.agent.raw()),
            ("qmp.jsonl".to_owned(), self.qmp.trace().into_bytes()),
            ("qemu.sh".to_owned(), self.script().into_bytes()),
            (IMAGE_FILE.to_owned(), self.image.clone()),
        ];
        let said = self.process.said();
        if !said.is_empty() {
            evidence.push(("qemu.stderr".to_owned(), said));
        }
        evidence
    }

    /// Writes the evidence of a guest that never became a session to `folder`.
    pub fn leave_evidence(&mut self, folder: &Path) {
        for (name, content) in self.evidence() {
            // The failure is reported in any case; this is a best effort.
            let _ = std::fs::write(folder.join(name), content);
        }
    }

    /// The command line as a script that runs beside the image.
    fn script(&self) -> String {
        format!(
            "#!/bin/sh\n\
             # The QEMU of this run, with files in this folder in place of the lab's sockets.\n\
             # The guest gets as far as its greeting; the rest is between it and the lab.\n\
             cd \"$(dirname \"$0\")\" || exit\n\
             exec {}\n",
            self.command.for_pasting().line()
        )
    }

    /// Reads the monitor; whether there are events.
    fn listen_to_monitor(&mut self, doing: &str) -> Result<bool, HostError> {
        match self.qmp.receive() {
            Ok(()) => Ok(self.qmp.has_events()),
            Err(QmpError::Closed) => Err(self.gone(doing)),
            Err(error) => Err(QemuError::from(error).on(self.host)),
        }
    }

    /// Diagnosis of a QEMU that has ended, or that hung up and should be ending.
    fn gone(&mut self, doing: &str) -> HostError {
        let until = Instant::now() + LAST_BREATH;
        while self.process.ended().is_none() && Instant::now() < until {
            let mut fds = [PollFd::new(self.process.pidfd(), PollFlags::POLLIN)];
            let _ = poll(&mut fds, PollTimeout::from(50u8));
        }
        let Some(status) = self.process.ended() else {
            return QemuError::from(QmpError::Closed).on(self.host);
        };
        let _ = self.qmp.receive();
        let shutdown = self
            .take_events()
            .into_iter()
            .rev()
            .find(|event| event.name == "SHUTDOWN");
        let mut last_line = self.process.last_line();
        if let Some(reason) =
            shutdown.and_then(|event| event.data["reason"].as_str().map(str::to_owned))
        {
            last_line.push_str(&format!("; its monitor said SHUTDOWN, {reason}"));
            if reason == "guest-reset" {
                last_line.push_str(" (as after a triple fault)");
            }
        }
        QemuError::Ended {
            doing: doing.to_owned(),
            status,
            last_line,
        }
        .on(self.host)
    }

    fn wait_for_sources(&self, until: Instant) -> Result<Ready, HostError> {
        let left = until.saturating_duration_since(Instant::now());
        // Rounded up, so that the last millisecond is not spent spinning.
        let timeout = EpollTimeout::try_from(left.as_millis() + u128::from(!left.is_zero()))
            .unwrap_or(EpollTimeout::MAX);
        let mut events = [EpollEvent::empty(); 8];
        let count = match self.sources.wait(&mut events, timeout) {
            Ok(count) => count,
            Err(nix::Error::EINTR) => 0,
            Err(error) => {
                return Err(HostError::System {
                    doing: "waiting for the guest".into(),
                    source: error.into(),
                });
            }
        };
        let is_ready = |source: Source| {
            let mut events = events[..count].iter();
            events.any(|event| event.data() == source as u64)
        };
        Ok(Ready {
            serial: is_ready(Source::Serial),
            qmp: is_ready(Source::Monitor),
            ended: is_ready(Source::End),
            stderr: is_ready(Source::Stderr),
            extra: is_ready(Source::Extra),
        })
    }
}

/// Which files are readable, or at their end.
struct Ready {
    serial: bool,
    qmp: bool,
    ended: bool,
    stderr: bool,
    extra: bool,
}

/// The image as a file without a name.
fn image_file(image: &[u8]) -> io::Result<OwnedFd> {
    let memfd = memfd_create(c"tdxlab-image", MFdFlags::MFD_CLOEXEC)?;
    let mut file = File::from(memfd);
    file.write_all(image)?;
    Ok(file.into())
}
