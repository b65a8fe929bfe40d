//! Text output of a TD on a separate serial line, which shows how far it came.
//!
//! It is read on demand only; it is short enough for the socket's buffer.

use std::io::{ErrorKind, Read};
use std::os::unix::net::UnixStream;

use tdxlab_qemu::head_tail::HeadTail;

/// Bytes kept from the beginning and from the end.
const KEPT: (usize, usize) = (4 << 10, 12 << 10);

/// Bound on the bytes of one read: a guest that never stops printing must not block the lab.
const MOST: usize = 1 << 20;

/// Longest line that is repeated in a message.
const LONGEST: usize = 160;

/// The lab's end of the line.
#[derive(Debug)]
pub(super) struct Console {
    line: UnixStream,
    said: HeadTail<u8>,
}

impl Console {
    /// Listens at this end.
    pub(super) fn new(line: UnixStream) -> std::io::Result<Console> {
        line.set_nonblocking(true)?;
        Ok(Console {
            line,
            said: HeadTail::new(KEPT.0, KEPT.1),
        })
    }

    /// All output, as far as it is kept.
    pub(super) fn said(&mut self) -> Vec<u8> {
        let mut buffer = [0; 4096];
        let mut read = 0;
        while read < MOST {
            match self.line.read(&mut buffer) {
                Ok(0) => break,
                Ok(count) => {
                    self.said.extend(&buffer[..count]);
                    read += count;
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => break,
            }
        }
        self.said.to_bytes()
    }

    /// The last line, shortened for a message; `None` without output.
    pub(super) fn last_line(&mut self) -> Option<String> {
        let said = self.said();
        let text = String::from_utf8_lossy(&said);
        let last = text.lines().rev().find(|line| !line.trim().is_empty())?;
        let printable = last.trim().chars().filter(|letter| !letter.is_control());
        Some(printable.take(LONGEST).collect())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn console() -> (UnixStream, Console) {
        let (guest, ours) = UnixStream::pair().unwrap();
        (guest, Console::new(ours).unwrap())
    }

    #[test]
    fn what_was_said_outlives_who_said_it() {
        let (mut guest, mut console) = console();
        assert_eq!(console.last_line(), None);
        guest
            .write_all(b"started as a TD\nmemory ends at 0x1\n\n")
            .unwrap();
        drop(guest);
        assert_eq!(console.last_line().as_deref(), Some("memory ends at 0x1"));
        assert_eq!(console.said(), b"started as a TD\nmemory ends at 0x1\n\n");
    }

    #[test]
    fn noise_is_cut_to_a_line_that_can_be_printed() {
        let (mut guest, mut console) = console();
        let mut noise = b"\x1b[31m\xff\0\x07 ".repeat(1000);
        noise.extend(b"x".repeat(100));
        guest.write_all(&noise).unwrap();
        let line = console.last_line().unwrap();
        assert!(line.chars().count() <= LONGEST, "{line}");
        assert!(!line.chars().any(char::is_control), "{line:?}");
    }

    #[test]
    fn the_middle_of_a_long_speech_is_left_out() {
        let (mut guest, mut console) = console();
        for round in 0..64 {
            guest.write_all(&[b'a' + (round % 26); 4096]).unwrap();
            console.said();
        }
        assert!(console.said().len() < KEPT.0 + KEPT.1 + 200);
    }
}
