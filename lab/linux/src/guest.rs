//! A running Linux guest seen from the host: boot, requests, power off. It cannot outlive the lab,
//! and every wait has a timeout.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use tdxlab_l1::console::Console;
use tdxlab_protocol::linux::{Ask, LinuxHello, LinuxReply, LinuxRequest, VERSION, Witness};
use tdxlab_qemu::conversation::Conversation;
use tdxlab_qemu::cut::QUOTED;
use tdxlab_qemu::interrupt::Interrupt;
use tdxlab_qemu::qmp::commands::system_powerdown;
use tdxlab_qemu::{Process, Qmp};

use crate::answer::{Answer, Collector, describe, words};
use crate::buffers::Buffers;
use crate::error::{LinuxError, system};
use crate::machine::{Ends, Machine};
use crate::memory::GuestMemory;
use crate::pusher::{Pushed, Pusher, Wait, advice_on_silence};
use crate::running::Running;
use tdxlab_qemu::patience::{Over, Waiting};

/// Longest that QEMU may take to end when the guest has switched itself off.
const SWITCH_OFF: Duration = Duration::from_secs(20);

/// A guest and the QEMU under it. Dropping it ends both.
pub struct LinuxGuest {
    running: Running,
    qmp: Qmp,
    memory: Option<GuestMemory>,
    pusher: Option<Pusher>,
    pushed: Option<Pushed>,
    patience: Duration,
    started: Instant,
    next_id: u32,
    buffers: Buffers,
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
            .then(|| GuestMemory::new(machine.layout()))
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
            running: Running {
                process,
                talk: Conversation::new(agent)
                    .map_err(io::Error::other)
                    .map_err(system("listening to the guest"))?,
                console_line,
                console: Console::new(),
                qemu_ga,
                machine,
                name: name.to_owned(),
                interrupt,
                hello: None,
            },
            qmp: Qmp::new(qmp)
                .map_err(io::Error::other)
                .map_err(system("speaking with QEMU's monitor"))?,
            memory,
            pusher,
            pushed: None,
            patience,
            started: Instant::now(),
            next_id: 1,
            buffers: Buffers::default(),
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
        let Some(pusher) = &mut self.pusher else {
            return Ok(None);
        };
        let running = &mut self.running;
        // Words of an agent that nobody has asked yet are no sign of qemu-ga's life.
        let wait = &mut |doing: &str| Ok(running.wait(doing)? && !running.talk.is_waiting());
        act(pusher, wait).map(Some).map_err(|error| match error {
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
        let mut waiting = Waiting::new(self.patience, Instant::now());
        loop {
            if self.running.wait(doing)? {
                waiting.sign(Instant::now());
            }
            let lies = |what: String| LinuxError::Lies {
                doing: doing.to_owned(),
                what,
            };
            match self.running.talk.next_reply() {
                Some(LinuxReply::Hello(hello)) => {
                    if hello.version != VERSION {
                        return Err(LinuxError::Version {
                            guest: hello.version,
                            lab: VERSION,
                        });
                    }
                    if hello.vcpus == 0 || hello.vcpus > self.running.machine.vcpus {
                        return Err(lies(format!(
                            "{} CPUs in a guest of {}",
                            hello.vcpus, self.running.machine.vcpus
                        )));
                    }
                    if hello.td != self.running.machine.td.is_some() || hello.kexec != kexec {
                        return Err(lies(format!("a greeting of another guest: {hello:?}")));
                    }
                    self.running.hello = Some(hello.clone());
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
                    return Err(self.running.agent_panic(doing, &file, line, &message));
                }
                Some(reply) => return Err(lies(format!("{reply:?} in place of a greeting"))),
                None => {
                    if let Some(over) = waiting.over(Instant::now()) {
                        return Err(self.running.hung(doing, over));
                    }
                    self.watch(doing)?;
                }
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
        let known = self.buffers.known(&ask, self.running.machine.limit());
        let mut collector = Collector::new(id, ask.clone(), known);
        let request = LinuxRequest {
            id,
            ask: ask.clone(),
        };
        if let Err(error) = self.running.talk.send(&request) {
            return Err(self.running.line_error(error, &doing));
        }
        let mut waiting = Waiting::new(self.patience, Instant::now());
        while !collector.is_over() {
            while let Some(reply) = self.running.talk.next_reply() {
                waiting.progress(Instant::now());
                if let LinuxReply::Panic {
                    file,
                    line,
                    message,
                } = &reply
                {
                    return Err(self.running.agent_panic(&doing, file, *line, message));
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
            self.running.wait(&doing)?;
            if !self.running.talk.is_waiting() {
                self.watch(&doing)?;
            }
            if let Some(over) = waiting.over(Instant::now()) {
                return Err(self.running.hung(&doing, over));
            }
        }
        let answer = collector
            .into_answer()
            .expect("the loop ends when it is over");
        self.buffers.remember(&ask, &answer);
        Ok(answer)
    }

    /// Reads a file of the guest's kernel.
    ///
    /// # Errors
    ///
    /// As for [`LinuxGuest::ask`], or the agent could not read it.
    pub fn read(&mut self, which: Witness) -> Result<Vec<u8>, LinuxError> {
        let answer = self.ask(Ask::Read(which))?;
        match answer.outcome {
            Ok(_) => Ok(answer.bytes),
            Err(failure) => Err(LinuxError::Lies {
                doing: format!("while reading {}", which.name()),
                what: words(&failure),
            }),
        }
    }

    /// Sends a request whose answer is not waited for.
    fn tell(&mut self, ask: Ask, doing: &str) -> Result<(), LinuxError> {
        let id = self.next_id;
        self.next_id = self.next_id.wrapping_add(1).max(1);
        let sent = self.running.talk.send(&LinuxRequest { id, ask });
        sent.map_err(|error| self.running.line_error(error, doing))
    }

    /// Boots the guest's kernel again by kexec, and waits until the agent is ready. All buffers are
    /// gone then. A refusal is returned as the answer.
    ///
    /// # Errors
    ///
    /// As for [`LinuxGuest::ask`].
    pub fn kexec(&mut self) -> Result<Result<Ready, Answer>, LinuxError> {
        let append = self.running.machine.append();
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
        self.running.hello = None;
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
        while self.running.process.ended().is_none() {
            self.running
                .poll()
                .map_err(system("waiting for the guest"))?;
            self.running.listen_to_console(doing)?;
            let _ = self.running.talk.receive();
            while let Some(reply) = self.running.talk.next_reply() {
                match reply {
                    LinuxReply::Panic {
                        file,
                        line,
                        message,
                    } => return Err(self.running.agent_panic(doing, &file, line, &message)),
                    LinuxReply::Failed { failure, .. } => {
                        return Err(LinuxError::Lies {
                            doing: doing.to_owned(),
                            what: words(&failure),
                        });
                    }
                    _ => {}
                }
            }
            if self.running.interrupt.is_raised() {
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
                let over = Over::Silent(began.elapsed());
                return Err(refused.unwrap_or_else(|| self.running.hung(doing, over)));
            }
        }
        match self.running.process.ended() {
            Some(status) if status.success() => Ok(began.elapsed()),
            _ => Err(self.running.died(doing)),
        }
    }

    /// Ends QEMU, if it still runs, and waits until it has exited.
    ///
    /// # Errors
    ///
    /// It cannot be ended.
    pub fn end(&mut self) -> Result<(), LinuxError> {
        let ended = self.running.process.kill();
        ended.map(|_| ()).map_err(system("ending QEMU"))
    }

    /// The agent's latest account of itself and the guest.
    pub fn hello(&self) -> Option<&LinuxHello> {
        self.running.hello.as_ref()
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
        self.running.process.pid()
    }

    /// Evidence for a failure: file name and content.
    pub fn evidence(&mut self) -> Vec<(String, Vec<u8>)> {
        let text = |name: &str, text: String| (name.to_owned(), text.into_bytes());
        let lives = self.running.process.ended().is_none();
        let more = self.through_qemu_ga(|pusher, wait| match lives {
            true => Ok(pusher.evidence(wait)),
            false => Ok(Vec::new()),
        });
        let qemu_ga = self.pusher.as_ref().map(Pusher::trace);
        let mut files = vec![
            text("console.log", self.running.console.text()),
            text("transcript.txt", self.running.talk.transcript(QUOTED)),
            text(
                "command.txt",
                format!("{}\n", self.running.machine.command_line()),
            ),
            ("transcript.raw".to_owned(), self.running.talk.raw()),
            ("qemu-stderr.log".to_owned(), self.running.process.said()),
        ];
        files.extend(qemu_ga.map(|trace| text("qemu-ga.jsonl", trace)));
        files.extend(more.ok().flatten().unwrap_or_default());
        files
    }
}
