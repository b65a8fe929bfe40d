//! Messages to and from a program in a guest, over a socket, with a transcript.
//!
//! The guest is not trusted: with broken memory it may run anything. An invalid message is an error
//! that shows its bytes.

mod hex;
mod transcript;

use std::collections::VecDeque;
use std::fmt::Debug;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;

use tdxlab_protocol::codec::DELIMITER;
use tdxlab_protocol::frame::{self, Decoder, FrameBuffer, Message};

use self::hex::hex;
use self::transcript::Transcript;
use crate::socket::{self, Peer};

/// Bound on bytes before the guest's first message, from firmware or a UART.
const MAX_NOISE: usize = 64 << 10;

/// Most replies that wait to be taken.
const MAX_WAITING: usize = 1 << 16;

/// A conversation in requests `Q` and replies `R`. Never blocks.
pub struct Conversation<Q, R> {
    socket: UnixStream,
    decoder: Box<Decoder<R>>,
    inbox: VecDeque<R>,
    transcript: Transcript<Q, R>,
    /// Number of bytes before the first message; `None` after it.
    noise: Option<usize>,
}

/// The other end did not do its part.
#[derive(Debug, thiserror::Error)]
pub enum LineError {
    /// The message is invalid.
    #[error("{0}")]
    Lies(String),
    /// The line was closed.
    #[error("the line to the guest was closed")]
    Closed,
    /// The line is full: the guest does not read.
    #[error("the guest does not read its line")]
    Full,
    /// The socket failed.
    #[error("line to the guest: {0}")]
    Io(#[from] io::Error),
}

// The decoder has no `Debug`.
impl<Q, R> Debug for Conversation<Q, R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Conversation")
            .field("socket", &self.socket)
            .field("waiting", &self.inbox.len())
            .finish_non_exhaustive()
    }
}

impl<Q: Message + Debug, R: Message + Debug> Conversation<Q, R> {
    /// Listens on the lab's end of a line.
    ///
    /// # Errors
    ///
    /// The socket cannot be used without blocking.
    pub fn new(socket: UnixStream) -> Result<Conversation<Q, R>, LineError> {
        socket.set_nonblocking(true)?;
        Ok(Conversation {
            socket,
            decoder: Box::new(Decoder::new()),
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
    pub fn send(&mut self, request: &Q) -> Result<(), LineError> {
        let mut buffer = frame::EMPTY_FRAME;
        let bytes = self.encode(request, &mut buffer)?;
        self.write(bytes)
    }

    /// Sends a request whose frame `put` brings to the guest. The line carries an empty frame only,
    /// which wakes the guest.
    ///
    /// # Errors
    ///
    /// As for [`Conversation::send`], or that of `put`.
    pub fn send_beside(
        &mut self,
        request: &Q,
        put: impl FnOnce(&[u8]) -> Result<(), LineError>,
    ) -> Result<(), LineError> {
        let mut buffer = frame::EMPTY_FRAME;
        put(self.encode(request, &mut buffer)?)?;
        self.write(&[DELIMITER])
    }

    /// The frame of a request, which counts as sent.
    fn encode<'b>(
        &mut self,
        request: &Q,
        buffer: &'b mut FrameBuffer,
    ) -> Result<&'b [u8], LineError> {
        let bytes = frame::encode(request, buffer).map_err(io::Error::other)?;
        self.transcript.sent(bytes);
        Ok(bytes)
    }

    fn write(&self, bytes: &[u8]) -> Result<(), LineError> {
        match socket::send(&self.socket, bytes) {
            Ok(Peer::Open) => Ok(()),
            Ok(Peer::Closed) => Err(LineError::Closed),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Err(LineError::Full),
            Err(error) => Err(error.into()),
        }
    }

    /// Reads what the guest has sent.
    ///
    /// # Errors
    ///
    /// A damaged frame, or the line was closed; complete messages before that remain available from
    /// [`Conversation::next_reply`].
    pub fn receive(&mut self) -> Result<(), LineError> {
        let mut bytes = Vec::new();
        let peer = socket::receive(&self.socket, &mut bytes);
        self.take(&bytes)?;
        match peer? {
            Peer::Open => Ok(()),
            Peer::Closed => Err(LineError::Closed),
        }
    }

    /// Takes a frame that came on another way than the line.
    ///
    /// # Errors
    ///
    /// It is damaged, or not one frame.
    pub fn receive_frame(&mut self, frame: &[u8]) -> Result<(), LineError> {
        self.transcript.raw(frame);
        let mut decoder = Decoder::new();
        let mut rest = frame;
        let message = decoder.feed(&mut rest);
        self.transcript.received(decoder.frame());
        match message {
            Some(Ok(message)) if rest.is_empty() => self.put(message),
            _ => Err(LineError::Lies(format!(
                "what is not one whole frame: {}",
                hex(frame)
            ))),
        }
    }

    fn put(&mut self, message: R) -> Result<(), LineError> {
        if self.inbox.len() >= MAX_WAITING {
            return Err(LineError::Lies(format!(
                "more than {MAX_WAITING} messages at once"
            )));
        }
        self.inbox.push_back(message);
        Ok(())
    }

    fn take(&mut self, mut bytes: &[u8]) -> Result<(), LineError> {
        self.transcript.raw(bytes);
        if let Some(noise) = &mut self.noise {
            *noise += bytes.len();
        }
        while let Some(result) = self.decoder.feed(&mut bytes) {
            self.transcript.received(self.decoder.frame());
            match result {
                Ok(reply) => {
                    self.noise = None;
                    self.put(reply)?;
                }
                // Firmware or a UART may have sent anything before the first message.
                Err(_) if self.noise.is_some() => {}
                Err(error) => {
                    let bytes = hex(self.decoder.frame());
                    return Err(LineError::Lies(format!(
                        "a damaged frame ({error}): {bytes}"
                    )));
                }
            }
        }
        match self.noise {
            Some(noise) if noise > MAX_NOISE => Err(LineError::Lies(format!(
                "{noise} bytes and no greeting among them; the last are {}",
                hex(self.decoder.frame())
            ))),
            _ => Ok(()),
        }
    }

    /// The next complete reply.
    pub fn next_reply(&mut self) -> Option<R> {
        self.inbox.pop_front()
    }

    /// Whether a reply waits to be taken.
    pub fn is_waiting(&self) -> bool {
        !self.inbox.is_empty()
    }

    /// Both sides of the conversation as text, one message a line, none with more than
    /// `most_chars`; the middle of a long conversation is left out.
    pub fn transcript(&self, most_chars: usize) -> String {
        self.transcript.to_text(self.decoder.frame(), most_chars)
    }

    /// The bytes the guest sent; the middle of many is left out.
    pub fn raw(&self) -> Vec<u8> {
        self.transcript.raw_bytes()
    }
}
