//! Locks held by others: another CPU in the module, or another TD's call.
//!
//! Calls here do not run concurrently, so a call never waits for another. It must only detect that
//! a lock is taken; then it fails with TDX_OPERAND_BUSY and sets its priority flag, as the module
//! does.
//!
//! Source: `src/common/helpers/tdx_locks.h`.

use super::sept::Place;
use crate::physical_memory::Pfn;

/// A lock that can be held elsewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lock {
    /// The S-EPT tree.
    Tree,
    /// The TD's epoch.
    Epoch,
    /// The TD's operation state.
    OpState,
    /// The PAMT entry of the TDR.
    Tdr,
    /// The PAMT entry of the 2M range that holds this frame.
    Pamt2m(Pfn),
    /// The PAMT entry of this 4K frame.
    Pamt4k(Pfn),
}

/// How it is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hold {
    /// By one holder.
    Exclusive,
    /// By one of several.
    Shared,
}

/// A lock for many readers or one writer, with a flag set by a host that found it taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct SharexLock {
    exclusive: bool,
    readers: u16,
    host_priority: bool,
}

impl SharexLock {
    pub(super) fn hold(&mut self, hold: Hold) {
        match hold {
            Hold::Exclusive => self.exclusive = true,
            Hold::Shared => self.readers += 1,
        }
    }

    pub(super) fn release(&mut self, hold: Hold) {
        match hold {
            Hold::Exclusive => self.exclusive = false,
            Hold::Shared => self.readers = self.readers.saturating_sub(1),
        }
    }

    pub(super) fn flag_host_priority(&mut self) {
        self.host_priority = true;
    }

    pub(super) const fn has_host_priority(&self) -> bool {
        self.host_priority
    }

    /// Whether the host gets it for the length of a call.
    pub(super) fn host_gets(&mut self, hold: Hold) -> bool {
        let free = !self.exclusive && (hold == Hold::Shared || self.readers == 0);
        self.host_priority = !free;
        free
    }

    /// Whether it is free, as a lock that has no flag: what sets that is a reader.
    pub(super) const fn is_free(&self, hold: Hold) -> bool {
        let read = self.readers > 0 || self.host_priority;
        !self.exclusive && (matches!(hold, Hold::Shared) || !read)
    }
}

/// Locks of single S-EPT entries, of which few are ever held: the bits TDEL and TDHP of an entry.
#[derive(Clone, Debug, Default)]
pub(super) struct EntryLocks(Vec<EntryLock>);

#[derive(Clone, Copy, Debug)]
struct EntryLock {
    place: Place,
    index: usize,
    held: bool,
    host_priority: bool,
}

/// State of an entry's lock for the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum GuestLock {
    Taken,
    Busy,
    HostPriority,
}

impl EntryLocks {
    fn find(&mut self, place: Place, index: usize) -> Option<&mut EntryLock> {
        self.0
            .iter_mut()
            .find(|lock| lock.place == place && lock.index == index)
    }

    /// The lock of the entry, made if it was never held.
    fn at(&mut self, place: Place, index: usize) -> &mut EntryLock {
        let known = self
            .0
            .iter()
            .position(|lock| lock.place == place && lock.index == index);
        let at = known.unwrap_or_else(|| {
            self.0.push(EntryLock {
                place,
                index,
                held: false,
                host_priority: false,
            });
            self.0.len() - 1
        });
        &mut self.0[at]
    }

    pub(super) fn hold(&mut self, place: Place, index: usize) {
        self.at(place, index).held = true;
    }

    pub(super) fn flag_host_priority(&mut self, place: Place, index: usize) {
        self.at(place, index).host_priority = true;
    }

    pub(super) fn release(&mut self, place: Place, index: usize) {
        if let Some(lock) = self.find(place, index) {
            lock.held = false;
        }
    }

    /// Forgets the lock of an entry whose every bit is written.
    pub(super) fn forget(&mut self, place: Place, index: usize) {
        self.0
            .retain(|lock| (lock.place, lock.index) != (place, index));
    }

    /// Forgets the locks of a table whose every entry is written.
    pub(super) fn forget_table(&mut self, table: Pfn) {
        self.0.retain(|lock| lock.place != Place::Table(table));
    }

    /// Whether others hold the lock.
    pub(super) fn is_held(&self, place: Place, index: usize) -> bool {
        let mut locks = self.0.iter();
        locks.any(|lock| (lock.place, lock.index) == (place, index) && lock.held)
    }

    /// Whether the host gets the lock; if not, its flag stays.
    pub(super) fn host_gets(&mut self, place: Place, index: usize) -> bool {
        match self.find(place, index) {
            None => true,
            Some(lock) => {
                lock.host_priority = lock.held;
                !lock.held
            }
        }
    }

    /// Whether the guest gets the lock.
    pub(super) fn guest_gets(&mut self, place: Place, index: usize) -> GuestLock {
        match self.find(place, index) {
            Some(lock) if lock.held => GuestLock::Busy,
            Some(lock) if lock.host_priority => GuestLock::HostPriority,
            _ => GuestLock::Taken,
        }
    }
}
