//! The TD_HOB: the VMM's description of memory. The host writes it, so all of it is checked before
//! use.
//!
//! Source: UEFI PI specification, volume 3; QEMU's writer is in `hw/i386/tdvf-hob.c`.

use core::fmt;

/// Type and length of the first entry.
const HANDOFF: (u16, usize) = (0x0001, 56);
/// Type and length of an entry about a piece of memory.
const RESOURCE: (u16, usize) = (0x0003, 48);
/// Type and length of the last entry.
const END: (u16, usize) = (0xffff, 8);
/// Offsets in an entry about memory.
const RESOURCE_TYPE: usize = 24;
const RESOURCE_START: usize = 32;
const RESOURCE_LENGTH: usize = 40;
/// Resource types of memory: added already, and to be accepted.
const MEMORY: [u32; 2] = [0, 7];
/// Guest-physical addresses have at most this many bits.
const ADDRESS_BITS: u32 = 52;

/// Why a TD_HOB is rejected; `at` is the offset of the entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HobError {
    /// The list does not end within its memory.
    Unended,
    /// The first entry is not the handoff table.
    NoHandoff,
    /// An entry is shorter than its type, not a multiple of 8 long, or leaves the list.
    BadLength { at: usize, length: usize },
    /// A piece of memory is empty, not page aligned, or beyond all addresses.
    BadMemory { at: usize, start: u64, length: u64 },
    /// There is no memory.
    NoMemory,
}

impl fmt::Display for HobError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            HobError::Unended => write!(f, "TD_HOB: the list does not end within its memory"),
            HobError::NoHandoff => write!(f, "TD_HOB: no handoff table at its start"),
            HobError::BadLength { at, length } => {
                write!(
                    f,
                    "TD_HOB: the entry at {at:#x} cannot be {length} bytes long"
                )
            }
            HobError::BadMemory { at, start, length } => {
                write!(
                    f,
                    "TD_HOB: entry at {at:#x}: no memory is {length:#x} bytes at {start:#x}"
                )
            }
            HobError::NoMemory => write!(f, "TD_HOB: no memory"),
        }
    }
}

/// The first address after all memory in the list in `bytes`.
pub(crate) fn end_of_memory(bytes: &[u8]) -> Result<u64, HobError> {
    let mut at = 0;
    let mut end = 0;
    loop {
        let entry = bytes.get(at..).ok_or(HobError::Unended)?;
        let (kind, length) = header(entry).ok_or(HobError::Unended)?;
        let least = match kind {
            kind if kind == HANDOFF.0 => HANDOFF.1,
            kind if kind == RESOURCE.0 => RESOURCE.1,
            _ => END.1,
        };
        if length < least || length % 8 != 0 {
            return Err(HobError::BadLength { at, length });
        }
        let entry = entry
            .get(..length)
            .ok_or(HobError::BadLength { at, length })?;
        if at == 0 && kind != HANDOFF.0 {
            return Err(HobError::NoHandoff);
        }
        if kind == END.0 {
            break;
        }
        if kind == RESOURCE.0 {
            end = end.max(end_of_resource(entry, at)?);
        }
        at += length;
    }
    if end == 0 {
        Err(HobError::NoMemory)
    } else {
        Ok(end)
    }
}

/// Type and length of an entry.
fn header(entry: &[u8]) -> Option<(u16, usize)> {
    let header = entry.first_chunk::<8>()?;
    let number = |at| u16::from_le_bytes([header[at], header[at + 1]]);
    Some((number(0), usize::from(number(2))))
}

/// The end of the memory range of a resource entry; 0 for other entries.
fn end_of_resource(entry: &[u8], at: usize) -> Result<u64, HobError> {
    let bytes = |at: usize| entry[at..].first_chunk::<8>().copied().unwrap_or_default();
    let kind = u64::from_le_bytes(bytes(RESOURCE_TYPE)) as u32;
    if !MEMORY.contains(&kind) {
        return Ok(0);
    }
    let start = u64::from_le_bytes(bytes(RESOURCE_START));
    let length = u64::from_le_bytes(bytes(RESOURCE_LENGTH));
    let end = start
        .checked_add(length)
        .filter(|end| length != 0 && (start | length) % 4096 == 0 && *end <= 1 << ADDRESS_BITS);
    end.ok_or(HobError::BadMemory { at, start, length })
}
