//! The text of a scenario file.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read};
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use super::error::{Problem, ScenarioError};
use super::yaml::MAX_BYTES;

/// UTF-8 byte order mark, which some editors write. It is not content (YAML 1.2, section 5.2).
const BYTE_ORDER_MARK: &[u8] = "\u{feff}".as_bytes();

/// The encoding or format by which bytes begin that are no text in UTF-8, where that is plain.
fn other_encoding(bytes: &[u8]) -> Option<&'static str> {
    match bytes {
        [0xff, 0xfe, 0, 0, ..] | [0, 0, 0xfe, 0xff, ..] => Some("UTF-32"),
        // Text begins with ASCII, so every other byte is 0.
        [0xff, 0xfe, ..]
        | [0xfe, 0xff, ..]
        | [0, 1..=255, 0, 1..=255, ..]
        | [1..=255, 0, 1..=255, 0, ..] => Some("UTF-16"),
        [0x1f, 0x8b, ..] => Some("packed by gzip"),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => Some("packed by zstd"),
        [0x7f, b'E', b'L', b'F', ..] => Some("a program"),
        _ => None,
    }
}

/// Content of pipes by path. A pipe gives its content once, and files are read more than once: to
/// find scenarios, then to load them.
static PIPES: Mutex<BTreeMap<PathBuf, Vec<u8>>> = Mutex::new(BTreeMap::new());

fn once(path: &Path, read: impl FnOnce() -> io::Result<Vec<u8>>) -> io::Result<Vec<u8>> {
    let mut pipes = PIPES.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(bytes) = pipes.get(path) {
        return Ok(bytes.clone());
    }
    let bytes = read()?;
    pipes.insert(path.to_owned(), bytes.clone());
    Ok(bytes)
}

/// The text of a scenario file, without a byte order mark.
pub(super) fn of(path: &Path) -> Result<String, ScenarioError> {
    let unreadable = |answer| ScenarioError::Unreadable {
        path: path.to_owned(),
        answer,
    };
    let wrong = |problem| ScenarioError::wrong(path, "", vec![problem]);
    let too_long = |length: u64, or_more: &str| {
        let message = format!("the file has {length} bytes{or_more}");
        wrong(Problem::new(0..0, message, "").help("at most 1 MiB"))
    };
    let about = fs::metadata(path).map_err(unreadable)?;
    // Opening it would wait for a writer. What a shell pipes has a name in /dev or /proc.
    let passed = path.starts_with("/dev") || path.starts_with("/proc");
    if about.file_type().is_fifo() && !passed {
        let problem = Problem::new(0..0, "it is a named pipe, not a file", "");
        return Err(wrong(problem.help("/dev/stdin takes what is piped")));
    }
    if about.len() > MAX_BYTES as u64 {
        return Err(too_long(about.len(), ""));
    }
    let read = || {
        // A pipe or a device has no length, and may never end.
        let mut bytes = Vec::new();
        fs::File::open(path)?
            .take(MAX_BYTES as u64 + 1)
            .read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    let mut bytes = match about.file_type().is_fifo() {
        true => once(path, read),
        false => read(),
    }
    .map_err(unreadable)?;
    if bytes.len() > MAX_BYTES {
        return Err(too_long(bytes.len() as u64, " or more"));
    }
    if let Some(name) = other_encoding(&bytes) {
        let problem = Problem::new(0..0, format!("the file is {name}, not UTF-8"), "");
        return Err(wrong(problem.help("save the file as UTF-8")));
    }
    if bytes.starts_with(BYTE_ORDER_MARK) {
        bytes.drain(..BYTE_ORDER_MARK.len());
    }
    String::from_utf8(bytes).map_err(|error| {
        let line = error.as_bytes()[..error.utf8_error().valid_up_to()]
            .iter()
            .filter(|byte| **byte == b'\n')
            .count();
        let message = format!("line {} is not UTF-8", line + 1);
        wrong(Problem::new(0..0, message, "").help("save the file as UTF-8"))
    })
}
