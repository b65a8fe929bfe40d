//! What the self tests share.
