//! Content of an initramfs, and the archive the kernel unpacks.

use std::collections::BTreeSet;
use std::io;
use std::path::Path;

use tdxlab_l1::L1Error;
use tdxlab_l1::cpio::Archive;
use tdxlab_l1::package::cache_folder;
use tdxlab_l1::program::{Program, program};
use tdxlab_protocol::linux::QEMU_GA;

use crate::error::LinuxError;
use crate::hash::hash;

/// What an initramfs holds.
#[derive(Debug, Default)]
pub(crate) struct Initramfs {
    /// Files: path, permissions, content.
    files: Vec<(String, u32, Vec<u8>)>,
    /// Symbolic links: path, target.
    links: Vec<(String, String)>,
}

impl Initramfs {
    pub(crate) fn add(&mut self, path: &str, permissions: u32, content: Vec<u8>) {
        let path = path.trim_start_matches('/').to_owned();
        self.files.push((path, permissions, content));
    }

    pub(crate) fn link(&mut self, path: &str, target: &str) {
        self.links.push((path.to_owned(), target.to_owned()));
    }

    /// Folders of files and links that are in no folder of every image.
    fn folders(&self) -> BTreeSet<&str> {
        let paths = self.files.iter().map(|(path, ..)| path);
        let paths = paths.chain(self.links.iter().map(|(path, _)| path));
        let above = paths.flat_map(|path| Path::new(path).ancestors().skip(1));
        let above = above.filter_map(Path::to_str);
        above.filter(|folder| !folder.is_empty()).collect()
    }

    pub(crate) fn archive(&self) -> io::Result<Vec<u8>> {
        let mut archive = Archive::new(Vec::new());
        let always = [
            "dev",
            "proc",
            "sys",
            "modules",
            "modules/report",
            "kexec",
            "root",
            "run",
            "tmp",
        ];
        let folders = always.into_iter().chain(self.folders());
        // A folder comes before what is in it.
        for folder in folders.collect::<BTreeSet<_>>() {
            archive.folder(folder)?;
        }
        // The kernel opens it for its first process before anything is mounted.
        archive.character_device("dev/console", 5, 1)?;
        for (path, permissions, content) in &self.files {
            archive.file(path, *permissions, content)?;
        }
        for (path, target) in &self.links {
            archive.link(path, target)?;
        }
        archive.finish()
    }

    /// The hash of each file, and the target of each link.
    pub(crate) fn parts(&self) -> impl Iterator<Item = (String, String)> {
        let files = self.files.iter();
        let files = files.map(|(path, _, content)| (path.clone(), hash(content)));
        let links = self.links.iter();
        files.chain(links.map(|(path, target)| (path.clone(), format!("link to {target}"))))
    }
}

/// Has Debian's qemu-ga in the cache, for an image that is made where there is no network.
///
/// # Errors
///
/// It cannot be had, or the cache cannot be written.
pub fn fetch_qemu_ga() -> Result<(), L1Error> {
    qemu_ga(&cache_folder()?).map(drop)
}

fn qemu_ga(cache: &Path) -> Result<Program, L1Error> {
    program(cache, "qemu-guest-agent", "qemu-ga")
}

/// Adds Debian's qemu-ga, what it loads, and the programs that it starts.
pub(crate) fn add_qemu_ga(files: &mut Initramfs, cache: &Path) -> Result<(), LinuxError> {
    let qemu_ga = qemu_ga(cache)?;
    files.add(QEMU_GA, 0o755, qemu_ga.program);
    let linker = qemu_ga.interpreter.unwrap_or_default();
    for (name, content) in qemu_ga.libraries {
        let path = match linker.ends_with(&name) {
            true => linker.clone(),
            false => Path::new(LIBRARIES).join(name),
        };
        files.add(&path.to_string_lossy(), 0o755, content);
    }
    for tool in ["sbin/shutdown", "bin/chmod"] {
        files.link(tool, "/init");
    }
    Ok(())
}

/// Where Debian's dynamic linker looks.
const LIBRARIES: &str = "/lib/x86_64-linux-gnu";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_come_before_what_is_in_them() {
        let mut files = Initramfs::default();
        files.add("/usr/sbin/qemu-ga", 0o755, Vec::new());
        files.link("bin/chmod", "/init");
        let folders: Vec<_> = files.folders().into_iter().collect();
        assert_eq!(folders, ["bin", "usr", "usr/sbin"]);
        let archive = files.archive().unwrap();
        let at = |name: &[u8]| archive.windows(name.len()).position(|part| part == name);
        assert!(at(b"usr/sbin\0") < at(b"usr/sbin/qemu-ga\0"));
    }
}
