//! A QEMU with a Linux guest that runs, listened to: its console and the agent's line; and why it does
//! not get on, once it does not.

use std::io::{self, Read};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tdxlab_l1::console::{Console, Notice};
use tdxlab_protocol::linux::{CONSOLE_MARK, LinuxHello, LinuxReply, LinuxRequest};
use tdxlab_qemu::Process;
use tdxlab_qemu::conversation::{Conversation, LineError};
use tdxlab_qemu::interrupt::Interrupt;

use crate::account;
use crate::error::{LinuxError, advice_on_panic, advice_on_qemu, system};
use crate::firmware;
use crate::machine::Machine;
use tdxlab_qemu::patience::Over;

/// Interval of checks for an interrupt.
const TICK: Duration = Duration::from_millis(200);

/// Time for a panicked kernel to print its reason.
const LAST_WORDS: Duration = Duration::from_millis(300);

/// Number of console lines in an error.
const SHOWN: usize = 12;

const NO_LINE: &str = "the guest kernel needs CONFIG_VIRTIO_PCI and CONFIG_VIRTIO_CONSOLE, as modules that \
     --guest-modules names or built in; or CONFIG_SERIAL_8250 with two lines";

/// A guest under way. Dropping it ends its QEMU.
pub(crate) struct Running {
    pub(crate) process: Process,
    pub(crate) talk: Conversation<LinuxRequest, LinuxReply>,
    /// Does not block.
    pub(crate) console_line: UnixStream,
    pub(crate) console: Console,
    /// Readable when qemu-ga has sent data.
    pub(crate) qemu_ga: Option<UnixStream>,
    pub(crate) machine: Machine,
    /// What to call the kernel in messages.
    pub(crate) name: String,
    pub(crate) interrupt: &'static Interrupt,
    /// The agent's greeting, once it came.
    pub(crate) hello: Option<LinuxHello>,
}

impl Running {
    /// Waits for events and handles them. Returns whether the guest gave a sign of life.
    pub(crate) fn wait(&mut self, doing: &str) -> Result<bool, LinuxError> {
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

    pub(crate) fn poll(&mut self) -> io::Result<()> {
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

    pub(crate) fn listen_to_console(&mut self, doing: &str) -> Result<bool, LinuxError> {
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

    pub(crate) fn agent_panic(
        &self,
        doing: &str,
        file: &str,
        line: u32,
        message: &str,
    ) -> LinuxError {
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
    pub(crate) fn died(&mut self, doing: &str) -> LinuxError {
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

    pub(crate) fn hung(&self, doing: &str, over: Over) -> LinuxError {
        let silent_from_the_start = self.console.text().is_empty() && self.hello.is_none();
        let advice = match silent_from_the_start {
            true => {
                "not even the kernel has said anything: it may not start on this board or CPU; \
                 add earlyprintk=ttyS0 to the guest's `append`"
            }
            false => "the console's last lines show how far it came",
        };
        let rounded = |time: Duration| {
            Duration::from_millis(u64::try_from(time.as_millis()).unwrap_or(u64::MAX))
        };
        let (doing, console) = (doing.to_owned(), self.console.last(SHOWN));
        match over {
            Over::Silent(silent) => LinuxError::Hung {
                doing,
                silent: rounded(silent),
                advice: advice.into(),
                console,
            },
            Over::Babbling(after) => LinuxError::Babbles {
                doing,
                after: rounded(after),
                console,
            },
        }
    }

    pub(crate) fn line_error(&mut self, error: LineError, doing: &str) -> LinuxError {
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
            LineError::Full => self.hung(doing, Over::Silent(Duration::ZERO)),
            LineError::Io(source) => LinuxError::System {
                doing: doing.to_owned(),
                source,
            },
        }
    }
}
