//! Framing of messages on the serial line, with resynchronisation after garbage.
//!
//! ```text
//! 0x00 | COBS( u16 length | payload | u32 CRC-32 ) | 0x00
//! ```
//!
//! The payload is the message in postcard's encoding and `length` its size, little-endian; the rest
//! is [`codec`]'s. The leading zero terminates garbage before the frame; empty frames are skipped.
//!
//! Neither side allocates: a sender needs a [`FrameBuffer`], a receiver is a [`Decoder`].

use core::marker::PhantomData;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::codec::{self, CodecError, DELIMITER, max_encoded};
use crate::linux::{LinuxReply, LinuxRequest};
use crate::message::{Reply, Request};

/// Most bytes of a message in postcard's encoding. The largest message of each kind fits.
pub const MAX_PAYLOAD: usize = 1280;

const LENGTH_BYTES: usize = 2;
const MAX_BODY: usize = LENGTH_BYTES + MAX_PAYLOAD;
const MAX_ENCODED: usize = max_encoded(MAX_BODY);

/// Most bytes of a frame on the line, both delimiters included.
pub const MAX_FRAME: usize = MAX_ENCODED + 2;

/// Room for one frame of any message.
pub type FrameBuffer = [u8; MAX_FRAME];

/// A frame buffer to pass to [`encode`].
pub const EMPTY_FRAME: FrameBuffer = [0; MAX_FRAME];

/// Messages: [`Request`] of the lab and [`Reply`] of the micro guest; [`LinuxRequest`] and
/// [`LinuxReply`] with a Linux guest.
pub trait Message: Serialize + DeserializeOwned + sealed::Sealed {}

impl Message for Request {}
impl Message for Reply {}
impl Message for LinuxRequest {}
impl Message for LinuxReply {}

mod sealed {
    pub trait Sealed {}
    impl Sealed for crate::message::Request {}
    impl Sealed for crate::message::Reply {}
    impl Sealed for crate::linux::LinuxRequest {}
    impl Sealed for crate::linux::LinuxReply {}
}

/// Why a message or a frame cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// More bytes without a delimiter than the longest frame has, or a message that does not fit.
    #[error("longer than any frame ({MAX_FRAME} bytes)")]
    TooLong,
    /// A delimiter came in the middle of a COBS block.
    #[error("not a COBS frame: cut short, or something else on the line")]
    Cobs,
    /// The frame is shorter or longer than its length field says.
    #[error("frame says it carries {said} bytes, but carries {found}")]
    Length {
        /// Value of the length field; 0 where there is none.
        said: usize,
        /// Bytes between length field and checksum.
        found: usize,
    },
    /// The checksum is wrong.
    #[error("checksum is {found:#010x}, but the frame says {said:#010x}")]
    Checksum {
        /// Checksum in the frame.
        said: u32,
        /// What its bytes give.
        found: u32,
    },
    /// The frame is whole, but its payload is no message of this protocol version.
    #[error("frame is whole, but its payload is no message")]
    Payload,
}

/// Writes the frame of `message` into `buffer` and returns the bytes to send.
///
/// # Errors
///
/// [`FrameError::TooLong`] where the message does not fit. No message of this version is so long.
pub fn encode<'b, M: Message>(
    message: &M,
    buffer: &'b mut FrameBuffer,
) -> Result<&'b [u8], FrameError> {
    let mut body = [0; MAX_BODY];
    let (length, payload) = body.split_at_mut(LENGTH_BYTES);
    let bytes = postcard::to_slice(message, payload)
        .map_err(|_| FrameError::TooLong)?
        .len();
    length.copy_from_slice(&(bytes as u16).to_le_bytes());

    buffer[0] = DELIMITER;
    let encoded = codec::encode(&body[..LENGTH_BYTES + bytes], &mut buffer[1..=MAX_ENCODED])
        .ok_or(FrameError::TooLong)?;
    buffer[1 + encoded] = DELIMITER;
    Ok(&buffer[..encoded + 2])
}

/// Turns bytes into messages, one at a time, and resynchronises at the next delimiter after
/// anything it cannot use.
pub struct Decoder<M> {
    /// Bytes since the last delimiter; kept after one until the next byte, for [`Self::frame`].
    encoded: [u8; MAX_ENCODED],
    /// How many of them there are. More than fit are counted up to one too many.
    filled: usize,
    /// Whether a delimiter was the last byte.
    ended: bool,
    message: PhantomData<fn() -> M>,
}

impl<M: Message> Decoder<M> {
    /// A decoder without input so far.
    pub const fn new() -> Self {
        Decoder {
            encoded: [0; MAX_ENCODED],
            filled: 0,
            ended: false,
            message: PhantomData,
        }
    }

    /// Takes the next byte from the line. Gives a message, or why there is none, at the end of
    /// each frame that is not empty; `None` in between.
    pub fn push(&mut self, byte: u8) -> Option<Result<M, FrameError>> {
        if self.ended {
            self.ended = false;
            self.filled = 0;
        }
        if byte != DELIMITER {
            if let Some(place) = self.encoded.get_mut(self.filled) {
                *place = byte;
                self.filled += 1;
            } else {
                self.filled = MAX_ENCODED + 1;
            }
            return None;
        }
        self.ended = true;
        match self.filled {
            0 => None,
            1..=MAX_ENCODED => Some(decode(&self.encoded[..self.filled])),
            _ => Some(Err(FrameError::TooLong)),
        }
    }

    /// Takes bytes from the front of `bytes` up to the end of the next frame that is not empty.
    /// `None` means all were taken and no frame has ended.
    pub fn feed(&mut self, bytes: &mut &[u8]) -> Option<Result<M, FrameError>> {
        while let Some((&byte, rest)) = bytes.split_first() {
            *bytes = rest;
            if let Some(result) = self.push(byte) {
                return Some(result);
            }
        }
        None
    }

    /// The frame that [`Self::push`] returned last, as on the line without delimiters; truncated if
    /// the frame is too long. For error messages.
    pub fn frame(&self) -> &[u8] {
        &self.encoded[..self.filled.min(MAX_ENCODED)]
    }
}

impl<M: Message> Default for Decoder<M> {
    fn default() -> Self {
        Decoder::new()
    }
}

/// Checks one frame, given without its delimiters, and reads the message in it.
fn decode<M: Message>(encoded: &[u8]) -> Result<M, FrameError> {
    let mut plain = [0; MAX_ENCODED];
    let decoded = codec::decode(encoded, &mut plain).map_err(|error| match error {
        CodecError::Cobs => FrameError::Cobs,
        CodecError::Short { .. } => FrameError::Length { said: 0, found: 0 },
    })?;
    let (length, payload) = decoded
        .body
        .split_first_chunk::<LENGTH_BYTES>()
        .ok_or(FrameError::Length { said: 0, found: 0 })?;
    let (said, found) = (usize::from(u16::from_le_bytes(*length)), payload.len());
    if said != found {
        return Err(FrameError::Length { said, found });
    }

    let codec::Decoded { said, found, .. } = decoded;
    if said != found {
        return Err(FrameError::Checksum { said, found });
    }

    match postcard::take_from_bytes(payload) {
        Ok((message, [])) => Ok(message),
        Ok(_) | Err(_) => Err(FrameError::Payload),
    }
}
