//! The lab's side of the conversation with the guest, over its serial port.
//!
//! | module | what it does |
//! |---|---|
//! | [`Agent`] | encodes requests, decodes replies, keeps the transcript |
//! | [`request`] | operation of a plan to guest tasks |
//! | [`collect`] | collects the parts of the answers, within bounds |
//! | [`plausible`] | whether an answer is plausible |
//!
//! The guest is not trusted: with broken memory it may run anything. An implausible answer is an
//! error that shows its bytes, never a verdict.

pub mod collect;
pub(crate) mod hex;
pub mod plausible;
pub mod request;
mod transcript;

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;

use tdxlab_protocol::frame::{self, Decoder, FrameError};
use tdxlab_protocol::message::{Refusal, Reply, Request, VERSION};

use self::hex::hex;
use self::transcript::Transcript;

/// Bytes that may come before the guest's first word: what firmware or a broken UART may say.
const MAX_NOISE: usize = 64 << 10;

/// The guest at the other end of a serial line. Never blocks.
#[derive(Debug)]
pub struct Agent {
    socket: UnixStream,
    line: Line,
    inbox: VecDeque<Reply>,
    transcript: Transcript,
    /// Number of bytes before the first reply; `None` after it.
    noise: Option<usize>,
}

/// The decoder, which does not implement `Debug`.
struct Line(Box<Decoder<Reply>>);

impl std::fmt::Debug for Line {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Line").field(&self.0.frame().len()).finish()
    }
}

/// The guest did not do its part.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// The guest panicked.
    #[error("guest panicked on vCPU {vcpu} at {file}:{line}: {message}")]
    Panic {
        /// vCPU index.
        vcpu: u16,
        /// Guest source file.
        file: String,
        /// Guest source line.
        line: u32,
        /// Guest message.
        message: String,
    },
    /// It speaks another version of the protocol.
    #[error("guest speaks protocol version {guest}, the lab {lab}")]
    Version {
        /// Protocol version of the guest.
        guest: u16,
        /// Protocol version of the lab.
        lab: u16,
    },
    /// The guest refused the request.
    #[error("guest refused: {0}")]
    Refused(String),
    /// The reply is implausible.
    #[error("{0}")]
    Lies(String),
    /// The line was closed.
    #[error("the serial line was closed")]
    Closed,
    /// The line is full: the guest does not read.
    #[error("the guest does not read its serial line")]
    Full,
    /// The socket failed.
    #[error("serial line: {0}")]
    Io(#[from] io::Error),
}

impl Agent {
    /// Listens on the lab's end of a serial line.
    ///
    /// # Errors
    ///
    /// The socket cannot be used without blocking.
    pub fn new(socket: UnixStream) -> Result<Agent, AgentError> {
        socket.set_nonblocking(true)?;
        Ok(Agent {
            socket,
            line: Line(Box::new(Decoder::new())),
            inbox: VecDeque::new(),
            transcript: Transcript::new(),
            noise: Some(0),
        })
    }

    /// Readable when the guest has sent data.
    pub fn socket(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Sends a request.
    ///
    /// # Errors
    ///
    /// The line is closed, or full because the guest does not read.
    pub fn send(&mut self, request: &Request) -> Result<(), AgentError> {
        let mut buffer = frame::EMPTY_FRAME;
        let bytes = frame::encode(request, &mut buffer)
            .map_err(|error| AgentError::Io(io::Error::other(error)))?;
        self.transcript.sent(bytes);
        match self.socket.write_all(bytes) {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Err(AgentError::Full),
            Err(error) if is_hang_up(&error) => Err(AgentError::Closed),
            Err(error) => Err(error.into()),
        }
    }

    /// Reads what the guest has sent. Never blocks.
    ///
    /// # Errors
    ///
    /// A damaged frame, or the line was closed; complete replies before that remain available from
    /// [`Agent::next_reply`].
    pub fn receive(&mut self) -> Result<(), AgentError> {
        let mut buffer = [0; 4096];
        // Bounded, so that a guest that never stops does not keep the lab from everything else.
        for _ in 0..16 {
            match self.socket.read(&mut buffer) {
                Ok(0) => return Err(AgentError::Closed),
                Ok(count) => self.take(&buffer[..count])?,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if is_hang_up(&error) => return Err(AgentError::Closed),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    fn take(&mut self, mut bytes: &[u8]) -> Result<(), AgentError> {
        self.transcript.raw(bytes);
        if let Some(noise) = &mut self.noise {
            *noise += bytes.len();
        }
        while let Some(result) = self.line.0.feed(&mut bytes) {
            self.transcript.received(self.line.0.frame());
            match result {
                Ok(reply) => {
                    self.noise = None;
                    self.inbox.push_back(reply);
                }
                // A line that was never opened properly may crackle before the first word.
                Err(_) if self.noise.is_some() => {}
                Err(error) => return Err(self.damaged(error)),
            }
        }
        match self.noise {
            Some(noise) if noise > MAX_NOISE => Err(AgentError::Lies(format!(
                "{noise} bytes and no greeting among them; the last are {}",
                hex(self.line.0.frame())
            ))),
            _ => Ok(()),
        }
    }

    fn damaged(&self, error: FrameError) -> AgentError {
        AgentError::Lies(format!(
            "a damaged frame ({error}): {}",
            hex(self.line.0.frame())
        ))
    }

    /// The next reply that came in whole.
    ///
    /// # Errors
    ///
    /// It is a panic or a refusal.
    pub fn next_reply(&mut self) -> Result<Option<Reply>, AgentError> {
        match self.inbox.pop_front() {
            Some(Reply::Panic {
                vcpu,
                file,
                line,
                message,
            }) => Err(AgentError::Panic {
                vcpu: vcpu.0,
                file: file.as_str().to_owned(),
                line,
                message: message.as_str().to_owned(),
            }),
            Some(Reply::Refused {
                reason: Refusal::Version { guest, lab },
            }) => Err(AgentError::Version { guest, lab }),
            Some(Reply::Refused { reason }) => Err(AgentError::Refused(describe(reason))),
            Some(Reply::Hello(hello)) if hello.version != VERSION => Err(AgentError::Version {
                guest: hello.version,
                lab: VERSION,
            }),
            reply => Ok(reply),
        }
    }

    /// Whether replies are queued.
    pub fn has_replies(&self) -> bool {
        !self.inbox.is_empty()
    }

    /// Both sides of the conversation as text, one message a line; the middle of a long one is
    /// left out.
    pub fn transcript(&self) -> String {
        self.transcript.to_text(self.line.0.frame())
    }

    /// The bytes the guest sent; the middle of many is left out.
    pub fn raw(&self) -> Vec<u8> {
        self.transcript.raw_bytes()
    }
}

fn is_hang_up(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset
    )
}

fn describe(reason: Refusal) -> String {
    match reason {
        Refusal::Version { guest, lab } => format!("its version is {guest}, ours is {lab}"),
        Refusal::NoSuchVcpu(vcpu) => format!("it has no vCPU {}", vcpu.0),
        Refusal::VcpuTwice(vcpu) => format!("two tasks for vCPU {}", vcpu.0),
        Refusal::BadRange(range) => format!("it cannot reach {range} or not in such steps"),
        Refusal::NotConfigured => "a task before the windows were mapped".to_owned(),
        Refusal::Garbled => "what we sent came damaged".to_owned(),
        other => format!("{other:?}"),
    }
}

#[cfg(test)]
mod tests;
