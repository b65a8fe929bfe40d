//! A user's own disk image: its format, and how QEMU opens it. It is never written: QEMU keeps what the
//! guest writes in a temporary file without a name.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use imago::qcow2::Qcow2;
use imago::{FormatAccess, FormatDriverBuilder, PermissiveImplicitOpenGate};

use crate::error::LinuxError;
use crate::loaders::{self, Loaders};

/// Start of every qcow2 image. Source: docs/interop/qcow2.txt of QEMU.
const QCOW2: [u8; 4] = *b"QFI\xfb";

/// A disk image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Disk {
    path: PathBuf,
    format: Format,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    Raw,
    Qcow2,
}

impl Disk {
    /// Looks at the image.
    ///
    /// # Errors
    ///
    /// There is none, it cannot be read, or it is no disk.
    pub fn open(path: &Path) -> Result<Disk, LinuxError> {
        let failed = |source| LinuxError::Disk {
            path: path.to_owned(),
            source,
        };
        let mut file = File::open(path).map_err(failed)?;
        let about = file.metadata().map_err(failed)?;
        if about.is_dir() {
            return Err(failed(io::ErrorKind::IsADirectory.into()));
        }
        if about.is_file() && about.len() == 0 {
            return Err(failed(io::Error::other("the file is empty")));
        }
        let mut start = Vec::new();
        let read = file.by_ref().take(4).read_to_end(&mut start);
        read.map_err(failed)?;
        let format = match start == QCOW2 {
            true => Format::Qcow2,
            false => Format::Raw,
        };
        // The path is QEMU's, too, whatever its folder.
        let path = path.canonicalize().map_err(failed)?;
        Ok(Disk { path, format })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What on it can start it.
    ///
    /// # Errors
    ///
    /// It cannot be read so far: not every kind of qcow2 that QEMU knows can.
    pub fn loaders(&self) -> io::Result<Loaders> {
        match self.format {
            Format::Raw => {
                let file = File::open(&self.path)?;
                loaders::look(&mut |at, buffer| file.read_exact_at(buffer, at))
            }
            Format::Qcow2 => {
                // A backing file is named by the image, as for QEMU.
                let image = Qcow2::<imago::file::File>::builder_path(&self.path);
                let image = image.open(PermissiveImplicitOpenGate::default())?;
                let image = FormatAccess::new(image);
                loaders::look(&mut |at, buffer| image.read(buffer, at))
            }
        }
    }

    /// Argument of `-drive`, for a backend of this name.
    pub(crate) fn drive(&self, id: &str) -> String {
        let format = match self.format {
            Format::Raw => "raw",
            Format::Qcow2 => "qcow2",
        };
        // Where the temporary file finds no room, the guest gets an error, and does not stand still.
        format!(
            "id={id},if=none,format={format},snapshot=on,werror=report,file={}",
            self.path.display().to_string().replace(',', ",,")
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_is_what_it_starts_with_and_never_written() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a,b.img");
        std::fs::write(&path, b"QFI\xfb and more").unwrap();
        let drive = Disk::open(&path).unwrap().drive("disk");
        assert!(drive.contains("format=qcow2,snapshot=on"), "{drive}");
        assert!(drive.ends_with("/a,,b.img"), "{drive}");
        std::fs::write(&path, [0; 512]).unwrap();
        assert!(
            Disk::open(&path)
                .unwrap()
                .drive("disk")
                .contains("format=raw,snapshot=on")
        );
    }

    #[test]
    fn what_is_no_image_is_refused_by_name() {
        let folder = tempfile::tempdir().unwrap();
        let empty = folder.path().join("empty");
        std::fs::write(&empty, "").unwrap();
        for (path, says) in [
            (folder.path().join("none"), "No such file"),
            (folder.path().to_owned(), "directory"),
            (empty, "empty"),
        ] {
            let error = Disk::open(&path).unwrap_err().to_string();
            assert!(error.contains(says), "{error}");
            assert!(error.contains(&path.display().to_string()), "{error}");
        }
    }

    #[test]
    fn what_starts_a_qcow2_is_read_out_of_it() {
        use imago::file::File;
        use imago::{DenyImplicitOpenGate, FormatCreateBuilder, Storage, StorageCreateOptions};

        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("disk.qcow2");
        let file = File::create_open(StorageCreateOptions::new().filename(&path)).unwrap();
        let image = Qcow2::<File>::create_builder(file).size(1 << 20);
        let image = image.create_open(DenyImplicitOpenGate::default(), |image| {
            Ok(Qcow2::<File>::builder(image).write(true))
        });
        let image = FormatAccess::new(image.unwrap());
        let mut first = vec![0; loaders::SECTOR];
        first[446 + 4] = 0xef;
        first[510..].copy_from_slice(&[0x55, 0xaa]);
        image.write(&first, 0).unwrap();
        image.flush().unwrap();
        drop(image);
        let found = Disk::open(&path).unwrap().loaders().unwrap();
        assert!(found.uefi && !found.bios, "{found:?}");
        std::fs::write(&path, b"QFI\xfb and nothing that follows").unwrap();
        assert!(Disk::open(&path).unwrap().loaders().is_err());
    }
}
