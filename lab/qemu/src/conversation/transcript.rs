//! Transcript of a conversation, bounded.

use std::fmt::Debug;
use std::marker::PhantomData;
use std::time::Instant;

use tdxlab_protocol::frame::{Decoder, Message};

use super::hex::hex;
use crate::cut::cut;
use crate::head_tail::HeadTail;

/// Frames kept from the beginning and from the end.
const FRAMES_KEPT: (usize, usize) = (64, 960);

/// Bytes from the guest kept from the beginning and from the end.
const BYTES_KEPT: (usize, usize) = (16 << 10, 112 << 10);

/// A frame as it was on the line.
#[derive(Debug)]
struct Entry {
    micros: u64,
    from_guest: bool,
    bytes: Vec<u8>,
}

/// The frames of a conversation with the time of each, and the raw bytes of the guest.
///
/// Frames are kept as bytes and formatted on demand, since most conversations succeed.
#[derive(Debug)]
pub(super) struct Transcript<Q, R> {
    began: Instant,
    entries: HeadTail<Entry>,
    raw: HeadTail<u8>,
    messages: PhantomData<fn() -> (Q, R)>,
}

impl<Q: Message + Debug, R: Message + Debug> Transcript<Q, R> {
    pub(super) fn new() -> Transcript<Q, R> {
        Transcript {
            began: Instant::now(),
            entries: HeadTail::new(FRAMES_KEPT.0, FRAMES_KEPT.1),
            raw: HeadTail::new(BYTES_KEPT.0, BYTES_KEPT.1),
            messages: PhantomData,
        }
    }

    pub(super) fn raw(&mut self, bytes: &[u8]) {
        self.raw.extend(bytes);
    }

    pub(super) fn raw_bytes(&self) -> Vec<u8> {
        self.raw.to_bytes()
    }

    pub(super) fn sent(&mut self, bytes: &[u8]) {
        self.note(false, bytes);
    }

    pub(super) fn received(&mut self, bytes: &[u8]) {
        self.note(true, bytes);
    }

    fn note(&mut self, from_guest: bool, bytes: &[u8]) {
        self.entries.push(Entry {
            micros: u64::try_from(self.began.elapsed().as_micros()).unwrap_or(u64::MAX),
            from_guest,
            bytes: bytes.to_vec(),
        });
    }

    /// All that is kept, and `unfinished`: bytes after the last whole frame.
    pub(super) fn to_text(&self, unfinished: &[u8], most_chars: usize) -> String {
        let line = |entry: &Entry| {
            let (who, what) = match entry.from_guest {
                true => ("guest", decoded::<R>(&entry.bytes)),
                false => ("lab  ", decoded::<Q>(&entry.bytes)),
            };
            let (millis, what) = (entry.micros as f64 / 1000.0, cut(&what, most_chars));
            format!("{millis:>9.3} ms  {who}  {what}\n")
        };
        let mut text: String = self.entries.head().map(line).collect();
        if self.entries.left_out() > 0 {
            text += &format!("[{} messages left out]\n", self.entries.left_out());
        }
        text.extend(self.entries.tail().map(line));
        let last = self.entries.tail().last().or(self.entries.head().last());
        if !unfinished.is_empty() && last.is_none_or(|entry| entry.bytes != unfinished) {
            text += &format!("{:>12}  guest  unfinished: {}\n", "", hex(unfinished));
        }
        text
    }
}

fn decoded<M: Message + Debug>(bytes: &[u8]) -> String {
    let mut decoder = Decoder::<M>::new();
    for &byte in bytes.iter().chain(&[0]) {
        match decoder.push(byte) {
            Some(Ok(message)) => return format!("{message:?}"),
            Some(Err(error)) => return format!("{error}: {}", hex(bytes)),
            None => {}
        }
    }
    format!("nothing: {}", hex(bytes))
}
