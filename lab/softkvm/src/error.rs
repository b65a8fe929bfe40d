//! Errors of creating the software KVM.

/// Why a software KVM could not be made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SoftKvmError {
    /// No such design.
    #[error("no design `{0}`: stock, v3, v5 and headtail are known")]
    NoSuchDesign(String),
    /// The configuration makes no sense.
    #[error("{0}")]
    BadConfig(String),
    /// Machine memory is too small for the image and its tables.
    #[error("machine memory has too few free frames: {0}")]
    OutOfMemory(String),
}
