//! Text of ranges, numbers and expectations, for reports.

use std::fmt;

use tdxlab_protocol::addr::{Gpa, GpaRange};

use crate::expectation::{AccessOutcome, Content, Expectation, Interval};
use crate::map::RegionState;
use crate::names::{Errno, Status, Unsigned, VmcallStatus};
use crate::plan::Guest;

/// A number of bytes in the largest unit that keeps it whole: `1028K`, `16T`.
#[derive(Clone, Copy, Debug)]
pub struct Bytes(pub u64);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let units = [(40, "T"), (30, "G"), (20, "M"), (10, "K")];
        for (shift, unit) in units {
            if self.0 != 0 && self.0.is_multiple_of(1 << shift) {
                return write!(f, "{}{unit}", self.0 >> shift);
            }
        }
        write!(f, "{}", self.0)
    }
}

/// A number of bytes as people would write it: `13T-2M`, not `13631486M`.
pub fn size(bytes: u64) -> String {
    let whole = Bytes(bytes).to_string();
    if whole.len() <= 5 {
        return whole;
    }
    for shift in [40, 30, 20, 10] {
        let unit = 1u64 << shift;
        if bytes < unit {
            continue;
        }
        let (count, rest) = (bytes / unit, bytes % unit);
        let below = format!("{}+{}", Bytes(count << shift), Bytes(rest));
        let above = format!("{}-{}", Bytes((count + 1) << shift), Bytes(unit - rest));
        return [whole, below, above]
            .into_iter()
            .min_by_key(String::len)
            .unwrap_or_default();
    }
    whole
}

/// A duration for people: `840 us`, `12 ms`, `3.2 s`.
#[derive(Clone, Copy, Debug)]
pub struct Micros(pub u64);

impl fmt::Display for Micros {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            0..1_000 => write!(f, "{} us", self.0),
            1_000..1_000_000 => write!(f, "{} ms", self.0 / 1_000),
            _ => write!(f, "{:.1} s", self.0 as f64 / 1e6),
        }
    }
}

/// A name that any other program takes: letters, digits, `-`, `_`.
pub fn slug(name: &str) -> String {
    let mut slug: String = name
        .chars()
        .map(|c| match c {
            'a'..='z' | 'A'..='Z' | '0'..='9' | '-' | '_' => c,
            _ => '_',
        })
        .collect();
    slug.truncate(slug.trim_end_matches('_').len());
    slug
}

/// A range as offsets into test memory, as scenarios have it, and as GPAs.
pub fn place(range: GpaRange, guest: &Guest) -> String {
    let base = guest.memory.start();
    let offset = |gpa: Gpa| gpa.checked_sub(base).map(size);
    match (offset(range.start()), offset(range.end())) {
        (Some(start), Some(end)) => format!("{start}..{end} ({range})"),
        _ => range.to_string(),
    }
}

/// A state in words.
pub const fn state(state: RegionState) -> &'static str {
    match state {
        RegionState::Empty => "empty",
        RegionState::LeafPending => "2M pending",
        RegionState::LeafAccepted => "2M accepted",
        RegionState::TableFree => "table, nothing mapped",
        RegionState::PagePending => "4K pending",
        RegionState::PageAccepted => "4K accepted",
        RegionState::Shared => "shared, not mapped",
        RegionState::SharedMapped => "shared, mapped at 4K",
        RegionState::Unknown => "left open by a race",
    }
}

/// Expectation of a step, one line per witness, most telling first.
pub fn expectation(expected: &Expectation) -> Vec<String> {
    let mut lines = Vec::new();
    lines.extend(end(expected).map(str::to_owned));
    lines.push(splits(expected));
    lines.push(pages(expected));
    if let Some(statuses) = &expected.statuses
        && !statuses.is_empty()
    {
        lines.push(format!("ACCEPT status {}", statuses_text(expected)));
    }
    if !expected.errnos.is_empty() {
        let names: Vec<String> = expected
            .errnos
            .iter()
            .map(|errno| Errno(*errno).to_string())
            .collect();
        let at = expected.error_at;
        let stopped = at.map_or_else(String::new, |gpa| format!(", stopped at {gpa}"));
        lines.push(format!("errno {}{stopped}", names.join(", ")));
    }
    if let Some(status) = expected.map_gpa {
        let at = expected.map_gpa_stopped_at;
        let stopped = at.map_or_else(String::new, |gpa| format!(", stopped at {gpa}"));
        lines.push(format!("MapGPA {}{stopped}", VmcallStatus(status)));
    }
    let kinds = [
        ("access", accesses_text(expected)),
        ("content", reads_text(expected)),
        ("dirty log", logged_text(expected)),
    ];
    for (name, text) in kinds {
        if !text.is_empty() {
            lines.push(format!("{name}: {text}"));
        }
    }
    let exits = (expected.accept_exits, expected.access_exits);
    if exits != (Interval::default(), Interval::default()) {
        lines.push(format!(
            "exits: {} ACCEPT, {} access",
            Unsigned(exits.0),
            Unsigned(exits.1)
        ));
    }
    lines
}

/// Who ends the TD, where a step ends it.
pub const fn end(expected: &Expectation) -> Option<&'static str> {
    match (expected.td_alive, expected.ended_by_vmm) {
        (true, _) => None,
        (false, true) => Some("the TD is ended by the VMM, which has no memory there"),
        (false, false) => Some("the TD is ended by KVM"),
    }
}

/// What a step's operation must answer, but for errnos: a text for each kind of answer that it has.
pub fn answers(expected: &Expectation) -> Vec<String> {
    let mut parts = vec![
        statuses_text(expected),
        accesses_text(expected),
        reads_text(expected),
    ];
    let map_gpa = expected.map_gpa;
    parts.extend(map_gpa.map(|status| format!("MapGPA {}", VmcallStatus(status))));
    parts.retain(|part| !part.is_empty());
    parts
}

/// How many pages the dirty log names; empty where nothing is logged.
pub fn logged_text(expected: &Expectation) -> String {
    let Some(logged) = &expected.logged else {
        return String::new();
    };
    let pages = |ranges: &[GpaRange]| ranges.iter().map(|range| range.pages_4k()).sum::<u64>();
    match (pages(&logged.must), pages(&logged.may)) {
        (must, 0) => format!("{must} pages"),
        (must, may) => format!("{must} pages, and up to {may} that it may name again"),
    }
}

fn splits(expected: &Expectation) -> String {
    const SHOWN: usize = 4;
    let mut text = format!("splits {}", Unsigned(expected.splits));
    let leaves: Vec<String> = expected
        .split_leaves
        .iter()
        .take(SHOWN)
        .map(|leaf| leaf.gpa.to_string())
        .collect();
    if !leaves.is_empty() {
        text += &format!(": {}", leaves.join(", "));
    }
    if expected.split_leaves.len() > SHOWN {
        text += &format!(" and {} more", expected.split_leaves.len() - SHOWN);
    }
    text
}

fn pages(expected: &Expectation) -> String {
    let mut text = format!(
        "pages_4k {}, pages_2m {}",
        expected.pages.pages_4k, expected.pages.pages_2m
    );
    if expected.pages.pages_1g != Interval::default() {
        text += &format!(", pages_1g {}", expected.pages.pages_1g);
    }
    text + &format!(", populated {}", Unsigned(expected.populated))
}

/// The distinct statuses with how often each comes, in the order they first come.
pub fn statuses_text(expected: &Expectation) -> String {
    let mut counts: Vec<(u64, u64)> = Vec::new();
    for run in expected.statuses.iter().flatten() {
        match counts.iter_mut().find(|(status, _)| *status == run.status) {
            Some((_, count)) => *count += run.count,
            None => counts.push((run.status, run.count)),
        }
    }
    let texts: Vec<String> = counts
        .iter()
        .map(|(status, count)| format!("{count} x {}", Status(*status)))
        .collect();
    texts.join(", ")
}

/// Expected outcomes of accesses, each with the bytes it covers.
pub fn accesses_text(expected: &Expectation) -> String {
    let mut sums: Vec<(&str, u64)> = Vec::new();
    for (range, outcome) in expected.accesses.iter().flatten() {
        let name = match outcome {
            AccessOutcome::Done => "done",
            AccessOutcome::Ve => "#VE",
            AccessOutcome::Accepted => "#VE+ACCEPT",
            AccessOutcome::Either => "done or #VE",
        };
        match sums.iter_mut().find(|(known, _)| *known == name) {
            Some((_, bytes)) => *bytes += range.bytes(),
            None => sums.push((name, range.bytes())),
        }
    }
    let texts: Vec<String> = sums
        .iter()
        .map(|(name, bytes)| format!("{name} {}", Bytes(*bytes)))
        .collect();
    texts.join(", ")
}

/// Expected contents of reads, each with the bytes it covers.
pub fn reads_text(expected: &Expectation) -> String {
    let mut sums: Vec<(&str, u64)> = Vec::new();
    for read in &expected.reads {
        let name = match read.content {
            Content::Filled(_) => "intact",
            Content::Zero => "zero",
            Content::Gone => "gone",
            Content::Raced => "raced",
        };
        match sums.iter_mut().find(|(known, _)| *known == name) {
            Some((_, bytes)) => *bytes += read.range.bytes(),
            None => sums.push((name, read.range.bytes())),
        }
    }
    let texts: Vec<String> = sums
        .iter()
        .map(|(name, bytes)| format!("{name} {}", Bytes(*bytes)))
        .collect();
    texts.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_keep_their_value() {
        let shown: Vec<String> = [0, 4096, (1 << 20) + 4096, 16 << 40, 5]
            .into_iter()
            .map(|bytes| Bytes(bytes).to_string())
            .collect();
        assert_eq!(shown, ["0", "4K", "1028K", "16T", "5"]);
    }

    #[test]
    fn addresses_are_as_short_as_their_authors_wrote_them() {
        let shown: Vec<String> = [
            0,
            4 << 10,
            (1 << 20) + 4096,
            (13 << 40) - (2 << 20),
            (9 << 40) + (512 << 30),
            64 << 20,
        ]
        .into_iter()
        .map(size)
        .collect();
        assert_eq!(shown, ["0", "4K", "1028K", "13T-2M", "9728G", "64M"]);
    }

    #[test]
    fn durations_are_for_people() {
        assert_eq!(Micros(840).to_string(), "840 us");
        assert_eq!(Micros(12_345).to_string(), "12 ms");
        assert_eq!(Micros(3_210_000).to_string(), "3.2 s");
    }
}
