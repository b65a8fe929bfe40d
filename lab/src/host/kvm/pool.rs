//! Whether this machine has the huge pages that a guest's memory is to be made of.

use std::fs;
use std::path::Path;

use crate::addr::{GpaRange, PageLevel};
use crate::plan::Backing;

/// What is missing, with the command to add it; `None` where nothing is. `mm` is
/// `/sys/kernel/mm`.
pub(super) fn unmet(mm: &Path, backing: Backing, memory: GpaRange) -> Option<String> {
    match backing {
        Backing::Small => None,
        Backing::Transparent => no_transparent(mm),
        Backing::Hugetlb2M | Backing::Hugetlb1G => too_few(mm, backing.leaf(), memory),
    }
}

/// Transparent huge pages of memfds are off in most distributions.
fn no_transparent(mm: &Path) -> Option<String> {
    let path = mm.join("transparent_hugepage/shmem_enabled");
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) => {
            return Some(format!(
                "needs transparent huge pages; {}: {error}",
                path.display()
            ));
        }
    };
    let chosen = text.split('[').nth(1)?.split(']').next()?;
    match chosen {
        "always" | "advise" | "within_size" | "force" => None,
        _ => Some(format!(
            "needs transparent huge pages for memfds; they are off ({chosen}): \
             echo advise > {}",
            path.display()
        )),
    }
}

/// Free pages of the pool are enough for all of test memory, which is never touched twice.
fn too_few(mm: &Path, page: PageLevel, memory: GpaRange) -> Option<String> {
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
    let missing = needed.checked_sub(free).filter(|&missing| missing > 0)?;
    let pool = number("nr_hugepages").unwrap_or(0) + missing;
    Some(format!(
        "needs {needed} free {page} pages of hugetlb, {missing} more than there are: \
         echo {pool} > {}",
        folder.join("nr_hugepages").display()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::addr::Gpa;

    fn memory(bytes: u64) -> GpaRange {
        GpaRange::with_len(Gpa::new(1 << 30), bytes).unwrap()
    }

    fn machine() -> tempfile::TempDir {
        let mm = tempfile::tempdir().unwrap();
        let pool = mm.path().join("hugepages/hugepages-2048kB");
        fs::create_dir_all(&pool).unwrap();
        fs::write(pool.join("free_hugepages"), "30\n").unwrap();
        fs::write(pool.join("nr_hugepages"), "40\n").unwrap();
        let thp = mm.path().join("transparent_hugepage");
        fs::create_dir(&thp).unwrap();
        fs::write(
            thp.join("shmem_enabled"),
            "always within_size advise [never] deny force\n",
        )
        .unwrap();
        mm
    }

    #[test]
    fn a_pool_too_small_says_how_many_and_how() {
        let mm = machine();
        let unmet = |bytes| unmet(mm.path(), Backing::Hugetlb2M, memory(bytes));
        assert_eq!(unmet(60 << 20), None);
        let reason = unmet(64 << 20).unwrap();
        assert!(
            reason.contains("needs 32 free 2M pages of hugetlb, 2 more"),
            "{reason}"
        );
        assert!(reason.contains("echo 42 > "), "{reason}");
    }

    #[test]
    fn pages_this_kernel_has_not_are_no_zero() {
        let reason = unmet(machine().path(), Backing::Hugetlb1G, memory(1 << 30)).unwrap();
        assert!(reason.contains("has none"), "{reason}");
    }

    #[test]
    fn transparent_pages_can_be_turned_on() {
        let mm = machine();
        let unmet = || unmet(mm.path(), Backing::Transparent, memory(4 << 20));
        assert!(unmet().unwrap().contains("echo advise > "));
        let file = mm.path().join("transparent_hugepage/shmem_enabled");
        fs::write(file, "always within_size [advise] never deny force\n").unwrap();
        assert_eq!(unmet(), None);
    }
}
