//! What a TD needs: processor, kernel, module parameters, QEMU.

use kvm_ioctls::Kvm;

use super::{Fact, Machine, qemu};

/// KVM_CAP_VM_TYPES, and the bit of KVM_X86_TDX_VM in it.
const CAP_VM_TYPES: u64 = 235;
const TDX_VM: i32 = 1 << 5;

/// First kernel whose KVM runs TDs, and first one without races that bug the VM.
const FIRST_KERNEL: (u32, u32) = (6, 16);
const SOUND_KERNEL: (u32, u32) = (6, 19);

pub(super) fn facts(machine: &Machine) -> Vec<Fact> {
    vec![
        processor(machine),
        kernel(machine),
        parameter(machine),
        vm_type(),
        huge_pages(machine),
        qemu::for_tdx(),
    ]
}

fn processor(machine: &Machine) -> Fact {
    let name = "tdx.processor";
    let Ok(cpuinfo) = machine.read("/proc/cpuinfo") else {
        return Fact::unusable(name, "/proc/cpuinfo is not readable");
    };
    let flags = cpuinfo
        .lines()
        .find_map(|line| line.strip_prefix("flags"))
        .unwrap_or_default();
    let has = |flag: &str| flags.split_whitespace().any(|word| word == flag);
    if has("tdx_host_platform") {
        Fact::usable(name, "the processor is a TDX host")
    } else if has("hypervisor") {
        Fact::unusable(name, "this is a virtual machine, and TDX does not nest")
            .advise("run on the bare machine")
    } else if has("vmx") {
        Fact::unusable(name, "no tdx_host_platform among the processor's flags").advise(
            "if the processor has TDX, turn on TME-MT, TDX and the SEAM loader in the firmware, \
             and use a kernel with CONFIG_INTEL_TDX_HOST",
        )
    } else {
        Fact::unusable(name, "not an Intel processor with virtualization")
            .advise("use a machine with Intel TDX")
    }
}

fn kernel(machine: &Machine) -> Fact {
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

fn parameter(machine: &Machine) -> Fact {
    let name = "tdx.kvm_intel";
    match machine.read("/sys/module/kvm_intel/parameters/tdx") {
        Ok(value) if value == "Y" || value == "1" => Fact::usable(name, "kvm_intel.tdx=Y"),
        Ok(value) => Fact::unusable(name, format!("kvm_intel.tdx={value}"))
            .advise("boot with kvm_intel.tdx=1 nohibernate; dmesg says why where it stays off"),
        Err(_) if machine.exists("/sys/module/kvm_intel") => {
            Fact::unusable(name, "kvm_intel has no parameter tdx")
                .advise("use a kernel with CONFIG_KVM_INTEL_TDX")
        }
        Err(_) => {
            Fact::unusable(name, "kvm_intel is not loaded").advise("modprobe kvm_intel tdx=1")
        }
    }
}

fn vm_type() -> Fact {
    let name = "tdx.vm_type";
    let types = Kvm::new().map(|kvm| kvm.check_extension_raw(CAP_VM_TYPES));
    match types {
        Ok(types) if types & TDX_VM != 0 => {
            Fact::usable(name, format!("KVM_CAP_VM_TYPES is {types:#x}, with TDX"))
        }
        Ok(types) => Fact::unusable(name, format!("KVM_CAP_VM_TYPES is {types:#x}, without TDX")),
        Err(error) => Fact::unusable(name, format!("/dev/kvm does not open: {error}")),
    }
}

/// Without huge pages the design is `stock`, which is no fault.
fn huge_pages(machine: &Machine) -> Fact {
    let name = "tdx.huge_pages";
    let huge = machine.read("/sys/module/kvm_intel/parameters/tdx_huge_page");
    let attributes = machine.read("/sys/module/kvm/parameters/vm_memory_attributes");
    match (huge.as_deref(), attributes.as_deref()) {
        (Ok("Y" | "1"), Ok("Y" | "1")) => Fact::limited(
            name,
            "tdx_huge_page=Y, but per-VM memory attributes keep private memory at 4K",
        )
        .advise("modprobe kvm vm_memory_attributes=N"),
        (Ok("Y" | "1"), _) => Fact::usable(name, "tdx_huge_page=Y: private memory at 2M"),
        (Ok(value), _) => Fact::limited(name, format!("tdx_huge_page={value}: design stock"))
            .advise("boot with kvm_intel.tdx_huge_page=1 to test huge pages"),
        (Err(_), _) => Fact::limited(
            name,
            "this kernel maps private memory at 4K only: design stock",
        ),
    }
}
