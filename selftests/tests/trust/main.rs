//! Why a verdict can be trusted: seeded faults, strangers that agree, hostile files.

mod differential;
mod hostile;
mod qualify;
