//! Version of the TDX module, and whether leaves of 2M can be split under it.
//!
//! Source: KVM keeps private memory at 4K where the module lacks bit 51 of TDX_FEATURES0
//! (ENHANCED_DEMOTE_INTERRUPTIBILITY), which 1.5.28 and 2.0.16 brought.

use std::io;

use super::HUGE_PAGE;
use super::log::TdxLog;
use crate::doctor::fact::Fact;
use crate::doctor::machine::ThisMachine;
use crate::tdx_module::{ATTRIBUTE, in_line, number};

const NAME: &str = "tdx.module_version";

/// First updates whose DEMOTE no interrupt ends, by major and minor version.
const SPLITS: [((u32, u32), u32); 2] = [((1, 5), 28), ((2, 0), 16)];

/// `None` where no module is initialised.
pub(super) fn fact(machine: &ThisMachine, log: &io::Result<TdxLog>, offered: bool) -> Option<Fact> {
    if !offered {
        return None;
    }
    let path = format!("/sys/{ATTRIBUTE}");
    let current = machine.read(&path).ok().and_then(|text| number(&text));
    let logged = || log.as_ref().ok()?.newest(in_line);
    let (version, found) = match (current, logged()) {
        (Some(version), _) => (version.clone(), format!("{version}, by {path}")),
        (None, Some(version)) => {
            let found = format!("{version} when it was initialised, by the kernel log; no {path}");
            (version, found)
        }
        (None, None) => {
            if let Some(unknown) = machine.unrecorded(NAME, &path) {
                return Some(unknown);
            }
            let fact = Fact::limited(
                NAME,
                format!("unknown: no {path}, and the kernel log does not name it"),
            );
            return Some(fact.advise(
                "modprobe tdx-host (Linux 7.3, CONFIG_TDX_HOST_SERVICES): without, an update under a run goes \
                 unnoticed",
            ));
        }
    };
    let huge = machine.read(HUGE_PAGE).is_ok();
    Some(match huge && splits(&version) == Some(false) {
        true => Fact::limited(
            NAME,
            format!("{found}; interrupts end its DEMOTE, so KVM keeps private memory at 4K"),
        )
        .advise("update it to 1.5.28, 2.0.16 or newer"),
        false => Fact::usable(NAME, found),
    })
}

/// Whether no interrupt ends a DEMOTE of this version; `None` for a series that is not known.
fn splits(version: &str) -> Option<bool> {
    let mut numbers = version.split('.').map(|part| part.parse::<u32>().ok());
    let series = (numbers.next()??, numbers.next()??);
    let update = numbers.next()??;
    let (_, first) = SPLITS.into_iter().find(|(known, _)| *known == series)?;
    Some(update >= first)
}
