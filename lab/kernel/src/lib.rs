//! Readers of the kernel's interfaces, and the doctor, which checks what a machine can do.
//!
//! Invariant: nothing here changes the machine beyond a tracefs instance of its own, and which one-shot
//! warnings have fired.
//!
//! | reader | reads |
//! |---|---|
//! | [`debugfs`] | the page counters of one VM |
//! | [`query_stats`] | the same counters, through QEMU's monitor |
//! | [`splits`] | split events |
//! | [`tracefs`] | lines of a trace with split events |
//! | [`instance`] | a private instance of tracefs |
//! | [`dirty_ring`] | pages that the dirty log names |
//! | [`returned`] | return values of a kernel function, counted by a probe |
//! | [`software_module`] | S-EPT and calls of a TD, in a rehearsal |
//! | [`cachestat`] | populated pages of a guest_memfd |
//! | [`kmsg`] | the kernel log |
//! | [`gmem_attributes`] | nothing: it is the call that makes memory of a guest_memfd private or shared |
//! | [`in_use`] | what guests take: key ids, hugetlb pages, locked memory, open files |
//! | [`meminfo`] | the memory of this machine |
//! | [`once`] | nothing: it re-arms one-shot warnings |
//! | [`tdx_module`] | the version of the TDX module |
//!
//! [`doctor`] checks what this machine can do. [`emulated`] writes the interface files of the
//! software KVM in the kernel's format, so that the same readers read both.

pub mod cachestat;
pub mod debugfs;
pub mod dirty_ring;
pub mod doctor;
pub mod emulated;
pub mod gmem_attributes;
pub mod in_use;
pub mod instance;
pub mod kmsg;
pub mod meminfo;
pub mod once;
pub mod query_stats;
pub mod returned;
pub mod software_module;
pub mod splits;
pub mod tdx_module;
mod trace_lines;
pub mod tracefs;
