//! The second serial line of a TD: words for people.
//!
//! A TD cannot be looked into from outside. Where it never gets as far as its greeting, or stops in
//! the middle of a frame, this line tells how far it came. Each byte is an exit, so there are few
//! words, all of them from the boot processor until it serves, and those of a panic.

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

/// Says something, as a line of its own.
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
