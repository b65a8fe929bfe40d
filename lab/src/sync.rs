//! Locks that outlive a panic.
//!
//! What is behind the lab's locks is whole after every single change, so that a worker that
//! panicked, which is told elsewhere, leaves nothing half done for the others.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Holds a lock, whatever became of those who held it before.
pub(crate) fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What is left behind a lock that nobody needs any more.
pub(crate) fn unlocked<T>(mutex: Mutex<T>) -> T {
    mutex.into_inner().unwrap_or_else(PoisonError::into_inner)
}
