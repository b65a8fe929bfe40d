//! The lab's side of the conversation with the guest, over its serial port.
//!
//! | module | what it does |
//! |---|---|
//! | [`Agent`] | a [`Conversation`] with the micro guest |
//! | [`request`] | operation of a plan to guest tasks |
//! | [`collect`] | collects the parts of the answers, within bounds |
//! | [`plausible`] | whether an answer is plausible |
//!
//! The guest is not trusted: with broken memory it may run anything. An implausible answer is an
//! error that shows its bytes, never a verdict.

pub mod collect;
pub mod plausible;
pub mod request;

use std::ops::{Deref, DerefMut};
use std::os::unix::net::UnixStream;

use tdxlab_protocol::message::{Refusal, Reply, Request, VERSION};

use crate::conversation::{Conversation, LineError};

/// The guest at the other end of a serial line: a conversation whose replies are looked into. Never
/// blocks.
#[derive(Debug)]
pub struct Agent(Conversation<Request, Reply>);

/// What the guest says of itself in place of an answer.
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
}

impl Agent {
    /// Listens on the lab's end of a serial line.
    ///
    /// # Errors
    ///
    /// The socket cannot be used without blocking.
    pub fn new(socket: UnixStream) -> Result<Agent, LineError> {
        Conversation::new(socket).map(Agent)
    }

    /// The next reply that came in whole.
    ///
    /// # Errors
    ///
    /// It is a panic or a refusal.
    pub fn next_reply(&mut self) -> Result<Option<Reply>, AgentError> {
        match self.0.next_reply() {
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

    /// Both sides of the conversation as text, one message a line; the middle of a long one is
    /// left out.
    pub fn transcript(&self) -> String {
        self.0.transcript(usize::MAX)
    }
}

impl Deref for Agent {
    type Target = Conversation<Request, Reply>;

    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

impl DerefMut for Agent {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.0
    }
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
