//! The seeded bugs and the designs of the modules, by their parameters.

/// A bug that can be seeded: `echo NAME >/sys/module/kvm/parameters/softtdx_bug`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bug {
    /// Name of the parameter.
    pub name: &'static str,
    /// What KVM does wrong then.
    pub what: &'static str,
    /// Row of the fault catalogue, section 6 of the fact sheet on KVM's huge pages of TDs.
    pub row: u8,
}

/// `NAME ROW WHAT;`.
macro_rules! bugs {
    ($($name:literal $row:literal $what:literal;)*) => {
        &[$(Bug { name: $name, what: $what, row: $row }),*]
    };
}

/// All of them, in the order of `kernel/bugs.h`.
pub fn bugs() -> &'static [Bug] {
    const BUGS: &[Bug] = bugs! {
        "head-not-split" 2 "the leaf that a range starts in is not split";
        "tail-not-split" 2 "the leaf that a range ends in is not split";
        "tail-off-by-one" 2 "the tail is computed from the last page, not from the end";
        "covered-leaves-split" 5 "leaves that lie in the range as a whole are split, too";
        "next-leaf-split" 4 "where the end is aligned, the leaf after the range is split";
        "split-by-file-offset" 6 "alignment is that of the file's offset, not of the frame number";
        "split-only-first-slot" 7 "of several slots of one file, only the first is split for a \
            hole";
        "split-wrong-root" 19 "splits go to the root of shared memory, not to the mirror";
        "split-after-zap" 11 "a hole splits after its range is zapped";
        "over-zap" 1 "zaps go to the end of the last 2M";
        "zap-from-leaf-start" 1 "zaps start where the first 2M starts";
        "zap-short" 1 "the last page of a range is not zapped";
        "error-as-one" 26 "an error of the split is kept in a bool: a hole returns 1, and is none";
        "error-swallowed" 26 "an error of the split is dropped, and the range zapped";
        "error-after-zap" 13 "a hole fails after the zap: memory is gone though the call failed";
        "hole-not-zapped" 14 "a hole frees pages that the S-EPT still maps";
        "hole-not-truncated" 15 "a hole zaps its range and keeps the pages";
        "hole-takes-folio" 16 "a hole frees all of the folios that it touches";
        "inhibit-missing" 21 "nothing keeps the next fault from mapping 2M again";
        "inhibit-wrong-level" 22 "1G is inhibited in place of 2M";
        "inhibit-wrong-range" 22 "the next 2M is inhibited";
        "inhibit-before-split" 20 "the inhibit bit is there before the split, which is then \
            skipped";
        "accept-level-ignored" 27 "an ACCEPT of 4K neither splits nor inhibits";
        "accept-splits-neighbour" 4 "an ACCEPT of 4K splits the next 2M, too";
        "promotion" 43 "a fault replaces a table of the mirror by a huge leaf";
        "sept-not-removed" 17 "the mirror is zapped, the S-EPT is not";
        "demote-lost" 17 "the mirror gets a table, the S-EPT keeps its leaf; nobody is told";
        "demote-without-track" 31 "DEMOTE without TRACK: stale translations are not flushed";
        "remove-without-track" 31 "REMOVE without TRACK: stale translations are not flushed";
        "leaf-left-blocked" 46 "a split is given up after BLOCK, and the leaf stays blocked";
        "parts-not-counted" 18 "pages_4k does not get the 512 parts of a split leaf";
        "leaf-stays-counted" 18 "pages_2m keeps a leaf that is gone";
        "event-missing" 18 "a split has no event";
        "event-twice" 40 "a split has two events";
        "conversion-not-split" 12 "a conversion zaps without splitting first";
        "page-not-logged" 18 "of a plain VM, every eighth page that is written stays out of the \
            dirty log";
    };
    BUGS
}

/// A design of the modules: `echo NAME >/sys/module/kvm/parameters/softtdx_design`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Design {
    /// Name of the parameter.
    pub name: &'static str,
    /// What KVM does then.
    pub what: &'static str,
}

/// All designs.
pub fn designs() -> &'static [Design] {
    const fn design(name: &'static str, what: &'static str) -> Design {
        Design { name, what }
    }
    const DESIGNS: &[Design] = &[
        design("stock", "private memory at 4K, as upstream"),
        design(
            "v3",
            "2M; ranges are walked for leaves that stick out; holes of whole 2M",
        ),
        design("v5", "2M; head and tail by arithmetic; holes of whole 2M"),
        design("headtail", "2M; head and tail by arithmetic; holes of 4K"),
        design("walk", "2M; ranges are walked; holes of 4K"),
    ];
    DESIGNS
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sources::FILES;

    fn file(name: &str) -> &'static str {
        let found = FILES.iter().find(|(known, _)| *known == name);
        found.unwrap().1
    }

    /// Words in quotes of lines that start like this.
    fn quoted(text: &'static str, start: &str) -> Vec<&'static str> {
        text.lines()
            .filter(|line| line.trim_start().starts_with(start))
            .filter_map(|line| line.split('"').nth(1))
            .collect()
    }

    #[test]
    fn the_table_is_that_of_the_kernel_side() {
        let names: Vec<&str> = bugs().iter().map(|bug| bug.name).collect();
        assert_eq!(quoted(file("bugs.h"), "bug("), names);
    }

    #[test]
    fn every_bug_is_looked_at_somewhere() {
        let edits = crate::edits::EDITS.iter().map(|edit| edit.replace);
        let text: String = FILES.iter().map(|(_, text)| *text).chain(edits).collect();
        for bug in bugs() {
            let id = bug.name.to_uppercase().replace('-', "_");
            assert!(text.contains(&format!("softtdx_bug({id})")), "{id}");
        }
        assert!(bugs().len() >= 24);
    }

    #[test]
    fn designs_are_those_of_the_kernel_side() {
        let names: Vec<&str> = designs().iter().map(|design| design.name).collect();
        assert_eq!(quoted(file("split.c"), "{ .name ="), names);
    }
}
