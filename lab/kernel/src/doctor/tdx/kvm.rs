//! KVM's capabilities for TDX: VM types and private memory. Nothing is created.

use std::io;

use super::in_place;
use crate::doctor::fact::Fact;
use crate::doctor::machine::ThisMachine;
use crate::doctor::recording::is_unrecorded;

/// KVM_CAP_MEMORY_ATTRIBUTES: the attributes there are.
const CAP_MEMORY_ATTRIBUTES: u32 = 233;
const ATTRIBUTE_PRIVATE: i32 = 1 << 3;
/// KVM_CAP_GUEST_MEMFD.
const CAP_GUEST_MEMFD: u32 = 234;
/// KVM_CAP_VM_TYPES, and the bit of KVM_X86_TDX_VM in it.
const CAP_VM_TYPES: u32 = 235;
const TDX_VM: i32 = 1 << 5;
/// KVM_CAP_GUEST_MEMFD_FLAGS, from Linux 6.18 on.
const CAP_GUEST_MEMFD_FLAGS: u32 = 244;

/// Names of the flags of KVM_CREATE_GUEST_MEMFD, by bit.
const FLAGS: [&str; 2] = ["MMAP", "INIT_SHARED"];

/// Whether KVM offers TDX VMs.
pub(super) fn offers_tdx(machine: &ThisMachine) -> bool {
    let types = machine.kvm_extension(CAP_VM_TYPES);
    types.is_ok_and(|types| types & TDX_VM != 0)
}

pub(super) fn vm_type(machine: &ThisMachine) -> Fact {
    let name = "tdx.vm_type";
    match machine.kvm_extension(CAP_VM_TYPES) {
        Ok(types) if types & TDX_VM != 0 => {
            Fact::usable(name, format!("KVM_CAP_VM_TYPES is {types:#x}, with TDX"))
        }
        Ok(types) => Fact::unusable(
            name,
            format!("KVM_CAP_VM_TYPES is {types:#x}, without TDX (bit 5)"),
        )
        .advise("KVM has not set TDX up: see the facts above"),
        Err(error) => closed(name, &error),
    }
}

fn closed(name: &str, error: &io::Error) -> Fact {
    if is_unrecorded(error) {
        return Fact::limited(name, format!("what KVM answers is {error}"));
    }
    Fact::unusable(name, format!("/dev/kvm does not open: {error}"))
        .advise("load kvm_intel, and add the user to the group kvm")
}

/// guest_memfd and the attribute that makes memory private.
pub(super) fn private_memory(machine: &ThisMachine) -> Fact {
    let name = "tdx.guest_memfd";
    let ask = |capability| machine.kvm_extension(capability);
    let answers = ask(CAP_GUEST_MEMFD).and_then(|there| {
        let attributes = ask(CAP_MEMORY_ATTRIBUTES)?;
        Ok((there, attributes, ask(CAP_GUEST_MEMFD_FLAGS)?))
    });
    let (there, attributes, flags) = match answers {
        Ok(answers) => answers,
        Err(error) => return closed(name, &error),
    };
    if there == 0 {
        return Fact::unusable(name, "KVM has no guest_memfd")
            .advise("use a kernel with CONFIG_KVM_INTEL_TDX, which selects it");
    }
    let said = format!("guest_memfd with {}", flags_in_words(flags));
    if attributes & ATTRIBUTE_PRIVATE == 0 {
        // Kernels that convert in place have moved attributes into the guest_memfd.
        let own = match machine.gmem_has_attributes() {
            Ok(true) => "the file's own does (KVM_SET_MEMORY_ATTRIBUTES2)",
            Ok(false) => "nor does one of the file",
            Err(_) => "whether one of the file does is not known",
        };
        let found = format!("{said}; no VM-wide attribute makes memory private, {own}");
        let (found, cure) = match in_place::switch(machine) {
            Some(switch) if switch.on => (
                format!("{found} ({switch})"),
                format!(
                    "load kvm with {}, for private memory at 4K and design stock, or name a QEMU that \
                     converts in place in TDXLAB_QEMU",
                    switch.other_way()
                ),
            ),
            _ => (
                found,
                "QEMU needs KVM_SET_MEMORY_ATTRIBUTES unless it knows in-place conversion"
                    .to_owned(),
            ),
        };
        // Without that object QEMU refuses to make a TD.
        return match offers_tdx(machine) && in_place::qemu_cannot(machine) {
            true => Fact::unusable(
                name,
                format!("{found}, and this QEMU does not convert in place"),
            ),
            false => Fact::limited(name, found),
        }
        .advise(cure);
    }
    Fact::usable(name, format!("{said}; memory can be private"))
}

fn flags_in_words(flags: i32) -> String {
    if flags <= 0 {
        return "no flags".to_owned();
    }
    let mut names = Vec::new();
    for bit in 0..31 {
        if flags & 1 << bit != 0 {
            names.push(
                FLAGS
                    .get(bit)
                    .map_or_else(|| format!("flag {bit}"), |&name| name.to_owned()),
            );
        }
    }
    format!("flags {}", names.join(", "))
}
