//! Waits for user input: a line on stdin, or a signal.

use std::io::{self, Read};
use std::os::fd::AsFd;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tdxlab_qemu::interrupt::Interrupt;

/// The input.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// A line, without its end.
    Line(String),
    /// stdin is closed.
    Closed,
    /// A signal.
    Interrupted,
}

/// Longest line that is kept.
const LONGEST: usize = 256;

/// Waits for a line. Reads byte by byte, so that what follows is left for the next question.
pub(super) fn line(interrupt: &Interrupt) -> Answer {
    let stdin = io::stdin();
    let mut text = Vec::new();
    loop {
        let files = [Some(stdin.as_fd()), interrupt.as_fd()];
        let mut fds: Vec<PollFd<'_>> = files
            .iter()
            .flatten()
            .map(|fd| PollFd::new(*fd, PollFlags::POLLIN))
            .collect();
        let _ = poll(&mut fds, PollTimeout::NONE);
        if interrupt.is_raised() {
            return Answer::Interrupted;
        }
        if !fds[0].any().unwrap_or(true) {
            continue;
        }
        let mut byte = [0];
        match read_unbuffered(&mut byte) {
            Ok(0) | Err(_) => return Answer::Closed,
            Ok(_) if byte[0] == b'\n' => {
                return Answer::Line(String::from_utf8_lossy(&text).trim().to_owned());
            }
            Ok(_) if text.len() < LONGEST => text.push(byte[0]),
            Ok(_) => {}
        }
    }
}

/// Waits for a signal.
pub(super) fn signal(interrupt: &Interrupt) {
    while !interrupt.is_raised() {
        let mut fds: Vec<PollFd<'_>> = interrupt
            .as_fd()
            .iter()
            .map(|fd| PollFd::new(*fd, PollFlags::POLLIN))
            .collect();
        let _ = poll(&mut fds, PollTimeout::from(1000u16));
    }
}

fn read_unbuffered(buffer: &mut [u8]) -> io::Result<usize> {
    /// Stdin without the standard library's buffer, which would hide bytes from `poll`.
    struct Raw;
    impl Read for Raw {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            nix::unistd::read(io::stdin(), buffer).map_err(io::Error::from)
        }
    }
    loop {
        match Raw.read(buffer) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            other => return other,
        }
    }
}
