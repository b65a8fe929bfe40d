//! Port I/O: the instruction, or in a TD a call to the VMM, where the instruction would be a #VE.

use crate::{cpu, td};

/// Writes a byte.
pub(crate) fn write(port: u16, value: u8) {
    if td::is_td() {
        td::port_io(port, 1, Some(u64::from(value)));
    } else {
        cpu::outb(port, value);
    }
}

/// Reads a byte.
pub(crate) fn read(port: u16) -> u8 {
    if td::is_td() {
        td::port_io(port, 1, None) as u8
    } else {
        cpu::inb(port)
    }
}
