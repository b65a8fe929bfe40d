//! Any file of the system, by its path.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;

use tdxlab_protocol::linux::{Failure, MAX_FILE, Outcome};

use crate::failure::{Doing, refuse};
use crate::line::Line;
use crate::witness::send_bytes;

/// Sends the content of a file, but no more than `most` bytes.
pub(crate) fn send(id: u32, path: &str, most: u32, line: &mut Line) -> Result<Outcome, Failure> {
    let most = most.min(MAX_FILE) as usize;
    let bytes = read(path, most + 1)?;
    send_bytes(id, &bytes, most, line)
}

fn read(path: &str, most: usize) -> Result<Vec<u8>, Failure> {
    // To open a device may start something, and to open a pipe waits for its other end: O_PATH does
    // neither, and what it has found is what is opened then.
    let found = open(path, libc::O_PATH).doing("opening the file")?;
    let kind = found.metadata().doing("looking at the file")?.file_type();
    if kind.is_dir() {
        return Err(refuse("it is a directory"));
    }
    if !kind.is_file() {
        return Err(refuse("it is a device, a pipe or a socket"));
    }
    let again = format!("/proc/self/fd/{}", found.as_raw_fd());
    // Some files in /proc wait for more where they end.
    let file = open(&again, libc::O_NONBLOCK).doing("opening the file")?;
    let mut bytes = Vec::new();
    match file.take(most as u64).read_to_end(&mut bytes) {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock && !bytes.is_empty() => Ok(bytes),
        read => read.map(|_| bytes).doing("reading the file"),
    }
}

fn open(path: &str, flags: i32) -> io::Result<File> {
    File::options().read(true).custom_flags(flags).open(path)
}
