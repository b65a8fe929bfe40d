//! The guest's reader of the TD_HOB, on a list as written by QEMU and on invalid ones.

#[path = "../../micro/src/hob.rs"]
mod hob;

use hob::{HobError, end_of_memory};
use proptest::prelude::*;

/// Space of the list.
const BYTES: usize = 8192;

fn header(kind: u16, length: u16) -> Vec<u8> {
    [&kind.to_le_bytes()[..], &length.to_le_bytes(), &[0; 4]].concat()
}

fn handoff() -> Vec<u8> {
    let mut entry = header(1, 56);
    entry.extend(9_u32.to_le_bytes());
    entry.resize(56, 0);
    entry
}

fn memory(kind: u32, start: u64, length: u64) -> Vec<u8> {
    let mut entry = header(3, 48);
    entry.resize(24, 0);
    entry.extend(kind.to_le_bytes());
    entry.extend(7_u32.to_le_bytes());
    entry.extend(start.to_le_bytes());
    entry.extend(length.to_le_bytes());
    entry
}

fn list(entries: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = entries.concat();
    bytes.resize(BYTES, 0);
    bytes
}

fn end() -> Vec<u8> {
    header(0xffff, 8)
}

#[test]
fn a_list_as_qemu_writes_it_is_read() {
    let bytes = list(&[
        handoff(),
        memory(7, 0, 0x10_0000),
        memory(0, 0x10_0000, 0x21_2000),
        memory(7, 0x31_2000, 0x7fcee000),
        memory(7, 0x1_0000_0000, 0x8000_0000),
        end(),
    ]);
    assert_eq!(end_of_memory(&bytes), Ok(0x1_8000_0000));
}

#[test]
fn resources_that_are_no_memory_and_entries_of_other_kinds_are_passed_over() {
    let bytes = list(&[
        handoff(),
        memory(1, 0xfee0_0000, 0x1000),
        header(4, 8),
        memory(0, 0, 0x1000),
        end(),
    ]);
    assert_eq!(end_of_memory(&bytes), Ok(0x1000));
}

#[test]
fn each_lie_is_named() {
    let bad_memory = |start, length| {
        let bytes = list(&[handoff(), memory(7, start, length), end()]);
        let error = HobError::BadMemory {
            at: 56,
            start,
            length,
        };
        assert_eq!(end_of_memory(&bytes), Err(error));
    };
    bad_memory(0, 0);
    bad_memory(0x800, 0x1000);
    bad_memory(0, 0x1800);
    bad_memory(!0xfff, 0x1000);
    bad_memory(1 << 52, 0x1000);

    let of = |entries: &[Vec<u8>]| end_of_memory(&list(entries));
    assert_eq!(of(&[memory(7, 0, 0x1000), end()]), Err(HobError::NoHandoff));
    assert_eq!(of(&[end()]), Err(HobError::NoHandoff));
    assert_eq!(of(&[handoff(), end()]), Err(HobError::NoMemory));
    let bad_length = |length| HobError::BadLength { at: 56, length };
    for length in [0, 7, 9, 40, 0xffff] {
        let result = of(&[handoff(), header(3, length), end()]);
        assert_eq!(result, Err(bad_length(usize::from(length))));
    }
    assert_eq!(of(&[handoff(), header(9, 0)]), Err(bad_length(0)));
    assert_eq!(end_of_memory(&[]), Err(HobError::Unended));

    // A list that fills its space to the end without ending.
    let mut bytes = handoff();
    while bytes.len() < BYTES {
        bytes.extend(header(4, 8));
    }
    assert_eq!(end_of_memory(&bytes), Err(HobError::Unended));
}

#[test]
fn errors_say_where_to_look() {
    let error = HobError::BadMemory {
        at: 0x38,
        start: 0x800,
        length: 0x1000,
    };
    assert_eq!(
        error.to_string(),
        "TD_HOB: entry at 0x38: no memory is 0x1000 bytes at 0x800"
    );
}

proptest! {
    #[test]
    fn no_list_is_beyond_words(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = end_of_memory(&bytes).map_err(|error| error.to_string());
    }

    #[test]
    fn a_damaged_list_is_read_or_refused(
        damage in proptest::collection::vec((0..200_usize, any::<u8>()), 1..6),
    ) {
        let mut bytes =
            list(&[handoff(), memory(0, 0, 0x1000), memory(7, 0x1000, 0x7000), end()]);
        for (at, byte) in damage {
            bytes[at] = byte;
        }
        if let Ok(end) = end_of_memory(&bytes) {
            prop_assert!(end > 0 && end <= 1 << 52);
        }
    }
}
