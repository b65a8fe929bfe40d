//! Tests on real kernels: guest_memfd of this machine, the KVM of a kernel booted in QEMU, and
//! KVM's own TDX code over a software TDX module.

mod l1;
mod rehearsal;
