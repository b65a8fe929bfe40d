//! Opening what a user names to be read.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;

/// Opens a file, a device, or a pipe that a shell passes as `/dev/fd/63` or `/dev/stdin`.
///
/// # Errors
///
/// It cannot be opened, or is a named pipe: opening one waits for a writer, perhaps for ever.
pub fn open(path: &Path) -> io::Result<File> {
    if !is_passed(path) && path.metadata()?.file_type().is_fifo() {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "it is a named pipe, not a file; /dev/stdin takes what is piped",
        ));
    }
    File::open(path)
}

/// Whether a path names what the system or a shell gives a program: nothing that is replaced, or that
/// waits for another program to open it.
pub(crate) fn is_passed(path: &Path) -> bool {
    path.starts_with("/dev") || path.starts_with("/proc")
}

#[cfg(test)]
mod tests {
    use nix::sys::stat::Mode;

    use super::*;

    #[test]
    fn a_pipe_without_a_writer_is_not_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let pipe = folder.path().join("pipe");
        nix::unistd::mkfifo(&pipe, Mode::S_IRUSR).unwrap();
        let error = open(&pipe).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
        assert!(open(Path::new("/dev/null")).is_ok());
        let missing = open(&folder.path().join("none")).unwrap_err();
        assert_eq!(missing.kind(), io::ErrorKind::NotFound);
    }
}
