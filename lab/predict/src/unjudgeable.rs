//! Steps that cannot be predicted.

/// A step whose outcome cannot be judged.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{why}")]
pub struct Unjudgeable {
    /// The reason.
    pub why: String,
    /// What to write instead.
    pub advice: String,
}
