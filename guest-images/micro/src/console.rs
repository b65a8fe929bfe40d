//! The second serial line of a TD: text output.
//!
//! A TD cannot be inspected by the host. If it never sends its greeting, or stops in the middle of
//! a frame, this line shows how far it came. Each byte is an exit, so there is little text: from
//! the boot processor until it serves, and from a panic.

use core::fmt::{self, Write};

use tdxlab_protocol::layout::CONSOLE_PORT;

use crate::serial::Uart;
use crate::td;

const LINE: Uart = Uart::at(CONSOLE_PORT);

/// Sets the line up, where there is one.
pub(crate) fn set_up() {
    if td::is_td() {
        LINE.set_up(false);
    }
}

/// Prints a line.
pub(crate) fn say(words: fmt::Arguments<'_>) {
    if td::is_td() {
        // The device takes all that is written to it.
        let _ = writeln!(Words, "{words}");
    }
}

struct Words;

impl Write for Words {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        LINE.write(text.as_bytes());
        Ok(())
    }
}
