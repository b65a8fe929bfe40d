//! Words of a step.

use tdxlab_tdxmodule::Level;

/// A step that cannot be expressed for the software module.
#[derive(Debug)]
pub(crate) struct Gap(pub(crate) String);

/// The number at this place, hexadecimal or decimal.
pub(crate) fn number(given: &[&str], at: usize) -> Result<u64, Gap> {
    let text = given
        .get(at)
        .ok_or_else(|| Gap(format!("nothing at {at} in {given:?}")))?;
    let parsed = match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16),
        None => text.parse(),
    };
    parsed.map_err(|_| Gap(format!("number {text}")))
}

/// The number at this place, if there is one.
pub(crate) fn optional(given: &[&str], at: usize, default: u64) -> Result<u64, Gap> {
    if given.len() > at {
        number(given, at)
    } else {
        Ok(default)
    }
}

/// The level at this place.
pub(crate) fn level(given: &[&str], at: usize) -> Result<Level, Gap> {
    Level::from_tdx(number(given, at)?).ok_or_else(|| Gap(format!("level in {given:?}")))
}
