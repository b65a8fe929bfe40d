//! Writing to the terminal.
//!
//! A closed pipe (`tdxlab run | head`) must not end a run half-way, and is not an error. Any other
//! failure to write results, such as a full disk, is recorded and reported at the end of the
//! command: see [`failure`].

use std::fmt::Display;
use std::io::{self, ErrorKind, Write};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

/// The first failure to write to stdout.
static FAILED: OnceLock<io::Error> = OnceLock::new();

/// Whether stdout was closed (`>&-`) when the program was started.
static CLOSED: AtomicBool = AtomicBool::new(false);

/// Run by the C library before Rust's runtime, which opens /dev/null in place of a closed stdout
/// and thus hides that nothing arrives.
#[used]
// SAFETY: the section is for functions that take nothing and return nothing.
#[unsafe(link_section = ".init_array")]
static LOOK_AT_STDOUT: extern "C" fn() = {
    extern "C" fn look() {
        // SAFETY: a number that is no descriptor is what the call answers with EBADF.
        let flags = unsafe { libc::fcntl(libc::STDOUT_FILENO, libc::F_GETFD) };
        CLOSED.store(flags == -1, Ordering::Relaxed);
    }
    look
};

/// Prints a line of results to stdout.
pub(super) fn say(text: impl Display) {
    note_failure(writeln!(io::stdout().lock(), "{text}"));
}

/// Prints text to stdout unchanged.
pub(super) fn print(text: impl Display) {
    let text = text.to_string();
    if text.is_empty() {
        return;
    }
    let mut out = io::stdout().lock();
    note_failure(write!(out, "{text}").and_then(|()| out.flush()));
}

/// Prints a progress line to stderr.
pub(super) fn note(text: impl Display) {
    let _ = writeln!(io::stderr().lock(), "{text}");
}

/// Notes that stdout could not be written to.
pub(super) fn note_failure(written: io::Result<()>) {
    let written = match CLOSED.load(Ordering::Relaxed) {
        true => Err(io::Error::from_raw_os_error(libc::EBADF)),
        false => written,
    };
    if let Err(error) = written
        && error.kind() != ErrorKind::BrokenPipe
    {
        FAILED.get_or_init(|| error);
    }
}

/// Why results did not get to stdout, if they did not.
pub(super) fn failure() -> Option<&'static io::Error> {
    if let Err(error) = io::stdout().lock().flush() {
        note_failure(Err(error));
    }
    FAILED.get()
}

/// stdout for forwarded output: a failure is recorded, but ends no command.
pub(super) struct Stdout;

impl Write for Stdout {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        note_failure(io::stdout().lock().write_all(bytes));
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        note_failure(io::stdout().lock().flush());
        Ok(())
    }
}
