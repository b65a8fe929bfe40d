//! Lies on request, so that tests can show what the lab makes of a host that does wrong.
//!
//! `TDXLAB_REHEARSAL_LIES` holds them, separated by commas:
//!
//! | lie | effect |
//! |---|---|
//! | `refuse=COMMAND:ERRNO` | the `KVM_TDX_COMMAND` ioctl fails, e.g. `refuse=INIT_VM:EBUSY` |
//! | `kill=N` | KVM gives the TD up at its Nth ACCEPT (from 1), as after a KVM_BUG_ON |
//! | `drop-conversion=N` | the Nth MapGPA chunk reports success and changes nothing |

use std::fmt;

use crate::kvm::Errno;
use crate::setup::Command;

/// The variable that holds the lies.
pub(crate) const VARIABLE: &str = "TDXLAB_REHEARSAL_LIES";

/// Error numbers that KVM and QEMU are known to end in.
const ERRNOS: [(&str, i32); 12] = [
    ("E2BIG", libc::E2BIG),
    ("EAGAIN", libc::EAGAIN),
    ("EBUSY", libc::EBUSY),
    ("EEXIST", libc::EEXIST),
    ("EFAULT", libc::EFAULT),
    ("EINVAL", libc::EINVAL),
    ("EIO", libc::EIO),
    ("ENODEV", libc::ENODEV),
    ("ENOMEM", libc::ENOMEM),
    ("ENOSPC", libc::ENOSPC),
    ("EOPNOTSUPP", libc::EOPNOTSUPP),
    ("EPERM", libc::EPERM),
];

/// What is asked for.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Lies {
    refused: Vec<(Command, i32)>,
    kill: Option<u64>,
    drop_conversion: Option<u64>,
    accepts: u64,
    conversions: u64,
}

impl Lies {
    pub(crate) const fn new() -> Lies {
        Lies {
            refused: Vec::new(),
            kill: None,
            drop_conversion: None,
            accepts: 0,
            conversions: 0,
        }
    }

    /// The lies of this process's environment.
    pub(crate) fn of_environment() -> Result<Lies, NoLie> {
        Lies::parse(&std::env::var(VARIABLE).unwrap_or_default())
    }

    fn parse(text: &str) -> Result<Lies, NoLie> {
        let mut lies = Lies::new();
        for lie in text.split(',').map(str::trim).filter(|lie| !lie.is_empty()) {
            let wrong = || NoLie(lie.to_owned());
            let number = |value: &str| value.parse().ok().filter(|&n| n > 0).ok_or_else(wrong);
            match lie.split_once('=').ok_or_else(wrong)? {
                ("refuse", what) => {
                    let (command, errno) = what.split_once(':').ok_or_else(wrong)?;
                    let command = Command::named(command).ok_or_else(wrong)?;
                    let errno = ERRNOS.iter().find(|(name, _)| *name == errno);
                    lies.refused.push((command, errno.ok_or_else(wrong)?.1));
                }
                ("kill", value) => lies.kill = Some(number(value)?),
                ("drop-conversion", value) => lies.drop_conversion = Some(number(value)?),
                _ => return Err(wrong()),
            }
        }
        Ok(lies)
    }

    /// Fails where this command is to be refused.
    pub(crate) fn about(&self, command: Command) -> Result<(), Errno> {
        match self.refused.iter().find(|(refused, _)| *refused == command) {
            Some(&(_, errno)) => Err(Errno(errno)),
            None => Ok(()),
        }
    }

    /// Counts an ACCEPT; says whether the TD is to die of it.
    pub(crate) fn kills_at_accept(&mut self) -> bool {
        self.accepts += 1;
        self.kill == Some(self.accepts)
    }

    /// Counts a conversion; says whether it is to be dropped.
    pub(crate) fn drops_conversion(&mut self) -> bool {
        self.conversions += 1;
        self.drop_conversion == Some(self.conversions)
    }
}

/// Something that is no lie this library knows.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct NoLie(String);

impl fmt::Display for NoLie {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{VARIABLE}: \"{}\" is no lie; see lie.rs for those there are",
            self.0
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lies_are_told_when_they_are_due() {
        let mut lies = Lies::parse("refuse=INIT_VM:EBUSY, kill=2,drop-conversion=1").unwrap();
        assert_eq!(lies.about(Command::InitVm), Err(Errno(libc::EBUSY)));
        assert_eq!(lies.about(Command::FinalizeVm), Ok(()));
        assert_eq!(
            [lies.kills_at_accept(), lies.kills_at_accept()],
            [false, true]
        );
        assert_eq!(
            [lies.drops_conversion(), lies.drops_conversion()],
            [true, false]
        );
        assert_eq!(Lies::parse(""), Ok(Lies::new()));
    }

    #[test]
    fn anything_else_is_named() {
        for text in [
            "refuse",
            "refuse=INIT_VM",
            "refuse=INIT:EIO",
            "refuse=INIT_VM:EWHAT",
            "kill=0",
            "kill=x",
            "nap=1",
        ] {
            assert_eq!(Lies::parse(text), Err(NoLie(text.to_owned())));
        }
    }
}
