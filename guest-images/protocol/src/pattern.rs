//! The words with which a guest fills memory.
//!
//! Every 8-byte word names the address and the generation it was written for, so a word found in
//! the wrong place says whose it is.
//!
//! ```text
//! bits 63:49  generation, 1..=32767 (0 never occurs, so no pattern word is zero)
//! bits 48:9   4K frame number of the address it was written to
//! bits 8:0    index of the word in its page
//! ```

use serde::{Deserialize, Serialize};

use crate::addr::Gpa;

/// Words in a 4K page.
pub const WORDS: usize = 512;

/// Which fill wrote a page. Every fill of a plan has its own, from 1 up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Generation(u16);

impl Generation {
    /// Largest generation.
    pub const MAX: Generation = Generation(0x7fff);

    /// Generation `number`; `None` for 0 or above [`Generation::MAX`].
    pub const fn new(number: u16) -> Option<Generation> {
        if number == 0 || number > Self::MAX.0 {
            None
        } else {
            Some(Generation(number))
        }
    }

    /// The number.
    pub const fn get(self) -> u16 {
        self.0
    }
}

/// The word at index `index` (taken modulo 512) of page `page`, written by `generation`.
pub const fn word(page: Gpa, index: usize, generation: Generation) -> u64 {
    ((generation.0 as u64) << 49) | ((page.gfn() & ((1 << 40) - 1)) << 9) | (index as u64 & 0x1ff)
}

/// What a word says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decoded {
    /// The fill that wrote it.
    pub generation: Generation,
    /// The page it was written to.
    pub page: Gpa,
    /// Its index in that page.
    pub index: usize,
}

/// Reads a word back; `None` where no fill can have written it.
pub const fn decode(word: u64) -> Option<Decoded> {
    match Generation::new((word >> 49) as u16) {
        Some(generation) => Some(Decoded {
            generation,
            page: Gpa::from_gfn((word >> 9) & ((1 << 40) - 1)),
            index: (word & 0x1ff) as usize,
        }),
        None => None,
    }
}
