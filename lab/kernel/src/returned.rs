//! Return values of a probed kernel function, counted by the kernel itself: `hist` of an event.
//!
//! ```text
//! # trigger info: hist:keys=common_pid,ret.hex:vals=hitcount:sort=hitcount:size=4096 [active]
//!
//! { common_pid:       1234, ret: 8000020000000092 } hitcount:          1
//! { common_pid:       1234, ret: 0 } hitcount:       1024
//!
//! Totals:
//!     Hits: 1025
//!     Entries: 2
//!     Dropped: 0
//! ```
//!
//! Source: `hist_show()` and `hist_trigger_entry_print()` in kernel/trace/trace_events_hist.c. A line in
//! the ring buffer for each call would take a nested guest more time than the call.

use std::fs::File;
use std::io::Read;
use std::path::PathBuf;

/// What makes the kernel count, written to `trigger` of a probe whose argument is `ret`.
pub(crate) const TRIGGER: &str = "hist:keys=common_pid,ret.hex:size=4096";

/// Longest file that is read: `size` of [`TRIGGER`] rows of less than 128 bytes.
const MAX_BYTES: u64 = 1 << 20;

/// Calls of a function that returned one value to one thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Returned {
    /// The thread.
    pub thread: u32,
    /// The value.
    pub value: u64,
    /// How many there were.
    pub count: u64,
}

/// The returns of one function, counted since its probe was added.
#[derive(Debug)]
pub struct Returns(pub(crate) PathBuf);

impl Returns {
    /// All counts so far, in no order.
    ///
    /// # Errors
    ///
    /// The file cannot be read, is none of these, or the kernel had no room for some; as text.
    pub fn read(&self) -> Result<Vec<Returned>, String> {
        let wrong = |what: String| format!("{}: {what}", self.0.display());
        let mut text = String::new();
        let read =
            File::open(&self.0).and_then(|file| file.take(MAX_BYTES + 1).read_to_string(&mut text));
        if read.map_err(|error| wrong(error.to_string()))? as u64 > MAX_BYTES {
            return Err(wrong(format!("longer than {MAX_BYTES} bytes")));
        }
        parse(&text).map_err(wrong)
    }
}

fn parse(text: &str) -> Result<Vec<Returned>, String> {
    let mut rows = Vec::new();
    for line in text.lines().filter(|line| line.starts_with('{')) {
        rows.push(parse_row(line).ok_or_else(|| format!("no row of a histogram: {line:?}"))?);
    }
    let dropped = text
        .lines()
        .find_map(|line| line.trim().strip_prefix("Dropped:"))
        .and_then(|number| number.trim().parse::<u64>().ok());
    match dropped {
        Some(0) => Ok(rows),
        Some(many) => Err(format!("the kernel had no room for {many} calls")),
        None => Err("not a histogram: it does not say how many calls were dropped".to_owned()),
    }
}

fn parse_row(line: &str) -> Option<Returned> {
    let (keys, count) = line.strip_prefix('{')?.split_once('}')?;
    let (thread, value) = keys.split_once(',')?;
    Some(Returned {
        thread: thread
            .trim()
            .strip_prefix("common_pid:")?
            .trim()
            .parse()
            .ok()?,
        value: u64::from_str_radix(value.trim().strip_prefix("ret:")?.trim(), 16).ok()?,
        count: count
            .trim()
            .strip_prefix("hitcount:")?
            .trim()
            .parse()
            .ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHOWN: &str = "\
# event histogram
#
# trigger info: hist:keys=common_pid,ret.hex:vals=hitcount:sort=hitcount:size=4096 [active]
#

{ common_pid:       1234, ret: 8000020000000092 } hitcount:          1
{ common_pid:         77, ret:                0 } hitcount:       1024

Totals:
    Hits: 1025
    Entries: 2
    Dropped: 0
";

    #[test]
    fn rows_are_read() {
        let row = |thread, value, count| Returned {
            thread,
            value,
            count,
        };
        assert_eq!(
            parse(SHOWN),
            Ok(vec![row(1234, 0x8000_0200_0000_0092, 1), row(77, 0, 1024)])
        );
    }

    #[rstest::rstest]
    #[case::lost("Dropped: 0", "Dropped: 3", "no room for 3 calls")]
    #[case::cut("    Dropped: 0\n", "", "not a histogram")]
    #[case::other_keys("common_pid", "comm", "no row")]
    #[case::no_number("1024", "many", "no row")]
    fn what_is_not_whole_is_no_count(#[case] from: &str, #[case] to: &str, #[case] says: &str) {
        let error = parse(&SHOWN.replace(from, to)).unwrap_err();
        assert!(error.contains(says), "{error}");
    }
}
