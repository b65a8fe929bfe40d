//! Hosts over the software KVM: `soft` runs the guest image in QEMU, `sim` a guest in process.
//!
//! Invariant: no real kernel takes part. `tdxlab-softkvm` answers all requests of a guest to KVM.
//!
//! | folder | host |
//! |---|---|
//! | `sim` | an in-process guest |
//! | `soft` | the guest image in QEMU, its TDCALLs and faults answered over shared memory |

mod calls;
pub mod sim;
pub mod soft;
mod software;
mod software_host;

pub use self::software_host::{Software, SoftwareHost};
