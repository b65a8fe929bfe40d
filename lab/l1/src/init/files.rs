//! The file system of an L1: the host's root, read only over 9p, below a layer in memory.
//!
//! ```text
//! /host    the host's root, 9p, read only
//! /layer   tmpfs: what the L1 writes
//! /root    overlay of both; the command's root
//! ```
//!
//! A kernel without overlayfs gets the host's root as it is, with tmpfs over the folders that
//! programs write to.

use std::fs;
use std::io::{self, Read};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use nix::mount::{MsFlags, mount};

use super::super::job;
use super::super::message::{CHUNK, Cause, Message, Stage};
use super::line::Line;
use super::{Failure, failure};

const HOST: &str = "/host";
const LAYER: &str = "/layer";
const ROOT: &str = "/root";

/// A file system to mount: type, folder, options, and the module that brings it where the L1
/// cannot do without.
struct Mount {
    kind: &'static str,
    at: &'static str,
    options: &'static str,
}

const fn mounts(kind: &'static str, at: &'static str, options: &'static str) -> Mount {
    Mount { kind, at, options }
}

/// Mounts of the first process.
const EARLY: [Mount; 3] = [
    mounts("proc", "/proc", ""),
    mounts("sysfs", "/sys", ""),
    mounts("devtmpfs", "/dev", "mode=0755"),
];

/// Mounts in the command's root, in this order. The kernel's views are new mounts: only `/dev` and
/// `/run` differ from the host's on purpose.
const INSIDE: [Mount; 9] = [
    mounts("proc", "/proc", ""),
    mounts("sysfs", "/sys", ""),
    mounts("debugfs", "/sys/kernel/debug", ""),
    mounts("tracefs", "/sys/kernel/tracing", ""),
    mounts("devtmpfs", "/dev", "mode=0755"),
    mounts("devpts", "/dev/pts", "mode=0620,ptmxmode=0666"),
    mounts("tmpfs", "/dev/shm", "mode=1777"),
    mounts("hugetlbfs", "/dev/hugepages", ""),
    mounts("tmpfs", "/run", "mode=0755"),
];

/// Mounts [`EARLY`].
pub(super) fn mount_early() -> io::Result<()> {
    for early in EARLY {
        attach(
            early.kind,
            early.kind,
            Path::new(early.at),
            MsFlags::empty(),
            early.options,
        )?;
    }
    Ok(())
}

/// The command's files.
pub(super) struct Files {
    /// Folder of written files; `None` without overlayfs.
    upper: Option<PathBuf>,
    root: PathBuf,
}

impl Files {
    /// Mounts them. Failures of optional mounts are noted only.
    pub(super) fn mount(line: &Line) -> Result<Files, Failure> {
        host()?;
        let tmpfs = attach(
            "tmpfs",
            "tdxlab",
            Path::new(LAYER),
            MsFlags::empty(),
            "mode=0755",
        );
        tmpfs.map_err(|error| failure(Stage::Files, "mount tmpfs", &error))?;
        let files = match overlay() {
            Ok(()) => Files {
                upper: Some(Path::new(LAYER).join("upper")),
                root: ROOT.into(),
            },
            Err(error) => {
                let _ = line.send(&Message::Note(format!(
                    "no overlayfs ({error}): all files but those in /run, /tmp, /var/tmp are read only"
                )));
                for folder in ["/host/tmp", "/host/var/tmp"] {
                    let _ = attach(
                        "tmpfs",
                        "tmpfs",
                        Path::new(folder),
                        MsFlags::empty(),
                        "mode=1777",
                    );
                }
                Files {
                    upper: None,
                    root: HOST.into(),
                }
            }
        };
        for inside in INSIDE {
            let at = files.root.join(inside.at.trim_start_matches('/'));
            let _ = fs::create_dir(&at);
            let attached = attach(
                inside.kind,
                inside.kind,
                &at,
                MsFlags::empty(),
                inside.options,
            );
            if let Err(error) = attached {
                let _ = line.send(&Message::Note(format!(
                    "no {} ({}): {error}",
                    inside.at, inside.kind
                )));
            }
        }
        Ok(files)
    }

    /// The command's root folder.
    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    /// Sends the files below `folder` (absolute, as the command sees it) that the L1 wrote.
    pub(super) fn send_report(&self, folder: &str, line: &Line) -> io::Result<()> {
        let base = self.upper.as_ref().unwrap_or(&self.root);
        let folder = base.join(folder.trim_start_matches('/'));
        let (mut files, mut bytes) = (0, 0);
        let mut folders = vec![folder.clone()];
        while let Some(current) = folders.pop() {
            let entries = match fs::read_dir(&current) {
                // No file was written there: an empty report, for the lab to judge.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                entries => entries?,
            };
            for entry in entries {
                let entry = entry?;
                let kind = entry.file_type()?;
                if kind.is_dir() {
                    folders.push(entry.path());
                } else if kind.is_symlink() {
                    send_link(&folder, &entry.path(), line)?;
                } else if kind.is_file() {
                    bytes += send_file(&folder, &entry.path(), line)?;
                    files += 1;
                }
            }
        }
        line.send(&Message::ReportEnd { files, bytes })
    }
}

/// Sends one file; the result is its size.
fn send_file(folder: &Path, path: &Path, line: &Line) -> io::Result<u64> {
    let name = path.strip_prefix(folder).unwrap_or(path);
    let name = name
        .to_str()
        .ok_or_else(|| io::Error::other(format!("{}: not UTF-8", name.display())))?;
    // The command has ended, so the size no longer changes.
    let content = fs::File::open(path)?;
    let size = content.metadata()?.len();
    line.send(&Message::File {
        path: name.to_owned(),
        size,
    })?;
    let mut content = content.take(size);
    let mut chunk = vec![0; CHUNK];
    loop {
        match content.read(&mut chunk)? {
            0 => return Ok(size),
            length => line.send(&Message::Data(chunk[..length].to_vec()))?,
        }
    }
}

/// Sends a link to a target in the same folder; others are dangling outside.
fn send_link(folder: &Path, path: &Path, line: &Line) -> io::Result<()> {
    let target = fs::read_link(path)?;
    let name = path.strip_prefix(folder).unwrap_or(path);
    match (name.to_str(), target.to_str()) {
        (Some(name), Some(target)) if target != ".." && !target.contains('/') => {
            line.send(&Message::Link {
                path: name.to_owned(),
                target: target.to_owned(),
            })
        }
        _ => Ok(()),
    }
}

/// Mounts the host's root.
fn host() -> Result<(), Failure> {
    // cache=loose lets the L1 cache the host's files; none that matters changes meanwhile.
    let options = "trans=virtio,version=9p2000.L,msize=512000,cache=loose";
    let attached = attach(
        "9p",
        job::HOST_TAG,
        Path::new(HOST),
        MsFlags::MS_RDONLY,
        options,
    );
    attached.map_err(|error| match error.raw_os_error() {
        Some(libc::ENODEV) => (
            Stage::Files,
            Cause::Lacks {
                module: "9p".to_owned(),
            },
        ),
        // No virtio transport, or no device of that tag.
        Some(libc::ENOENT | libc::ESRCH | libc::EINVAL | libc::EPROTONOSUPPORT)
            if !Path::new("/sys/bus/virtio/drivers/9pnet_virtio").exists() =>
        {
            let pci = Path::new("/sys/bus/pci/drivers/virtio-pci").exists();
            let module = if pci { "9pnet_virtio" } else { "virtio_pci" };
            (
                Stage::Files,
                Cause::Lacks {
                    module: module.to_owned(),
                },
            )
        }
        _ => failure(Stage::Files, "mount 9p", &error),
    })
}

/// Puts the layer over the host's root.
fn overlay() -> io::Result<()> {
    let mut folder = fs::DirBuilder::new();
    folder.mode(0o755);
    folder.create(Path::new(LAYER).join("upper"))?;
    folder.create(Path::new(LAYER).join("work"))?;
    let options = format!("lowerdir={HOST},upperdir={LAYER}/upper,workdir={LAYER}/work");
    attach(
        "overlay",
        "overlay",
        Path::new(ROOT),
        MsFlags::empty(),
        &options,
    )
}

fn attach(kind: &str, source: &str, at: &Path, flags: MsFlags, options: &str) -> io::Result<()> {
    Ok(mount(Some(source), at, Some(kind), flags, Some(options))?)
}
