//! What the self tests share.

pub mod command;
pub mod failing;
pub mod turn;
