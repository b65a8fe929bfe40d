//! Real kernels: guest_memfd of this machine's, and the KVM of one that is booted in QEMU.
//!
//! `TDXLAB_L1_KERNEL` names the kernel to boot; the distribution's own where it does not.

mod fuzz;
mod gmem;
mod set;
