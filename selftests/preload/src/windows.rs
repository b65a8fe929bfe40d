//! Tables under the guest's windows: what of GPA space the guest can reach.
//!
//! A real TD faults on a page that is not accepted because of its S-EPT entry. A software-protected
//! VM does not: KVM maps whatever the guest touches. So the guest's own tables under its two windows
//! (see [`tdxlab_protocol::layout`]) stand in for that: a page is present in the private window
//! while it is accepted, and in the shared window while it is shared. Anything else raises #PF in
//! the guest, which passes it on.

use std::sync::atomic::{AtomicU64, Ordering};

use tdxlab_protocol::layout;

use crate::sept::PAGE;

/// First GPA of the pages that tables are made of.
pub(crate) const POOL_START: u64 = layout::HOST_POOL_START;
/// How many bytes they have: tables for 1 GiB of pages in use, however scattered.
pub(crate) const POOL_BYTES: u64 = 4 << 20;

/// Present, writable, accessed: for tables.
const TABLE: u64 = 0x23;
/// Present, writable, accessed, dirty: for pages.
const LEAF: u64 = 0x63;
const PRESENT: u64 = 1;
const FRAME: u64 = 0x000f_ffff_ffff_f000;

/// Guest memory that both sides can reach.
pub(crate) trait Memory {
    /// The aligned 8-byte word at `gpa`; `None` where this is no shared memory.
    fn word(&self, gpa: u64) -> Option<&AtomicU64>;
}

/// Which half of GPA space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Window {
    Private,
    Shared,
}

impl Window {
    fn start(self) -> u64 {
        match self {
            Window::Private => layout::PRIVATE_WINDOW,
            Window::Shared => layout::SHARED_WINDOW,
        }
    }
}

/// Why a page could not be shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cannot {
    /// No page is left for a table.
    PoolEmpty,
    /// The guest's memory is not where it must be.
    NoMemory,
}

/// The tables.
#[derive(Debug)]
pub(crate) struct Windows {
    next: u64,
}

impl Windows {
    pub(crate) const fn new() -> Windows {
        Windows { next: POOL_START }
    }

    /// Lets the guest reach the page at `gpa` through a window.
    pub(crate) fn show(
        &mut self,
        memory: &impl Memory,
        window: Window,
        gpa: u64,
    ) -> Result<(), Cannot> {
        let address = window.start() + gpa;
        let mut table = layout::PML4;
        for shift in [39, 30, 21] {
            let entry = memory
                .word(entry(table, address, shift))
                .ok_or(Cannot::NoMemory)?;
            let value = entry.load(Ordering::SeqCst);
            table = if value & PRESENT != 0 {
                value & FRAME
            } else {
                let fresh = self.table(memory)?;
                entry.store(fresh | TABLE, Ordering::SeqCst);
                fresh
            };
        }
        let leaf = memory
            .word(entry(table, address, 12))
            .ok_or(Cannot::NoMemory)?;
        leaf.store(gpa & FRAME | LEAF, Ordering::SeqCst);
        Ok(())
    }

    /// Takes the page at `gpa` out of a window; says whether it was there.
    pub(crate) fn hide(&self, memory: &impl Memory, window: Window, gpa: u64) -> bool {
        let address = window.start() + gpa;
        let mut table = layout::PML4;
        for shift in [39, 30, 21] {
            let Some(value) = memory.word(entry(table, address, shift)) else {
                return false;
            };
            let value = value.load(Ordering::SeqCst);
            if value & PRESENT == 0 {
                return false;
            }
            table = value & FRAME;
        }
        memory
            .word(entry(table, address, 12))
            .is_some_and(|leaf| leaf.swap(0, Ordering::SeqCst) & PRESENT != 0)
    }

    fn table(&mut self, memory: &impl Memory) -> Result<u64, Cannot> {
        if self.next == POOL_START + POOL_BYTES {
            return Err(Cannot::PoolEmpty);
        }
        let table = self.next;
        self.next += PAGE;
        for offset in (0..PAGE).step_by(8) {
            let word = memory.word(table + offset).ok_or(Cannot::NoMemory)?;
            word.store(0, Ordering::SeqCst);
        }
        Ok(table)
    }
}

/// Address of the entry for `address` in `table` at the level that resolves bits from `shift` up.
fn entry(table: u64, address: u64, shift: u32) -> u64 {
    table + (address >> shift & 511) * 8
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Memory from 0 up.
    struct Flat(Vec<AtomicU64>);

    impl Memory for Flat {
        fn word(&self, gpa: u64) -> Option<&AtomicU64> {
            self.0.get(gpa as usize / 8)
        }
    }

    fn flat(bytes: u64) -> Flat {
        Flat((0..bytes / 8).map(|_| AtomicU64::new(0)).collect())
    }

    /// What the guest's MMU finds at an address.
    fn walk(memory: &Flat, address: u64) -> Option<u64> {
        let mut table = layout::PML4;
        for shift in [39, 30, 21, 12] {
            let value = memory
                .word(entry(table, address, shift))?
                .load(Ordering::SeqCst);
            if value & PRESENT == 0 {
                return None;
            }
            table = value & FRAME;
        }
        Some(table)
    }

    #[test]
    fn a_page_is_seen_through_its_window_only() {
        let memory = flat(POOL_START + POOL_BYTES);
        let mut windows = Windows::new();
        let gpa = 0x4012_3000;
        windows.show(&memory, Window::Private, gpa).unwrap();
        assert_eq!(walk(&memory, layout::PRIVATE_WINDOW + gpa), Some(gpa));
        assert_eq!(walk(&memory, layout::PRIVATE_WINDOW + gpa + PAGE), None);
        assert_eq!(walk(&memory, layout::SHARED_WINDOW + gpa), None);
        assert!(windows.hide(&memory, Window::Private, gpa));
        assert!(!windows.hide(&memory, Window::Private, gpa));
        assert!(!windows.hide(&memory, Window::Shared, gpa));
        assert_eq!(walk(&memory, layout::PRIVATE_WINDOW + gpa), None);
    }

    #[test]
    fn a_used_up_pool_is_an_error() {
        let memory = flat(POOL_START + POOL_BYTES);
        let mut windows = Windows::new();
        // Each page in a 1G of its own needs a directory and a table.
        let shown = (0..4096_u64)
            .map(|number| windows.show(&memory, Window::Private, number << 30))
            .take_while(Result::is_ok)
            .count();
        assert!((500..512).contains(&shown), "{shown}");
        assert_eq!(
            windows.show(&memory, Window::Shared, 0),
            Err(Cannot::PoolEmpty)
        );
    }

    #[test]
    fn memory_that_is_not_there_is_an_error() {
        let memory = flat(layout::PML4);
        assert_eq!(
            Windows::new().show(&memory, Window::Private, 0),
            Err(Cannot::NoMemory)
        );
        assert!(!Windows::new().hide(&memory, Window::Private, 0));
    }
}
