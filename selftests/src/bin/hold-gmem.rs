//! `hold-gmem BYTES...`: makes a VM with a real guest_memfd of each size, bound to a memory slot,
//! and holds it until it is killed. It stands for QEMU in tests of the host `tdx`.
//!
//! Prints `held` on stderr, or why this kernel has no guest_memfd, and then exits with 69.

use std::fmt::Display;
use std::process::ExitCode;
use std::time::Duration;

use kvm_bindings::{
    KVM_CAP_VM_TYPES, KVM_MEM_GUEST_MEMFD, KVM_X86_DEFAULT_VM, KVM_X86_SW_PROTECTED_VM,
    kvm_create_guest_memfd, kvm_userspace_memory_region2,
};
use kvm_ioctls::{Kvm, VmFd};

/// `EX_UNAVAILABLE`.
const UNAVAILABLE: u8 = 69;

fn main() -> ExitCode {
    let sizes: Option<Vec<u64>> = std::env::args()
        .skip(1)
        .map(|size| size.parse().ok())
        .collect();
    let Some(sizes) = sizes.filter(|sizes| !sizes.is_empty()) else {
        eprintln!("usage: hold-gmem BYTES...");
        return ExitCode::from(64);
    };
    match held(&sizes) {
        Ok(_vm) => {
            eprintln!("held");
            std::thread::sleep(Duration::from_secs(600));
            ExitCode::SUCCESS
        }
        Err(why) => {
            eprintln!("none: {why}");
            ExitCode::from(UNAVAILABLE)
        }
    }
}

/// A VM whose guest_memfds of these sizes are open and in a slot each.
fn held(sizes: &[u64]) -> Result<VmFd, String> {
    let kvm = Kvm::new().map_err(failed("/dev/kvm"))?;
    // Up to 6.17 only a VM with private memory has guest_memfds, and few kernels are built with the
    // only such VM type that needs no hardware.
    let types = kvm.check_extension_raw(u64::from(KVM_CAP_VM_TYPES));
    let kind = match types >> KVM_X86_SW_PROTECTED_VM & 1 {
        1 => KVM_X86_SW_PROTECTED_VM,
        _ => KVM_X86_DEFAULT_VM,
    };
    let vm = kvm
        .create_vm_with_type(u64::from(kind))
        .map_err(failed("KVM_CREATE_VM"))?;
    for (slot, &size) in (0..).zip(sizes) {
        let guest_memfd = kvm_create_guest_memfd {
            size,
            ..Default::default()
        };
        let file = vm
            .create_guest_memfd(guest_memfd)
            .map_err(failed("KVM_CREATE_GUEST_MEMFD"))?;
        // The shared side is never touched, and KVM wants an address only.
        let region = kvm_userspace_memory_region2 {
            slot,
            flags: KVM_MEM_GUEST_MEMFD,
            guest_phys_addr: u64::from(slot) << 32,
            memory_size: size,
            userspace_addr: 1 << 40 | u64::from(slot) << 32,
            guest_memfd: file.cast_unsigned(),
            ..Default::default()
        };
        // SAFETY: no vCPU ever runs in this VM, so that address is never accessed.
        unsafe { vm.set_user_memory_region2(region) }
            .map_err(failed("KVM_SET_USER_MEMORY_REGION2"))?;
    }
    Ok(vm)
}

fn failed<E: Display>(what: &str) -> impl FnOnce(E) -> String {
    move |error| format!("{what}: {error}")
}
