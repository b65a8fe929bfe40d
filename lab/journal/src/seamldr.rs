//! Statuses of the P-SEAMLDR, which replaces the TDX module under a running kernel.
//!
//! A SEAMCALL whose leaf has bit 63 goes to it. Its statuses are numbered apart from those of the module:
//! read as one of the module's, each would be SUCCESS. Source: `pseamldr_api_defs.h` of the public
//! P-SEAMLDR source.

use std::fmt;

/// RAX of a call of the P-SEAMLDR that failed, displayed with its name and meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LoaderStatus(pub u64);

/// What the status is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum About {
    /// The call itself, or another that is under way.
    Call,
    /// The module that was to be installed: its file, or what it is made for.
    NewModule,
    /// Nothing lasting.
    Moment,
}

/// Status, name, meaning, and what it is about.
#[rustfmt::skip]
const STATUSES: &[(u64, &str, &str, About)] = &[
    (0x8000_0000_0000_0000, "EBADPARAM", "a parameter is wrong", About::Call),
    (0x8000_0000_0000_0003, "EBADCALL", "another processor calls it, or this one called it twice", About::Call),
    (0x8000_0000_0000_0004, "EBADHANDOFF", "the new module cannot take over the data of the old one", About::NewModule),
    (0x8000_0000_0000_0005, "ECLEANUPREQ", "what an earlier update left has to be cleaned up first", About::Call),
    (0x8000_0000_0000_0006, "EUNSUPPORTED", "it does not know modules of this major security version", About::NewModule),
    (0x8000_0000_0001_0002, "ENOMEM", "the new module does not fit into the memory that the firmware keeps for it", About::NewModule),
    (0x8000_0000_0001_0003, "EUNSPECERR", "the firmware has set the platform up in a way that it does not take", About::Call),
    (0x8000_0000_0001_0004, "EUNSUPCPU", "the new module is not made for a processor of this machine", About::NewModule),
    (0x8000_0000_0002_0000, "EBADSIG", "the signature of the new module is wrong", About::NewModule),
    (0x8000_0000_0002_0001, "EBADHASH", "the new module is not the one that was signed", About::NewModule),
    (0x8000_0000_0003_0000, "EINTERRUPT", "an interrupt came first", About::Moment),
    (0x8000_0000_0003_0001, "ENOENTROPY", "the random number generator had nothing to give", About::Moment),
];

impl LoaderStatus {
    /// What it is about; [`About::Call`] for one that is not known.
    pub fn about(self) -> About {
        self.find().map_or(About::Call, |(.., about)| *about)
    }

    fn find(self) -> Option<&'static (u64, &'static str, &'static str, About)> {
        STATUSES.iter().find(|(number, ..)| *number == self.0)
    }
}

impl fmt::Display for LoaderStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.find() {
            Some((_, name, says, _)) => write!(f, "{name}: {says}"),
            None => f.write_str("a status that no known P-SEAMLDR returns"),
        }
    }
}
