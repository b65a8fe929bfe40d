//! The initramfs of an L1: this program with its libraries, the modules, and the job.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::{fs, io};

use super::cpio::Archive;
use super::elf;
use super::job::{self, Job};
use super::modules::Module;

/// Path of the program in the initramfs.
pub(crate) const PROGRAM: &str = "/tdxlab";

/// Folder of its libraries; the kernel command line passes it to the dynamic linker.
pub(crate) const LIBRARIES: &str = "/lib";

/// Writes the archive.
pub(crate) fn build(job: &Job, modules: &[Module]) -> io::Result<Vec<u8>> {
    let own = fs::read(std::env::current_exe()?)?;
    let program = elf::program(&own)
        .ok_or_else(|| io::Error::other("the running program is no 64-bit ELF file"))?;
    let mut files = Files {
        archive: Archive::new(Vec::new()),
        folders: BTreeSet::new(),
    };

    for folder in ["dev", "proc", "sys", "host", "layer", "root"] {
        files.folder(Path::new(folder))?;
    }
    // The kernel opens it for its first process before anything is mounted.
    files.archive.character_device("dev/console", 5, 1)?;
    files.add(Path::new(PROGRAM), 0o755, &program.loaded)?;
    if let Some(interpreter) = &program.interpreter {
        files.add(interpreter, 0o755, &loaded_part(&fs::read(interpreter)?))?;
        for library in own_libraries()? {
            let name = library.file_name().unwrap_or_default();
            let content = loaded_part(&fs::read(&library)?);
            files.add(&Path::new(LIBRARIES).join(name), 0o755, &content)?;
        }
    }
    for module in modules {
        let path = Path::new(job::MODULES).join(&module.name);
        files.add(&path, 0o644, &module.bytes)?;
    }
    files.add(
        Path::new(job::PATH),
        0o600,
        &serde_json::to_vec_pretty(job)?,
    )?;
    files.archive.finish()
}

/// A library without what only debuggers read.
fn loaded_part(library: &[u8]) -> Vec<u8> {
    elf::program(library).map_or_else(|| library.to_vec(), |program| program.loaded)
}

/// The libraries this process runs with.
fn own_libraries() -> io::Result<BTreeSet<PathBuf>> {
    let maps = fs::read_to_string("/proc/self/maps")?;
    let own = std::env::current_exe()?;
    let mapped = maps
        .lines()
        .filter_map(|line| line.find('/').map(|at| PathBuf::from(&line[at..])));
    let is_library = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        *path != own && (name.ends_with(".so") || name.contains(".so."))
    };
    Ok(mapped.filter(is_library).collect())
}

/// An archive that knows which folders it has.
struct Files {
    archive: Archive<Vec<u8>>,
    folders: BTreeSet<PathBuf>,
}

impl Files {
    fn add(&mut self, path: &Path, permissions: u32, content: &[u8]) -> io::Result<()> {
        let path = path.strip_prefix("/").unwrap_or(path);
        if let Some(parent) = path.parent() {
            self.folder(parent)?;
        }
        self.archive
            .file(&path.to_string_lossy(), permissions, content)
    }

    fn folder(&mut self, path: &Path) -> io::Result<()> {
        let mut above: Vec<_> = path
            .ancestors()
            .filter(|path| !path.as_os_str().is_empty())
            .collect();
        above.reverse();
        for folder in above {
            if self.folders.insert(folder.to_owned()) {
                self.archive.folder(&folder.to_string_lossy())?;
            }
        }
        Ok(())
    }
}
