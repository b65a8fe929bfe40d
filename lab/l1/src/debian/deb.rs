//! The files inside a Debian package.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::process::{Command, Stdio};

use crate::unpack::{self, Packing};

/// Calls `each` with a reader of the tar archive of the package's files.
///
/// dpkg-deb unpacks it where there is one, on all CPUs; else the lab does.
pub(crate) fn with_files<T>(
    package: &Path,
    each: impl FnOnce(&mut dyn Read) -> io::Result<T>,
) -> io::Result<T> {
    let dpkg = Command::new("dpkg-deb")
        .arg("--fsys-tarfile")
        .arg(package)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    match dpkg {
        Ok(mut dpkg) => {
            let mut tar = dpkg.stdout.take().expect("stdout is a pipe");
            let result = each(&mut tar);
            // Read past the archive's end mark, or dpkg-deb dies of SIGPIPE.
            let rest = io::copy(&mut tar, &mut io::sink());
            let output = dpkg.wait_with_output()?;
            let value = result?;
            rest?;
            if !output.status.success() {
                let said = String::from_utf8_lossy(&output.stderr);
                return Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    said.trim().to_owned(),
                ));
            }
            Ok(value)
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => with_own_means(package, each),
        Err(error) => Err(error),
    }
}

/// [`with_files`] without dpkg-deb.
fn with_own_means<T>(
    package: &Path,
    each: impl FnOnce(&mut dyn Read) -> io::Result<T>,
) -> io::Result<T> {
    let mut archive = ar::Archive::new(File::open(package)?);
    while let Some(entry) = archive.next_entry() {
        let mut entry = entry?;
        if !entry.header().identifier().starts_with(b"data.tar") {
            continue;
        }
        let mut magic = [0; 6];
        entry.read_exact(&mut magic)?;
        let packing = Packing::of(&magic);
        let mut tar = unpack::reader(packing, magic.as_slice().chain(entry))?;
        let value = each(&mut tar)?;
        io::copy(&mut tar, &mut io::sink())?;
        return Ok(value);
    }
    Err(io::Error::new(
        io::ErrorKind::InvalidData,
        "it holds no data.tar",
    ))
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::path::PathBuf;

    use super::*;

    /// A package with one file, its data packed by gzip.
    fn package(folder: &Path) -> PathBuf {
        let mut tar = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_size(4);
        header.set_mode(0o644);
        header.set_cksum();
        tar.append_data(&mut header, "./boot/vmlinuz-6.1", &b"lab\n"[..])
            .unwrap();
        let gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        let mut gzip = gzip;
        gzip.write_all(&tar.into_inner().unwrap()).unwrap();
        let data = gzip.finish().unwrap();
        let path = folder.join("kernel.deb");
        let mut archive = ar::Builder::new(File::create(&path).unwrap());
        for (name, bytes) in [
            ("debian-binary", &b"2.0\n"[..]),
            ("control.tar.gz", b""),
            ("data.tar.gz", &data),
        ] {
            let header = ar::Header::new(name.as_bytes().to_vec(), bytes.len() as u64);
            archive.append(&header, bytes).unwrap();
        }
        path
    }

    fn names(tar: &mut dyn Read) -> io::Result<Vec<PathBuf>> {
        let mut archive = tar::Archive::new(tar);
        let entries = archive.entries()?;
        entries
            .map(|entry| Ok(entry?.path()?.into_owned()))
            .collect()
    }

    #[test]
    fn a_package_opens_without_dpkg() {
        let folder = tempfile::tempdir().unwrap();
        let files = with_own_means(&package(folder.path()), names).unwrap();
        assert_eq!(files, [PathBuf::from("boot/vmlinuz-6.1")]);
    }

    #[test]
    fn both_ways_see_the_same_files() {
        let folder = tempfile::tempdir().unwrap();
        let package = package(folder.path());
        assert_eq!(
            with_files(&package, names).unwrap(),
            with_own_means(&package, names).unwrap()
        );
    }

    #[test]
    fn a_cut_package_is_an_error_both_ways() {
        let folder = tempfile::tempdir().unwrap();
        let package = package(folder.path());
        let bytes = std::fs::read(&package).unwrap();
        for length in [0, 7, 60, 100, bytes.len() - 40, bytes.len() - 12] {
            std::fs::write(&package, &bytes[..length]).unwrap();
            assert!(
                with_files(&package, names).is_err(),
                "{length} of {}",
                bytes.len()
            );
            assert!(
                with_own_means(&package, names).is_err(),
                "{length} of {}",
                bytes.len()
            );
        }
    }
}
