//! Requirements of a TD in the order in which they fail: processor, firmware, kernel, KVM, QEMU.

mod in_place;
mod keys;
mod kvm;
mod log;
mod messages;
mod module;
mod module_version;
mod processor;

use std::io;

use self::log::{Story, TdxLog};
use super::qemu;
use crate::doctor::fact::Fact;
use crate::doctor::machine::ThisMachine;

/// First kernel whose KVM runs TDs, and first one without races that bug the VM.
const FIRST_KERNEL: (u32, u32) = (6, 16);
const SOUND_KERNEL: (u32, u32) = (6, 19);

pub(super) fn facts(machine: &ThisMachine) -> Vec<Fact> {
    let log = TdxLog::of(machine);
    let key_ids = log.as_ref().is_ok_and(TdxLog::has_key_ids);
    let offered = kvm::offers_tdx(machine);
    let mut facts = vec![
        processor::fact(machine, key_ids),
        kernel(machine, offered),
        module::fact(&log, offered),
        parameter(machine, &log),
        kvm::vm_type(machine),
        kvm::private_memory(machine),
        huge_pages(machine),
        keys::fact(machine, offered),
    ];
    if let Some(version) = module_version::fact(machine, &log, offered) {
        facts.insert(3, version);
    }
    facts.extend(qemu::for_tdx(machine));
    facts
}

fn kernel(machine: &ThisMachine, offered: bool) -> Fact {
    let name = "tdx.kernel";
    match machine.kernel_version() {
        None => Fact::limited(name, "the kernel's version cannot be read"),
        Some(version) if version < FIRST_KERNEL && offered => Fact::limited(
            name,
            format!(
                "Linux {}.{}, whose KVM offers TDX VMs: a backport, which the lab was not tried with",
                version.0, version.1
            ),
        )
        .advise("`tdxlab doctor --deep` tries a TD; what fails may be the backport's"),
        Some(version) if version < FIRST_KERNEL => Fact::unusable(
            name,
            format!(
                "Linux {}.{}: KVM runs TDs from 6.16 on",
                version.0, version.1
            ),
        )
        .advise("install Linux 6.16 or newer, built with CONFIG_INTEL_TDX_HOST"),
        Some(version) if version < SOUND_KERNEL => Fact::limited(
            name,
            format!(
                "Linux {}.{}: before 6.19, holes that race with the guest can bug the VM",
                version.0, version.1
            ),
        )
        .advise("install Linux 6.19 or newer for the scenarios in race/"),
        Some(version) => Fact::usable(name, format!("Linux {}.{}", version.0, version.1)),
    }
}

fn parameter(machine: &ThisMachine, log: &io::Result<TdxLog>) -> Fact {
    let name = "tdx.kvm_intel";
    match machine.read("/sys/module/kvm_intel/parameters/tdx") {
        Ok(value) if value == "Y" || value == "1" => Fact::usable(name, "kvm_intel.tdx=Y"),
        Ok(value) => {
            let found = format!("kvm_intel.tdx={value}");
            // KVM clears the parameter if it cannot enable TDX.
            match log.as_ref().map(TdxLog::story) {
                Ok(Story::Off(failure)) => {
                    Fact::unusable(name, format!("{found}, for the reason that tdx.module tells"))
                        .advise(failure.cure)
                }
                Ok(_) => Fact::unusable(name, found).advise(
                    "boot with kvm_intel.tdx=1, or load kvm_intel with tdx=1; if it stays off, the \
                     kernel log says why when kvm_intel is loaded",
                ),
                Err(_) => Fact::unusable(name, found).advise(
                    "boot with kvm_intel.tdx=1 nohibernate; the kernel log, which cannot be read, says \
                     why it stays off",
                ),
            }
        }
        Err(_) if machine.exists("/sys/module/kvm_intel") => {
            Fact::unusable(name, "kvm_intel has no parameter tdx").advise(
                "use a kernel with CONFIG_INTEL_TDX_HOST, which brings CONFIG_KVM_INTEL_TDX",
            )
        }
        Err(_) => {
            Fact::unusable(name, "kvm_intel is not loaded").advise("modprobe kvm_intel tdx=1")
        }
    }
}

/// Without huge pages the design is `stock`, which is no fault.
fn huge_pages(machine: &ThisMachine) -> Fact {
    let name = "tdx.huge_pages";
    let huge = machine.read("/sys/module/kvm_intel/parameters/tdx_huge_page");
    let switch = in_place::switch(machine);
    let in_place = match &switch {
        Some(switch) => switch.to_string(),
        None => "no conversion in place".to_owned(),
    };
    match (huge.as_deref(), &switch) {
        (Ok("Y" | "1"), Some(switch)) if !switch.on => Fact::limited(
            name,
            format!("tdx_huge_page=Y, {in_place}: per-VM attributes keep private memory at 4K"),
        )
        .advise(format!("load kvm with {}", switch.other_way())),
        (Ok("Y" | "1"), _) => Fact::usable(
            name,
            format!("tdx_huge_page=Y, {in_place}: private memory at 2M"),
        ),
        (Ok(value), _) => Fact::limited(
            name,
            format!("tdx_huge_page={value}, {in_place}: design stock"),
        )
        .advise("boot with kvm_intel.tdx_huge_page=1 to test huge pages"),
        (Err(_), _) => Fact::limited(
            name,
            format!("no tdx_huge_page, {in_place}: private memory at 4K, design stock"),
        ),
    }
}
