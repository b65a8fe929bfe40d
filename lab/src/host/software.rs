//! What `soft` and `sim` have in common: a plan's guest as the software KVM is told of it.

use super::softkvm::{Config, KvmDesign, MemSlot, SoftKvmError};
use super::{BootOptions, HostError};
use crate::addr::GpaRange;
use crate::plan::{CONTROL_PAGE, Guest, HostKind};

/// The software KVM for `guest`. The design's name is the only thing that can be wrong here.
pub(super) fn config(
    host: HostKind,
    guest: &Guest,
    options: &BootOptions,
) -> Result<Config, HostError> {
    let design: KvmDesign = options
        .design
        .parse()
        .map_err(|error| refused(host, &error))?;
    let slots = guest.slots.iter().map(|slot| MemSlot {
        range: slot.range,
        gmem_offset: slot.gmem_offset,
    });
    Ok(Config {
        memory: guest.memory,
        slots: slots.collect(),
        vcpus: guest.vcpus,
        sept_ve_disable: guest.sept_ve_disable,
        image: guest.image.clone(),
        control: CONTROL_PAGE,
        design,
        seed: options.seed,
    })
}

/// Room for the control page, the upper tables, and folios that are in pieces.
const SLACK: u64 = 64 << 20;

/// Machine memory that a guest with this test memory can ever need: all of it twice, once for each
/// side, and the tables that map it.
pub(super) fn machine_bytes(memory: GpaRange) -> u64 {
    memory
        .bytes()
        .saturating_mul(2)
        .saturating_add(memory.bytes() / 128)
        .saturating_add(SLACK)
}

/// A guest or design that the software KVM refuses.
pub(super) fn refused(host: HostKind, error: &SoftKvmError) -> HostError {
    HostError::NotUsable {
        host,
        reason: error.to_string(),
        advice: "check the guest of the plan and the design's name".to_owned(),
    }
}
