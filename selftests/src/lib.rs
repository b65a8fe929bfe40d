//! What the self tests share.

pub mod trial;
