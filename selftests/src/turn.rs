//! Bound on concurrent L1s, including those of rehearsals: each keeps a processor busy and may use
//! gigabytes.

use std::sync::{Condvar, LazyLock, Mutex};
use std::thread::available_parallelism;

/// KiB that an L1 may take: its usual memory, and what QEMU needs beside it.
const KIB: u64 = 8 << 20;

/// L1s that may still start.
static LEFT: LazyLock<Mutex<u64>> = LazyLock::new(|| Mutex::new(at_once()));
static ENDED: Condvar = Condvar::new();

/// Leave to have an L1, until it is dropped.
pub struct Turn(());

impl Turn {
    /// Waits until there may be another L1.
    pub fn wait() -> Turn {
        let left = LEFT.lock().unwrap();
        *ENDED.wait_while(left, |left| *left == 0).unwrap() -= 1;
        Turn(())
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        *LEFT.lock().unwrap() += 1;
        ENDED.notify_one();
    }
}

/// As many as the machine has processors and memory for, and at least one.
fn at_once() -> u64 {
    let processors = available_parallelism().map_or(1, |number| number.get() as u64);
    processors.min(available_kib() / KIB).max(1)
}

/// Memory that programs can still have; 0 where the kernel does not say.
fn available_kib() -> u64 {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    text.lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"))
        .and_then(|rest| rest.split_whitespace().next()?.parse().ok())
        .unwrap_or(0)
}
