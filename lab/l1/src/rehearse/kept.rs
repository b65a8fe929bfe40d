//! Which parts are kept: those that a link names or a process uses. Parts that newer ones have
//! replaced take 900 MB each.
//!
//! A process that opens parts holds a shared lock on their manifest until it ends.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};
use parking_lot::Mutex;

/// The manifest of a folder of parts, written last.
pub(super) const MANIFEST: &str = "parts.json";

/// The manifests of parts that this process uses.
static IN_USE: Mutex<Vec<Flock<File>>> = Mutex::new(Vec::new());

/// Keeps other processes from removing these parts; `None` where they are gone, or going.
pub(super) fn hold(folder: &Path) -> Option<()> {
    let manifest = File::open(folder.join(MANIFEST)).ok()?;
    let held = Flock::lock(manifest, FlockArg::LockSharedNonblock).ok()?;
    IN_USE.lock().push(held);
    // Removed between the two: the lock is on a file without a name.
    folder.join(MANIFEST).exists().then_some(())
}

/// Removes parts in `rehearsal` that no link names and no process holds. What cannot be removed
/// stays for the next time. Returns the folders that went.
pub(super) fn remove(rehearsal: &Path) -> Vec<PathBuf> {
    let entries = || fs::read_dir(rehearsal).into_iter().flatten().flatten();
    let named: Vec<PathBuf> = entries()
        .filter(|entry| entry.path().is_symlink())
        .filter_map(|link| link.path().canonicalize().ok())
        .collect();
    let is_superseded = |folder: &PathBuf| {
        let is_named = folder
            .canonicalize()
            .is_ok_and(|path| named.contains(&path));
        !folder.is_symlink() && folder.join(MANIFEST).is_file() && !is_named
    };
    let superseded = entries().map(|entry| entry.path()).filter(is_superseded);
    superseded.filter(|folder| take_away(folder)).collect()
}

fn take_away(folder: &Path) -> bool {
    let manifest = folder.join(MANIFEST);
    let Ok(file) = File::open(&manifest) else {
        return false;
    };
    let Ok(_alone) = Flock::lock(file, FlockArg::LockExclusiveNonblock) else {
        return false;
    };
    // The manifest goes first: without it the folder is no parts, whatever is left of it.
    fs::remove_file(&manifest).is_ok() && fs::remove_dir_all(folder).is_ok()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn parts(rehearsal: &Path, name: &str) -> PathBuf {
        let folder = rehearsal.join(name);
        fs::create_dir_all(folder.join("kernel")).unwrap();
        fs::write(folder.join(MANIFEST), "{}").unwrap();
        folder
    }

    #[test]
    fn parts_that_nobody_names_or_uses_go() {
        let cache = tempfile::tempdir().unwrap();
        let rehearsal = cache.path();
        let [old, used, current, older_kernel] =
            ["a", "b", "c", "d"].map(|name| parts(rehearsal, name));
        symlink("c", rehearsal.join("current")).unwrap();
        symlink("d", rehearsal.join("current-7.2")).unwrap();
        let other = rehearsal.join("apt");
        fs::create_dir(&other).unwrap();
        // As another process would: locks are of the open file.
        let file = File::open(used.join(MANIFEST)).unwrap();
        let held = Flock::lock(file, FlockArg::LockShared).unwrap();
        assert_eq!(remove(rehearsal), std::slice::from_ref(&old));
        assert!(!old.exists());
        for folder in [&used, &current, &older_kernel, &other] {
            assert!(folder.exists(), "{}", folder.display());
        }
        drop(held);
        assert_eq!(remove(rehearsal), [used]);
    }

    #[test]
    fn parts_that_are_held_stay_and_parts_that_went_cannot_be_held() {
        let cache = tempfile::tempdir().unwrap();
        let folder = parts(cache.path(), "a");
        assert_eq!(hold(&folder), Some(()));
        assert_eq!(remove(cache.path()), Vec::<PathBuf>::new());
        assert_eq!(hold(&cache.path().join("gone")), None);
    }
}
