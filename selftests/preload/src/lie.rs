//! Lies on request, so that tests can show what the lab makes of a host that does wrong.
//!
//! `TDXLAB_REHEARSAL_LIES` holds them, separated by commas:
//!
//! | lie | effect |
//! |---|---|
//! | `refuse=COMMAND:ERRNO` | the `KVM_TDX_COMMAND` ioctl fails, e.g. `refuse=INIT_VM:EBUSY`; so do `CREATE_GUEST_MEMFD` and `SET_MEMORY_ATTRIBUTES` of KVM itself |
//! | `refuse=COMMAND:ERRNO*N` | only the first N times |
//! | `no-tdx` | KVM has no VM type for TDs |
//! | `no-attributes` | KVM has no memory attributes, as where private memory can be huge |
//! | `populate=N` | N pages more than the initial image are populated before the TD runs |
//! | `kill=N` | KVM gives the TD up at its Nth ACCEPT (from 1), as after a KVM_BUG_ON |
//! | `panic=N`, `panic=N:CODE` | the TD reports a fatal error at its Nth ACCEPT, with that code |
//! | `triple-fault=N` | the TD ends in a triple fault at its Nth ACCEPT |
//! | `drop-conversion=N` | the Nth MapGPA chunk reports success and changes nothing |
//! | `coarse-holes` | the guest_memfd takes no hole of QEMU's that is not of whole 2M |

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

/// What can be refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusable {
    /// `KVM_TDX_*`.
    Tdx(Command),
    /// `KVM_CREATE_GUEST_MEMFD`.
    CreateGuestMemfd,
    /// `KVM_SET_MEMORY_ATTRIBUTES`.
    SetMemoryAttributes,
}

impl Refusable {
    fn named(name: &str) -> Option<Refusable> {
        match name {
            "CREATE_GUEST_MEMFD" => Some(Refusable::CreateGuestMemfd),
            "SET_MEMORY_ATTRIBUTES" => Some(Refusable::SetMemoryAttributes),
            _ => Command::named(name).map(Refusable::Tdx),
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
struct Refusal {
    what: Refusable,
    errno: i32,
    /// How often it is still to be refused; `None`: always.
    left: Option<u64>,
}

/// How a TD is to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// KVM gives it up.
    Killed,
    /// It reports a fatal error with this code.
    Panic(u64),
    /// It has no handler for the fault in its handler.
    TripleFault,
}

/// The code of a guest that gives up: QEMU takes none with any of the low 16 bits set.
const USUAL_CODE: u64 = 1 << 16;

/// What is asked for.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Lies {
    refused: Vec<Refusal>,
    ends: Vec<(u64, End)>,
    drop_conversion: Option<u64>,
    /// Pages to be populated before the TD runs.
    pub(crate) populate: u64,
    /// Whether KVM has no VM type for TDs.
    pub(crate) no_tdx: bool,
    /// Whether KVM has no memory attributes.
    pub(crate) no_attributes: bool,
    /// Whether holes must be of whole 2M.
    pub(crate) coarse_holes: bool,
    accepts: u64,
    conversions: u64,
}

impl Lies {
    pub(crate) const fn new() -> Lies {
        Lies {
            refused: Vec::new(),
            ends: Vec::new(),
            drop_conversion: None,
            populate: 0,
            no_tdx: false,
            no_attributes: false,
            coarse_holes: false,
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
            match lie.split_once('=') {
                None => match lie {
                    "no-tdx" => lies.no_tdx = true,
                    "no-attributes" => lies.no_attributes = true,
                    "coarse-holes" => lies.coarse_holes = true,
                    _ => return Err(wrong()),
                },
                Some(("refuse", what)) => {
                    lies.refused.push(refusal(what).ok_or_else(wrong)?);
                }
                Some(("kill", value)) => lies.ends.push((number(value)?, End::Killed)),
                Some(("triple-fault", value)) => {
                    lies.ends.push((number(value)?, End::TripleFault));
                }
                Some(("panic", value)) => {
                    let (at, code) = match value.split_once(':') {
                        Some((at, code)) => (at, hexadecimal(code).ok_or_else(wrong)?),
                        None => (value, USUAL_CODE),
                    };
                    lies.ends.push((number(at)?, End::Panic(code)));
                }
                Some(("drop-conversion", value)) => lies.drop_conversion = Some(number(value)?),
                Some(("populate", value)) => lies.populate = number(value)?,
                Some(_) => return Err(wrong()),
            }
        }
        Ok(lies)
    }

    /// Fails where this is to be refused.
    pub(crate) fn about(&mut self, what: Refusable) -> Result<(), Errno> {
        let due = |refusal: &&mut Refusal| refusal.what == what && refusal.left != Some(0);
        let Some(refusal) = self.refused.iter_mut().find(due) else {
            return Ok(());
        };
        if let Some(left) = &mut refusal.left {
            *left -= 1;
        }
        Err(Errno(refusal.errno))
    }

    /// Counts an ACCEPT; says how the TD is to end of it.
    pub(crate) fn end_at_accept(&mut self) -> Option<End> {
        self.accepts += 1;
        let due = self.ends.iter().find(|(at, _)| *at == self.accepts);
        due.map(|(_, end)| *end)
    }

    /// Counts a conversion; says whether it is to be dropped.
    pub(crate) fn drops_conversion(&mut self) -> bool {
        self.conversions += 1;
        self.drop_conversion == Some(self.conversions)
    }
}

/// `COMMAND:ERRNO` or `COMMAND:ERRNO*N`.
fn refusal(text: &str) -> Option<Refusal> {
    let (what, errno) = text.split_once(':')?;
    let (errno, left) = match errno.split_once('*') {
        Some((errno, times)) => (errno, Some(times.parse().ok().filter(|&n| n > 0)?)),
        None => (errno, None),
    };
    let (_, errno) = *ERRNOS.iter().find(|(name, _)| *name == errno)?;
    Some(Refusal {
        what: Refusable::named(what)?,
        errno,
        left,
    })
}

fn hexadecimal(text: &str) -> Option<u64> {
    u64::from_str_radix(text.strip_prefix("0x")?, 16).ok()
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
        let mut lies = Lies::parse(
            "refuse=INIT_VM:EBUSY, kill=2,drop-conversion=1,panic=3:0x10001,triple-fault=4",
        )
        .unwrap();
        let init_vm = Refusable::Tdx(Command::InitVm);
        for _ in 0..3 {
            assert_eq!(lies.about(init_vm), Err(Errno(libc::EBUSY)));
        }
        assert_eq!(lies.about(Refusable::Tdx(Command::FinalizeVm)), Ok(()));
        let ends: [_; 5] = std::array::from_fn(|_| lies.end_at_accept());
        assert_eq!(
            ends,
            [
                None,
                Some(End::Killed),
                Some(End::Panic(0x10001)),
                Some(End::TripleFault),
                None
            ]
        );
        assert_eq!(
            [lies.drops_conversion(), lies.drops_conversion()],
            [true, false]
        );
        assert_eq!(Lies::parse(""), Ok(Lies::new()));
    }

    #[test]
    fn some_lies_are_told_a_few_times_only() {
        let mut lies = Lies::parse("refuse=SET_MEMORY_ATTRIBUTES:ENOMEM*2").unwrap();
        let what = Refusable::SetMemoryAttributes;
        let told: [_; 4] = std::array::from_fn(|_| lies.about(what).is_err());
        assert_eq!(told, [true, true, false, false]);
        assert_eq!(lies.about(Refusable::CreateGuestMemfd), Ok(()));
    }

    #[test]
    fn anything_else_is_named() {
        for text in [
            "refuse",
            "refuse=INIT_VM",
            "refuse=INIT:EIO",
            "refuse=INIT_VM:EWHAT",
            "refuse=INIT_VM:EIO*0",
            "refuse=INIT_VM:EIO*x",
            "kill=0",
            "kill=x",
            "panic=1:17",
            "panic=0:0x1",
            "populate=0",
            "no-tdx=1",
            "nap=1",
        ] {
            assert_eq!(Lies::parse(text), Err(NoLie(text.to_owned())), "{text}");
        }
    }
}
