//! Replay files, good, old and hostile.
