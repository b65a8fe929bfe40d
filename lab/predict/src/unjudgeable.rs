//! Steps that cannot be predicted.

/// A step whose outcome nobody could judge.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{why}")]
pub struct Unjudgeable {
    /// Why not.
    pub why: String,
    /// What to write instead.
    pub advice: String,
}
