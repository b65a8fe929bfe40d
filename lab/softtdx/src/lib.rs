//! KVM's own TDX code on machines without TDX: the kernel side, and what builds it.
//!
//! Two modules are built from a kernel's own sources, `kvm.ko` and `kvm-amd.ko`. What KVM has for
//! TDX is taken out of that source by name ([`extract`]) and runs over a TDX module that is played
//! (`kernel/`). What must change in KVM's own files is a list of small edits ([`edit`]), each of
//! which names its file, its function, and what it looks for.
//!
//! ```text
//! source tree ── extract: functions of vmx/tdx.c, by name ──┐
//!             ── edit: KVM's own files, by anchor ──────────┤
//! kernel/     ── embedded in this crate ────────────────────┴─> build folder ── make ──> modules
//! ```
//!
//! Invariant: no line of a kernel's own source is in this crate but the anchors that are looked for.

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
pub use make::{BuildRequest, Modules, Shell, build};

/// What tells modules of one version of this crate from those of another.
pub fn fingerprint() -> String {
    use std::hash::{DefaultHasher, Hash, Hasher};

    // Another release of the standard library at worst builds the modules again.
    let mut hasher = DefaultHasher::new();
    sources::FILES.hash(&mut hasher);
    names::TAKEN.hash(&mut hasher);
    edits::TAILS.hash(&mut hasher);
    make::OPTIONS.hash(&mut hasher);
    for edit in edits::EDITS {
        (edit.file, edit.function, edit.find, edit.replace).hash(&mut hasher);
    }
    format!("{:016x}", hasher.finish())
}
