//! Real kernels: guest_memfd of this machine's, the KVM of one that is booted in QEMU, and KVM's own
//! TDX code on top of a software TDX module.

mod l1;
mod rehearsal;
