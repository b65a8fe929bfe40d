//! Versions of QEMU.

use std::fmt;

/// First QEMU with all that the lab uses: the machine properties of the command line, `reserve` of
/// memory backends, dirty rings.
pub const OLDEST: Version = Version::new(7, 0);

/// First QEMU that starts TDs.
pub const OLDEST_FOR_TDX: Version = Version::new(10, 1);

/// A version of QEMU.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    /// Raised about once a year.
    pub major: u16,
    /// Raised with each release in a year.
    pub minor: u16,
    /// Raised with each stable update; 50 and above mark development snapshots.
    pub micro: u16,
}

impl Version {
    /// Version `major.minor.0`.
    pub const fn new(major: u16, minor: u16) -> Version {
        Version {
            major,
            minor,
            micro: 0,
        }
    }

    /// Whether it is `needed` or newer. Release candidates, numbered from 90 on, count as what they
    /// are candidates of: 10.0.92 is 10.1-rc2.
    pub fn reaches(self, needed: Version) -> bool {
        let candidate = self.micro >= 90;
        self >= needed || candidate && Version::new(self.major, self.minor + 1) >= needed
    }

    /// Reads it out of what `--version` prints.
    pub fn parse(said: &str) -> Option<Version> {
        let (_, rest) = said.split_once("version ")?;
        let number = rest
            .split(|c: char| !c.is_ascii_digit() && c != '.')
            .next()?;
        let mut parts = number.split('.').map(|part| part.parse().ok());
        Some(Version {
            major: parts.next()??,
            minor: parts.next()??,
            micro: parts.next().flatten().unwrap_or(0),
        })
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.micro)
    }
}
