//! Hosts over a real KVM: `kvm` runs plain VMs, `tdx` runs TDs.
//!
//! Invariant: this crate cannot name the software KVM, so a verdict about a real kernel never leans
//! on it.
//!
//! | folder | holds |
//! |---|---|
//! | `kvm` | plain VMs: memory slots, huge pages, dirty logging |
//! | `tdx` | TDs: TDVF, guest_memfd, SEAMCALL probes, detection of KVM's design |
//! | `counted` | what KVM has counted of a VM: exits, TLB flushes |
//! | `remains` | what remains of a guest after its end |
//! | `deep` | the doctor's check with a TD, through every witness |

mod counted;
mod deep;
pub mod kvm;
mod remains;
pub mod tdx;

pub use deep::deep;
