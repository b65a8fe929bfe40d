//! A running L1 seen from the host: its messages, its health, its end.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tdxlab_qemu::Process;
use tdxlab_qemu::interrupt::Interrupt;
use tdxlab_qemu::patience::{Over, Waiting};

use super::console::{Console, Notice};
use super::error::L1Error;
use super::incoming::{Incoming, ReportError};
use super::machine::Memory;
use super::message::{Ended, Message, Receiver, Stage, Stream};

/// Interval of checks for an interrupt.
const TICK: Duration = Duration::from_millis(200);

/// Time for a panicked kernel to print its reason.
const LAST_WORDS: Duration = Duration::from_millis(300);

/// Number of console lines in an error.
const SHOWN: usize = 12;

/// Receives the command's output and the notes of the lab.
pub struct Sink<'a> {
    /// The command's standard output.
    pub out: &'a mut dyn Write,
    /// The command's standard error.
    pub err: &'a mut dyn Write,
    /// Called with each feature the L1 runs without.
    pub note: &'a mut dyn FnMut(&str),
}

/// When things happened, counted from the start of QEMU.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timing {
    /// The L1's own process spoke.
    pub hello: Option<Duration>,
    /// The command was started.
    pub command: Option<Duration>,
    /// Time of its first output.
    pub output: Option<Duration>,
    /// Time of the last message.
    pub done: Option<Duration>,
}

/// Inputs and process of a running L1.
pub(crate) struct Session<'a> {
    pub(crate) process: Process,
    pub(crate) console_line: UnixStream,
    pub(crate) lines: [UnixStream; 2],
    pub(crate) receivers: [Receiver; 2],
    pub(crate) kernel: &'a str,
    pub(crate) memory: Memory,
    pub(crate) patience: Duration,
    pub(crate) report: Option<Incoming>,
    pub(crate) interrupt: &'a Interrupt,
    pub(crate) console: Console,
    pub(crate) timing: Timing,
    pub(crate) state: State,
}

/// State of the L1 so far.
#[derive(Debug, Default)]
pub(crate) struct State {
    release: Option<String>,
    stage: Option<Stage>,
    ended: Option<Ended>,
    out_of_memory: Option<String>,
    done: bool,
}

/// An L1 that answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    /// How the command ended.
    pub(crate) ended: Ended,
    /// Release of the kernel.
    pub(crate) release: String,
}

impl Session<'_> {
    /// Serves the L1 until it has answered, or cannot any more.
    pub(crate) fn serve(&mut self, sink: &mut Sink<'_>) -> Result<Answer, L1Error> {
        let started = Instant::now();
        let mut waiting = Waiting::new(self.patience, started);
        while !self.state.done {
            let ended = self.wait()?;
            let heard = self.listen(started, sink)?;
            match (heard, self.state.release.is_some()) {
                // Once it has booted, its own process gives signs that no stuck kernel does.
                (true, true) => waiting.progress(Instant::now()),
                (true, false) => waiting.sign(Instant::now()),
                (false, _) => {}
            }
            if self.interrupt.is_raised() {
                return Err(L1Error::Interrupted);
            }
            // The data it sent before it ended may need more than one read.
            if ended && !heard && !self.state.done {
                return Err(self.died());
            }
            if let Some(over) = waiting.over(Instant::now()) {
                let mut doing = self.doing();
                let silent = match over {
                    Over::Silent(silent) => silent,
                    Over::Babbling(idle) => {
                        doing += ", but for words on its console";
                        idle
                    }
                };
                return Err(L1Error::Hung {
                    doing,
                    silent,
                    console: self.console.last(SHOWN),
                });
            }
        }
        let answer = self.answer()?;
        // The kernel may have killed a part of the command only, such as a QEMU in it.
        if let Some(line) = &self.state.out_of_memory {
            (sink.note)(&format!(
                "the L1 ran out of memory: {line}; give it more than {} with --memory",
                self.memory
            ));
        }
        Ok(answer)
    }

    /// Waits for an event; whether QEMU has ended.
    fn wait(&mut self) -> Result<bool, L1Error> {
        if self.process.ended().is_some() {
            return Ok(true);
        }
        let mut fds = [
            self.console_line.as_fd(),
            self.lines[0].as_fd(),
            self.lines[1].as_fd(),
            self.process.pidfd(),
            self.process.stderr(),
        ]
        .map(|fd| PollFd::new(fd, PollFlags::POLLIN));
        // A closed stderr of QEMU stays readable; the pidfd reports the exit.
        let timeout = PollTimeout::try_from(TICK).unwrap_or(PollTimeout::MAX);
        match poll(&mut fds, timeout) {
            Ok(_) | Err(nix::Error::EINTR) => {}
            Err(error) => return Err(system("waiting for the L1", error.into())),
        }
        self.process.listen();
        Ok(self.process.ended().is_some())
    }

    /// Reads all lines; whether there was data.
    fn listen(&mut self, started: Instant, sink: &mut Sink<'_>) -> Result<bool, L1Error> {
        let mut heard = self.listen_to_console()?;
        for line in 0..self.lines.len() {
            let mut buffer = [0; 64 << 10];
            let length = read(&mut self.lines[line], &mut buffer)?;
            heard |= length > 0;
            let mut messages = Vec::new();
            self.receivers[line]
                .push(&buffer[..length], |message| messages.push(message))
                .map_err(|error| L1Error::Lies {
                    what: error.to_string(),
                })?;
            for message in messages {
                self.take(message, started.elapsed(), sink)?;
            }
        }
        Ok(heard)
    }

    fn listen_to_console(&mut self) -> Result<bool, L1Error> {
        let mut buffer = [0; 64 << 10];
        let length = read(&mut self.console_line, &mut buffer)?;
        for notice in self.console.push(&buffer[..length]) {
            match notice {
                Notice::OutOfMemory(line) => self.state.out_of_memory = Some(line),
                Notice::Panic(line) => return Err(self.panicked(line)),
            }
        }
        Ok(length > 0)
    }

    fn take(&mut self, message: Message, at: Duration, sink: &mut Sink<'_>) -> Result<(), L1Error> {
        match message {
            Message::Hello { release, .. } => {
                self.timing.hello = Some(at);
                self.state.release = Some(release);
            }
            Message::Stage(stage) => {
                if stage == Stage::Command {
                    self.timing.command = Some(at);
                }
                self.state.stage = Some(stage);
            }
            Message::Note(text) => (sink.note)(&text),
            Message::Alive => {}
            Message::Output { stream, bytes } => {
                self.timing.output.get_or_insert(at);
                let target = match stream {
                    Stream::Out => &mut *sink.out,
                    Stream::Err => &mut *sink.err,
                };
                let written = target.write_all(&bytes).and_then(|()| target.flush());
                written.map_err(|source| system("passing on the command's output", source))?;
            }
            Message::Ended(ended) => self.state.ended = Some(ended),
            Message::File { path, size } => self.report(|report| report.file(&path, size))?,
            Message::Link { path, target } => self.report(|report| report.link(&path, &target))?,
            Message::Data(bytes) => self.report(|report| report.data(&bytes))?,
            Message::ReportEnd { files, bytes } => {
                self.report(|report| report.end(files, bytes))?
            }
            Message::Failed { stage, cause, log } => {
                return Err(match &self.state.out_of_memory {
                    Some(line) => self.out_of_memory(line.clone()),
                    None => L1Error::told(self.kernel, stage, cause, log),
                });
            }
            Message::Done => {
                self.timing.done = Some(at);
                self.state.done = true;
            }
        }
        Ok(())
    }

    fn report(
        &mut self,
        step: impl FnOnce(&mut Incoming) -> Result<(), ReportError>,
    ) -> Result<(), L1Error> {
        let Some(report) = &mut self.report else {
            return Err(L1Error::Lies {
                what: "it sends a report nobody asked for".to_owned(),
            });
        };
        step(report).map_err(|error| match error {
            ReportError::Lie(what) => L1Error::Lies { what },
            ReportError::Write { folder, source } => system(
                &format!("writing the report to {}", folder.display()),
                source,
            ),
        })
    }

    /// After the last message: checks that the answer is complete.
    fn answer(&mut self) -> Result<Answer, L1Error> {
        if self
            .report
            .as_ref()
            .is_some_and(|report| !report.is_complete())
        {
            return Err(self.cut("it never said that the report was complete"));
        }
        let (Some(ended), Some(release)) = (self.state.ended, self.state.release.clone()) else {
            return Err(self.cut("it never said how the command ended"));
        };
        match (ended, &self.state.out_of_memory) {
            // A shell passes on the end of a child as 128 and the signal.
            (Ended::Signal(libc::SIGKILL) | Ended::Code(137), Some(line)) => {
                Err(self.out_of_memory(line.clone()))
            }
            _ => Ok(Answer { ended, release }),
        }
    }

    fn doing(&self) -> String {
        match (&self.state.release, self.state.stage) {
            (None, _) => "booting".to_owned(),
            (Some(_), None) => "starting".to_owned(),
            (Some(_), Some(stage)) => stage.doing().to_owned(),
        }
    }

    fn out_of_memory(&self, line: String) -> L1Error {
        L1Error::OutOfMemory {
            line,
            memory: self.memory.to_string(),
        }
    }

    fn cut(&self, what: &str) -> L1Error {
        let partial = self.report.as_ref().and_then(Incoming::partial);
        let advice = match partial {
            Some(folder) => format!("what came of the report is in {}", folder.display()),
            None => "nothing of a report came".to_owned(),
        };
        L1Error::Cut {
            doing: self.doing(),
            what: what.to_owned(),
            advice,
        }
    }

    /// The error after QEMU has exited and all data was read.
    fn died(&mut self) -> L1Error {
        if self.state.release.is_none() && self.console.text().is_empty() {
            let said = String::from_utf8_lossy(&self.process.said())
                .trim()
                .to_owned();
            let ended = self
                .process
                .ended()
                .map(|status| status.to_string())
                .unwrap_or_default();
            let said = if said.is_empty() {
                format!("it ended ({ended}) and said nothing")
            } else {
                said
            };
            let advice = advice_on_qemu(&said, self.memory);
            return L1Error::QemuRefused { said, advice };
        }
        if let Some(line) = &self.state.out_of_memory {
            return self.out_of_memory(line.clone());
        }
        if self.state.stage == Some(Stage::Report) {
            return self.cut("it ended in the middle");
        }
        let status = self.process.ended().filter(|status| !status.success());
        let reason = match status {
            Some(status) => format!("QEMU ended ({status}){}", self.process.and_its_last_line()),
            None => "its kernel ended without a word".to_owned(),
        };
        let advice = "the console output is the evidence".to_owned();
        L1Error::Died {
            doing: self.doing(),
            reason,
            advice,
            console: self.console.last(SHOWN),
        }
    }

    /// The kernel has panicked. It reboots; a moment later its console output is complete.
    fn panicked(&mut self, line: String) -> L1Error {
        let until = Instant::now() + LAST_WORDS;
        while self.process.ended().is_none() && Instant::now() < until {
            if self.wait().is_err() {
                break;
            }
            let mut buffer = [0; 16 << 10];
            match read(&mut self.console_line, &mut buffer) {
                Ok(length) => {
                    self.console.push(&buffer[..length]);
                }
                Err(_) => break,
            }
        }
        let advice = advice_on_panic(&line, self.memory);
        let console = self.console.last(SHOWN);
        L1Error::Panic {
            kernel: self.kernel.to_owned(),
            line,
            advice,
            console,
        }
    }
}

/// Reads available data; 0 if there is none, or at the end.
fn read(line: &mut UnixStream, buffer: &mut [u8]) -> Result<usize, L1Error> {
    match line.read(buffer) {
        Ok(length) => Ok(length),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(0),
        Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(0),
        // How a socket ends whose other end died with something unread.
        Err(error) if error.kind() == io::ErrorKind::ConnectionReset => Ok(0),
        Err(error) => Err(system(
            &format!("reading line {} of the L1", line.as_raw_fd()),
            error,
        )),
    }
}

fn system(doing: &str, source: io::Error) -> L1Error {
    L1Error::System {
        doing: doing.to_owned(),
        source,
    }
}

/// Remedy for a QEMU that did not start.
fn advice_on_qemu(said: &str, memory: Memory) -> String {
    let has = |text: &str| said.contains(text);
    if has("Cannot allocate memory") || has("cannot set up guest memory") {
        format!("this machine cannot give {memory}; ask for less with --memory")
    } else if has("cannot initialize fsdev") {
        "QEMU shares the root folder over 9p as the user who runs it, who must be able to read /"
            .to_owned()
    } else if has("9p") || has("fsdev") {
        "this QEMU has no 9p (virtfs); install the distribution's full qemu-system-x86 or name another with --qemu"
            .to_owned()
    } else if has("virtserialport") || has("virtio-serial") {
        "this QEMU has no virtio devices; name another with --qemu".to_owned()
    } else if has("kvm") {
        "run it with --accel tcg".to_owned()
    } else {
        "the command line is in the folder of the report".to_owned()
    }
}

/// Remedy for a panic, if its line shows the cause.
fn advice_on_panic(line: &str, memory: Memory) -> String {
    let has = |text: &str| line.contains(text);
    if has("Unable to mount root fs") {
        "the kernel did not take the initramfs: build it with CONFIG_BLK_DEV_INITRD=y".to_owned()
    } else if has("Requested init") || has("No working init") {
        "the kernel cannot run 64-bit ELF programs: build it with CONFIG_BINFMT_ELF=y".to_owned()
    } else if has("memory") {
        format!("give it more than {memory} with --memory")
    } else if has("Attempted to kill init") {
        "the lab's own process in the L1 ended; the console says why".to_owned()
    } else {
        "the console output is the evidence".to_owned()
    }
}

#[cfg(test)]
mod tests;
