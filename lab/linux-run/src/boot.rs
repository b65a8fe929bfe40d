//! Accounts for a boot: times, what the module did, where leaves were split, and memory by 2M.

use tdxlab_journal::Reading;
use tdxlab_journal::boot::{BootAccount, MemoryRun, MemoryUse, ModuleAccount, SplitPlace};
use tdxlab_kernel::software_module::{Calls, Sept};
use tdxlab_linux::account::{self, Resource};
use tdxlab_linux::guest::Ready;
use tdxlab_plan::addr::{Gpa, GpaRange, PageLevel};

use crate::host::Sample;
use crate::leaves::Block;
use crate::observe::GuestAccount;

const BLOCK: u64 = PageLevel::Size2M.bytes();

/// Most splits whose place is kept.
const MAX_SPLITS: usize = 4096;

/// The account of a boot; `None` of a step that is none. `start`: what the host showed before it.
pub(crate) fn account(
    guest: &GuestAccount,
    start: Option<&Sample>,
    end: Option<&Sample>,
) -> Option<BootAccount> {
    let Ready { hello, after } = guest.ready.as_ref()?;
    let all = u64::try_from(after.as_micros()).unwrap_or(u64::MAX);
    let kernel = u64::from(hello.uptime_ms) * 1000;
    let since = |read: fn(&Sample) -> Option<u64>| {
        let end = read(end?)?;
        match start {
            Some(start) => end.checked_sub(read(start)?),
            None => Some(end),
        }
    };
    let counters = end.and_then(|end| end.counters.value());
    Some(BootAccount {
        kernel: hello.release.to_string(),
        firmware_micros: all.saturating_sub(kernel),
        kernel_micros: kernel.min(all),
        ram: guest.ram,
        unaccepted: guest.memory.unaccepted(),
        exits: since(|sample| sample.exits),
        pages_4k: counters.map(|counters| counters.pages_4k),
        pages_2m: counters.map(|counters| counters.pages_2m),
        module: module(start, end),
        splits: end.and_then(|end| splits(end, &guest.resources)),
        memory: memory(guest, end),
    })
}

fn module(start: Option<&Sample>, end: Option<&Sample>) -> Option<ModuleAccount> {
    let now = end?.calls.value()?;
    let none = Calls::default();
    let then = match start {
        Some(start) => start.calls.value()?,
        None => &none,
    };
    let since = |read: fn(&Calls) -> u64| read(now).checked_sub(read(then));
    Some(ModuleAccount {
        accepted_4k: since(|calls| calls.accepted_4k)?,
        accepted_2m: since(|calls| calls.accepted_2m)?,
        size_mismatch: since(|calls| calls.size_mismatch)?,
        exits_accept_4k: since(|calls| calls.exits_accept_4k)?,
        exits_accept_2m: since(|calls| calls.exits_accept_2m)?,
        augmented: since(|calls| calls.augmented)?,
        removed: since(|calls| calls.removed)?,
        demoted: since(|calls| calls.demoted)?,
    })
}

fn splits(end: &Sample, resources: &[Resource]) -> Option<Vec<SplitPlace>> {
    let Reading::Read(events) = &end.splits else {
        return None;
    };
    let place = |gpa: Gpa| SplitPlace {
        gpa: gpa.to_string(),
        what: account::at(resources, gpa).map_or_else(String::new, |found| found.name.clone()),
    };
    let leaves = events.iter().filter(|event| event.errno == 0);
    let leaves = leaves.map(|event| event.gpa.align_down(PageLevel::Size2M));
    Some(leaves.map(place).take(MAX_SPLITS).collect())
}

/// Memory by 2M: of a TD by its S-EPT, of a plain guest by what the host holds.
fn memory(guest: &GuestAccount, end: Option<&Sample>) -> Vec<MemoryRun> {
    let sept = end.and_then(|end| end.sept.value());
    let ram: Vec<GpaRange> = guest
        .resources
        .iter()
        .filter(|resource| resource.depth == 0 && resource.name == "System RAM")
        .map(|resource| resource.range)
        .collect();
    let mut blocks: Vec<u64> = ram.iter().flat_map(|range| numbers(*range)).collect();
    match (sept, &guest.touched) {
        (Some(sept), _) => {
            let mapped = sept.leaves().iter();
            blocks.extend(mapped.flat_map(|leaves| numbers(leaves.range)));
        }
        (None, Some(held)) => blocks.extend(held.ranges.iter().flat_map(|range| numbers(*range))),
        (None, None) => return Vec::new(),
    }
    blocks.sort_unstable();
    blocks.dedup();
    let all_accepted = guest.memory.unaccepted().unwrap_or(0) == 0;
    let held = guest.touched.as_ref();
    let held = held.map_or(&[][..], |held| &held.ranges);
    let mut runs: Vec<MemoryRun> = Vec::new();
    for number in blocks {
        let start = Gpa::new(number * BLOCK);
        let range = start.page(PageLevel::Size2M);
        let is_ram = ram.iter().any(|ram| ram.overlaps(range));
        let how = match sept {
            Some(sept) => of_td(sept, start, is_ram, all_accepted),
            None => of_plain(held, range),
        };
        match runs.last_mut() {
            Some(last) if last.first + last.count == number && last.how == how => last.count += 1,
            _ => runs.push(MemoryRun {
                first: number,
                count: 1,
                how,
            }),
        }
    }
    runs
}

/// Numbers of the 2M blocks that a range touches.
fn numbers(range: GpaRange) -> std::ops::Range<u64> {
    range.start().as_u64() / BLOCK..range.end().as_u64().div_ceil(BLOCK)
}

fn of_td(sept: &Sept, start: Gpa, is_ram: bool, all_accepted: bool) -> MemoryUse {
    match Block::of(sept, start) {
        Block::Empty if is_ram && all_accepted => MemoryUse::Shared,
        Block::Empty => MemoryUse::Untouched,
        _ if !is_ram => MemoryUse::Firmware,
        Block::Leaf => MemoryUse::Leaf,
        Block::Table(pages) if pages.iter().all(|&page| page) => MemoryUse::Pages,
        Block::Table(_) => MemoryUse::PagesInPart,
    }
}

fn of_plain(touched: &[GpaRange], range: GpaRange) -> MemoryUse {
    let held = touched.iter().filter_map(|held| held.intersect(range));
    match held.map(|held| held.bytes()).sum::<u64>() {
        0 => MemoryUse::Untouched,
        BLOCK => MemoryUse::Held,
        _ => MemoryUse::HeldInPart,
    }
}

/// The account in lines, for the report's text.
pub(crate) fn lines(boot: &BootAccount) -> Vec<String> {
    let seconds = |micros: u64| micros as f64 / 1e6;
    let mut lines = vec![format!(
        "firmware {:.2} s, kernel {:.2} s",
        seconds(boot.firmware_micros),
        seconds(boot.kernel_micros)
    )];
    if let Some(exits) = boot.exits {
        lines.push(format!("{exits} exits"));
    }
    if let Some(module) = &boot.module {
        lines.push(format!(
            "ACCEPTs: {} of 4K, {} of 2M, {} of 2M refused for their size; exits of ACCEPT: {} at \
             4K, {} at 2M",
            module.accepted_4k,
            module.accepted_2m,
            module.size_mismatch,
            module.exits_accept_4k,
            module.exits_accept_2m
        ));
        lines.push(format!(
            "{} AUG, {} REMOVE, {} DEMOTE",
            module.augmented, module.removed, module.demoted
        ));
    }
    if let Some(splits) = &boot.splits {
        let mut places: Vec<(String, usize)> = Vec::new();
        for split in splits {
            let what = match split.what.as_str() {
                "" => "nothing of Linux",
                what => what,
            };
            match places.iter_mut().find(|(known, _)| known == what) {
                Some((_, count)) => *count += 1,
                None => places.push((what.to_owned(), 1)),
            }
        }
        let places: Vec<_> = places
            .iter()
            .map(|(what, count)| format!("{count} in {what}"))
            .collect();
        lines.push(match places.is_empty() {
            true => "no split".to_owned(),
            false => format!("{} splits: {}", splits.len(), places.join(", ")),
        });
    }
    if !boot.memory.is_empty() {
        let mut words = Vec::new();
        for how in MemoryUse::ALL {
            let of_kind = boot.memory.iter().filter(|run| run.how == how);
            let blocks: u64 = of_kind.map(|run| run.count).sum();
            if blocks > 0 {
                words.push(format!("{} {blocks}", how.words()));
            }
        }
        lines.push(format!("blocks of 2M: {}", words.join(", ")));
        lines.extend(picture(&boot.memory));
    }
    lines
}

/// Memory by 2M, in rows that start where the one before ended or memory begins anew.
fn picture(memory: &[MemoryRun]) -> Vec<String> {
    const ROW: usize = 96;
    const MOST_ROWS: usize = 12;
    let mut rows: Vec<(u64, String)> = Vec::new();
    for run in memory {
        for number in run.first..run.first.saturating_add(run.count) {
            let sign = run.how.sign();
            if let Some((first, signs)) = rows.last_mut()
                && *first + signs.len() as u64 == number
                && signs.len() < ROW
            {
                signs.push(sign);
            } else if rows.len() == MOST_ROWS {
                return lines_of(&rows);
            } else {
                rows.push((number, sign.to_string()));
            }
        }
    }
    lines_of(&rows)
}

fn lines_of(rows: &[(u64, String)]) -> Vec<String> {
    let line = |(first, signs): &(u64, String)| format!("{:#x} {signs}", first * BLOCK);
    rows.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tdxlab_journal::SplitEvent;
    use tdxlab_linux::account::MemInfo;
    use tdxlab_protocol::linux::LinuxHello;

    use super::*;

    fn guest(unaccepted: u64) -> GuestAccount {
        let resources = account::iomem(
            b"00000000-00000fff : Reserved\n00200000-00dfffff : System RAM\n  00400000-004fffff : Kernel code\n",
        );
        GuestAccount {
            ready: Some(Ready {
                hello: LinuxHello {
                    version: 1,
                    td: true,
                    vcpus: 1,
                    release: "7".try_into().unwrap(),
                    uptime_ms: 2000,
                    kexec: false,
                    converts: true,
                },
                after: Duration::from_secs(5),
            }),
            vcpus: 1,
            ram: 12 << 20,
            memory: MemInfo::parse(format!("Unaccepted: {unaccepted} kB\n").as_bytes()),
            splats: tdxlab_journal::Reading::Read(Vec::new()),
            pushed: None,
            same_iomem: None,
            touched: None,
            resources,
        }
    }

    fn sample() -> Sample {
        let missing = || "not here".to_owned();
        let sept = "0x0..0x1000 4K mapped 1\n0x200000..0x600000 2M mapped 2\n\
                    0x600000..0x800000 4K mapped 512\n0x800000..0x900000 4K mapped 256\n";
        let split = SplitEvent {
            gpa: Gpa::new(0x40_1000),
            level: 2,
            errno: 0,
            tid: 1,
        };
        Sample {
            counters: Reading::missing(missing()),
            query_stats: Reading::missing(missing()),
            splits: Reading::Read(vec![split]),
            exits: Some(7),
            sept: Reading::Read(Sept::parse(sept).unwrap()),
            calls: Reading::missing(missing()),
            demotes: Reading::missing("none"),
            complaints: Reading::missing(missing()),
        }
    }

    #[test]
    fn memory_is_told_by_what_maps_it_and_whose_it_is() {
        use MemoryUse::{Firmware, Leaf, Pages, PagesInPart, Shared, Untouched};
        for (unaccepted, rest) in [(0, Shared), (4096, Untouched)] {
            let boot = account(&guest(unaccepted), None, Some(&sample())).unwrap();
            let found: Vec<_> = boot
                .memory
                .iter()
                .map(|run| (run.first, run.count, run.how))
                .collect();
            let expected = [
                (0, 1, Firmware),
                (1, 2, Leaf),
                (3, 1, Pages),
                (4, 1, PagesInPart),
                (5, 2, rest),
            ];
            assert_eq!(found, expected);
            assert_eq!((boot.firmware_micros, boot.exits), (3_000_000, Some(7)));
            let split = &boot.splits.as_ref().unwrap()[0];
            assert_eq!((&*split.gpa, &*split.what), ("0x400000", "Kernel code"));
            assert!(boot.module.is_none() && boot.pages_2m.is_none());
            let drawn = picture(&boot.memory);
            let rest = if rest == Shared { "ss" } else { ".." };
            assert_eq!(drawn, [format!("0x0 F##4+{rest}")]);
        }
    }
}
