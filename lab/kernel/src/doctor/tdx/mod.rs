//! What a TD needs, in the order in which it fails: processor, firmware, kernel, KVM, QEMU.

mod keys;
mod kvm;
mod module;
mod processor;

use super::qemu;
use crate::doctor::fact::Fact;
use crate::doctor::machine::ThisMachine;

/// First kernel whose KVM runs TDs, and first one without races that bug the VM.
const FIRST_KERNEL: (u32, u32) = (6, 16);
const SOUND_KERNEL: (u32, u32) = (6, 19);

pub(super) fn facts(machine: &ThisMachine) -> Vec<Fact> {
    let mut facts = vec![
        processor::fact(machine),
        kernel(machine),
        parameter(machine),
        module::fact(machine),
        kvm::vm_type(machine),
        kvm::private_memory(machine),
        huge_pages(machine),
        keys::fact(machine),
    ];
    facts.extend(qemu::for_tdx(machine));
    facts
}

fn kernel(machine: &ThisMachine) -> Fact {
    let name = "tdx.kernel";
    match machine.kernel_version() {
        None => Fact::limited(name, "the kernel's version cannot be read"),
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

fn parameter(machine: &ThisMachine) -> Fact {
    let name = "tdx.kvm_intel";
    match machine.read("/sys/module/kvm_intel/parameters/tdx") {
        Ok(value) if value == "Y" || value == "1" => Fact::usable(name, "kvm_intel.tdx=Y"),
        Ok(value) => Fact::unusable(name, format!("kvm_intel.tdx={value}"))
            .advise("boot with kvm_intel.tdx=1 nohibernate; tdx.module says why it stays off"),
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
    let attributes = machine.read("/sys/module/kvm/parameters/vm_memory_attributes");
    let attributes_said = match &attributes {
        Ok(value) => format!("vm_memory_attributes={value}"),
        Err(_) => "no vm_memory_attributes".to_owned(),
    };
    match (huge.as_deref(), attributes.as_deref()) {
        (Ok("Y" | "1"), Ok("Y" | "1")) => Fact::limited(
            name,
            format!(
                "tdx_huge_page=Y, {attributes_said}: per-VM attributes keep private memory at 4K"
            ),
        )
        .advise("modprobe kvm vm_memory_attributes=N"),
        (Ok("Y" | "1"), _) => Fact::usable(
            name,
            format!("tdx_huge_page=Y, {attributes_said}: private memory at 2M"),
        ),
        (Ok(value), _) => Fact::limited(
            name,
            format!("tdx_huge_page={value}, {attributes_said}: design stock"),
        )
        .advise("boot with kvm_intel.tdx_huge_page=1 to test huge pages"),
        (Err(_), _) => Fact::limited(
            name,
            format!("no tdx_huge_page, {attributes_said}: private memory at 4K, design stock"),
        ),
    }
}
