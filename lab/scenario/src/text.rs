//! The text of a scenario file.

use std::fs;
use std::path::Path;

use super::error::{Problem, ScenarioError};
use super::yaml::MAX_BYTES;

/// UTF-8 byte order mark, which some editors write. It is not content (YAML 1.2, section 5.2).
const BYTE_ORDER_MARK: &[u8] = "\u{feff}".as_bytes();

/// The text of a scenario file, without a byte order mark.
pub(super) fn of(path: &Path) -> Result<String, ScenarioError> {
    let unreadable = |answer| ScenarioError::Unreadable {
        path: path.to_owned(),
        answer,
    };
    let wrong = |problem| ScenarioError::wrong(path, "", vec![problem]);
    let length = fs::metadata(path).map_err(unreadable)?.len();
    if length > MAX_BYTES as u64 {
        let message = format!("the file has {length} bytes");
        return Err(wrong(Problem::new(0..0, message, "").help("at most 1 MiB")));
    }
    let mut bytes = fs::read(path).map_err(unreadable)?;
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
