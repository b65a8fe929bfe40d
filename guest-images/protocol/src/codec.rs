//! Encoding of a frame with any content: bytes and their checksum, encoded without zero bytes and
//! terminated by one.
//!
//! ```text
//! COBS( body | u32 CRC-32 ) | 0x00
//! ```
//!
//! The checksum is CRC-32/ISO-HDLC, little-endian. COBS removes every zero byte from what it encodes,
//! so a zero on the line always is an end of frame, whatever came before it.

use cobs::CobsEncoder;
use crc::{CRC_32_ISO_HDLC, Crc};

/// What ends a frame.
pub const DELIMITER: u8 = 0;

const CHECKSUM_BYTES: usize = 4;
const CHECKSUM: Crc<u32> = Crc::<u32>::new(&CRC_32_ISO_HDLC);

/// Most bytes that a body of `body` bytes takes when encoded, without the delimiter.
pub const fn max_encoded(body: usize) -> usize {
    cobs::max_encoding_length(body + CHECKSUM_BYTES)
}

/// Encodes `body` with its checksum into `encoded`, without the delimiter, and returns how many bytes
/// that took; `None` where there is no room for them.
pub fn encode(body: &[u8], encoded: &mut [u8]) -> Option<usize> {
    let mut encoder = CobsEncoder::new(encoded);
    encoder.push(body).ok()?;
    encoder.push(&CHECKSUM.checksum(body).to_le_bytes()).ok()?;
    Some(encoder.finalize())
}

/// A decoded frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decoded<'p> {
    /// The encoded bytes, if the checksum is right.
    pub body: &'p [u8],
    /// The checksum that came with it.
    pub said: u32,
    /// The one of the bytes that came.
    pub found: u32,
}

/// Why bytes are no frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CodecError {
    /// Not COBS, or more than there is room for.
    Cobs,
    /// Too few bytes for a checksum.
    Short {
        /// How many there are.
        bytes: usize,
    },
}

/// Decodes a frame, given without its delimiter, into `plain`, which must be at least as long.
///
/// # Errors
///
/// The bytes are not a frame. A wrong checksum is not an error; see [`Decoded`].
pub fn decode<'p>(encoded: &[u8], plain: &'p mut [u8]) -> Result<Decoded<'p>, CodecError> {
    let bytes = cobs::decode(encoded, plain)
        .map_err(|_| CodecError::Cobs)?
        .frame_size();
    let (body, checksum) = plain[..bytes]
        .split_last_chunk::<CHECKSUM_BYTES>()
        .ok_or(CodecError::Short { bytes })?;
    Ok(Decoded {
        body,
        said: u32::from_le_bytes(*checksum),
        found: CHECKSUM.checksum(body),
    })
}
