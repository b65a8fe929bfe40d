//! A few threads that go through a list.
//!
//! The kernel ends a QEMU when the thread that started it ends (PR_SET_PDEATHSIG goes by thread, not by
//! process), so an item never leaves its thread, and every guest ends with the runner.

use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;

/// Calls `work` for every item, in their order on `jobs` threads, with the number of the thread; until
/// one says that this was the last, or fails.
///
/// # Errors
///
/// The first error of `work`.
pub fn in_parallel<T: Sync, E: Send>(
    jobs: usize,
    items: &[T],
    work: impl Fn(usize, &T) -> Result<bool, E> + Sync,
) -> Result<(), E> {
    let next = AtomicUsize::new(0);
    let broken = Mutex::new(None);
    let go = |worker| {
        while let Some(item) = items.get(next.fetch_add(1, Ordering::Relaxed)) {
            let go_on = work(worker, item).unwrap_or_else(|error| {
                broken.lock().get_or_insert(error);
                false
            });
            if !go_on {
                next.store(items.len(), Ordering::Relaxed);
            }
        }
    };
    std::thread::scope(|scope| {
        for worker in 0..jobs.clamp(1, items.len().max(1)) {
            let go = &go;
            scope.spawn(move || go(worker));
        }
    });
    broken.into_inner().map_or(Ok(()), Err)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_item_is_done_once() {
        let done = Mutex::new(Vec::new());
        let items: Vec<u32> = (0..100).collect();
        let all = in_parallel(3, &items, |worker, item| {
            assert!(worker < 3);
            done.lock().push(*item);
            Ok::<_, ()>(true)
        });
        assert_eq!(all, Ok(()));
        let mut done = done.into_inner();
        done.sort_unstable();
        assert_eq!(done, items);
        assert_eq!(in_parallel(0, &items[..0], |_, _| Err(())), Ok(()));
    }

    #[test]
    fn the_last_is_the_one_that_says_so_or_fails() {
        let done = Mutex::new(Vec::new());
        let until = |last: u32, result: Result<bool, &'static str>| {
            done.lock().clear();
            let all = in_parallel(1, &[1, 2, 3, 4], |_, item| {
                done.lock().push(*item);
                if *item == last { result } else { Ok(true) }
            });
            (all, done.lock().len())
        };
        assert_eq!(until(2, Ok(false)), (Ok(()), 2));
        assert_eq!(until(3, Err("no")), (Err("no"), 3));
    }
}
