//! A running Linux guest seen from the host: boot, requests, power off. It cannot outlive the lab,
//! and every wait has a timeout.

use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tdxlab_l1::console::{Console, Notice};
use tdxlab_protocol::linux::{Ask, CONSOLE_MARK, LinuxHello, LinuxReply, LinuxRequest, VERSION};
use tdxlab_qemu::interrupt::Interrupt;
use tdxlab_qemu::qmp::commands::system_powerdown;
use tdxlab_qemu::{Process, Qmp};

use crate::account;
use crate::answer::{Answer, Collector, describe};
use crate::buffers::Buffers;
use crate::conversation::{Conversation, LineError};
use crate::error::{LinuxError, advice_on_panic, advice_on_qemu, system};
use crate::firmware;
use crate::machine::{Ends, Machine};
use crate::memory::GuestMemory;
use crate::pusher::{Pushed, Pusher, Wait, advice_on_silence};

/// Interval of checks for an interrupt.
const TICK: Duration = Duration::from_millis(200);

/// Time for a panicked kernel to print its reason.
const LAST_WORDS: Duration = Duration::from_millis(300);

/// Longest that QEMU may take to end when the guest has switched itself off.
const SWITCH_OFF: Duration = Duration::from_secs(20);

/// Number of console lines in an error.
const SHOWN: usize = 12;

/// A guest and the QEMU under it. Dropping it ends both.
pub struct LinuxGuest {
    process: Process,
    talk: Conversation<LinuxRequest, LinuxReply>,
    console_line: UnixStream,
    console: Console,
    qmp: Qmp,
    memory: Option<GuestMemory>,
    pusher: Option<Pusher>,
    pushed: Option<Pushed>,
    /// Readable when qemu-ga has sent data.
    qemu_ga: Option<UnixStream>,
    machine: Machine,
    name: String,
    interrupt: &'static Interrupt,
    patience: Duration,
    started: Instant,
    next_id: u32,
    buffers: Buffers,
    hello: Option<LinuxHello>,
}

/// A guest that is ready.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ready {
    /// The agent's first message.
    pub hello: LinuxHello,
    /// From the start of QEMU, or of the jump by kexec, by the host's clock.
    pub after: Duration,
}

impl LinuxGuest {
    /// Starts QEMU. `name` is what to call the kernel in messages; `machine.ends` is filled in
    /// here.
    ///
    /// # Errors
    ///
    /// QEMU cannot be started, or the machine is out of something.
    pub fn start(
        machine: Machine,
        name: &str,
        interrupt: &'static Interrupt,
        patience: Duration,
    ) -> Result<LinuxGuest, LinuxError> {
        let pair = || UnixStream::pair().map_err(system("making the guest's lines"));
        let ((console_line, console), (agent, agent_end), (qmp, qmp_end)) =
            (pair()?, pair()?, pair()?);
        console_line
            .set_nonblocking(true)
            .map_err(system("making the guest's lines"))?;
        let mut inherited: Vec<OwnedFd> = Vec::new();
        let mut inherit = |end: OwnedFd| {
            let fd = end.as_raw_fd();
            inherited.push(end);
            fd
        };
        let plain = machine.td.is_none();
        let memory = plain
            .then(|| GuestMemory::new(machine.mebibytes))
            .transpose();
        let memory = memory.map_err(system("making the guest's memory"))?;
        let duplicate = memory.as_ref().map(GuestMemory::duplicate).transpose();
        let duplicate = duplicate.map_err(system("making the guest's memory"))?;
        let qemu_ga = machine.qemu_ga.then(pair).transpose()?;
        let (qemu_ga, qemu_ga_end) = qemu_ga.unzip();
        let again = qemu_ga.as_ref().map(UnixStream::try_clone).transpose();
        let pusher = again
            .map_err(system("making the guest's lines"))?
            .map(|line| Pusher::new(line, patience))
            .transpose()?;
        let machine = Machine {
            ends: Ends {
                console: inherit(console.into()),
                agent: inherit(agent_end.into()),
                qmp: inherit(qmp_end.into()),
                qemu_ga: qemu_ga_end.map(|end| inherit(end.into())),
                memory: duplicate.map(|file| inherit(file.into())),
            },
            ..machine
        };
        let process = Process::start(&machine.command_line(), inherited)?;
        Ok(LinuxGuest {
            process,
            talk: Conversation::new(agent)
                .map_err(io::Error::other)
                .map_err(system("listening to the guest"))?,
            console_line,
            console: Console::new(),
            qmp: Qmp::new(qmp)
                .map_err(io::Error::other)
                .map_err(system("speaking with QEMU's monitor"))?,
            memory,
            pusher,
            pushed: None,
            qemu_ga,
            machine,
            name: name.to_owned(),
            interrupt,
            patience,
            started: Instant::now(),
            next_id: 1,
            buffers: Buffers::default(),
            hello: None,
        })
    }

    /// Waits until the agent is ready; where qemu-ga must bring it, does that first.
    ///
    /// # Errors
    ///
    /// The guest died, hangs, or sent an invalid message; or a command of qemu-ga failed.
    pub fn wait_ready(&mut self) -> Result<Ready, LinuxError> {
        let agent = tdxlab_guest_image::AGENT;
        self.pushed = self.through_qemu_ga(|pusher, wait| pusher.push(agent, wait))?;
        self.ready_since(self.started, "while it booted", false)
    }

    /// Does something through qemu-ga, if there is one.
    fn through_qemu_ga<T>(
        &mut self,
        act: impl FnOnce(&mut Pusher, &mut Wait<'_>) -> Result<T, LinuxError>,
    ) -> Result<Option<T>, LinuxError> {
        let Some(mut pusher) = self.pusher.take() else {
            return Ok(None);
        };
        // Words of an agent that nobody has asked yet are no sign of qemu-ga's life.
        let wait = &mut |doing: &str| Ok(self.wait(doing)? && !self.talk.is_waiting());
        let result = act(&mut pusher, wait);
        self.pusher = Some(pusher);
        result.map(Some).map_err(|error| match error {
            LinuxError::QemuGaSilent {
                command,
                doing,
                seconds,
                ..
            } => LinuxError::QemuGaSilent {
                command,
                doing,
                seconds,
                advice: advice_on_silence(&mut self.qmp).into(),
            },
            other => other,
        })
    }

    /// Reads a file of the guest's through qemu-ga; `None` without one.
    ///
    /// # Errors
    ///
    /// The command that failed, or the guest died.
    pub fn read_file(&mut self, path: &str, most: usize) -> Result<Option<Vec<u8>>, LinuxError> {
        self.through_qemu_ga(|pusher, wait| pusher.read(path, most, wait))
    }

    /// Whether an agent that was pushed still runs.
    fn watch(&mut self, doing: &str) -> Result<(), LinuxError> {
        self.pusher
            .as_mut()
            .map_or(Ok(()), |pusher| pusher.watch(doing))
    }

    fn ready_since(
        &mut self,
        began: Instant,
        doing: &str,
        kexec: bool,
    ) -> Result<Ready, LinuxError> {
        let mut sign = Instant::now();
        loop {
            if self.wait(doing)? {
                sign = Instant::now();
            }
            let lies = |what: String| LinuxError::Lies {
                doing: doing.to_owned(),
                what,
            };
            match self.talk.next_reply() {
                Some(LinuxReply::Hello(hello)) => {
                    if hello.version != VERSION {
                        return Err(LinuxError::Version {
                            guest: hello.version,
                            lab: VERSION,
                        });
                    }
                    if hello.vcpus == 0 || hello.vcpus > self.machine.vcpus {
                        return Err(lies(format!(
                            "{} CPUs in a guest of {}",
                            hello.vcpus, self.machine.vcpus
                        )));
                    }
                    if hello.td != self.machine.td.is_some() || hello.kexec != kexec {
                        return Err(lies(format!("a greeting of another guest: {hello:?}")));
                    }
                    self.hello = Some(hello.clone());
                    return Ok(Ready {
                        hello,
                        after: began.elapsed(),
                    });
                }
                Some(LinuxReply::Panic {
                    file,
                    line,
                    message,
                }) => {
                    return Err(self.agent_panic(doing, &file, line, &message));
                }
                Some(reply) => return Err(lies(format!("{reply:?} in place of a greeting"))),
                None if sign.elapsed() > self.patience => return Err(self.hung(doing, sign)),
                None => self.watch(doing)?,
            }
        }
    }

    /// Sends a request and waits for the answer.
    ///
    /// # Errors
    ///
    /// The guest died, hangs, or sent an invalid message. A failure of the agent is part of the
    /// answer.
    pub fn ask(&mut self, ask: Ask) -> Result<Answer, LinuxError> {
        let doing = format!("while {}", describe(&ask));
        let id = self.next_id;
        self.next_id = self.next_id.wrapping_add(1).max(1);
        let known = self.buffers.known(&ask, self.machine.limit());
        let mut collector = Collector::new(id, ask.clone(), known);
        let request = LinuxRequest {
            id,
            ask: ask.clone(),
        };
        if let Err(error) = self.talk.send(&request) {
            return Err(self.line_error(error, &doing));
        }
        let mut sign = Instant::now();
        while !collector.is_over() {
            while let Some(reply) = self.talk.next_reply() {
                sign = Instant::now();
                if let LinuxReply::Panic {
                    file,
                    line,
                    message,
                } = &reply
                {
                    return Err(self.agent_panic(&doing, file, *line, message));
                }
                collector.take(reply).map_err(|what| LinuxError::Lies {
                    doing: doing.clone(),
                    what,
                })?;
                if collector.is_over() {
                    break;
                }
            }
            if collector.is_over() {
                break;
            }
            self.wait(&doing)?;
            if !self.talk.is_waiting() {
                self.watch(&doing)?;
            }
            if sign.elapsed() > self.patience {
                return Err(self.hung(&doing, sign));
            }
        }
        let answer = collector
            .into_answer()
            .expect("the loop ends when it is over");
        self.buffers.remember(&ask, &answer);
        Ok(answer)
    }

    /// Sends a request whose answer is not waited for.
    fn tell(&mut self, ask: Ask, doing: &str) -> Result<(), LinuxError> {
        let id = self.next_id;
        self.next_id = self.next_id.wrapping_add(1).max(1);
        let sent = self.talk.send(&LinuxRequest { id, ask });
        sent.map_err(|error| self.line_error(error, doing))
    }

    /// Boots the guest's kernel again by kexec, and waits until the agent is ready. All buffers are
    /// gone then. A refusal is returned as the answer.
    ///
    /// # Errors
    ///
    /// As for [`LinuxGuest::ask`].
    pub fn kexec(&mut self) -> Result<Result<Ready, Answer>, LinuxError> {
        let append = self.machine.append();
        let append = append.as_str().try_into().map_err(|_| LinuxError::Lies {
            doing: "while starting a kernel by kexec".to_owned(),
            what: "the command line is too long".to_owned(),
        })?;
        let answer = self.ask(Ask::Kexec { append })?;
        if answer.outcome.is_err() {
            return Ok(Err(answer));
        }
        // The agent jumps when it sees that its answer has arrived.
        let doing = "while starting a kernel by kexec";
        self.tell(Ask::Hello, doing)?;
        self.buffers.clear();
        self.hello = None;
        self.ready_since(Instant::now(), "while it booted by kexec", true)
            .map(Ok)
    }

    /// Powers the guest off, and waits until QEMU has exited. Returns the time it took.
    ///
    /// # Errors
    ///
    /// The agent refused, or QEMU did not exit or exited with an error.
    pub fn power_off(&mut self) -> Result<Duration, LinuxError> {
        let began = Instant::now();
        let doing = "while it switched itself off";
        // The answer may go with the guest; its end is the answer.
        let asked = self.through_qemu_ga(|pusher, wait| pusher.shut_down(doing, wait))?;
        let patience = match asked {
            Some(()) => self.patience.max(SWITCH_OFF),
            None => SWITCH_OFF,
        };
        if asked.is_none() {
            self.tell(Ask::PowerOff, doing)?;
        }
        let mut refused = None;
        while self.process.ended().is_none() {
            self.poll().map_err(system("waiting for the guest"))?;
            self.listen_to_console(doing)?;
            let _ = self.talk.receive();
            while let Some(reply) = self.talk.next_reply() {
                match reply {
                    LinuxReply::Panic {
                        file,
                        line,
                        message,
                    } => return Err(self.agent_panic(doing, &file, line, &message)),
                    LinuxReply::Failed { failure, .. } => {
                        let what = format!("{} (errno {})", failure.doing, failure.errno);
                        return Err(LinuxError::Lies {
                            doing: doing.to_owned(),
                            what,
                        });
                    }
                    _ => {}
                }
            }
            if self.interrupt.is_raised() {
                return Err(LinuxError::Interrupted);
            }
            if let Some(pusher) = &mut self.pusher
                && let Some(why) = pusher.refused_shutdown(doing)
            {
                // The machine's own button is what is left.
                match self.qmp.send(&system_powerdown {}) {
                    Ok(_) => refused = Some(why),
                    Err(_) => return Err(why),
                }
            }
            if began.elapsed() > patience {
                return Err(refused.unwrap_or_else(|| self.hung(doing, began)));
            }
        }
        match self.process.ended() {
            Some(status) if status.success() => Ok(began.elapsed()),
            _ => Err(self.died(doing)),
        }
    }

    /// Waits for events and handles them. Returns whether the guest gave a sign of life.
    fn wait(&mut self, doing: &str) -> Result<bool, LinuxError> {
        let ended = self.process.ended().is_some();
        if !ended {
            self.poll().map_err(system("waiting for the guest"))?;
        }
        if self.interrupt.is_raised() {
            return Err(LinuxError::Interrupted);
        }
        let mut heard = self.listen_to_console(doing)?;
        match self.talk.receive() {
            Ok(()) => {}
            Err(LineError::Closed) => {
                // The exit of the process is more informative than the end of its line.
                if self
                    .process
                    .wait_for_exit(Instant::now() + LAST_WORDS)
                    .is_ok()
                {
                    self.listen_to_console(doing)?;
                    return match self.talk.is_waiting() {
                        true => Ok(true),
                        false => Err(self.died(doing)),
                    };
                }
            }
            Err(error) => return Err(self.line_error(error, doing)),
        }
        heard |= self.talk.is_waiting();
        if ended && !heard {
            return Err(self.died(doing));
        }
        Ok(heard)
    }

    fn poll(&mut self) -> io::Result<()> {
        let mut fds = vec![
            PollFd::new(self.console_line.as_fd(), PollFlags::POLLIN),
            PollFd::new(self.talk.socket(), PollFlags::POLLIN),
            PollFd::new(self.process.pidfd(), PollFlags::POLLIN),
        ];
        let qemu_ga = self.qemu_ga.as_ref();
        fds.extend(qemu_ga.map(|line| PollFd::new(line.as_fd(), PollFlags::POLLIN)));
        fds.extend(
            self.interrupt
                .as_fd()
                .map(|fd| PollFd::new(fd, PollFlags::POLLIN)),
        );
        let timeout = PollTimeout::try_from(TICK).unwrap_or(PollTimeout::MAX);
        match poll(&mut fds, timeout) {
            Ok(_) | Err(nix::Error::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
        self.process.listen();
        Ok(())
    }

    fn listen_to_console(&mut self, doing: &str) -> Result<bool, LinuxError> {
        let mut buffer = [0; 16 << 10];
        // The end of a process that died with something unread is seen elsewhere.
        let length = self.console_line.read(&mut buffer).unwrap_or_default();
        for notice in self.console.push(&buffer[..length]) {
            if let Notice::Panic(line) = notice {
                return Err(self.panicked(doing, line));
            }
        }
        if length > 0 && self.hello.is_none() {
            self.refused(doing)?;
        }
        Ok(length > 0)
    }

    /// An error once the firmware has given up on starting the kernel.
    fn refused(&self, doing: &str) -> Result<(), LinuxError> {
        let console = self.console.last(SHOWN);
        let Some((why, advice)) = firmware::gave_up(&console) else {
            return Ok(());
        };
        Err(LinuxError::Firmware {
            doing: doing.to_owned(),
            why,
            advice,
            console,
        })
    }

    /// The kernel has panicked. A moment later its console output is complete.
    fn panicked(&mut self, doing: &str, line: String) -> LinuxError {
        let until = Instant::now() + LAST_WORDS;
        while self.process.ended().is_none() && Instant::now() < until {
            if self.poll().is_err() {
                break;
            }
            let mut buffer = [0; 16 << 10];
            if let Ok(length) = self.console_line.read(&mut buffer) {
                self.console.push(&buffer[..length]);
            }
        }
        let line = account::cause(&self.console.text()).unwrap_or(line);
        LinuxError::Panic {
            kernel: self.name.clone(),
            doing: doing.to_owned(),
            advice: advice_on_panic(&line, self.machine.mebibytes).into(),
            line,
            console: self.console.last(SHOWN),
        }
    }

    fn agent_panic(&self, doing: &str, file: &str, line: u32, message: &str) -> LinuxError {
        match message.contains("there is no virtio-serial port") {
            true => LinuxError::AgentDied {
                doing: doing.to_owned(),
                said: message.to_owned(),
                advice: NO_LINE.into(),
            },
            false => LinuxError::AgentPanic {
                doing: doing.to_owned(),
                file: file.to_owned(),
                line,
                message: message.to_owned(),
            },
        }
    }

    /// The error after QEMU has exited and all data was read.
    fn died(&mut self, doing: &str) -> LinuxError {
        let console = self.console.text();
        // An agent without a line to the lab prints the reason on the console.
        let said = console
            .lines()
            .rev()
            .find_map(|line| line.split_once(CONSOLE_MARK));
        if let Some((_, said)) = said {
            let said = said.trim();
            let no_line = said.contains("there is no virtio-serial port");
            return LinuxError::AgentDied {
                doing: doing.to_owned(),
                said: said.to_owned(),
                advice: if no_line {
                    NO_LINE
                } else {
                    "the console shows what came before"
                }
                .into(),
            };
        }
        let status = self.process.ended().map(|status| status.to_string());
        let status = status.unwrap_or_else(|| "its lines are closed".to_owned());
        let said = self.process.and_its_last_line();
        LinuxError::Ended {
            doing: doing.to_owned(),
            advice: advice_on_qemu(&status, &said, self.machine.mebibytes).into(),
            status,
            said,
            console: self.console.last(SHOWN),
        }
    }

    fn hung(&self, doing: &str, sign: Instant) -> LinuxError {
        let silent_from_the_start = self.console.text().is_empty() && self.hello.is_none();
        let advice = match silent_from_the_start {
            true => {
                "not even the kernel has said anything: it may not start on this board or CPU; \
                 add earlyprintk=ttyS0 to the guest's `append`"
            }
            false => "the console's last lines show how far it came",
        };
        LinuxError::Hung {
            doing: doing.to_owned(),
            silent: Duration::from_millis(
                u64::try_from(sign.elapsed().as_millis()).unwrap_or(u64::MAX),
            ),
            advice: advice.into(),
            console: self.console.last(SHOWN),
        }
    }

    fn line_error(&mut self, error: LineError, doing: &str) -> LinuxError {
        match error {
            LineError::Lies(what) => LinuxError::Lies {
                doing: doing.to_owned(),
                what,
            },
            LineError::Closed => {
                let _ = self.process.wait_for_exit(Instant::now() + LAST_WORDS);
                match self.listen_to_console(doing) {
                    Err(panic) => panic,
                    Ok(_) => self.died(doing),
                }
            }
            LineError::Full => self.hung(doing, Instant::now()),
            LineError::Io(source) => LinuxError::System {
                doing: doing.to_owned(),
                source,
            },
        }
    }

    /// The agent's latest account of itself and the guest.
    pub fn hello(&self) -> Option<&LinuxHello> {
        self.hello.as_ref()
    }

    /// How the agent was brought, where qemu-ga did that.
    pub fn pushed(&self) -> Option<&Pushed> {
        self.pushed.as_ref()
    }

    /// The memory, where the lab holds it.
    pub fn memory(&self) -> Option<&GuestMemory> {
        self.memory.as_ref()
    }

    /// QEMU's monitor.
    pub fn qmp(&mut self) -> &mut Qmp {
        &mut self.qmp
    }

    /// QEMU's process id.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Evidence for a failure: file name and content.
    pub fn evidence(&mut self) -> Vec<(String, Vec<u8>)> {
        let text = |name: &str, text: String| (name.to_owned(), text.into_bytes());
        let lives = self.process.ended().is_none();
        let more = self.through_qemu_ga(|pusher, wait| match lives {
            true => Ok(pusher.evidence(wait)),
            false => Ok(Vec::new()),
        });
        let qemu_ga = self.pusher.as_ref().map(Pusher::trace);
        let mut files = vec![
            text("console.log", self.console.text()),
            text("transcript.txt", self.talk.transcript()),
            text("command.txt", format!("{}\n", self.machine.command_line())),
            ("qemu-stderr.log".to_owned(), self.process.said()),
        ];
        files.extend(qemu_ga.map(|trace| text("qemu-ga.jsonl", trace)));
        files.extend(more.ok().flatten().unwrap_or_default());
        files
    }
}

const NO_LINE: &str = "the guest kernel needs CONFIG_VIRTIO_PCI and CONFIG_VIRTIO_CONSOLE, as modules that \
     --guest-modules names or built in; or CONFIG_SERIAL_8250 with two lines";
