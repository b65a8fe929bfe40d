//! Encodes and decodes messages on a socket to a guest, and keeps a transcript.
//!
//! The guest is not trusted: with broken memory it may run anything. An invalid message is an error
//! that shows its bytes.

use std::collections::VecDeque;
use std::fmt::{Debug, Write as _};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::time::Instant;

use tdxlab_protocol::frame::{self, Decoder, Message};
use tdxlab_qemu::head_tail::HeadTail;

/// Bound on bytes before the guest's first message, from firmware or a UART.
const MAX_NOISE: usize = 64 << 10;

/// Frames kept from the beginning and from the end.
const FRAMES_KEPT: (usize, usize) = (64, 448);

/// Most replies that wait to be taken.
const MAX_WAITING: usize = 1 << 16;

/// A conversation in requests `Q` and replies `R`. Never blocks.
pub struct Conversation<Q, R> {
    socket: UnixStream,
    decoder: Box<Decoder<R>>,
    inbox: VecDeque<R>,
    began: Instant,
    frames: HeadTail<Frame>,
    /// Number of bytes before the first message; `None` after it.
    noise: Option<usize>,
    requests: std::marker::PhantomData<fn(Q)>,
}

/// A frame as it was on the line, without delimiters.
struct Frame {
    micros: u64,
    from_guest: bool,
    bytes: Vec<u8>,
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
            began: Instant::now(),
            frames: HeadTail::new(FRAMES_KEPT.0, FRAMES_KEPT.1),
            noise: Some(0),
            requests: std::marker::PhantomData,
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
        let bytes = frame::encode(request, &mut buffer).map_err(io::Error::other)?;
        self.note(false, bytes.strip_prefix(&[0]).unwrap_or(bytes));
        match self.socket.write_all(bytes) {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Err(LineError::Full),
            Err(error) if is_hang_up(&error) => Err(LineError::Closed),
            Err(error) => Err(error.into()),
        }
    }

    /// Reads what the guest has sent.
    ///
    /// # Errors
    ///
    /// A damaged frame, or the line was closed; complete messages before that remain available from
    /// `next`.
    pub fn receive(&mut self) -> Result<(), LineError> {
        let mut buffer = [0; 4096];
        // Bounded, so that a guest that never stops does not keep the lab from everything else.
        for _ in 0..16 {
            match self.socket.read(&mut buffer) {
                Ok(0) => return Err(LineError::Closed),
                Ok(count) => self.take(&buffer[..count])?,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if is_hang_up(&error) => return Err(LineError::Closed),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    fn take(&mut self, mut bytes: &[u8]) -> Result<(), LineError> {
        if let Some(noise) = &mut self.noise {
            *noise += bytes.len();
        }
        while let Some(result) = self.decoder.feed(&mut bytes) {
            let frame = self.decoder.frame().to_vec();
            self.note(true, &frame);
            match result {
                Ok(_) if self.inbox.len() >= MAX_WAITING => {
                    return Err(LineError::Lies(format!(
                        "more than {MAX_WAITING} messages at once"
                    )));
                }
                Ok(reply) => {
                    self.noise = None;
                    self.inbox.push_back(reply);
                }
                // A line that was never opened properly may crackle before the first word.
                Err(_) if self.noise.is_some() => {}
                Err(error) => {
                    let what = format!("a damaged frame ({error}): {}", hex(&frame));
                    return Err(LineError::Lies(what));
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

    fn note(&mut self, from_guest: bool, bytes: &[u8]) {
        let micros = self.began.elapsed().as_micros();
        self.frames.push(Frame {
            micros: u64::try_from(micros).unwrap_or(u64::MAX),
            from_guest,
            bytes: bytes.to_vec(),
        });
    }

    /// Both sides of the conversation as text, one message a line; the middle of a long one is
    /// left out.
    pub fn transcript(&self) -> String {
        let mut text = String::new();
        for frame in self.frames.head() {
            line::<Q, R>(&mut text, frame);
        }
        if self.frames.left_out() > 0 {
            let _ = writeln!(text, "[{} messages left out]", self.frames.left_out());
        }
        for frame in self.frames.tail() {
            line::<Q, R>(&mut text, frame);
        }
        text
    }
}

fn line<Q: Message + Debug, R: Message + Debug>(text: &mut String, frame: &Frame) {
    let (who, what) = match frame.from_guest {
        true => ("guest", decoded::<R>(&frame.bytes)),
        false => ("lab  ", decoded::<Q>(&frame.bytes)),
    };
    let _ = writeln!(
        text,
        "{:>9.3} ms  {who}  {what}",
        frame.micros as f64 / 1000.0
    );
}

fn decoded<M: Message + Debug>(bytes: &[u8]) -> String {
    let mut decoder = Decoder::<M>::new();
    for &byte in bytes.iter().chain(&[0]) {
        match decoder.push(byte) {
            Some(Ok(message)) => return shortened(&format!("{message:?}")),
            Some(Err(error)) => return format!("{error}: {}", hex(bytes)),
            None => {}
        }
    }
    format!("nothing: {}", hex(bytes))
}

/// As much of a text as a message can bear.
pub(crate) fn shortened(text: &str) -> String {
    const ROOM: usize = 240;
    match text.char_indices().nth(ROOM) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text.to_owned(),
    }
}

fn hex(bytes: &[u8]) -> String {
    const ROOM: usize = 64;
    let mut text = String::new();
    for byte in bytes.iter().take(ROOM) {
        let _ = write!(text, "{byte:02x} ");
    }
    if bytes.len() > ROOM {
        let _ = write!(text, "... ({} bytes)", bytes.len());
    }
    text.trim_end().to_owned()
}

fn is_hang_up(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset
    )
}
