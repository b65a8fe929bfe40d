//! A boot of a Linux guest: its times and counts, and memory by 2M.

use std::fmt::Write;

use maud::{Markup, html};
use tdxlab_journal::boot::{BootAccount, MemoryRun, MemoryUse};
use tdxlab_plan::text::size;

/// Blocks of 2M in a row, their width and height, and how far rows are apart.
const ROW: u64 = 128;
const EDGE: u64 = 7;
const HEIGHT: u64 = 10;
const PITCH: u64 = 14;
/// Left of the drawing, for addresses.
const LEFT: u64 = 74;
/// Most rows that are drawn: 16 GiB.
const MOST_ROWS: usize = 64;
/// Most splits that are named.
const MOST_SPLITS: usize = 16;

/// Table and picture.
pub(super) fn section(boot: &BootAccount) -> Markup {
    html! {
        table.w.boot {
            tbody { @for (name, value) in rows(boot) { tr { th scope="row" { (name) } td { (value) } } } }
        }
        @if !boot.memory.is_empty() { (picture(&boot.memory)) }
    }
}

/// What the table shows.
fn rows(boot: &BootAccount) -> Vec<(&'static str, String)> {
    let seconds = |micros: u64| format!("{:.2} s", micros as f64 / 1e6);
    let mut rows = vec![
        ("kernel", boot.kernel.clone()),
        ("until the kernel's clock", seconds(boot.firmware_micros)),
        ("from there to the agent", seconds(boot.kernel_micros)),
        ("RAM in /proc/iomem", size(boot.ram)),
    ];
    let unknown = || "not seen".to_owned();
    let number = |value: Option<u64>| value.map_or_else(unknown, |value| value.to_string());
    let unaccepted = boot.unaccepted.map(size);
    rows.push(("not accepted yet", unaccepted.unwrap_or_else(unknown)));
    rows.push(("exits", number(boot.exits)));
    rows.push(("pages_4k", number(boot.pages_4k)));
    rows.push(("pages_2m", number(boot.pages_2m)));
    if let Some(module) = &boot.module {
        let accepted = |pages: u64, exits: u64| format!("{pages}, with {exits} exits");
        rows.push((
            "ACCEPTs of 4K",
            accepted(module.accepted_4k, module.exits_accept_4k),
        ));
        rows.push((
            "ACCEPTs of 2M",
            accepted(module.accepted_2m, module.exits_accept_2m),
        ));
        let refused = module.size_mismatch.to_string();
        rows.push(("of 2M, refused for their size", refused));
        rows.push((
            "AUG, REMOVE, DEMOTE",
            format!(
                "{}, {}, {}",
                module.augmented, module.removed, module.demoted
            ),
        ));
    }
    let splits = boot.splits.as_ref().map(|splits| {
        let places = splits.iter().take(MOST_SPLITS);
        let places: Vec<_> = places
            .map(|split| format!("{} {}", split.gpa, split.what).trim().to_owned())
            .collect();
        let rest = splits.len().saturating_sub(MOST_SPLITS);
        let more = match rest {
            0 => String::new(),
            rest => format!(", and {rest} more"),
        };
        match splits.is_empty() {
            true => "none".to_owned(),
            false => format!("{}: {}{more}", splits.len(), places.join(", ")),
        }
    });
    rows.push(("splits", splits.unwrap_or_else(unknown)));
    rows
}

/// The class that gives memory its colour, as in the pictures of the micro guest.
const fn class(how: MemoryUse) -> &'static str {
    match how {
        MemoryUse::Firmware => "u",
        MemoryUse::Leaf | MemoryUse::Held => "a",
        MemoryUse::Pages | MemoryUse::HeldInPart => "a4",
        MemoryUse::PagesInPart => "s4",
        MemoryUse::Shared => "s",
        MemoryUse::Untouched => "e",
    }
}

/// Memory by 2M, a row for every 256 MiB that has any.
fn picture(memory: &[MemoryRun]) -> Markup {
    let rows = drawn_rows(memory);
    let y = |row: u64| {
        rows.iter()
            .position(|known| *known == row)
            .map(|at| at as u64 * PITCH)
    };
    let mut paths: Vec<(MemoryUse, String)> = Vec::new();
    for run in memory {
        let mut at = run.first;
        let end = run.first.saturating_add(run.count);
        while at < end {
            let row = at / ROW;
            let until = end.min((row + 1).saturating_mul(ROW));
            let Some(y) = y(row) else { break };
            let x = LEFT + at % ROW * EDGE;
            let width = (until - at) * EDGE;
            let index = match paths.iter().position(|(how, _)| *how == run.how) {
                Some(index) => index,
                None => {
                    paths.push((run.how, String::new()));
                    paths.len() - 1
                }
            };
            let _ = write!(paths[index].1, "M{x} {y}h{width}v{HEIGHT}h-{width}z");
            at = until;
        }
    }
    let width = LEFT + ROW * EDGE + 2;
    let height = rows.len() as u64 * PITCH;
    html! {
        svg.m.boot viewBox=(format!("0 0 {width} {height}")) role="img" aria-label=(in_words(memory)) {
            @for row in &rows {
                @if let Some(y) = y(*row) { text x="0" y=(y + HEIGHT) { (format!("{:#x}", (row * ROW) << 21)) } }
            }
            @for (how, path) in &paths { path class=(class(*how)) d=(path) { title { (how.words()) } } }
        }
        ul.legend aria-label="Colours of this picture" {
            @for how in MemoryUse::ALL {
                @if paths.iter().any(|(known, _)| *known == how) {
                    li {
                        svg viewBox="0 0 23 17" width="23" height="17" aria-hidden="true" {
                            path.e d="M1 1h21v15h-21z" {} path class=(class(how)) d="M1 1h21v15h-21z" {}
                        }
                        (how.words()) ": " (blocks(memory, how)) " x 2M"
                    }
                }
            }
        }
    }
}

/// Rows that hold memory, in order.
fn drawn_rows(memory: &[MemoryRun]) -> Vec<u64> {
    let mut rows: Vec<u64> = Vec::new();
    for run in memory {
        let last = run.first.saturating_add(run.count.saturating_sub(1));
        for row in run.first / ROW..=last / ROW {
            if rows.len() >= MOST_ROWS {
                return rows;
            }
            if rows.last() != Some(&row) {
                rows.push(row);
            }
        }
    }
    rows
}

fn blocks(memory: &[MemoryRun], how: MemoryUse) -> u64 {
    let of_kind = memory.iter().filter(|run| run.how == how);
    of_kind.fold(0, |sum, run| sum.saturating_add(run.count))
}

/// The picture for those who cannot see it.
fn in_words(memory: &[MemoryRun]) -> String {
    let mut words = Vec::new();
    for how in MemoryUse::ALL {
        let blocks = blocks(memory, how);
        if blocks > 0 {
            words.push(format!("{blocks} blocks of 2M {}", how.words()));
        }
    }
    format!("Memory after the boot: {}", words.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(first: u64, count: u64, how: MemoryUse) -> MemoryRun {
        MemoryRun { first, count, how }
    }

    #[test]
    fn rows_without_memory_are_left_out() {
        let memory = [
            run(0, 130, MemoryUse::Leaf),
            run(130, 2, MemoryUse::Shared),
            run(2047, 1, MemoryUse::Firmware),
        ];
        assert_eq!(drawn_rows(&memory), [0, 1, 15]);
        let drawn = picture(&memory).into_string();
        assert!(drawn.contains("130 blocks"), "{drawn}");
        assert!(drawn.contains("0xf0000000"), "{drawn}");
        assert!(!drawn.contains("untouched"), "{drawn}");
    }

    #[test]
    fn a_journal_may_hold_any_numbers() {
        let memory = [
            run(u64::MAX, u64::MAX, MemoryUse::Leaf),
            run(0, 0, MemoryUse::Held),
        ];
        let _ = picture(&memory);
        let _ = in_words(&memory);
    }
}
