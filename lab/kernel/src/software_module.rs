//! The S-EPT and the calls of a TD, as the software TDX module of a rehearsal shows them: `tdx_sept` and
//! `tdx_calls` in the VM's debugfs folder (lab/softtdx/kernel/debugfs.c). A real module hides both.
//!
//! ```text
//! 0x0..0xa0000 4K mapped 160
//! 0x200000..0x2c00000 2M mapped 21
//! ```

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;

use tdxlab_journal::Reading;
use tdxlab_plan::addr::{Gpa, GpaRange, PageLevel};

use super::debugfs::VmFolder;

/// Longest file. A TD of 16 GiB in single pages that differ from their neighbours has less.
const MAX_BYTES: u64 = 256 << 20;

/// State of an S-EPT leaf.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum LeafState {
    /// Accepted, or added before the TD ran.
    Mapped,
    /// Added by AUG, and not accepted.
    Pending,
    /// Blocked on the way to be removed or demoted.
    Blocked,
}

/// Leaves of one size and state that follow each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Leaves {
    /// What they map.
    pub range: GpaRange,
    /// The size of each.
    pub level: PageLevel,
    /// Their state.
    pub state: LeafState,
}

impl Leaves {
    /// Number of leaves.
    pub fn count(&self) -> u64 {
        self.range.bytes() / self.level.bytes()
    }
}

/// The leaves of a TD's S-EPT, in the order of their addresses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sept(Vec<Leaves>);

impl Sept {
    /// Reads the S-EPT of a VM. Missing where the module does not show it.
    pub fn read(folder: &VmFolder) -> Reading<Sept> {
        reading(folder, "tdx_sept", Sept::parse)
    }

    /// Parses the text of the file.
    ///
    /// # Errors
    ///
    /// A line is of another form, or its range goes back; as text.
    pub fn parse(text: &str) -> Result<Sept, String> {
        let mut leaves: Vec<Leaves> = Vec::new();
        for line in text.lines() {
            let parsed = parse_leaves(line).filter(|new| {
                let last = leaves.last();
                last.is_none_or(|last| last.range.end() <= new.range.start())
            });
            leaves.push(parsed.ok_or_else(|| format!("no line of an S-EPT: {line:?}"))?);
        }
        Ok(Sept(leaves))
    }

    /// All leaves.
    pub fn leaves(&self) -> &[Leaves] {
        &self.0
    }

    /// Leaves in a range, cut to it.
    pub fn within(&self, range: GpaRange) -> impl Iterator<Item = Leaves> {
        let first = self
            .0
            .partition_point(|leaves| leaves.range.end() <= range.start());
        let rest = self.0[first..].iter();
        rest.take_while(move |leaves| leaves.range.start() < range.end())
            .filter_map(move |leaves| {
                let range = leaves.range.intersect(range)?;
                Some(Leaves { range, ..*leaves }).filter(|_| !range.is_empty())
            })
    }

    /// Number of leaves of a size.
    pub fn count(&self, level: PageLevel) -> u64 {
        let of_level = self.0.iter().filter(|leaves| leaves.level == level);
        of_level.map(Leaves::count).sum()
    }

    /// Bytes that are accepted.
    pub fn accepted(&self) -> u64 {
        let mapped = self.0.iter();
        mapped
            .filter(|leaves| leaves.state == LeafState::Mapped)
            .map(|leaves| leaves.range.bytes())
            .sum()
    }
}

fn parse_leaves(line: &str) -> Option<Leaves> {
    let mut words = line.split(' ');
    let (start, end) = words.next()?.split_once("..")?;
    let number = |text: &str| u64::from_str_radix(text.strip_prefix("0x")?, 16).ok();
    let range = GpaRange::new(Gpa::new(number(start)?), Gpa::new(number(end)?))?;
    let level = match words.next()? {
        "4K" => PageLevel::Size4K,
        "2M" => PageLevel::Size2M,
        "1G" => PageLevel::Size1G,
        _ => return None,
    };
    let state = match words.next()? {
        "mapped" => LeafState::Mapped,
        "pending" => LeafState::Pending,
        "blocked" | "pending-blocked" => LeafState::Blocked,
        _ => return None,
    };
    let count: u64 = words.next()?.parse().ok()?;
    let leaves = Leaves {
        range,
        level,
        state,
    };
    let whole = range.is_aligned(level) && !range.is_empty() && words.next().is_none();
    (whole && leaves.count() == count).then_some(leaves)
}

/// What the module has done for a TD so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Calls {
    /// Leaves added before the TD ran.
    pub added: u64,
    /// Leaves added by AUG.
    pub augmented: u64,
    /// Leaves removed.
    pub removed: u64,
    /// Leaves demoted.
    pub demoted: u64,
    /// Pages of 4K accepted.
    pub accepted_4k: u64,
    /// Pages of 2M accepted.
    pub accepted_2m: u64,
    /// ACCEPTs of 2M refused with SIZE_MISMATCH.
    pub size_mismatch: u64,
    /// EPT violations of ACCEPT at 4K, each an exit.
    pub exits_accept_4k: u64,
    /// The same at 2M.
    pub exits_accept_2m: u64,
    /// EPT violations of other accesses.
    pub exits_access: u64,
}

impl Calls {
    /// Reads the calls of a VM. Missing where the module does not show them.
    pub fn read(folder: &VmFolder) -> Reading<Calls> {
        reading(folder, "tdx_calls", Calls::parse)
    }

    /// Parses the text of the file.
    ///
    /// # Errors
    ///
    /// A number is missing; as text.
    pub fn parse(text: &str) -> Result<Calls, String> {
        let mut numbers = BTreeMap::new();
        for line in text.lines() {
            let mut words = line.split(' ');
            let pair = words.next().zip(words.next());
            let value = pair.and_then(|(name, value)| Some((name, value.parse::<u64>().ok()?)));
            let (name, value) = value.ok_or_else(|| format!("no count: {line:?}"))?;
            let refused = match (words.next(), words.next()) {
                (Some("refused"), Some(count)) => count.parse::<u64>().ok(),
                _ => Some(0),
            };
            let refused = refused.ok_or_else(|| format!("no count: {line:?}"))?;
            numbers.insert(name, value.saturating_sub(refused));
        }
        let number = |name: &str| {
            let found = numbers.get(name).copied();
            found.ok_or_else(|| format!("there is no `{name}`"))
        };
        Ok(Calls {
            added: number("page_add")?,
            augmented: number("page_aug")?,
            removed: number("page_remove")?,
            demoted: number("page_demote")?,
            accepted_4k: number("accepted_4k")?,
            accepted_2m: number("accepted_2m")?,
            size_mismatch: number("size_mismatch")?,
            exits_accept_4k: number("exit_accept_4k")?,
            exits_accept_2m: number("exit_accept_2m")?,
            exits_access: number("exit_access")?,
        })
    }

    /// Leaves that there are by these calls: each DEMOTE makes 512 of one.
    pub fn leaves(&self) -> Option<u64> {
        let made = self.added + self.augmented + 511 * self.demoted;
        made.checked_sub(self.removed)
    }
}

fn reading<T>(folder: &VmFolder, name: &str, parse: fn(&str) -> Result<T, String>) -> Reading<T> {
    let path = folder.path().join(name);
    let read = || {
        let mut text = String::new();
        let file = File::open(&path).map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => "only the module of a rehearsal shows it".to_owned(),
            _ => error.to_string(),
        })?;
        let mut file = file.take(MAX_BYTES);
        file.read_to_string(&mut text)
            .map_err(|error| error.to_string())?;
        parse(&text)
    };
    match read() {
        Ok(value) => Reading::Read(value),
        Err(reason) => Reading::missing(format!("{}: {reason}", path.display())),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SEPT: &str = "0x0..0xa0000 4K mapped 160\n0x200000..0x2c00000 2M mapped 21\n\
                        0x2c00000..0x2c01000 4K pending 1\n";

    #[test]
    fn leaves_are_read_and_cut_to_a_range() {
        let sept = Sept::parse(SEPT).unwrap();
        assert_eq!(sept.count(PageLevel::Size4K), 161);
        assert_eq!(sept.count(PageLevel::Size2M), 21);
        assert_eq!(sept.accepted(), 0xa_0000 + (42 << 20));
        let range = GpaRange::new(Gpa::new(0x9_f000), Gpa::new(0x40_0000)).unwrap();
        let found: Vec<_> = sept.within(range).collect();
        assert_eq!(found.len(), 2);
        assert_eq!(found[0].count(), 1);
        assert_eq!((found[1].count(), found[1].level), (1, PageLevel::Size2M));
    }

    #[test]
    fn what_no_module_prints_is_refused() {
        for text in [
            "0x0..0x1000 4K mapped 2\n",
            "0x0..0x1000 8K mapped 1\n",
            "0x1000..0x0 4K mapped 1\n",
            "0x1000..0x200000 2M mapped 1\n",
            "0x1000..0x2000 4K mapped 1\n0x0..0x1000 4K mapped 1\n",
            "0x0..0x1000 4K mapped 1 x\n",
        ] {
            assert!(Sept::parse(text).is_err(), "{text}");
        }
        assert!(Calls::parse("page_add 3 refused 0\n").is_err());
    }

    #[test]
    fn refused_calls_have_done_nothing() {
        let text = "page_add 9 refused 0\npage_aug 5 refused 1\npage_remove 4 refused 2\n\
                    page_demote 1 refused 0\naccepted_4k 1\naccepted_2m 2\nsize_mismatch 3\n\
                    exit_accept_4k 4\nexit_accept_2m 5\nexit_access 6\n";
        let calls = Calls::parse(text).unwrap();
        assert_eq!((calls.augmented, calls.removed), (4, 2));
        assert_eq!(calls.leaves(), Some(9 + 4 + 511 - 2));
    }

    #[test]
    fn a_real_module_shows_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let vm = VmFolder::new(folder.path(), 1, 2);
        let Reading::Missing { reason } = Sept::read(&vm) else {
            panic!("there is no file");
        };
        assert!(
            reason.contains("only the module of a rehearsal"),
            "{reason}"
        );
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "\\PC{0,200}") {
            let _ = Sept::parse(&text);
            let _ = Calls::parse(&text);
        }
    }
}
