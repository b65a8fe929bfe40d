//! Writing to the terminal without caring whether somebody reads it.
//!
//! A reader that goes away (`tdxlab run | head`) must not end a run half-way, so that what cannot
//! be written to a terminal or pipe is dropped. What matters is in the report.

use std::fmt::Display;
use std::io::Write;

/// Prints a line of results to stdout.
pub(super) fn say(text: impl Display) {
    let _ = writeln!(std::io::stdout().lock(), "{text}");
}

/// Prints text to stdout as it is.
pub(super) fn print(text: impl Display) {
    let mut out = std::io::stdout().lock();
    let _ = write!(out, "{text}");
    let _ = out.flush();
}

/// Prints a line about what goes on to stderr.
pub(super) fn note(text: impl Display) {
    let _ = writeln!(std::io::stderr().lock(), "{text}");
}
