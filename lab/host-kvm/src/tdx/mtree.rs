//! QEMU's own account of its memory layout: `info mtree -f`.
//!
//! ```text
//! FlatView #1
//!  AS "memory", root: system
//!  Root memory region: system
//!   0000000000000000-000000007fffffff (prio 0, ram): ram
//!   0000000100000000-000000013fffffff (prio 0, ram): ram @0000000080000000
//! ```
//!
//! Source: `mtree_print_flatview()` in system/memory.c.

use tdxlab_protocol::addr::{Gpa, GpaRange};

use super::layout::RamLayout;

/// A range of one memory block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlatRange {
    /// Its addresses.
    pub range: GpaRange,
    /// Offset in the block.
    pub offset: u64,
}

/// The ranges of block `name` in the view of the system's memory.
pub fn ranges(text: &str, name: &str) -> Vec<FlatRange> {
    let mut found = Vec::new();
    let mut in_memory = false;
    let mut headed = false;
    for line in text.lines() {
        let line = line.trim();
        if line.starts_with("FlatView") {
            (in_memory, headed) = (false, true);
        } else if line.starts_with("AS \"memory\",") {
            in_memory = true;
        } else if in_memory
            && headed
            && let Some(range) = parse(line, name)
        {
            found.push(range);
        }
    }
    found
}

fn parse(line: &str, name: &str) -> Option<FlatRange> {
    let (addresses, rest) = line.split_once(" (")?;
    let (_, block) = rest.split_once("): ")?;
    let mut words = block.split_whitespace();
    if words.next()? != name {
        return None;
    }
    let hex = |text: &str| u64::from_str_radix(text, 16).ok();
    let (first, last) = addresses.split_once('-')?;
    let start = Gpa::new(hex(first)?);
    let end = Gpa::new(hex(last)?.checked_add(1)?);
    let offset = match words.next().and_then(|word| word.strip_prefix('@')) {
        Some(offset) => hex(offset)?,
        None => 0,
    };
    Some(FlatRange {
        range: GpaRange::new(start, end)?,
        offset,
    })
}

/// Whether QEMU's own view agrees with the lab's about all of `memory`.
///
/// # Errors
///
/// The first address about which they differ, in words.
pub fn check(flat: &[FlatRange], layout: RamLayout, memory: GpaRange) -> Result<(), String> {
    let mut next = memory.start();
    while next < memory.end() {
        let Some(part) = flat.iter().find(|part| part.range.contains(next)) else {
            return Err(format!("QEMU has no RAM at {next}"));
        };
        let theirs = part.offset + (next.as_u64() - part.range.start().as_u64());
        match layout.offset(next) {
            Some(ours) if ours == theirs => next = part.range.end(),
            ours => {
                let ours = ours.map_or("nowhere".to_owned(), |ours| format!("at {ours:#x}"));
                return Err(format!(
                    "{next} is at offset {theirs:#x} of QEMU's memory, but the lab looked {ours}"
                ));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As QEMU 11.1 prints it for 3 GiB, with another view in front.
    const TEXT: &str = "FlatView #0\n AS \"I/O\", root: io\n Root memory region: io\n\
        \x20 0000000000000000-0000000000000007 (prio 0, i/o): ram\n\n\
        FlatView #1\n AS \"memory\", root: system\n AS \"cpu-memory-0\", root: system\n\
        \x20Root memory region: system\n\
        \x20 0000000000000000-000000000009ffff (prio 0, ram): ram KVM\n\
        \x20 00000000000a0000-00000000000bffff (prio 1, ram): ram @00000000000a0000 KVM\n\
        \x20 00000000000c0000-00000000000dffff (prio 1, rom): pc.rom KVM\n\
        \x20 00000000000e0000-000000007fffffff (prio 0, ram): ram @00000000000e0000 KVM\n\
        \x20 00000000fec00000-00000000fec00fff (prio 0, i/o): kvm-ioapic\n\
        \x20 0000000100000000-000000013fffffff (prio 0, ram): ram @0000000080000000 KVM\n";

    fn gib(start: u64, end: u64) -> GpaRange {
        GpaRange::new(Gpa::new(start << 30), Gpa::new(end << 30)).unwrap()
    }

    #[test]
    fn ranges_of_a_block_are_found() {
        let flat = ranges(TEXT, "ram");
        assert_eq!(flat.len(), 4);
        assert_eq!(flat[3].offset, 0x8000_0000);
        assert_eq!(flat[3].range, gib(4, 5));
        assert!(ranges("", "ram").is_empty());
        assert!(ranges("FlatView #1\n AS \"memory\",\n zz-1 (x): ram\n", "ram").is_empty());
    }

    #[test]
    fn agreement_and_its_opposite() {
        let flat = ranges(TEXT, "ram");
        let layout = RamLayout::new(3 << 30);
        assert_eq!(check(&flat, layout, gib(1, 2)), Ok(()));
        assert_eq!(check(&flat, layout, gib(4, 5)), Ok(()));
        let hole = check(&flat, layout, gib(1, 3)).unwrap_err();
        assert_eq!(hole, "QEMU has no RAM at 0x80000000");
        let other = check(&flat, RamLayout::new(8 << 30), gib(4, 5));
        assert_eq!(
            other,
            Ok(()),
            "the rule is the same for all that have much memory"
        );
        let mut moved = flat;
        moved[3].offset = 0;
        let error = check(&moved, layout, gib(4, 5)).unwrap_err();
        assert!(error.contains("the lab looked at 0x80000000"), "{error}");
    }
}
