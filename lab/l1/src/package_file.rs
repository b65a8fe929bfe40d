//! One file of a Debian package, unpacked in the user's cache folder and never installed:
//! `~/.cache/tdxlab/files/PACKAGE/NAME`.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use super::debian::closure::{Archive, ArchiveError, Package};
use super::debian::complaint::Complaint;
use super::debian::deb;
use super::error::L1Error;

/// The file `path` of `package`, such as `usr/share/ovmf/OVMF.fd`: in the cache, or downloaded from
/// Debian.
///
/// # Errors
///
/// The package cannot be had or has no such file, or the cache cannot be written.
pub fn file(cache: &Path, package: &str, path: &str) -> Result<PathBuf, L1Error> {
    let folder = cache.join("files").join(package);
    let kept = folder.join(Path::new(path).file_name().unwrap_or_default());
    if kept.is_file() {
        return Ok(kept);
    }
    let failed = |source| L1Error::Cache {
        folder: folder.clone(),
        source,
    };
    fs::create_dir_all(&folder).map_err(failed)?;
    let work = tempfile::tempdir_in(&folder).map_err(failed)?;
    for (one, archived) in packages(work.path(), package)? {
        if one.name() != package {
            continue;
        }
        let broken = |source| L1Error::BrokenPackage {
            package: archived.clone(),
            source,
        };
        let mut whole = tempfile::NamedTempFile::new_in(&folder).map_err(failed)?;
        let found = deb::with_files(&archived, |tar| unpack(tar, path, &mut whole));
        if !found.map_err(broken)? {
            let what = format!("it holds no {path}");
            return Err(broken(io::Error::other(what)));
        }
        whole.persist(&kept).map_err(|error| failed(error.error))?;
    }
    Ok(kept)
}

/// Copies a file out of a package. Whether it is there.
fn unpack(tar: &mut dyn io::Read, path: &str, to: &mut impl Write) -> io::Result<bool> {
    for entry in tar::Archive::new(tar).entries()? {
        let mut entry = entry?;
        let is_file = entry.header().entry_type().is_file();
        if is_file
            && entry
                .path()?
                .strip_prefix(".")
                .is_ok_and(|own| own == Path::new(path))
        {
            io::copy(&mut entry, to)?;
            return Ok(true);
        }
    }
    Ok(false)
}

/// Downloads a package and what it depends on, to `work`.
pub(super) fn packages(work: &Path, package: &str) -> Result<Vec<(Package, PathBuf)>, L1Error> {
    let said = |error| match error {
        ArchiveError::System(error) if error.kind() == io::ErrorKind::NotFound => L1Error::NoApt {
            package: package.to_owned(),
        },
        ArchiveError::System(error) => Complaint::of(&error).about(package),
        ArchiveError::Refused(complaint) => complaint.about(package),
    };
    let archive = Archive::open(work).map_err(ArchiveError::System);
    let archive = archive.map_err(said)?;
    archive.update().map_err(said)?;
    let packages = archive.closure(&[package]).map_err(said)?;
    archive.download(&[package]).map_err(said)?;
    let with_file = packages.into_iter().map(|one| {
        let path = archive.file(&one);
        (one, path)
    });
    Ok(with_file.collect())
}
