//! The kernel log from one moment to the next, out of `/dev/kmsg`.
//!
//! A record reads `6,339,5140900,-;text`, followed by lines ` KEY=value` (Documentation/ABI/
//! testing/dev-kmsg). The number before the first comma is level plus eight times facility; records
//! of user space have a facility other than 0 and are ignored. Sequence numbers have no gaps: one
//! that is left out is a record that was overwritten.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use tdxlab_journal::Reading;

/// The kernel log of the machine.
pub const DEVICE: &str = "/dev/kmsg";

/// Longest record. The kernel's own limit is 8 KiB (`PRINTKRB_RECORD_MAX`).
const MAX_RECORD: usize = 16 << 10;

/// Bound on the lines of one reading.
const MAX_LINES: usize = 4096;

/// A record of the kernel log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// 0 (emergency) to 7 (debug).
    pub level: u8,
    /// 0 for the kernel.
    pub facility: u32,
    /// Sequence number.
    pub sequence: u64,
    /// Microseconds since boot.
    pub micros: u64,
    /// The message.
    pub text: String,
}

impl Record {
    /// Reads the first line of a record.
    pub fn parse(line: &str) -> Option<Record> {
        let (prefix, text) = line.split_once(';')?;
        let mut fields = prefix.split(',');
        let priority: u32 = fields.next()?.parse().ok()?;
        let sequence = fields.next()?.parse().ok()?;
        let micros = fields.next()?.parse().ok()?;
        fields.next()?;
        Some(Record {
            level: (priority & 7) as u8,
            facility: priority >> 3,
            sequence,
            micros,
            text: unescaped(text),
        })
    }
}

/// Decodes `\xNN`, the kernel's escape for unprintable bytes.
fn unescaped(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        let escape = rest
            .strip_prefix(b"\\x")
            .and_then(|rest| rest.split_first_chunk::<2>())
            .and_then(|(digits, after)| {
                let digits = std::str::from_utf8(digits).ok()?;
                Some((u8::from_str_radix(digits, 16).ok()?, after))
            });
        let (byte, after) = escape.unwrap_or((first, after));
        bytes.push(byte);
        rest = after;
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Bound on the records read by [`since_boot`].
const MOST_RECORDS: usize = 100_000;

/// Kernel messages since boot that satisfy `wanted`, oldest first, as far as the ring buffer still
/// holds them.
///
/// # Errors
///
/// The log cannot be read.
pub fn since_boot(path: &Path, wanted: impl Fn(&str) -> bool) -> io::Result<Vec<String>> {
    let mut log = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(path)?;
    let mut found = Vec::new();
    // The device gives one record per read.
    let mut buffer = [0; MAX_RECORD];
    for _ in 0..MOST_RECORDS {
        let count = match log.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
            // Records were overwritten while they were read.
            Err(error) if error.raw_os_error() == Some(libc::EPIPE) => continue,
            Err(error) => return Err(error),
        };
        let text = String::from_utf8_lossy(&buffer[..count]);
        // Text of user space is arbitrary. Lines that start with a blank are properties of the
        // record before.
        let records = text.lines().filter(|line| !line.starts_with(' '));
        let messages = records.filter_map(Record::parse);
        let wanted = messages.filter(|record| record.facility == 0 && wanted(&record.text));
        found.extend(wanted.map(|record| record.text));
    }
    Ok(found)
}

/// Reads the kernel's records since the previous reading.
#[derive(Debug)]
pub struct KernelLog {
    path: PathBuf,
    file: Result<File, String>,
    unread: Vec<u8>,
}

impl KernelLog {
    /// Opens the log; the first reading starts here. That it cannot be opened shows in every
    /// reading.
    pub fn open(path: &Path) -> KernelLog {
        let file = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_NONBLOCK)
            .open(path)
            .and_then(|mut file| file.seek(SeekFrom::End(0)).map(|_| file))
            .map_err(|error| match error.kind() {
                io::ErrorKind::PermissionDenied => {
                    format!("{error}; run as root, or set kernel.dmesg_restrict to 0")
                }
                _ => error.to_string(),
            });
        KernelLog {
            path: path.to_owned(),
            file,
            unread: Vec::new(),
        }
    }

    /// Kernel messages since the previous reading. Incomplete, with those that are left, if the ring
    /// buffer has overwritten some: a WARN may have been among them.
    pub fn lines(&mut self) -> Reading<Vec<String>> {
        let told = |reason: String| format!("{}: {reason}", self.path.display());
        match &mut self.file {
            Ok(file) => {
                let mut lines = Vec::new();
                let lost = read(file, &mut self.unread, &mut lines);
                Reading::unless(lost.map(told), lines)
            }
            Err(reason) => Reading::missing(told(reason.clone())),
        }
    }
}

/// Reads what there is; why some of it is lost, if it is. `unread` is the line under way.
fn read(file: &mut File, unread: &mut Vec<u8>, lines: &mut Vec<String>) -> Option<String> {
    let mut trouble = None;
    // The device gives one record per read, and EINVAL to a buffer it does not fit in.
    let mut buffer = [0; MAX_RECORD];
    loop {
        let count = match file.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => count,
            Err(error) => match error.raw_os_error() {
                Some(libc::EAGAIN) => break,
                Some(libc::EINTR) => continue,
                // The next read continues at the oldest record left.
                Some(libc::EPIPE) => {
                    trouble.get_or_insert("records were overwritten before they were read");
                    continue;
                }
                _ => return Some(error.to_string()),
            },
        };
        for &byte in &buffer[..count] {
            if byte != b'\n' {
                if unread.len() < MAX_RECORD {
                    unread.push(byte);
                } else {
                    trouble.get_or_insert("a record without end");
                }
                continue;
            }
            let line = String::from_utf8_lossy(unread);
            // Lines that start with a blank are properties of the record before.
            if !line.is_empty() && !line.starts_with(' ') {
                match Record::parse(&line) {
                    Some(record) if record.facility != 0 => {}
                    Some(record) if lines.len() < MAX_LINES => lines.push(record.text),
                    Some(_) => {
                        trouble.get_or_insert("too many records");
                    }
                    None => {
                        trouble.get_or_insert("a line that is no record");
                    }
                }
            }
            unread.clear();
        }
    }
    trouble.map(str::to_owned)
}

/// Two readings of a log as one, in their order. A log that cannot be read is missing in both.
pub fn joined(first: Reading<Vec<String>>, second: Reading<Vec<String>>) -> Reading<Vec<String>> {
    let mut all = Vec::new();
    let mut lost = None;
    for reading in [first, second] {
        match reading {
            Reading::Read(lines) => all.extend(lines),
            Reading::Incomplete { reason, rest } => {
                lost.get_or_insert(reason);
                all.extend(rest.into_iter().flatten());
            }
            Reading::Missing { reason } => return Reading::missing(reason),
        }
    }
    Reading::unless(lost, all)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn records_of_the_kernel() {
        let record =
            Record::parse("4,1203,98765432,-;kvm_intel: Guest access \\x22here\\x22").unwrap();
        assert_eq!(
            record,
            Record {
                level: 4,
                facility: 0,
                sequence: 1203,
                micros: 98_765_432,
                text: "kvm_intel: Guest access \"here\"".into(),
            }
        );
        let later = Record::parse("30,7,5,-,caller=T1;systemd[1]: hello; world").unwrap();
        assert_eq!((later.level, later.facility), (6, 3));
        assert_eq!(later.text, "systemd[1]: hello; world");
        assert_eq!(Record::parse("no record"), None);
        assert_eq!(Record::parse("1,2;text"), None);
    }

    #[test]
    fn only_what_the_kernel_said_since_then_is_read() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        writeln!(file, "4,1,1,-;before").unwrap();
        let mut log = KernelLog::open(file.path());
        writeln!(file, "4,2,2,-;first\n SUBSYSTEM=x\n12,3,3,-;from a daemon").unwrap();
        assert_eq!(log.lines(), Reading::Read(vec!["first".into()]));
        assert_eq!(log.lines(), Reading::Read(Vec::new()));
        writeln!(file, "4,3,3,-;WARNING\nnonsense").unwrap();
        let Reading::Incomplete { rest, .. } = log.lines() else {
            panic!("nonsense is no record");
        };
        assert_eq!(rest, Some(vec!["WARNING".into()]));
        writeln!(file, "4,4,4,-;again").unwrap();
        assert_eq!(log.lines(), Reading::Read(vec!["again".into()]));
    }

    fn read(lines: &[&str]) -> Reading<Vec<String>> {
        Reading::Read(lines.iter().map(|&line| line.to_owned()).collect())
    }

    fn lost(rest: &[&str]) -> Reading<Vec<String>> {
        Reading::Incomplete {
            reason: "lost".to_owned(),
            rest: Some(rest.iter().map(|&line| line.to_owned()).collect()),
        }
    }

    #[test]
    fn what_was_read_before_the_log_lost_something_is_kept() {
        assert_eq!(joined(read(&[]), read(&["a"])), read(&["a"]));
        assert_eq!(joined(read(&["a"]), lost(&["b"])), lost(&["a", "b"]));
        assert_eq!(joined(lost(&["a"]), read(&["b"])), lost(&["a", "b"]));
        let none = Reading::missing("no log");
        assert_eq!(joined(read(&[]), none.clone()), none);
    }

    #[test]
    fn a_log_that_is_not_there_is_missing() {
        let mut log = KernelLog::open(Path::new("/nonexistent/kmsg"));
        assert!(matches!(log.lines(), Reading::Missing { .. }));
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "\\PC{0,200}") {
            let _ = Record::parse(&text);
        }

        #[test]
        fn escapes_never_panic(text in "[\\\\x0-9a-fg]{0,40}") {
            let _ = unescaped(&text);
        }
    }
}
