//! Temporary folders that do not stay when their process is killed.
//!
//! Each holds a file that is locked as long as its process lives: the kernel drops the lock however that
//! ends. The next process that makes one removes those without a lock first.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Once;

use tempfile::TempDir;

/// How the folders are called.
const PREFIX: &str = "tdxlab-room-";

/// The locked file.
const LOCK: &str = "lock";

/// A temporary folder.
#[derive(Debug)]
pub struct Scratch {
    /// The folder in it that is for use.
    path: PathBuf,
    _folder: TempDir,
    _lock: File,
}

impl Scratch {
    /// A new one, below the system's folder for them.
    ///
    /// # Errors
    ///
    /// It cannot be made.
    pub fn new() -> io::Result<Scratch> {
        static SWEPT: Once = Once::new();
        let place = std::env::temp_dir();
        SWEPT.call_once(|| sweep(&place));
        Scratch::below(&place)
    }

    fn below(place: &Path) -> io::Result<Scratch> {
        let folder = tempfile::Builder::new().prefix(PREFIX).tempdir_in(place)?;
        let lock = File::create(folder.path().join(LOCK))?;
        lock.lock()?;
        let path = folder.path().join("room");
        fs::create_dir(&path)?;
        Ok(Scratch {
            path,
            _folder: folder,
            _lock: lock,
        })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// Removes the folders whose processes are gone. What cannot be removed is somebody else's.
fn sweep(place: &Path) {
    for entry in fs::read_dir(place).into_iter().flatten().flatten() {
        if !entry.file_name().to_string_lossy().starts_with(PREFIX) {
            continue;
        }
        let folder = entry.path();
        // One without a lock is being made.
        let lock = OpenOptions::new().write(true).open(folder.join(LOCK));
        if lock.is_ok_and(|lock| lock.try_lock().is_ok()) {
            let _ = fs::remove_dir_all(&folder);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_killed_process_left_is_swept_and_nothing_else() {
        let place = tempfile::tempdir().unwrap();
        let there = |name: &str| place.path().join(format!("{PREFIX}{name}"));
        let alive = Scratch::below(place.path()).unwrap();
        let killed = there("killed");
        fs::create_dir_all(killed.join("room/debugfs")).unwrap();
        fs::write(killed.join(LOCK), "").unwrap();
        let unmarked = there("unmarked");
        fs::create_dir(&unmarked).unwrap();
        sweep(place.path());
        assert!(!killed.exists());
        assert!(alive.path().exists() && unmarked.exists());
        let path = alive.path().to_owned();
        drop(alive);
        assert!(!path.exists());
    }
}
