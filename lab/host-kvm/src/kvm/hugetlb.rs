//! Whether this machine has the huge pages for a guest's memory.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tdxlab_plan::Backing;
use tdxlab_protocol::addr::{GpaRange, PageLevel};

/// Interval of checking a pool that other guests of the lab have emptied.
const TICK: Duration = Duration::from_millis(20);

/// Where a kernel shows its huge pages.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pools<'a> {
    /// `/sys/kernel/mm`.
    pub(super) mm: &'a Path,
    /// `/proc/buddyinfo`.
    pub(super) buddies: &'a Path,
}

/// Missing huge pages and the command to add them; `None` if there are enough. hugetlb pages held
/// by guests of this process are not missing: they come back.
pub(super) fn unmet(pools: &Pools<'_>, backing: Backing, memory: GpaRange) -> Option<String> {
    match backing {
        Backing::Small => None,
        Backing::Transparent => {
            no_transparent(pools.mm).or_else(|| in_pieces(pools.buddies, memory))
        }
        Backing::Hugetlb2M | Backing::Hugetlb1G => {
            let page = backing.leaf();
            too_few(pools.mm, page, memory, Held::of(page))
        }
    }
}

/// Transparent huge pages of memfds are off in most distributions.
fn no_transparent(mm: &Path) -> Option<String> {
    let path = mm.join("transparent_hugepage/shmem_enabled");
    let shown = path.display();
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) => return Some(format!("needs transparent huge pages; {shown}: {error}")),
    };
    let chosen = text
        .split_once('[')
        .and_then(|(_, rest)| rest.split_once(']'));
    match chosen {
        Some(("always" | "advise" | "within_size" | "force", _)) => None,
        Some((chosen, _)) => Some(format!(
            "needs transparent huge pages for memfds; they are off ({chosen}): \
             echo advise > {shown}"
        )),
        None => Some(format!(
            "needs transparent huge pages for memfds; {shown} holds {:?}, which says nothing of \
             them",
            text.trim()
        )),
    }
}

/// Why free memory is too fragmented for transparent huge pages: then the kernel uses small
/// ones, which is not a bug.
fn in_pieces(buddies: &Path, memory: GpaRange) -> Option<String> {
    let needed = memory.bytes().div_ceil(PageLevel::Size2M.bytes());
    // Not readable by every user. Without it, the counters show the difference.
    let free = free_2m(&fs::read_to_string(buddies).ok()?);
    let missing = needed.checked_sub(free).filter(|&missing| missing > 0)?;
    Some(format!(
        "needs {needed} free pieces of 2M for transparent huge pages, {missing} more than there are \
         ({}): echo 1 > /proc/sys/vm/compact_memory, or end what uses memory",
        buddies.display()
    ))
}

/// Pieces of 2M that are free, over all zones. A line is `Node 0, zone Normal` and the number of
/// free blocks of 1, 2, 4, ... pages.
fn free_2m(text: &str) -> u64 {
    // 2M are 512 pages.
    const ORDER: usize = 9;
    let blocks = |line: &str| -> u64 {
        let counts = line.split_whitespace().skip(4);
        counts
            .enumerate()
            .skip(ORDER)
            .filter_map(|(order, count)| Some(count.parse::<u64>().ok()? << (order - ORDER)))
            .fold(0, u64::saturating_add)
    };
    text.lines().map(blocks).fold(0, u64::saturating_add)
}

/// The pool's free pages must cover all of test memory, which is never touched twice. Reserved
/// pages are not free.
fn too_few(mm: &Path, page: PageLevel, memory: GpaRange, held: u64) -> Option<String> {
    let needed = memory.bytes().div_ceil(page.bytes());
    let folder = mm.join(format!("hugepages/hugepages-{}kB", page.bytes() >> 10));
    let number = |name| {
        let text = fs::read_to_string(folder.join(name)).ok()?;
        text.trim().parse::<u64>().ok()
    };
    let Some(free) = number("free_hugepages") else {
        return Some(format!(
            "needs {page} pages of hugetlb; this kernel or processor has none"
        ));
    };
    let reserved = number("resv_hugepages").unwrap_or(0);
    let there = free.saturating_sub(reserved).saturating_add(held);
    let missing = needed.checked_sub(there).filter(|&missing| missing > 0)?;
    let pool = number("nr_hugepages").unwrap_or(0) + missing;
    Some(format!(
        "needs {needed} free {page} pages of hugetlb, {missing} more than there are: \
         echo {pool} > {}",
        folder.join("nr_hugepages").display()
    ))
}

/// Pages of 2M and of 1G that guests of this process have reserved.
static HELD: Mutex<(u64, u64)> = Mutex::new((0, 0));

/// Held from the check of the pool until QEMU has reserved its pages.
static TURN: Mutex<()> = Mutex::new(());

/// hugetlb pages held by a guest. Dropping it marks them as free again.
#[derive(Debug)]
pub(super) struct Held {
    page: PageLevel,
    pages: u64,
}

impl Held {
    fn of(page: PageLevel) -> u64 {
        let mut all = HELD.lock();
        *Held::count(page, &mut all)
    }

    fn count(page: PageLevel, all: &mut (u64, u64)) -> &mut u64 {
        match page {
            PageLevel::Size1G => &mut all.1,
            _ => &mut all.0,
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let count = &mut *HELD.lock();
        *Held::count(self.page, count) -= self.pages;
    }
}

/// Calls `boot`, which reserves the guest's pages, once they are free, with other guests of this
/// process locked out.
///
/// # Errors
///
/// Those of `boot`, or the pages still missing at `until`, through `short`.
pub(super) fn reserved<T, E>(
    pools: &Pools<'_>,
    backing: Backing,
    memory: GpaRange,
    until: Instant,
    short: impl FnOnce(&str) -> E,
    boot: impl FnOnce() -> Result<T, E>,
) -> Result<(T, Option<Held>), E> {
    let page = backing.leaf();
    if !matches!(backing, Backing::Hugetlb2M | Backing::Hugetlb1G) {
        return boot().map(|booted| (booted, None));
    }
    let _turn = TURN.lock();
    while let Some(reason) = too_few(pools.mm, page, memory, 0) {
        if Instant::now() >= until {
            return Err(short(&reason));
        }
        std::thread::sleep(TICK);
    }
    let booted = boot()?;
    let pages = memory.bytes().div_ceil(page.bytes());
    *Held::count(page, &mut HELD.lock()) += pages;
    Ok((booted, Some(Held { page, pages })))
}

#[cfg(test)]
mod tests {
    use tdxlab_protocol::addr::Gpa;

    use super::*;

    fn memory(bytes: u64) -> GpaRange {
        GpaRange::with_len(Gpa::new(1 << 30), bytes).unwrap()
    }

    struct ThisMachine {
        mm: tempfile::TempDir,
    }

    impl ThisMachine {
        fn new() -> ThisMachine {
            let machine = ThisMachine {
                mm: tempfile::tempdir().unwrap(),
            };
            machine.write("hugepages/hugepages-2048kB/free_hugepages", "30\n");
            machine.write("hugepages/hugepages-2048kB/nr_hugepages", "40\n");
            machine.shmem("always within_size advise [never] deny force\n");
            machine.write(
                "buddyinfo",
                "Node 0, zone    DMA32   1   0   0   0   0   0   0   0   0   1   3\n\
                 Node 0, zone   Normal 900 800 700 600 500 400 300 200 100   3   0\n",
            );
            machine
        }

        fn write(&self, file: &str, text: &str) {
            let path = self.mm.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }

        fn shmem(&self, text: &str) {
            self.write("transparent_hugepage/shmem_enabled", text);
        }

        fn unmet(&self, backing: Backing, bytes: u64) -> Option<String> {
            let pools = Pools {
                mm: self.mm.path(),
                buddies: &self.mm.path().join("buddyinfo"),
            };
            unmet(&pools, backing, memory(bytes))
        }
    }

    #[test]
    fn a_pool_too_small_says_how_many_and_how() {
        let machine = ThisMachine::new();
        assert_eq!(machine.unmet(Backing::Hugetlb2M, 60 << 20), None);
        let reason = machine.unmet(Backing::Hugetlb2M, 64 << 20).unwrap();
        assert!(
            reason.contains("needs 32 free 2M pages of hugetlb, 2 more"),
            "{reason}"
        );
        assert!(reason.contains("echo 42 > "), "{reason}");
    }

    #[test]
    fn pages_that_are_promised_to_others_are_not_there() {
        let machine = ThisMachine::new();
        machine.write("hugepages/hugepages-2048kB/resv_hugepages", "10\n");
        let reason = machine.unmet(Backing::Hugetlb2M, 60 << 20).unwrap();
        assert!(reason.contains("10 more than there are"), "{reason}");
    }

    /// The guest that is second to start finds the pool as the first has left it.
    #[test]
    fn a_guest_waits_for_pages_that_another_of_this_process_holds() {
        let machine = ThisMachine::new();
        // Kept apart from those of other tests by their size.
        machine.write("hugepages/hugepages-1048576kB/free_hugepages", "1\n");
        let buddies = machine.mm.path().join("buddyinfo");
        let pools = Pools {
            mm: machine.mm.path(),
            buddies: &buddies,
        };
        let reserve = |patience| {
            reserved(
                &pools,
                Backing::Hugetlb1G,
                memory(1 << 30),
                Instant::now() + patience,
                str::to_owned,
                || {
                    machine.write("hugepages/hugepages-1048576kB/resv_hugepages", "1\n");
                    Ok(())
                },
            )
        };
        let (_, first) = reserve(Duration::from_secs(60)).unwrap();
        assert_eq!(machine.unmet(Backing::Hugetlb1G, 1 << 30), None);
        let short = reserve(Duration::from_millis(50)).unwrap_err();
        assert!(short.contains("1 more than there are"), "{short}");
        drop(first);
        assert!(machine.unmet(Backing::Hugetlb1G, 1 << 30).is_some());
        machine.write("hugepages/hugepages-1048576kB/resv_hugepages", "0\n");
        reserve(Duration::from_secs(60)).unwrap();
    }

    #[test]
    fn pages_this_kernel_has_not_are_no_zero() {
        let reason = ThisMachine::new()
            .unmet(Backing::Hugetlb1G, 1 << 30)
            .unwrap();
        assert!(reason.contains("has none"), "{reason}");
    }

    #[test]
    fn transparent_pages_can_be_turned_on() {
        let machine = ThisMachine::new();
        let unmet = || machine.unmet(Backing::Transparent, 4 << 20);
        assert!(unmet().unwrap().contains("echo advise > "));
        machine.shmem("always within_size [advise] never deny force\n");
        assert_eq!(unmet(), None);
        machine.shmem("advise\n");
        assert!(unmet().unwrap().contains("says nothing"));
    }

    /// One block of 2M and three of 4M in one zone, three of 2M in the other.
    #[test]
    fn free_memory_in_pieces_says_how_many_are_missing() {
        let machine = ThisMachine::new();
        machine.shmem("[always]\n");
        assert_eq!(machine.unmet(Backing::Transparent, 20 << 20), None);
        let reason = machine.unmet(Backing::Transparent, 24 << 20).unwrap();
        assert!(reason.contains("needs 12 free pieces of 2M"), "{reason}");
        assert!(reason.contains("2 more than there are"), "{reason}");
        assert!(reason.contains("compact_memory"), "{reason}");
    }
}
