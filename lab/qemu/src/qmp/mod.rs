//! The one QMP client of the lab.
//!
//! Commands and their answers have the types of the `qapi` crate; the socket is handled here,
//! because that crate's client stops at the first event missing in its schema, and blocks forever
//! on a silent monitor. Here unknown events are kept, answers are matched by id, and every wait has
//! a timeout.
//!
//! [`commands`] holds commands whose generated types cannot be sent.

pub mod commands;

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::marker::PhantomData;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use qapi::{Any, Command, Execute};
use serde::Deserialize;

use crate::cut::quoted;
use crate::record::{Direction, Record};
use crate::socket::{self, Peer};

/// Longest line a monitor may send. `query-qmp-schema`, the longest there is, has 250 KB.
const MAX_LINE: usize = 4 << 20;

/// Bound on queued events; the oldest are dropped.
const MAX_EVENTS: usize = 1024;

/// A conversation with a monitor. Never blocks, except in [`Qmp::execute`] and within bounds.
#[derive(Debug)]
pub struct Qmp {
    socket: UnixStream,
    unread: VecDeque<u8>,
    greeted: bool,
    next_id: u64,
    /// Answers to commands that were sent: `None` until it is there.
    answers: BTreeMap<u64, Option<Result<Any, qapi::Error>>>,
    events: VecDeque<Event>,
    record: Record,
}

/// A command that was sent and the type of its answer.
#[derive(Debug)]
pub struct Ticket<C> {
    id: u64,
    command: PhantomData<fn() -> C>,
}

/// An event as it came.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    /// Its name, such as `SHUTDOWN`. May be one that no schema of ours knows.
    pub name: String,
    /// Its data; null where it has none.
    pub data: Any,
    /// QEMU's timestamp, since the epoch.
    pub at: Duration,
}

/// The monitor did not do its part.
#[derive(Debug, thiserror::Error)]
pub enum QmpError {
    /// A line that is no QMP.
    #[error("{why}: {line}")]
    Nonsense {
        /// Reason it is invalid.
        why: String,
        /// The line, shortened.
        line: String,
    },
    /// A line that does not end.
    #[error("more than {MAX_LINE} bytes without an end of line")]
    TooLong,
    /// The other end was closed.
    #[error("the socket was closed")]
    Closed,
    /// No answer in time.
    #[error("no answer to {command} within {waited:?}")]
    Silent {
        /// The command.
        command: &'static str,
        /// How long was waited.
        waited: Duration,
    },
    /// The command was refused.
    #[error("{command} was refused: {reason}")]
    Refused {
        /// The command.
        command: &'static str,
        /// QEMU's error text.
        reason: String,
    },
    /// The socket failed.
    #[error("socket: {0}")]
    Io(#[from] io::Error),
}

/// Any line a monitor sends. Exactly one of the first four is there.
#[derive(Deserialize)]
struct Message {
    #[serde(rename = "QMP")]
    greeting: Option<Any>,
    #[serde(rename = "return")]
    value: Option<Any>,
    error: Option<ErrorBody>,
    event: Option<String>,
    id: Option<Any>,
    #[serde(default)]
    data: Any,
    timestamp: Option<Timestamp>,
}

/// `class` stays text: a class that a later QEMU invents is still an error and no nonsense.
#[derive(Deserialize)]
struct ErrorBody {
    class: String,
    desc: String,
}

#[derive(Deserialize)]
struct Timestamp {
    // Both are -1 where QEMU has no time.
    seconds: i64,
    microseconds: i64,
}

impl Qmp {
    /// Connects over `socket`. Requests command mode at once, so that commands can follow without
    /// waiting for the greeting.
    ///
    /// # Errors
    ///
    /// The socket failed.
    pub fn new(socket: UnixStream) -> Result<Qmp, QmpError> {
        socket.set_nonblocking(true)?;
        let mut qmp = Qmp {
            socket,
            unread: VecDeque::new(),
            greeted: false,
            next_id: 0,
            answers: BTreeMap::new(),
            events: VecDeque::new(),
            record: Record::new(),
        };
        let ticket = qmp.send(&qapi::qmp::qmp_capabilities { enable: None })?;
        // This answer is not awaited.
        qmp.answers.remove(&ticket.id);
        Ok(qmp)
    }

    /// Readable when the monitor has sent data.
    pub fn socket(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Sends a command; [`Qmp::answer`] returns the answer.
    ///
    /// # Errors
    ///
    /// The socket failed or is full: a monitor that does not read will not answer. A closed socket
    /// is reported by [`Qmp::receive`].
    pub fn send<C: Command>(&mut self, command: &C) -> Result<Ticket<C>, QmpError> {
        let id = self.next_id;
        self.next_id += 1;
        let mut line = serde_json::to_string(&Execute::with_id(command, id))
            .map_err(|error| QmpError::Io(io::Error::other(error)))?;
        self.record.note(Direction::Sent, &line);
        line.push('\n');
        match socket::send(&self.socket, line.as_bytes())? {
            // Messages sent before a hang-up are read first, then `receive` reports it.
            Peer::Open | Peer::Closed => {}
        }
        self.answers.insert(id, None);
        Ok(Ticket {
            id,
            command: PhantomData,
        })
    }

    /// Reads what the monitor has sent. Never blocks.
    ///
    /// # Errors
    ///
    /// An invalid message, or the socket was closed (after all messages before that were read).
    pub fn receive(&mut self) -> Result<(), QmpError> {
        let mut bytes = Vec::new();
        let peer = socket::receive(&self.socket, &mut bytes);
        self.unread.extend(&bytes);
        self.take_lines()?;
        match peer? {
            Peer::Open => Ok(()),
            Peer::Closed => Err(QmpError::Closed),
        }
    }

    /// The answer to a command, once it is there. A ticket is good for one answer.
    ///
    /// # Errors
    ///
    /// The command was refused, or the answer is none to that command.
    pub fn answer<C: Command>(&mut self, ticket: &Ticket<C>) -> Result<Option<C::Ok>, QmpError> {
        match self.answers.get(&ticket.id) {
            Some(Some(_)) => {}
            Some(None) | None => return Ok(None),
        }
        match self.answers.remove(&ticket.id).flatten() {
            Some(Ok(value)) => match serde_json::from_value(value.clone()) {
                Ok(value) => Ok(Some(value)),
                Err(error) => Err(QmpError::Nonsense {
                    why: format!("no answer to {} ({error})", C::NAME),
                    line: quoted(&value.to_string()),
                }),
            },
            Some(Err(error)) => Err(QmpError::Refused {
                command: C::NAME,
                reason: error.desc,
            }),
            None => Ok(None),
        }
    }

    /// Sends a command and waits for its answer.
    ///
    /// # Errors
    ///
    /// Refused, invalid, closed, or no answer within `patience`.
    pub fn execute<C: Command>(
        &mut self,
        command: &C,
        patience: Duration,
    ) -> Result<C::Ok, QmpError> {
        let until = Instant::now() + patience;
        let ticket = self.send(command)?;
        loop {
            let received = self.receive();
            if let Some(value) = self.answer(&ticket)? {
                return Ok(value);
            }
            received?;
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                self.answers.remove(&ticket.id);
                return Err(QmpError::Silent {
                    command: C::NAME,
                    waited: patience,
                });
            }
            let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
            let mut fds = [PollFd::new(self.socket.as_fd(), PollFlags::POLLIN)];
            match poll(&mut fds, timeout) {
                Ok(_) | Err(nix::Error::EINTR) => {}
                Err(error) => return Err(QmpError::Io(error.into())),
            }
        }
    }

    /// Events since the previous call, oldest first.
    pub fn take_events(&mut self) -> impl Iterator<Item = Event> {
        self.events.drain(..)
    }

    /// Whether events are queued.
    pub fn has_events(&self) -> bool {
        !self.events.is_empty()
    }

    /// The conversation so far, as JSON lines with timestamps; the middle of a long one is left
    /// out.
    pub fn trace(&self) -> String {
        self.record.to_json_lines()
    }

    fn take_lines(&mut self) -> Result<(), QmpError> {
        while let Some(end) = self.unread.iter().position(|&byte| byte == b'\n') {
            let line: Vec<u8> = self.unread.drain(..=end).collect();
            let line = line.trim_ascii();
            if !line.is_empty() {
                self.take_line(line)?;
            }
        }
        if self.unread.len() > MAX_LINE {
            return Err(QmpError::TooLong);
        }
        Ok(())
    }

    fn take_line(&mut self, line: &[u8]) -> Result<(), QmpError> {
        let text = String::from_utf8_lossy(line);
        self.record.note(Direction::Received, &text);
        let nonsense = |why: &str| QmpError::Nonsense {
            why: why.to_owned(),
            line: quoted(&text),
        };
        let message: Message =
            serde_json::from_slice(line).map_err(|_| nonsense("a line that is no QMP message"))?;
        match message {
            Message {
                greeting: Some(_), ..
            } => self.greeted = true,
            Message { .. } if !self.greeted => {
                return Err(nonsense("something else in place of the greeting"));
            }
            Message {
                event: Some(name),
                data,
                timestamp,
                ..
            } => {
                if self.events.len() == MAX_EVENTS {
                    self.events.pop_front();
                }
                self.events.push_back(Event {
                    name,
                    data,
                    at: timestamp.map_or(Duration::ZERO, |at| at.as_duration()),
                });
            }
            Message {
                error: Some(error),
                id,
                ..
            } => {
                let error = qapi::Error {
                    // The class says less than the description and is not used.
                    class: qapi::ErrorClass::GenericError,
                    desc: format!("{} ({})", error.desc, error.class),
                    id: None,
                };
                self.settle(id, Err(error));
            }
            Message {
                value: Some(value),
                id,
                ..
            } => self.settle(id, Ok(value)),
            Message { .. } => return Err(nonsense("a message that says nothing")),
        }
        Ok(())
    }

    /// Stores an answer if it is awaited.
    fn settle(&mut self, id: Option<Any>, answer: Result<Any, qapi::Error>) {
        if let Some(waiting) = id
            .as_ref()
            .and_then(Any::as_u64)
            .and_then(|id| self.answers.get_mut(&id))
        {
            *waiting = Some(answer);
        }
    }
}

impl Timestamp {
    fn as_duration(&self) -> Duration {
        let seconds = u64::try_from(self.seconds).unwrap_or(0);
        let micros = u64::try_from(self.microseconds).unwrap_or(0);
        Duration::from_secs(seconds).saturating_add(Duration::from_micros(micros))
    }
}

#[cfg(test)]
mod tests;
