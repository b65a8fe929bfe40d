//! A program of a Debian package with the libraries it loads, for a guest: unpacked in the user's cache
//! folder and never installed.
//!
//! ```text
//! ~/.cache/tdxlab/programs/
//!   qemu-ga/
//!     program.json     version of the package; written last
//!     program          the program
//!     lib/             the libraries, and the dynamic linker, by the names that it loads
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::{fs, io};

use serde::{Deserialize, Serialize};

use super::debian::deb;
use super::elf;
use super::error::L1Error;
use super::package_file::packages;

/// Largest library that is taken.
const LARGEST: u64 = 64 << 20;

/// A program in the cache.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Program {
    /// Version of its package.
    pub version: String,
    /// The program.
    pub program: Vec<u8>,
    /// Path of its dynamic linker; `None` of a static program.
    pub interpreter: Option<PathBuf>,
    /// What it loads, by file name, the dynamic linker among it.
    pub libraries: BTreeMap<String, Vec<u8>>,
}

/// `program.json`.
#[derive(Debug, Serialize, Deserialize)]
struct Made {
    package: String,
    version: String,
}

/// The program `name` of `package`: from the cache, or downloaded from Debian.
///
/// # Errors
///
/// The package cannot be had, is broken, or the cache cannot be written.
pub fn program(cache: &Path, package: &str, name: &str) -> Result<Program, L1Error> {
    let folder = cache.join("programs").join(name);
    if let Ok(program) = open(&folder) {
        return Ok(program);
    }
    let failed = |source| L1Error::Cache {
        folder: folder.clone(),
        source,
    };
    let above = folder.parent().expect("a folder of the cache");
    fs::create_dir_all(above).map_err(failed)?;
    let work = tempfile::tempdir_in(above).map_err(failed)?;
    let made = download(work.path(), package, name)?;
    let whole = tempfile::tempdir_in(above).map_err(failed)?;
    keep(&made, package, whole.path()).map_err(failed)?;
    if fs::rename(whole.path(), &folder).is_ok() {
        let _moved = whole.keep();
    } else if open(&folder).is_err() {
        // Another run was not faster: what is there is broken.
        fs::remove_dir_all(&folder).map_err(failed)?;
        fs::rename(whole.path(), &folder).map_err(failed)?;
        let _moved = whole.keep();
    }
    Ok(made)
}

fn open(folder: &Path) -> io::Result<Program> {
    let made: Made = serde_json::from_slice(&fs::read(folder.join("program.json"))?)?;
    let program = fs::read(folder.join("program"))?;
    let mut libraries = BTreeMap::new();
    for entry in fs::read_dir(folder.join("lib"))? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        libraries.insert(name, fs::read(entry.path())?);
    }
    Ok(Program {
        version: made.version,
        interpreter: elf::program(&program).and_then(|program| program.interpreter),
        program,
        libraries,
    })
}

fn keep(made: &Program, package: &str, folder: &Path) -> io::Result<()> {
    fs::create_dir(folder.join("lib"))?;
    for (name, bytes) in &made.libraries {
        fs::write(folder.join("lib").join(name), bytes)?;
    }
    fs::write(folder.join("program"), &made.program)?;
    let text = serde_json::to_vec_pretty(&Made {
        package: package.to_owned(),
        version: made.version.clone(),
    })?;
    fs::write(folder.join("program.json"), text)
}

fn download(work: &Path, package: &str, name: &str) -> Result<Program, L1Error> {
    let packages = packages(work, package)?;
    let mut files = Files::default();
    for (_, path) in &packages {
        let read = deb::with_files(path, |tar| files.take(tar, name));
        read.map_err(|source| L1Error::BrokenPackage {
            package: path.clone(),
            source,
        })?;
    }
    let own = packages.iter().find(|(one, _)| one.name() == package);
    let version = own.map(|(own, _)| own.version()).unwrap_or_default();
    files
        .program(version)
        .map_err(|what| L1Error::BrokenPackage {
            package: PathBuf::from(package),
            source: io::Error::new(io::ErrorKind::InvalidData, what),
        })
}

/// What packages hold of programs and libraries.
#[derive(Debug, Default)]
struct Files {
    program: Option<Vec<u8>>,
    libraries: BTreeMap<String, Vec<u8>>,
    /// Other names of libraries, and the file names behind them.
    links: BTreeMap<String, String>,
}

impl Files {
    /// Takes libraries out of a package, and the program `name`.
    fn take(&mut self, tar: &mut dyn Read, name: &str) -> io::Result<()> {
        for entry in tar::Archive::new(tar).entries()? {
            let mut entry = entry?;
            let path = entry.path()?.into_owned();
            let text = |path: &Path| {
                let name = path.file_name().unwrap_or_default();
                name.to_string_lossy().into_owned()
            };
            let (file, folder) = (text(&path), text(path.parent().unwrap_or(Path::new(""))));
            let kind = entry.header().entry_type();
            let is_library = matches!(folder.as_str(), "x86_64-linux-gnu" | "lib64" | "lib");
            if kind.is_file() && file == name && matches!(folder.as_str(), "bin" | "sbin") {
                self.program = Some(read(&mut entry)?);
            } else if kind.is_file() && is_library && file.contains(".so") {
                self.libraries.insert(file, read(&mut entry)?);
            } else if kind.is_symlink() && is_library && file.contains(".so") {
                let target = entry.link_name()?.unwrap_or_default();
                let target = text(&target);
                // The dynamic linker is also a link to itself, in another folder.
                if target != file {
                    self.links.insert(file, target);
                }
            }
        }
        Ok(())
    }

    /// The program with all that it loads.
    fn program(mut self, version: String) -> Result<Program, String> {
        let program = self.program.take().ok_or("it holds no such program")?;
        let parsed = elf::program(&program).ok_or("its program is no 64-bit ELF file")?;
        let mut wanted = elf::libraries(&program).ok_or("its program names no libraries")?;
        let linker = parsed.interpreter.as_deref().and_then(Path::file_name);
        wanted.extend(linker.map(|linker| linker.to_string_lossy().into_owned()));
        let (mut libraries, mut seen) = (BTreeMap::new(), BTreeSet::new());
        while let Some(name) = wanted.pop() {
            if !seen.insert(name.clone()) {
                continue;
            }
            let target = self.links.get(&name).unwrap_or(&name);
            let bytes = self.libraries.get(target);
            let bytes = bytes.ok_or_else(|| format!("none of its packages has {name}"))?;
            wanted.extend(elf::libraries(bytes).ok_or_else(|| format!("{target} is no library"))?);
            libraries.insert(name, bytes.clone());
        }
        Ok(Program {
            version,
            program,
            interpreter: parsed.interpreter,
            libraries,
        })
    }
}

fn read(entry: &mut impl Read) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    entry.take(LARGEST + 1).read_to_end(&mut bytes)?;
    match bytes.len() as u64 > LARGEST {
        true => Err(io::Error::other(format!(
            "a file of more than {LARGEST} bytes"
        ))),
        false => Ok(bytes),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A package's files: paths with content, or with the target of a link.
    fn tar(files: &[(&str, Result<&[u8], &str>)]) -> Vec<u8> {
        let mut tar = tar::Builder::new(Vec::new());
        for (path, content) in files {
            let mut header = tar::Header::new_gnu();
            match content {
                Ok(bytes) => {
                    header.set_size(bytes.len() as u64);
                    header.set_cksum();
                    tar.append_data(&mut header, path, *bytes).unwrap();
                }
                Err(target) => {
                    header.set_entry_type(tar::EntryType::Symlink);
                    header.set_size(0);
                    tar.append_link(&mut header, path, target).unwrap();
                }
            }
        }
        tar.into_inner().unwrap()
    }

    /// A library of this machine, which needs no other but the dynamic linker.
    fn library(name: &str) -> Vec<u8> {
        fs::read(Path::new("/lib/x86_64-linux-gnu").join(name)).unwrap()
    }

    #[test]
    fn a_program_comes_with_what_it_loads_and_no_more() {
        let program = fs::read("/bin/true").unwrap();
        let (libc, linker) = (library("libc.so.6"), library("ld-linux-x86-64.so.2"));
        let package = tar(&[
            ("./usr/sbin/true", Ok(&program)),
            ("./usr/share/true", Ok(b"no program")),
            ("./usr/lib/x86_64-linux-gnu/libc-2.so", Ok(&libc)),
            ("./usr/lib/x86_64-linux-gnu/libc.so.6", Err("libc-2.so")),
            ("./usr/lib/x86_64-linux-gnu/libother.so.1", Ok(b"other")),
            (
                "./usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2",
                Ok(&linker),
            ),
            (
                "./usr/lib64/ld-linux-x86-64.so.2",
                Err("../lib/x86_64-linux-gnu/ld-linux-x86-64.so.2"),
            ),
        ]);
        let mut files = Files::default();
        files.take(&mut &package[..], "true").unwrap();
        let found = files.program("1".to_owned()).unwrap();
        assert_eq!(found.program, program);
        let names: Vec<_> = found.libraries.keys().map(String::as_str).collect();
        assert_eq!(names, ["ld-linux-x86-64.so.2", "libc.so.6"]);
        assert_eq!(found.libraries["libc.so.6"], libc);

        let folder = tempfile::tempdir().unwrap();
        keep(&found, "true", folder.path()).unwrap();
        assert_eq!(open(folder.path()).unwrap(), found);
        fs::remove_file(folder.path().join("program")).unwrap();
        assert!(open(folder.path()).is_err());
    }

    #[test]
    fn a_program_that_is_not_whole_is_named() {
        let program = fs::read("/bin/true").unwrap();
        let found = |files: &[(&str, Result<&[u8], &str>)]| {
            let mut found = Files::default();
            found.take(&mut &tar(files)[..], "true").unwrap();
            found.program("1".to_owned()).unwrap_err()
        };
        assert_eq!(found(&[]), "it holds no such program");
        assert!(found(&[("./usr/bin/true", Ok(b"text"))]).contains("no 64-bit ELF"));
        let without = found(&[("./usr/bin/true", Ok(&program))]);
        assert!(
            without.starts_with("none of its packages has "),
            "{without}"
        );
    }
}
