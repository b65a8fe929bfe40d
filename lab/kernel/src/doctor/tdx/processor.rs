//! Whether the processor has TDX, and whether the firmware lets the kernel see it.

use crate::doctor::fact::Fact;
use crate::doctor::machine::ThisMachine;
use crate::doctor::recording::is_unrecorded;
use crate::doctor::tdx::kernel_lacks_tdx;

const NAME: &str = "tdx.processor";

/// Families and models that have TDX, in some or all of their variants.
///
/// Source: `arch/x86/include/asm/intel-family.h`.
const MODELS: [(u32, u32, &str); 7] = [
    (6, 0x8f, "Sapphire Rapids"),
    (6, 0xad, "Granite Rapids"),
    (6, 0xae, "Granite Rapids D"),
    (6, 0xaf, "Sierra Forest"),
    (6, 0xcf, "Emerald Rapids"),
    (6, 0xdd, "Clearwater Forest"),
    (19, 0x01, "Diamond Rapids"),
];

const FIRMWARE: &str = "in the firmware, turn on TME-MT, TDX, and the SEAM loader, and give key ids to TDX; use a \
    kernel from 6.16 on with CONFIG_INTEL_TDX_HOST";

/// `key_ids`: the kernel log shows that the firmware assigned key ids to TDX, so the firmware is
/// not the cause.
pub(super) fn fact(machine: &ThisMachine, key_ids: bool) -> Fact {
    let cpuinfo = match machine.read("/proc/cpuinfo") {
        Ok(cpuinfo) => cpuinfo,
        Err(error) if is_unrecorded(&error) => {
            return Fact::limited(NAME, format!("/proc/cpuinfo is {error}"));
        }
        Err(error) => {
            return Fact::unusable(NAME, format!("/proc/cpuinfo is not readable: {error}"))
                .advise("mount /proc");
        }
    };
    let has = |flag: &str| {
        let flags = field(&cpuinfo, "flags").unwrap_or_default();
        flags.split_whitespace().any(|word| word == flag)
    };
    let model = field(&cpuinfo, "model name").unwrap_or("a processor without a name");
    if has("tdx_host_platform") {
        Fact::usable(NAME, format!("{model}, set up as a TDX host"))
    } else if key_ids {
        Fact::limited(
            NAME,
            format!("{model}: the firmware gave key ids to TDX, and the kernel has not set it up"),
        )
        .advise("tdx.module says why")
    } else if has("hypervisor") {
        Fact::unusable(NAME, "this is a virtual machine, and TDX does not nest")
            .advise("run on the bare machine")
    } else if let (Some(known), true) = (generation(&cpuinfo), kernel_lacks_tdx(machine)) {
        Fact::limited(
            NAME,
            format!(
                "{model}: {known} has TDX; this kernel does not look for it, so what the firmware \
                 gives is unknown"
            ),
        )
        .advise("tdx.kvm_intel says what the kernel lacks")
    } else if let Some(known) = generation(&cpuinfo) {
        Fact::unusable(
            NAME,
            format!("{model}: {known} has TDX, but the kernel finds none"),
        )
        .advise(FIRMWARE)
    } else if is_intel(&cpuinfo) && field(&cpuinfo, "cpu family") != Some("6") && has("tme") {
        // Newer than this table: old families have no TME.
        Fact::limited(
            NAME,
            format!("{model}: the lab does not know whether it has TDX"),
        )
        .advise(FIRMWARE)
    } else {
        Fact::unusable(
            NAME,
            format!("{model}: no processor that is known to have TDX"),
        )
        .advise("use a machine with Intel TDX; `tdxlab rehearse` goes without")
    }
}

/// A field of the first processor.
fn field<'a>(cpuinfo: &'a str, name: &str) -> Option<&'a str> {
    cpuinfo.lines().find_map(|line| {
        let (found, value) = line.split_once(':')?;
        (found.trim() == name).then(|| value.trim())
    })
}

fn generation(cpuinfo: &str) -> Option<&'static str> {
    let number = |name| field(cpuinfo, name)?.parse::<u32>().ok();
    let (family, model) = (number("cpu family")?, number("model")?);
    let known = MODELS
        .iter()
        .find(|(of, number, _)| (*of, *number) == (family, model));
    known.filter(|_| is_intel(cpuinfo)).map(|(.., name)| *name)
}

fn is_intel(cpuinfo: &str) -> bool {
    field(cpuinfo, "vendor_id") == Some("GenuineIntel")
}
