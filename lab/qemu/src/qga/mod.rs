//! The one client of qemu-ga, QEMU's agent in guests.
//!
//! Commands and their answers have the types of the `qapi` crate; the line is handled here, because
//! that crate's client blocks forever on a silent agent, and because a guest is not trusted: every
//! answer is bounded and checked.
//!
//! Answers carry no number of their command, so there is one command at a time. What an earlier
//! conversation left on the line ends where `guest-sync-delimited` says so: with a byte 0xFF, which
//! no JSON has, before an answer that repeats a number.
//! Source: docs/interop/qemu-ga-ref of QEMU.

use std::collections::VecDeque;
use std::io;
use std::marker::PhantomData;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;

use qapi::{Any, Execute};
use serde::Deserialize;

use crate::cut::quoted;
use crate::record::{Direction, Record};
use crate::socket::{self, Peer};

pub use qapi::{Command, qga as commands};

/// Longest answer. The lab asks for no more than 64 KiB at a time, which are 88 KiB in base64.
pub const MAX_ANSWER: usize = 256 << 10;

/// Most bytes that an earlier conversation can have left on the line.
const MAX_LEFT: usize = 4 << 20;

/// The byte before an answer to `guest-sync-delimited`.
const MARK: u8 = 0xff;

/// A conversation with qemu-ga. Never blocks.
#[derive(Debug)]
pub struct Qga {
    socket: UnixStream,
    unread: VecDeque<u8>,
    state: State,
    last_sync: i64,
    record: Record,
}

#[derive(Debug)]
enum State {
    /// Whose answer comes next is not known.
    Apart,
    /// An answer with this number is awaited; before it, `left` bytes of others were thrown away.
    Syncing { id: i64, left: usize, marked: bool },
    /// No command is under way.
    Idle,
    /// The answer to this command is awaited.
    Waiting(&'static str),
    /// The answer to this command is there.
    Answered(&'static str, Result<Any, Refusal>),
}

/// A command that was sent and the type of its answer.
#[derive(Debug)]
pub struct Ticket<C> {
    command: PhantomData<fn() -> C>,
}

/// An error answer.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Refusal {
    /// QEMU's class of the error, such as `GenericError` or `CommandNotFound`.
    pub class: String,
    /// Its text.
    pub desc: String,
}

impl Refusal {
    /// On one line, and no longer than a message can bear.
    fn plain(self) -> Refusal {
        let plain = |text: String| quoted(&text.replace(char::is_control, " "));
        Refusal {
            class: plain(self.class),
            desc: plain(self.desc),
        }
    }
}

/// qemu-ga did not do its part.
#[derive(Debug, thiserror::Error)]
pub enum QgaError {
    /// A line that is no answer.
    #[error("{why}: {line}")]
    Nonsense {
        /// Reason it is invalid.
        why: String,
        /// The line, shortened.
        line: String,
    },
    /// An answer that does not end.
    #[error("more than {0} bytes in an answer")]
    TooLong(usize),
    /// The other end was closed.
    #[error("the line was closed")]
    Closed,
    /// A command was sent before the answer to the last one.
    #[error("{0} while another command is under way")]
    Busy(&'static str),
    /// It answered with an error.
    #[error("{command} was refused: {} ({})", refusal.desc, refusal.class)]
    Refused {
        /// The command.
        command: &'static str,
        /// The error.
        refusal: Refusal,
    },
    /// The line failed.
    #[error("line to qemu-ga: {0}")]
    Io(#[from] io::Error),
}

/// Any answer. Exactly one of the two is there.
#[derive(Deserialize)]
struct Answer {
    #[serde(rename = "return")]
    value: Option<Any>,
    error: Option<Refusal>,
}

impl Qga {
    /// On the lab's end of the line. [`Qga::sync`] comes first.
    ///
    /// # Errors
    ///
    /// The socket cannot be used without blocking.
    pub fn new(socket: UnixStream) -> Result<Qga, QgaError> {
        socket.set_nonblocking(true)?;
        Ok(Qga {
            socket,
            unread: VecDeque::new(),
            state: State::Apart,
            last_sync: 0,
            record: Record::new(),
        })
    }

    /// Readable when qemu-ga has sent data.
    pub fn socket(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Sends `guest-sync-delimited`. What was sent before stays without an answer.
    ///
    /// # Errors
    ///
    /// The line failed or is full.
    pub fn sync(&mut self) -> Result<(), QgaError> {
        self.last_sync += 1;
        let id = self.last_sync;
        // The mark ends whatever an earlier client has sent in part.
        self.write(&[MARK], &commands::guest_sync_delimited { id })?;
        self.state = State::Syncing {
            id,
            left: 0,
            marked: false,
        };
        Ok(())
    }

    /// Whether the last [`Qga::sync`] was answered.
    pub fn is_in_sync(&self) -> bool {
        !matches!(self.state, State::Apart | State::Syncing { .. })
    }

    /// Sends a command; [`Qga::answer`] returns the answer.
    ///
    /// # Errors
    ///
    /// Another command is under way, or the line failed or is full.
    pub fn send<C: Command>(&mut self, command: &C) -> Result<Ticket<C>, QgaError> {
        if !matches!(self.state, State::Idle) {
            return Err(QgaError::Busy(C::NAME));
        }
        self.write(&[], command)?;
        self.state = State::Waiting(C::NAME);
        Ok(Ticket {
            command: PhantomData,
        })
    }

    fn write<C: Command>(&mut self, before: &[u8], command: &C) -> Result<(), QgaError> {
        let line = serde_json::to_string(&Execute::<_, u64>::with_command(command))
            .map_err(|error| QgaError::Io(io::Error::other(error)))?;
        self.record.note(Direction::Sent, &line);
        let bytes = [before, line.as_bytes(), b"\n"].concat();
        match socket::send(&self.socket, &bytes) {
            // What was sent before a hang-up is read first, then `receive` reports it.
            Ok(Peer::Open | Peer::Closed) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                let why = "the guest does not read its line";
                Err(QgaError::Io(io::Error::new(io::ErrorKind::WouldBlock, why)))
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Reads what qemu-ga has sent.
    ///
    /// # Errors
    ///
    /// An invalid answer, or the line was closed (after all answers before that were read).
    pub fn receive(&mut self) -> Result<(), QgaError> {
        let mut bytes = Vec::new();
        let peer = socket::receive(&self.socket, &mut bytes);
        self.unread.extend(&bytes);
        self.take_lines()?;
        match peer? {
            Peer::Open => Ok(()),
            Peer::Closed => Err(QgaError::Closed),
        }
    }

    fn take_lines(&mut self) -> Result<(), QgaError> {
        loop {
            if let State::Syncing {
                left,
                marked: false,
                ..
            } = &mut self.state
            {
                let mark = self.unread.iter().position(|&byte| byte == MARK);
                let skipped = mark.unwrap_or(self.unread.len());
                *left += skipped;
                if *left > MAX_LEFT {
                    return Err(QgaError::TooLong(MAX_LEFT));
                }
                self.unread.drain(..mark.map_or(skipped, |at| at + 1));
                if mark.is_none() {
                    return Ok(());
                }
                if let State::Syncing { marked, .. } = &mut self.state {
                    *marked = true;
                }
            }
            let Some(end) = self.unread.iter().position(|&byte| byte == b'\n') else {
                break;
            };
            if end > MAX_ANSWER {
                break;
            }
            let line: Vec<u8> = self.unread.drain(..=end).collect();
            let line = line.trim_ascii();
            if !line.is_empty() {
                self.take_line(line)?;
            }
        }
        match self.unread.len() > MAX_ANSWER {
            true => Err(QgaError::TooLong(MAX_ANSWER)),
            false => Ok(()),
        }
    }

    fn take_line(&mut self, line: &[u8]) -> Result<(), QgaError> {
        let text = String::from_utf8_lossy(line);
        self.record.note(Direction::Received, &text);
        let nonsense = |why: String| QgaError::Nonsense {
            why,
            line: quoted(&text),
        };
        let answer: Answer = serde_json::from_slice(line)
            .map_err(|error| nonsense(format!("a line that is no answer ({error})")))?;
        let result = match answer {
            Answer {
                value: Some(value),
                error: None,
            } => Ok(value),
            Answer {
                value: None,
                error: Some(refusal),
            } => Err(refusal.plain()),
            _ => return Err(nonsense("an answer that says nothing".to_owned())),
        };
        match self.state {
            State::Syncing { id, left, .. } => match result {
                Ok(value) if value.as_i64() == Some(id) => {
                    self.state = State::Idle;
                    Ok(())
                }
                // The answer to an earlier one, from before the agent listened.
                Ok(_) => {
                    self.state = State::Syncing {
                        id,
                        left,
                        marked: false,
                    };
                    Ok(())
                }
                Err(refusal) => Err(QgaError::Refused {
                    command: commands::guest_sync_delimited::NAME,
                    refusal,
                }),
            },
            State::Waiting(command) => {
                self.state = State::Answered(command, result);
                Ok(())
            }
            State::Apart | State::Idle | State::Answered(..) => {
                Err(nonsense("an answer to nothing".to_owned()))
            }
        }
    }

    /// The answer to a command, once it is there.
    ///
    /// # Errors
    ///
    /// The command was refused, or the answer is none to that command.
    pub fn answer<C: Command>(&mut self, _ticket: &Ticket<C>) -> Result<Option<C::Ok>, QgaError> {
        match &self.state {
            State::Answered(command, _) if *command == C::NAME => {}
            _ => return Ok(None),
        }
        match std::mem::replace(&mut self.state, State::Idle) {
            State::Answered(_, Ok(value)) => match C::Ok::deserialize(&value) {
                Ok(value) => Ok(Some(value)),
                Err(error) => Err(QgaError::Nonsense {
                    why: format!("no answer to {} ({})", C::NAME, quoted(&error.to_string())),
                    line: quoted(&value.to_string()),
                }),
            },
            State::Answered(command, Err(refusal)) => Err(QgaError::Refused { command, refusal }),
            _ => Ok(None),
        }
    }

    /// The conversation so far, as JSON lines with timestamps; the middle of a long one is left
    /// out.
    pub fn trace(&self) -> String {
        self.record.to_json_lines()
    }
}

#[cfg(test)]
mod tests;
