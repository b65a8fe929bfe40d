//! The report sent by an L1. File names and sizes are untrusted and checked, and the report folder
//! shows no file before the report is complete.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::symlink;
use std::path::{Component, Path, PathBuf};

/// Most bytes of a report.
const MOST_BYTES: u64 = 4 << 30;

/// Most files of a report.
const MOST_FILES: u64 = 100_000;

/// Longest path of a file, and deepest.
const LONGEST_PATH: usize = 1024;
const DEEPEST: usize = 32;

/// Why a report was rejected.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReportError {
    #[error("{0}")]
    Lie(String),
    #[error("writing the report to {}: {source}", folder.display())]
    Write { folder: PathBuf, source: io::Error },
}

/// A report on its way.
#[derive(Debug)]
pub(crate) struct Incoming {
    /// Where it belongs in the end.
    target: PathBuf,
    /// Folder of the incomplete report, beside the target so that a rename moves it.
    partial: PathBuf,
    current: Option<(PathBuf, File, u64)>,
    files: Vec<PathBuf>,
    links: Vec<(PathBuf, PathBuf)>,
    bytes: u64,
    complete: bool,
}

impl Incoming {
    /// A report for `target`; `id` tells apart those of several L1s.
    pub(crate) fn new(target: &Path, id: u64) -> Incoming {
        Incoming {
            target: target.to_owned(),
            partial: target.join(format!(".l1-{id:016x}.partial")),
            current: None,
            files: Vec::new(),
            links: Vec::new(),
            bytes: 0,
            complete: false,
        }
    }

    /// Folder of the files received so far; `None` if there are none.
    pub(crate) fn partial(&self) -> Option<&Path> {
        (!self.files.is_empty() && !self.complete).then_some(&self.partial)
    }

    /// Whether the report is complete.
    pub(crate) fn is_complete(&self) -> bool {
        self.complete
    }

    /// Number of files received.
    pub(crate) fn files(&self) -> usize {
        self.files.len()
    }

    /// Starts a file.
    pub(crate) fn file(&mut self, path: &str, size: u64) -> Result<(), ReportError> {
        self.no_file_open()?;
        let name = checked(path)?;
        self.bytes = self.bytes.saturating_add(size);
        if self.bytes > MOST_BYTES || self.files.len() as u64 >= MOST_FILES {
            let files = self.files.len();
            return lie(format!(
                "its report has {files} files of {} bytes and goes on",
                self.bytes
            ));
        }
        let at = self.partial.join(&name);
        let created = at
            .parent()
            .map_or(Ok(()), fs::create_dir_all)
            .and_then(|()| File::create_new(&at));
        let file = created.map_err(|error| self.failed(error))?;
        self.current = (size > 0).then_some((name.clone(), file, size));
        self.files.push(name);
        Ok(())
    }

    /// A symbolic link to something in the same folder.
    pub(crate) fn link(&mut self, path: &str, target: &str) -> Result<(), ReportError> {
        let (path, target) = (checked(path)?, checked(target)?);
        if target.components().count() != 1 || self.links.len() as u64 >= MOST_FILES {
            return lie(format!(
                "it links {} to {}",
                path.display(),
                target.display()
            ));
        }
        self.links.push((path, target));
        Ok(())
    }

    /// Content of the file that began last.
    pub(crate) fn data(&mut self, bytes: &[u8]) -> Result<(), ReportError> {
        let Some((name, file, left)) = &mut self.current else {
            return lie("it sends content of no file".to_owned());
        };
        let length = bytes.len() as u64;
        if length > *left {
            return lie(format!("{} is longer than announced", name.display()));
        }
        let written = file.write_all(bytes);
        *left -= length;
        if *left == 0 {
            self.current = None;
        }
        written.map_err(|error| self.failed(error))
    }

    /// The L1 reports the end: so many files and bytes. Moves them to the target.
    pub(crate) fn end(&mut self, files: u64, bytes: u64) -> Result<(), ReportError> {
        self.no_file_open()?;
        if (files, bytes) != (self.files.len() as u64, self.bytes) {
            return lie(format!(
                "its report has {files} files of {bytes} bytes, but {} of {} came",
                self.files.len(),
                self.bytes
            ));
        }
        for name in &self.files {
            let to = self.target.join(name);
            let moved = to
                .parent()
                .map_or(Ok(()), fs::create_dir_all)
                .and_then(|()| fs::rename(self.partial.join(name), &to));
            moved.map_err(|error| self.failed(error))?;
        }
        for (path, target) in &self.links {
            place_link(&self.target.join(path), target).map_err(|error| self.failed(error))?;
        }
        if !self.files.is_empty() {
            fs::remove_dir_all(&self.partial).map_err(|error| self.failed(error))?;
        }
        self.complete = true;
        Ok(())
    }

    fn no_file_open(&self) -> Result<(), ReportError> {
        match &self.current {
            Some((name, _, left)) => lie(format!("{} ends {left} bytes early", name.display())),
            None => Ok(()),
        }
    }

    fn failed(&self, source: io::Error) -> ReportError {
        ReportError::Write {
            folder: self.target.clone(),
            source,
        }
    }
}

/// Replaces an existing link; any other existing file is kept.
fn place_link(path: &Path, target: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Ok(there) if there.is_symlink() => fs::remove_file(path)?,
        Ok(_) => return Ok(()),
        Err(_) => fs::create_dir_all(path.parent().unwrap_or(path))?,
    }
    symlink(target, path)
}

fn lie<T>(what: String) -> Result<T, ReportError> {
    Err(ReportError::Lie(what))
}

/// Checks that a path stays below its folder.
fn checked(path: &str) -> Result<PathBuf, ReportError> {
    let name = Path::new(path);
    let plain = name
        .components()
        .all(|part| matches!(part, Component::Normal(_)));
    let depth = name.components().count();
    if !plain || depth == 0 || depth > DEEPEST || path.len() > LONGEST_PATH || path.contains('\0') {
        return lie(format!("it names a file {path:?}"));
    }
    Ok(name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn content(folder: &Path) -> Vec<String> {
        let entries = fs::read_dir(folder).unwrap();
        let mut names: Vec<_> = entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn a_whole_report_appears_at_its_end() {
        let folder = tempfile::tempdir().unwrap();
        let mut report = Incoming::new(folder.path(), 7);
        report.file("run-1/report.json", 4).unwrap();
        report.data(b"{").unwrap();
        report.data(b"} \n").unwrap();
        report.file("empty", 0).unwrap();
        assert_eq!(content(folder.path()), [".l1-0000000000000007.partial"]);
        report.end(2, 4).unwrap();
        assert_eq!(content(folder.path()), ["empty", "run-1"]);
        assert_eq!(
            fs::read(folder.path().join("run-1/report.json")).unwrap(),
            b"{} \n"
        );
        assert!(report.is_complete());
    }

    #[test]
    fn a_report_cut_off_stays_apart() {
        let folder = tempfile::tempdir().unwrap();
        let mut report = Incoming::new(folder.path(), 7);
        report.file("report.json", 4).unwrap();
        report.data(b"{").unwrap();
        assert!(report.end(1, 4).is_err());
        assert!(!report.is_complete());
        assert_eq!(content(folder.path()), [".l1-0000000000000007.partial"]);
        assert!(report.partial().is_some_and(Path::exists));
    }

    #[test]
    fn a_missing_file_is_noticed() {
        let folder = tempfile::tempdir().unwrap();
        let mut report = Incoming::new(folder.path(), 7);
        report.file("one", 0).unwrap();
        assert!(report.end(2, 0).is_err());
    }

    #[test]
    fn an_l1_cannot_write_elsewhere() {
        let folder = tempfile::tempdir().unwrap();
        let mut report = Incoming::new(folder.path(), 7);
        let deep = "a/".repeat(40) + "b";
        let long = "a".repeat(2000);
        for path in [
            "../x",
            "/etc/passwd",
            "a/../../x",
            "",
            ".",
            "a/./../..",
            "a\0b",
            &deep,
            &long,
        ] {
            assert!(
                matches!(report.file(path, 0), Err(ReportError::Lie(_))),
                "{path:?}"
            );
        }
        assert!(content(folder.path()).is_empty());
    }

    #[test]
    fn a_link_replaces_a_link_and_points_beside_itself_only() {
        let folder = tempfile::tempdir().unwrap();
        symlink("run-0", folder.path().join("latest")).unwrap();
        let mut report = Incoming::new(folder.path(), 7);
        report.file("run-1/x", 0).unwrap();
        report.link("latest", "run-1").unwrap();
        for target in ["..", "/etc", "a/b", ""] {
            assert!(report.link("latest", target).is_err(), "{target:?}");
        }
        report.end(1, 0).unwrap();
        let target = fs::read_link(folder.path().join("latest")).unwrap();
        assert_eq!(target, Path::new("run-1"));
    }

    #[test]
    fn more_than_announced_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let mut report = Incoming::new(folder.path(), 7);
        assert!(report.data(b"x").is_err());
        report.file("one", 1).unwrap();
        assert!(report.data(b"xy").is_err());
        let mut report = Incoming::new(folder.path(), 8);
        assert!(report.file("huge", u64::MAX).is_err());
    }
}
