//! Brings the agent into a system that runs, through the qemu-ga in it: waits for qemu-ga, writes the
//! agent into a file, makes that a program, and starts it. The agent then speaks on its own line.
//!
//! The guest is not trusted: every wait has a timeout, and every answer is checked.

use std::io;
use std::os::fd::BorrowedFd;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use tdxlab_protocol::linux::{PUSHED, QEMU_GA_PORT};
use tdxlab_qemu::qga::commands::{
    GuestExecCaptureOutput, GuestExecStatus, GuestShutdownMode, guest_exec, guest_exec_status,
    guest_file_close, guest_file_flush, guest_file_open, guest_file_read, guest_file_write,
    guest_info, guest_ping, guest_shutdown, guest_sync_delimited,
};
use tdxlab_qemu::qga::{Command, QgaError, Ticket};
use tdxlab_qemu::qmp::commands::query_chardev;
use tdxlab_qemu::{Qga, Qmp};

use crate::error::LinuxError;
use crate::pusher_error::{disabled, ended, failed, full, lies, program_failed, silent};
use tdxlab_qemu::patience::Waiting;

/// Where the agent is put.
pub const PATH: &str = "/tmp/tdxlab-agent";

/// Bytes in one guest-file-write or guest-file-read.
const CHUNK: usize = 48 << 10;

/// Interval of attempts to get in step: an earlier one may have gone to a qemu-ga that was restarted.
const AGAIN: Duration = Duration::from_secs(5);

/// Interval of looks at a program that runs.
const LOOK: Duration = Duration::from_millis(100);

/// Interval of looks at the agent while it is silent.
const LOOK_AT_AGENT: Duration = Duration::from_secs(1);

/// QEMU's name for its end of qemu-ga's line.
pub(crate) const LINE: &str = "qemu-ga";

/// Longest that QEMU's monitor may take to say whether it is open.
const QMP_PATIENCE: Duration = Duration::from_secs(2);

/// Files of a guest that are evidence, and their names there.
const EVIDENCE: [(&str, &str); 2] = [
    ("/proc/meminfo", "guest-meminfo.txt"),
    ("/proc/iomem", "guest-iomem.txt"),
];

/// Most bytes of one of them.
const MOST_EVIDENCE: usize = 1 << 20;

/// Longest that qemu-ga may be silent when evidence is taken.
const LAST_PATIENCE: Duration = Duration::from_secs(10);

/// Commands without which the agent cannot be brought.
const NEEDED: [&str; 6] = [
    guest_file_open::NAME,
    guest_file_write::NAME,
    guest_file_flush::NAME,
    guest_file_close::NAME,
    guest_exec::NAME,
    guest_exec_status::NAME,
];

/// Waits a moment for anything. Returns whether the guest gave a sign of life, or why it cannot.
pub type Wait<'a> = dyn FnMut(&str) -> Result<bool, LinuxError> + 'a;

/// An agent that was brought.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pushed {
    /// Version of qemu-ga.
    pub version: String,
    /// Bytes of the agent.
    pub bytes: u64,
    /// How long qemu-ga took for it.
    pub took: Duration,
}

/// A conversation with qemu-ga, and the agent that it runs.
pub struct Pusher {
    qga: Qga,
    patience: Duration,
    /// Process id of the agent in the guest.
    agent: Option<i64>,
    looked: Instant,
    look: Option<Ticket<guest_exec_status>>,
    shutdown: Option<Ticket<guest_shutdown>>,
}

impl Pusher {
    /// On the lab's end of qemu-ga's line. `patience`: the longest that it may be silent.
    ///
    /// # Errors
    ///
    /// The socket cannot be used without blocking.
    pub fn new(socket: UnixStream, patience: Duration) -> Result<Pusher, LinuxError> {
        let qga = Qga::new(socket).map_err(|error| LinuxError::System {
            doing: "listening to qemu-ga".to_owned(),
            source: io::Error::other(error),
        })?;
        Ok(Pusher {
            qga,
            patience,
            agent: None,
            looked: Instant::now(),
            look: None,
            shutdown: None,
        })
    }

    /// Readable when qemu-ga has sent data.
    pub fn socket(&self) -> BorrowedFd<'_> {
        self.qga.socket()
    }

    /// The conversation so far, as JSON lines.
    pub fn trace(&self) -> String {
        self.qga.trace()
    }

    /// Brings `agent` and starts it.
    ///
    /// # Errors
    ///
    /// A command failed, which the error names with qemu-ga's own words, or the guest ended.
    pub fn push(&mut self, agent: &[u8], wait: &mut Wait<'_>) -> Result<Pushed, LinuxError> {
        self.get_in_step(wait)?;
        let began = Instant::now();
        let doing = "after it had answered";
        self.run(&guest_ping {}, doing, wait)?;
        let info = self.run(&guest_info {}, doing, wait)?;
        let version: String = info
            .version
            .chars()
            .filter(|c| !c.is_control())
            .take(64)
            .collect();
        for needed in NEEDED {
            let known = info
                .supported_commands
                .iter()
                .find(|one| one.name == needed);
            if !known.is_some_and(|known| known.enabled) {
                return Err(disabled(needed, &version));
            }
        }
        self.write(PATH, agent, wait)?;
        self.make_a_program(wait)?;
        let pid = self.start(PATH, &[PUSHED], "while starting the agent", wait)?;
        self.agent = Some(pid);
        self.looked = Instant::now();
        Ok(Pushed {
            version,
            bytes: agent.len() as u64,
            took: began.elapsed(),
        })
    }

    /// Waits until qemu-ga answers.
    fn get_in_step(&mut self, wait: &mut Wait<'_>) -> Result<(), LinuxError> {
        let command = guest_sync_delimited::NAME;
        let doing = "while waiting for qemu-ga";
        let failed = |error| failed(command, doing, error);
        let began = Instant::now();
        let mut waiting = Waiting::new(self.patience, began);
        let mut asked = None::<Instant>;
        while !self.qga.is_in_sync() {
            if asked.is_none_or(|asked| asked.elapsed() > AGAIN) {
                self.qga.sync().map_err(failed)?;
                asked = Some(Instant::now());
            }
            if wait(doing)? {
                waiting.sign(Instant::now());
            }
            self.receive().map_err(failed)?;
            if waiting.over(Instant::now()).is_some() {
                return Err(silent(command, doing, began.elapsed()));
            }
        }
        Ok(())
    }

    /// Reads what is there. That QEMU is gone is seen elsewhere, with its last words.
    fn receive(&mut self) -> Result<(), QgaError> {
        match self.qga.receive() {
            Err(QgaError::Closed) => Ok(()),
            result => result,
        }
    }

    /// Does one command.
    fn run<C: Command>(
        &mut self,
        command: &C,
        doing: &str,
        wait: &mut Wait<'_>,
    ) -> Result<C::Ok, LinuxError> {
        let refused = |error| failed(C::NAME, doing, error);
        let ticket = self.qga.send(command).map_err(refused)?;
        self.answer(&ticket, doing, wait)
    }

    fn answer<C: Command>(
        &mut self,
        ticket: &Ticket<C>,
        doing: &str,
        wait: &mut Wait<'_>,
    ) -> Result<C::Ok, LinuxError> {
        let refused = |error| failed(C::NAME, doing, error);
        let sent = Instant::now();
        loop {
            self.receive().map_err(refused)?;
            if let Some(answer) = self.qga.answer(ticket).map_err(refused)? {
                return Ok(answer);
            }
            if sent.elapsed() > self.patience {
                return Err(silent(C::NAME, doing, sent.elapsed()));
            }
            wait(doing)?;
        }
    }

    /// Writes a new file.
    fn write(&mut self, path: &str, bytes: &[u8], wait: &mut Wait<'_>) -> Result<(), LinuxError> {
        let doing = format!("while writing {path}");
        let open = guest_file_open {
            path: path.to_owned(),
            mode: Some("w".to_owned()),
        };
        let handle = self.run(&open, &doing, wait)?;
        let mut written = 0;
        // Of what was not flushed nobody knows where it is.
        let space = |error, written| full(error, path, written, bytes.len());
        while written < bytes.len() {
            let chunk = &bytes[written..bytes.len().min(written + CHUNK)];
            let write = guest_file_write {
                handle,
                buf_b64: chunk.to_vec(),
                count: None,
            };
            let answer = self.run(&write, &doing, wait);
            let answer = answer.map_err(|error| space(error, written))?;
            match usize::try_from(answer.count) {
                Ok(count) if (1..=chunk.len()).contains(&count) => written += count,
                _ => {
                    let what = format!("{} of {} bytes written", answer.count, chunk.len());
                    return Err(lies(guest_file_write::NAME, &doing, what));
                }
            }
        }
        let flushed = self.run(&guest_file_flush { handle }, &doing, wait);
        flushed.map_err(|error| space(error, written))?;
        let closed = self.run(&guest_file_close { handle }, &doing, wait);
        closed.map_err(|error| space(error, written))?;
        Ok(())
    }

    fn make_a_program(&mut self, wait: &mut Wait<'_>) -> Result<(), LinuxError> {
        let doing = "while making the agent a program";
        let status = self.run_to_end("chmod", &["755", PATH], doing, wait)?;
        match (status.exitcode, status.signal) {
            (Some(0), None) => Ok(()),
            _ => Err(program_failed("chmod", doing, &status)),
        }
    }

    /// Runs a program of the guest's until it ends.
    fn run_to_end(
        &mut self,
        program: &str,
        arguments: &[&str],
        doing: &str,
        wait: &mut Wait<'_>,
    ) -> Result<GuestExecStatus, LinuxError> {
        let pid = self.start(program, arguments, doing, wait)?;
        let began = Instant::now();
        loop {
            let status = self.run(&guest_exec_status { pid }, doing, wait)?;
            if status.exited {
                return Ok(status);
            }
            if began.elapsed() > self.patience {
                return Err(silent(guest_exec_status::NAME, doing, began.elapsed()));
            }
            let next = Instant::now() + LOOK;
            while Instant::now() < next {
                wait(doing)?;
            }
        }
    }

    /// Starts a program. Returns its process id.
    fn start(
        &mut self,
        program: &str,
        arguments: &[&str],
        doing: &str,
        wait: &mut Wait<'_>,
    ) -> Result<i64, LinuxError> {
        let exec = guest_exec {
            path: program.to_owned(),
            arg: Some(arguments.iter().map(|&word| word.to_owned()).collect()),
            env: None,
            input_data: None,
            capture_output: Some(GuestExecCaptureOutput::flag(true)),
        };
        Ok(self.run(&exec, doing, wait)?.pid)
    }

    /// Reads a file, and no more than `most` bytes of it.
    ///
    /// # Errors
    ///
    /// As for [`Pusher::push`].
    pub fn read(
        &mut self,
        path: &str,
        most: usize,
        wait: &mut Wait<'_>,
    ) -> Result<Vec<u8>, LinuxError> {
        let doing = format!("while reading {path}");
        self.end_look(&doing, wait)?;
        let open = guest_file_open {
            path: path.to_owned(),
            mode: Some("r".to_owned()),
        };
        let handle = self.run(&open, &doing, wait)?;
        let read = self.read_on(handle, most, &doing, wait);
        // Of a folder, only its bytes are refused.
        if matches!(read, Ok(_) | Err(LinuxError::QemuGa { tried: true, .. })) {
            self.run(&guest_file_close { handle }, &doing, wait)?;
        }
        read
    }

    /// Reads what is left of an open file.
    fn read_on(
        &mut self,
        handle: i64,
        most: usize,
        doing: &str,
        wait: &mut Wait<'_>,
    ) -> Result<Vec<u8>, LinuxError> {
        let mut bytes = Vec::new();
        loop {
            let count = CHUNK.min(most - bytes.len());
            let read = guest_file_read {
                handle,
                count: i64::try_from(count).ok(),
            };
            let answer = self.run(&read, doing, wait)?;
            let got = answer.buf_b64.len();
            if usize::try_from(answer.count) != Ok(got) || got > count {
                let what = format!("{} bytes that are {got}, of {count}", answer.count);
                return Err(lies(guest_file_read::NAME, doing, what));
            }
            bytes.extend_from_slice(&answer.buf_b64);
            if answer.eof || got == 0 || bytes.len() == most {
                return Ok(bytes);
            }
        }
    }

    /// Looks whether the agent still runs, now and then. Does not wait.
    ///
    /// # Errors
    ///
    /// It has ended, or qemu-ga sent what is no answer.
    pub fn watch(&mut self, doing: &str) -> Result<(), LinuxError> {
        let Some(pid) = self.agent else {
            return Ok(());
        };
        let refused = |error| failed(guest_exec_status::NAME, doing, error);
        self.receive().map_err(refused)?;
        if let Some(ticket) = &self.look {
            if let Some(status) = self.qga.answer(ticket).map_err(refused)? {
                self.look = None;
                self.looked = Instant::now();
                return self.still_runs(&status, doing);
            }
        } else if self.looked.elapsed() > LOOK_AT_AGENT && self.shutdown.is_none() {
            let look = self.qga.send(&guest_exec_status { pid });
            self.look = Some(look.map_err(refused)?);
        }
        Ok(())
    }

    fn still_runs(&mut self, status: &GuestExecStatus, doing: &str) -> Result<(), LinuxError> {
        match status.exited {
            true => {
                self.agent = None;
                Err(ended(status, doing))
            }
            false => Ok(()),
        }
    }

    /// Waits for the answer of a look under way, so that another command can follow.
    fn end_look(&mut self, doing: &str, wait: &mut Wait<'_>) -> Result<(), LinuxError> {
        if let Some(ticket) = self.look.take() {
            let status = self.answer(&ticket, doing, wait)?;
            self.looked = Instant::now();
            self.still_runs(&status, doing)?;
        }
        Ok(())
    }

    /// What the guest shows where its agent no longer speaks: file names and contents, as far as qemu-ga
    /// gives them.
    pub fn evidence(&mut self, wait: &mut Wait<'_>) -> Vec<(String, Vec<u8>)> {
        self.patience = self.patience.min(LAST_PATIENCE);
        let doing = "for evidence";
        let _ = self.end_look(doing, wait);
        let mut found = Vec::new();
        for (path, name) in EVIDENCE {
            match self.read(path, MOST_EVIDENCE, wait) {
                Ok(bytes) => found.push((name.to_owned(), bytes)),
                Err(_) => return found,
            }
        }
        let log = self.run_to_end("dmesg", &[], doing, wait);
        let log = log.ok().and_then(|status| status.out_data);
        found.extend(log.map(|log| ("guest-dmesg.log".to_owned(), log)));
        found
    }

    /// Asks the system to switch off. It does not answer where it does.
    ///
    /// # Errors
    ///
    /// The command cannot be sent.
    pub fn shut_down(&mut self, doing: &str, wait: &mut Wait<'_>) -> Result<(), LinuxError> {
        self.end_look(doing, wait)?;
        let mode = Some(GuestShutdownMode::Powerdown);
        let sent = self.qga.send(&guest_shutdown { mode });
        self.shutdown = Some(sent.map_err(|error| failed(guest_shutdown::NAME, doing, error))?);
        // The agent ends with the system.
        self.agent = None;
        Ok(())
    }

    /// Why the system does not switch off, once qemu-ga has refused.
    pub fn refused_shutdown(&mut self, doing: &str) -> Option<LinuxError> {
        let ticket = self.shutdown.as_ref()?;
        // What a system sends on its way down is no answer any more.
        self.qga.receive().ok()?;
        match self.qga.answer(ticket) {
            Err(error) => {
                self.shutdown = None;
                Some(failed(guest_shutdown::NAME, doing, error))
            }
            Ok(_) => None,
        }
    }
}

/// Remedy where no qemu-ga answers, by what QEMU says of its port.
pub(crate) fn advice_on_silence(qmp: &mut Qmp) -> String {
    let lines = qmp.execute(&query_chardev {}, QMP_PATIENCE).ok();
    let line = lines.and_then(|lines| lines.into_iter().find(|line| line.label == LINE));
    match line.map(|line| line.frontend_open) {
        Some(true) => {
            "something in the guest has opened its port and does not answer: qemu-ga may be \
             frozen, or another program reads there"
                .to_owned()
        }
        Some(false) => format!(
            "nothing in the guest has opened the port {QEMU_GA_PORT}: install qemu-guest-agent in the \
             image and have it started; if the disk did not boot, the console's last lines show how far \
             it came"
        ),
        None => "the console's last lines show how far the guest came".to_owned(),
    }
}
