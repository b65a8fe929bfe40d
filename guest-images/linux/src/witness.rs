//! Files of the kernel about its memory.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;

use tdxlab_protocol::linux::{Failure, LinuxReply, MAX_BYTES, Outcome, Witness};

use crate::failure::Doing;
use crate::line::Line;

/// Sends the content of `which`.
pub(crate) fn send(id: u32, which: Witness, line: &mut Line) -> Result<Outcome, Failure> {
    let most = which.most_bytes();
    let bytes = match which {
        Witness::KernelLog => kernel_log(most).doing("/dev/kmsg")?,
        _ => {
            let path = format!("/proc/{}", which.name());
            let mut bytes = Vec::new();
            File::open(&path)
                .and_then(|file| file.take(most as u64 + 1).read_to_end(&mut bytes))
                .doing(&path)?;
            bytes
        }
    };
    send_bytes(id, &bytes, most, line)
}

/// Sends `bytes`, but no more than `most`.
pub(crate) fn send_bytes(
    id: u32,
    bytes: &[u8],
    most: usize,
    line: &mut Line,
) -> Result<Outcome, Failure> {
    let sent = &bytes[..bytes.len().min(most)];
    for chunk in sent.chunks(MAX_BYTES) {
        let bytes = heapless::Vec::from_slice(chunk).expect("a chunk has room");
        line.send(&LinuxReply::Bytes { id, bytes });
    }
    Ok(Outcome::Read {
        bytes: sent.len() as u64,
        cut: sent.len() < bytes.len(),
    })
}

/// The newest messages of /dev/kmsg, as `PRIORITY,SEQUENCE,MICROSECONDS,FLAGS;TEXT` lines. Those that were
/// overwritten, and the oldest where there are more than `most` bytes, are missed by their numbers.
fn kernel_log(most: usize) -> io::Result<Vec<u8>> {
    let mut log = File::options()
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open("/dev/kmsg")?;
    let mut records = VecDeque::new();
    let mut bytes = 0;
    let mut record = [0; 8192];
    loop {
        match log.read(&mut record) {
            Ok(0) => break,
            Ok(count) => {
                bytes += count;
                records.push_back(record[..count].to_vec());
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
            // The oldest were overwritten meanwhile; the next read goes on at those that are left.
            Err(error) if error.raw_os_error() == Some(libc::EPIPE) => {}
            Err(error) => return Err(error),
        }
        while bytes > most {
            bytes -= records.pop_front().map_or(bytes, |oldest| oldest.len());
        }
    }
    Ok(records.into_iter().flatten().collect())
}
