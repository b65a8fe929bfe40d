//! Guest-physical addresses, half-open ranges of them, and page levels.
//!
//! These types are the only thing that the predictor and the soft host share.

use core::fmt;

use serde::{Deserialize, Serialize};

/// Size of a page or of the memory one S-EPT leaf maps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum PageLevel {
    /// 4 KiB, TDX level 0.
    #[serde(rename = "4K")]
    Size4K,
    /// 2 MiB, TDX level 1.
    #[serde(rename = "2M")]
    Size2M,
    /// 1 GiB, TDX level 2.
    #[serde(rename = "1G")]
    Size1G,
}

impl PageLevel {
    /// All levels, smallest first.
    pub const ALL: [PageLevel; 3] = [PageLevel::Size4K, PageLevel::Size2M, PageLevel::Size1G];

    /// Bytes in one page of this level.
    pub const fn bytes(self) -> u64 {
        match self {
            PageLevel::Size4K => 1 << 12,
            PageLevel::Size2M => 1 << 21,
            PageLevel::Size1G => 1 << 30,
        }
    }

    /// 4K pages in one page of this level.
    pub const fn pages_4k(self) -> u64 {
        self.bytes() >> 12
    }

    /// The level in TDX's numbering: 0 = 4K, 1 = 2M, 2 = 1G.
    pub const fn tdx(self) -> u8 {
        match self {
            PageLevel::Size4K => 0,
            PageLevel::Size2M => 1,
            PageLevel::Size1G => 2,
        }
    }

    /// The level in KVM's numbering (`enum pg_level`): 1 = 4K, 2 = 2M, 3 = 1G.
    pub const fn kvm(self) -> u8 {
        self.tdx() + 1
    }

    /// The level with this TDX number.
    pub const fn from_tdx(level: u8) -> Option<PageLevel> {
        match level {
            0 => Some(PageLevel::Size4K),
            1 => Some(PageLevel::Size2M),
            2 => Some(PageLevel::Size1G),
            _ => None,
        }
    }
}

impl fmt::Display for PageLevel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            PageLevel::Size4K => "4K",
            PageLevel::Size2M => "2M",
            PageLevel::Size1G => "1G",
        })
    }
}

/// A guest-physical address in bytes, without the shared bit.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Gpa(u64);

impl Gpa {
    /// The address `bytes`.
    pub const fn new(bytes: u64) -> Gpa {
        Gpa(bytes)
    }

    /// The address as a number of bytes.
    pub const fn as_u64(self) -> u64 {
        self.0
    }

    /// The number of the 4K frame that holds the address.
    pub const fn gfn(self) -> u64 {
        self.0 >> 12
    }

    /// The first address of 4K frame `gfn`.
    pub const fn from_gfn(gfn: u64) -> Gpa {
        Gpa(gfn << 12)
    }

    /// The start of the page of `level` that holds the address.
    pub const fn align_down(self, level: PageLevel) -> Gpa {
        Gpa(self.0 & !(level.bytes() - 1))
    }

    /// The first page boundary of `level` at or after the address; `None` past the address space.
    pub const fn align_up(self, level: PageLevel) -> Option<Gpa> {
        match self.0.checked_add(level.bytes() - 1) {
            Some(sum) => Some(Gpa(sum).align_down(level)),
            None => None,
        }
    }

    /// Whether the address is the start of a page of `level`.
    pub const fn is_aligned(self, level: PageLevel) -> bool {
        self.0 & (level.bytes() - 1) == 0
    }

    /// The address `bytes` further; `None` past the address space.
    pub const fn checked_add(self, bytes: u64) -> Option<Gpa> {
        match self.0.checked_add(bytes) {
            Some(sum) => Some(Gpa(sum)),
            None => None,
        }
    }

    /// Bytes from `earlier` to this address; `None` where `earlier` is later.
    pub const fn checked_sub(self, earlier: Gpa) -> Option<u64> {
        self.0.checked_sub(earlier.0)
    }

    /// The page of `level` that holds the address.
    pub const fn page(self, level: PageLevel) -> GpaRange {
        let start = self.align_down(level);
        GpaRange {
            start,
            end: Gpa(start.0 + level.bytes()),
        }
    }
}

impl fmt::Display for Gpa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

/// Which half of guest-physical space is meant: the shared bit, which [`Gpa`] does not carry.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub enum Side {
    /// Shared bit clear, encrypted, through the S-EPT.
    #[default]
    Private,
    /// Shared bit set.
    Shared,
}

/// The half-open range `start..end` of guest-physical addresses. May be empty, never reversed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct GpaRange {
    start: Gpa,
    end: Gpa,
}

impl GpaRange {
    /// `start..end`; `None` where `end` lies before `start`.
    pub const fn new(start: Gpa, end: Gpa) -> Option<GpaRange> {
        if start.0 <= end.0 {
            Some(GpaRange { start, end })
        } else {
            None
        }
    }

    /// `bytes` bytes from `start`; `None` where that leaves the address space.
    pub const fn with_len(start: Gpa, bytes: u64) -> Option<GpaRange> {
        match start.checked_add(bytes) {
            Some(end) => Some(GpaRange { start, end }),
            None => None,
        }
    }

    /// First address.
    pub const fn start(self) -> Gpa {
        self.start
    }

    /// First address after the range.
    pub const fn end(self) -> Gpa {
        self.end
    }

    /// Length in bytes.
    pub const fn bytes(self) -> u64 {
        self.end.0 - self.start.0
    }

    /// Length in 4K pages, counting a partial page at the end as none.
    pub const fn pages_4k(self) -> u64 {
        self.bytes() >> 12
    }

    /// Whether the range holds no address.
    pub const fn is_empty(self) -> bool {
        self.start.0 == self.end.0
    }

    /// Whether both ends lie on page boundaries of `level`.
    pub const fn is_aligned(self, level: PageLevel) -> bool {
        self.start.is_aligned(level) && self.end.is_aligned(level)
    }

    /// Whether `gpa` lies in the range.
    pub const fn contains(self, gpa: Gpa) -> bool {
        self.start.0 <= gpa.0 && gpa.0 < self.end.0
    }

    /// Whether all of `other` lies in the range. An empty `other` lies in every range.
    pub const fn contains_range(self, other: GpaRange) -> bool {
        other.is_empty() || (self.start.0 <= other.start.0 && other.end.0 <= self.end.0)
    }

    /// The part both ranges share; `None` where they share no address.
    pub fn intersect(self, other: GpaRange) -> Option<GpaRange> {
        let start = self.start.max(other.start);
        let end = self.end.min(other.end);
        (start < end).then_some(GpaRange { start, end })
    }

    /// Whether the ranges share an address.
    pub fn overlaps(self, other: GpaRange) -> bool {
        self.intersect(other).is_some()
    }

    /// The starts of the pages of `level` that the range touches, first to last.
    pub fn pages(self, level: PageLevel) -> impl Iterator<Item = Gpa> {
        let first = self.start.align_down(level).0;
        (first..self.end.0)
            .step_by(level.bytes() as usize)
            .map(Gpa)
            .filter(move |_| !self.is_empty())
    }
}

impl fmt::Display for GpaRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}..{}", self.start, self.end)
    }
}

impl<'de> Deserialize<'de> for GpaRange {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Ends {
            start: Gpa,
            end: Gpa,
        }
        let ends = Ends::deserialize(deserializer)?;
        GpaRange::new(ends.start, ends.end)
            .ok_or_else(|| serde::de::Error::custom("range ends before it starts"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_half_open_and_never_reversed() {
        let range = GpaRange::new(Gpa::new(0x1000), Gpa::new(0x3000)).unwrap();
        assert!(range.contains(Gpa::new(0x2fff)));
        assert!(!range.contains(Gpa::new(0x3000)));
        assert_eq!(GpaRange::new(Gpa::new(2), Gpa::new(1)), None);
    }

    #[test]
    fn pages_cover_partly_touched_ends() {
        let range = GpaRange::new(Gpa::new(0x10_0000), Gpa::new(0x40_1000)).unwrap();
        let pages: [u64; 3] = [0, 0x20_0000, 0x40_0000];
        assert!(
            range
                .pages(PageLevel::Size2M)
                .map(Gpa::as_u64)
                .eq(pages.into_iter())
        );
        let empty = GpaRange::new(Gpa::new(5), Gpa::new(5)).unwrap();
        assert_eq!(empty.pages(PageLevel::Size4K).count(), 0);
    }

    #[test]
    fn the_end_of_the_address_space_is_an_error_not_a_wrap() {
        assert_eq!(Gpa::new(u64::MAX).align_up(PageLevel::Size4K), None);
        assert_eq!(GpaRange::with_len(Gpa::new(u64::MAX), 1), None);
    }
}
