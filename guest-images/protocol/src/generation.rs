//! Numbers the fills of memory.

use serde::{Deserialize, Serialize};

/// Which fill wrote a page. Every fill of a plan has its own, from 1 up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "u16", into = "u16")]
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

impl From<Generation> for u16 {
    fn from(generation: Generation) -> u16 {
        generation.0
    }
}

impl TryFrom<u16> for Generation {
    type Error = OutOfRange;

    fn try_from(number: u16) -> Result<Generation, OutOfRange> {
        Generation::new(number).ok_or(OutOfRange(number))
    }
}

/// A number that is no generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0} is no generation: they go from 1 to {max}", max = Generation::MAX.0)]
pub struct OutOfRange(pub u16);
