//! Folder of a run: `reports/<time>-<id>/`, with a link `latest` to the newest.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{OpenOptionsExt, symlink};
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use miette::Diagnostic;
use nix::fcntl::{AT_FDCWD, AtFlags};
use nix::unistd::linkat;
use tdxlab_plan::{HostKind, HostProfile};
use thiserror::Error;

use super::as_text::command_line;
use super::input::is_passed;
use super::journal::{self, Event, Journal, JournalError, PlanId, RunStarted};

/// Name of the symbolic link to the newest run.
pub const LATEST: &str = "latest";

/// The folder of one run.
#[derive(Debug)]
pub struct RunFolder {
    path: PathBuf,
    name: String,
    started: Timestamp,
}

/// Why a run cannot leave its files.
#[derive(Debug, Error, Diagnostic)]
pub enum FolderError {
    /// Something in the folder could not be made.
    #[error("cannot write {}: {source}", path.display())]
    #[diagnostic(
        code(reports::write),
        help("choose another place for reports with --out DIR")
    )]
    Write {
        /// The file or folder.
        path: PathBuf,
        /// The error of the system call.
        source: io::Error,
    },
    /// The journal could not be made.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Journal(#[from] JournalError),
}

impl RunFolder {
    /// Creates the folder of this run below `reports`.
    pub fn create(reports: &Path) -> Result<RunFolder, FolderError> {
        let started = Timestamp::now();
        fs::create_dir_all(reports).map_err(at(reports))?;
        // Two runs that start in the same second differ in the random part; should even that be
        // the same, making the folder fails and another part is drawn.
        for _ in 0..64 {
            let name = format!(
                "{}-{:06x}",
                started.strftime("%Y%m%dT%H%M%SZ"),
                rand::random_range(0..1u32 << 24)
            );
            let path = reports.join(&name);
            match fs::create_dir(&path) {
                Ok(()) => {
                    return Ok(RunFolder {
                        path,
                        name,
                        started,
                    });
                }
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(at(&path)(error)),
            }
        }
        Err(at(reports)(io::ErrorKind::AlreadyExists.into()))
    }

    /// The folder of a run to continue.
    pub fn existing(path: &Path, name: &str, started: Timestamp) -> RunFolder {
        RunFolder {
            path: path.to_owned(),
            name: name.to_owned(),
            started,
        }
    }

    /// The first line of its journal: an empty run, with this program's command line.
    pub fn head(&self, host: HostKind, profile: HostProfile) -> RunStarted {
        RunStarted {
            version: journal::VERSION,
            tdxlab: env!("CARGO_PKG_VERSION").to_owned(),
            run: self.name.clone(),
            started: self.started.to_string(),
            command: command_line(),
            host,
            profile: Some(profile),
            host_reason: String::new(),
            facts: Vec::new(),
            fault: None,
            design: journal::NO_DESIGN.to_owned(),
            seed: None,
            jobs: 1,
            plans: Vec::new(),
            paths: Vec::new(),
            allowed_log: Vec::new(),
            part: None,
            repeat: None,
            merged: Vec::new(),
        }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The name of the run.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// When the run started.
    pub fn started(&self) -> Timestamp {
        self.started
    }

    /// Begins its journal with this line, which is there whole or not at all, and points `latest` to the
    /// run. A run that cannot begin leaves no folder.
    pub fn begin(&self, head: RunStarted) -> Result<Journal, FolderError> {
        let path = self.path.join(journal::FILE);
        let begun = journal::line(0, &Event::RunStarted(head))
            .map_err(|source| at(&path)(source.into()))
            .and_then(|line| write_whole(&path, &line))
            .and_then(|()| Ok(Journal::resume(&path, 0)?))
            .and_then(|journal| self.become_latest().map(|()| journal));
        if begun.is_err() {
            let _ = fs::remove_file(&path);
            let _ = fs::remove_dir(&self.path);
        }
        begun
    }

    /// Creates a journal for events alone.
    pub fn journal(&self) -> Result<Journal, FolderError> {
        Ok(Journal::create(&self.path.join(journal::FILE))?)
    }

    /// The folder of one plan, relative to that of the run. Readable, and unique by its number.
    pub fn of_plan(plan: PlanId, name: &str) -> PathBuf {
        let readable: String = name
            .chars()
            .map(|c| match c {
                'a'..='z' | 'A'..='Z' | '0'..='9' | '-' | '_' | '.' | '=' => c,
                _ => '-',
            })
            .take(80)
            .collect();
        Path::new("scenarios").join(format!("{:04}-{readable}", plan.0))
    }

    /// The link is made inside the new folder and renamed, so that `latest` is always either the
    /// old or the new one, and a runner that is killed here leaves nothing beside it. A folder of that
    /// name, such as a copy that followed the link, is left alone.
    fn become_latest(&self) -> Result<(), FolderError> {
        let fresh = self.path.join(LATEST);
        symlink(&self.name, &fresh).map_err(at(&fresh))?;
        let latest = self.path.with_file_name(LATEST);
        fs::rename(&fresh, &latest).or_else(|error| {
            fs::remove_file(&fresh).map_err(at(&fresh))?;
            match error.kind() {
                io::ErrorKind::IsADirectory => Ok(()),
                _ => Err(at(&latest)(error)),
            }
        })
    }
}

/// Writes a file atomically: whole or not at all. Replaces an existing file.
///
/// The file has no name until it is whole, so that a runner killed meanwhile leaves nothing behind.
/// File systems without O_TMPFILE get a temporary name. A device or a pipe is written to, and not
/// replaced; a link to a file stays one.
pub fn write_whole(path: &Path, content: &[u8]) -> Result<(), FolderError> {
    match fs::metadata(path) {
        Ok(there) if !there.is_file() || is_passed(path) => {
            let file = OpenOptions::new().write(true).open(path);
            return file
                .and_then(|mut file| file.write_all(content))
                .map_err(at(path));
        }
        Ok(_) => {
            let itself = path.canonicalize().map_err(at(path))?;
            return replace(&itself, content).map_err(at(path));
        }
        Err(_) => {}
    }
    replace(path, content).map_err(at(path))
}

fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    let unnamed = OpenOptions::new()
        .write(true)
        .custom_flags(libc::O_TMPFILE)
        .mode(0o644)
        .open(folder);
    match unnamed {
        Ok(file) if !path.exists() => name_it(file, content, path),
        _ => rename_it(folder, content, path),
    }
}

fn name_it(mut file: File, content: &[u8], path: &Path) -> io::Result<()> {
    file.write_all(content)?;
    let itself = format!("/proc/self/fd/{}", file.as_raw_fd());
    match linkat(
        AT_FDCWD,
        itself.as_str(),
        AT_FDCWD,
        path,
        AtFlags::AT_SYMLINK_FOLLOW,
    ) {
        Err(nix::errno::Errno::EEXIST) => {
            rename_it(path.parent().unwrap_or(Path::new(".")), content, path)
        }
        result => Ok(result?),
    }
}

fn rename_it(folder: &Path, content: &[u8], path: &Path) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let mut file = tempfile::Builder::new()
        .prefix(".writing-")
        .permissions(fs::Permissions::from_mode(0o644))
        .tempfile_in(folder)?;
    file.write_all(content)?;
    file.persist(path)?;
    Ok(())
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> FolderError {
    let path = path.to_owned();
    move |source| FolderError::Write { path, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Root may replace a device: `--record /dev/full` once made it a file.
    #[test]
    fn what_is_no_file_is_not_replaced() {
        use std::os::unix::fs::FileTypeExt;
        let folder = tempfile::tempdir().unwrap();
        let pipe = folder.path().join("pipe");
        nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
        // Open for both, so that no open waits.
        let mut end = OpenOptions::new()
            .read(true)
            .write(true)
            .open(&pipe)
            .unwrap();
        write_whole(&pipe, b"four").unwrap();
        let mut said = [0; 4];
        io::Read::read_exact(&mut end, &mut said).unwrap();
        assert_eq!(&said, b"four");
        assert!(fs::metadata(&pipe).unwrap().file_type().is_fifo());
        let file = folder.path().join("file");
        let link = folder.path().join("link");
        write_whole(&file, b"one").unwrap();
        std::os::unix::fs::symlink(&file, &link).unwrap();
        write_whole(&link, b"two").unwrap();
        assert_eq!(fs::read(&file).unwrap(), b"two");
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        let refused = write_whole(folder.path(), b"x").unwrap_err();
        assert!(refused.to_string().contains("Is a directory"), "{refused}");
        let full = write_whole(Path::new("/dev/full"), b"x").unwrap_err();
        assert!(full.to_string().contains("No space left"), "{full}");
        assert!(
            fs::metadata("/dev/full")
                .unwrap()
                .file_type()
                .is_char_device()
        );
    }

    #[test]
    fn runs_that_start_together_have_folders_of_their_own() {
        let reports = tempfile::tempdir().unwrap();
        let names: std::collections::BTreeSet<String> = std::thread::scope(|scope| {
            let begin = || {
                let folder = RunFolder::create(reports.path()).unwrap();
                folder.begin(head(&folder)).unwrap();
                folder.name
            };
            let runs: Vec<_> = (0..8).map(|_| scope.spawn(begin)).collect();
            runs.into_iter().map(|run| run.join().unwrap()).collect()
        });
        assert_eq!(names.len(), 8);
        let latest = fs::read_link(reports.path().join(LATEST)).unwrap();
        assert!(names.contains(latest.to_str().unwrap()));
    }

    fn head(folder: &RunFolder) -> RunStarted {
        folder.head(HostKind::Sim, HostProfile::of(HostKind::Sim))
    }

    /// Else every command that looks at all runs would meet it.
    #[test]
    fn a_run_that_cannot_begin_leaves_nothing() {
        let reports = tempfile::tempdir().unwrap();
        let folder = RunFolder::create(reports.path()).unwrap();
        // No file can replace it.
        fs::create_dir(folder.path().join(journal::FILE)).unwrap();
        assert!(folder.begin(head(&folder)).is_err());
        fs::remove_dir(folder.path().join(journal::FILE)).unwrap();
        assert!(!reports.path().join(LATEST).is_symlink());
        folder.begin(head(&folder)).unwrap();
        assert!(reports.path().join(LATEST).is_symlink());
    }

    #[test]
    fn files_are_written_whole_and_replaced_whole() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("report.json");
        write_whole(&path, b"one").unwrap();
        write_whole(&path, b"two").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"two");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_place_that_cannot_be_written_is_named() {
        let error = RunFolder::create(Path::new("/proc/reports")).unwrap_err();
        assert!(error.to_string().contains("/proc/reports"), "{error}");
    }

    #[test]
    fn plan_folders_are_readable_and_unique() {
        let path = RunFolder::of_plan(PlanId(12), "punch/offsets[offset=4K]");
        assert_eq!(path, Path::new("scenarios/0012-punch-offsets-offset=4K-"));
    }
}
