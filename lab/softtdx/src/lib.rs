//! KVM's own TDX code on machines without TDX: the kernel side, and what builds it.
//!
//! Two modules are built from a kernel's own sources, `kvm.ko` and `kvm-amd.ko`. KVM's TDX code is
//! extracted from that source by name ([`extract`]) and runs over a software TDX module
//! (`kernel/`). Changes of KVM's own files are a list of small edits ([`edit`]), each with its
//! file, function and anchor.
//!
//! ```text
//! source tree ── extract: functions of vmx/tdx.c, by name ──┐
//!             ── edit: KVM's own files, by anchor ──────────┤
//! kernel/     ── embedded in this crate ────────────────────┴─> build folder ── make ──> modules
//! ```
//!
//! Invariant: this crate contains no line of a kernel's own source but the anchors.

pub mod bugs;
pub mod edit;
mod edits;
pub mod error;
pub mod extract;
mod items;
pub mod lay_out;
pub mod make;
mod names;
mod sources;
pub mod vectors;

pub use bugs::{Bug, bugs, designs};
pub use error::BuildError;
pub use make::{BuildRequest, Modules, OUTSIDE_OF_TREE, Shell, build};

/// Identifies modules built by this version of the crate.
pub fn fingerprint() -> String {
    use std::hash::{DefaultHasher, Hash, Hasher};

    // Another release of the standard library at worst builds the modules again.
    let mut hasher = DefaultHasher::new();
    sources::FILES.hash(&mut hasher);
    (names::TAKEN, names::TAKEN_IF_THERE).hash(&mut hasher);
    edits::TAILS.hash(&mut hasher);
    make::OPTIONS.hash(&mut hasher);
    for edit in edits::EDITS {
        (edit.file, edit.function, edit.find, edit.replace).hash(&mut hasher);
    }
    format!("{:016x}", hasher.finish())
}
