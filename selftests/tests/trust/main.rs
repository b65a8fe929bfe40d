//! Why a verdict can be trusted: seeded faults, two independent implementations that agree, hostile
//! files.

mod differential;
mod hostile;
mod qualify;
mod shared;
