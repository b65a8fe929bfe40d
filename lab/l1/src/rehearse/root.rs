//! A separate Debian root in a folder: packages unpacked, none configured.

use std::ffi::{CStr, CString};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::{fs, io};

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::stat::{Mode, SFlag, makedev, mknod};

use tdxlab_softtdx::Shell;

use super::error::{RehearsalError, system};
use crate::debian::deb;

/// A root.
#[derive(Debug)]
pub(crate) struct Root {
    path: PathBuf,
}

impl Root {
    /// A new root in `path`, with these packages unpacked.
    pub(crate) fn unpack(
        path: PathBuf,
        packages: impl IntoIterator<Item = PathBuf>,
    ) -> Result<Root, RehearsalError> {
        fs::create_dir_all(&path).map_err(system("making a root"))?;
        for package in packages {
            let unpacked =
                deb::with_files(&package, |files| tar::Archive::new(files).unpack(&path));
            unpacked.map_err(|error| RehearsalError::Failed {
                doing: format!("unpacking {}", package.display()),
                said: error.to_string(),
                advice: "remove the file, which may be cut, and prepare again",
            })?;
        }
        Ok(Root { path })
    }

    /// The root that is in `path` already.
    pub(crate) fn at(path: PathBuf) -> Root {
        Root { path }
    }

    /// A path inside, as seen from outside.
    pub(crate) fn inside(&self, path: &str) -> PathBuf {
        self.path.join(path.trim_start_matches('/'))
    }

    /// The only entry of `folder` whose name starts and ends like this.
    pub(crate) fn entry(&self, folder: &str, start: &str, end: &str) -> Option<String> {
        let names = fs::read_dir(self.inside(folder)).ok()?;
        names
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .find(|name| name.starts_with(start) && name.ends_with(end))
    }

    /// Adds a link that a package's own script would have made.
    pub(crate) fn link(&self, target: &str, path: &str) -> Result<(), RehearsalError> {
        match symlink(target, self.inside(path)) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                Err(system(format!("linking {path}"))(error))
            }
            _ => Ok(()),
        }
    }

    /// Runs a shell script inside, at low priority.
    ///
    /// The script sees this root, `/proc` and the null device. It needs no privileges: without
    /// them, it gets a user namespace. In a container whose root may not mount, it does without
    /// `/proc` and gets a null device of its own.
    fn output(&self, script: &str) -> io::Result<Output> {
        for (outside, inside) in [("/proc", "proc"), ("/dev", "dev"), ("/tmp", "tmp")] {
            fs::create_dir_all(self.inside(inside))
                .map_err(|error| named(error, &format!("making {outside} in a root")))?;
        }
        // All that the build asks `/proc` for, where that cannot be mounted: objtool wants to know
        // its stack, to tell an overflow from other faults.
        let maps = self.inside("proc/self/maps");
        let copied = fs::create_dir_all(self.inside("proc/self"))
            .and_then(|()| fs::write(&maps, fs::read("/proc/self/maps")?));
        copied.map_err(|error| named(error, "making /proc in a root"))?;
        let null = self.inside("dev/null");
        fs::write(&null, "").map_err(|error| named(error, "making a null device in a root"))?;
        let path = |path: &Path| {
            CString::new(path.as_os_str().as_bytes()).expect("a path has no zero byte")
        };
        let (root, proc, null) = (path(&self.path), path(&self.inside("proc")), path(&null));
        let mut command = Command::new("/bin/sh");
        command
            .args(["-e", "-c", script])
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin")
            .env("LC_ALL", "C")
            .env("HOME", "/root")
            .stdin(Stdio::null());
        let identity = nix::unistd::Uid::effective();
        let group = nix::unistd::Gid::effective();
        // SAFETY: between fork and exec only system calls are made, and small files of /proc
        // written; no lock of another thread is taken, since all strings exist already or are
        // formatted into fresh memory, which this allocator allows after fork.
        unsafe {
            command.pre_exec(move || {
                let _ = nix::libc::setpriority(nix::libc::PRIO_PROCESS, 0, 10);
                let may_mount = if identity.is_root() {
                    unshare(CloneFlags::CLONE_NEWNS).is_ok()
                } else {
                    unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNS)?;
                    fs::write("/proc/self/setgroups", "deny")?;
                    fs::write("/proc/self/uid_map", format!("0 {identity} 1"))?;
                    fs::write("/proc/self/gid_map", format!("0 {group} 1"))?;
                    true
                };
                if may_mount {
                    mount_for_script(&proc, &null)?;
                } else {
                    nix::unistd::unlink(null.as_c_str())?;
                    let everybody = Mode::from_bits_truncate(0o666);
                    mknod(null.as_c_str(), SFlag::S_IFCHR, everybody, makedev(1, 3))?;
                }
                nix::unistd::chroot(root.as_c_str())?;
                nix::unistd::chdir("/")?;
                Ok(())
            });
        }
        command.output().map_err(|error| {
            let needs = "a root of its own takes root or unprivileged user namespaces";
            io::Error::new(error.kind(), format!("{error} ({needs})"))
        })
    }

    /// Runs a shell script inside, at low priority, and returns its output.
    pub(crate) fn run(&self, doing: &str, script: &str) -> Result<String, RehearsalError> {
        let output = self.output(script).map_err(system(doing))?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        if output.status.success() {
            return Ok(text);
        }
        let errors = String::from_utf8_lossy(&output.stderr);
        let said = errors
            .lines()
            .find(|line| line.contains("error") || line.contains("***"))
            .or(errors.lines().last());
        Err(RehearsalError::Failed {
            doing: doing.to_owned(),
            said: said.unwrap_or("nothing was said").to_owned(),
            advice: "run it again with --keep and look into the folder named there",
        })
    }
}

/// Adds the step to an error.
fn named(error: io::Error, doing: &str) -> io::Error {
    io::Error::new(error.kind(), format!("{doing}: {error}"))
}

/// Modules are built in a root.
impl Shell for Root {
    fn run(&self, script: &str) -> io::Result<Result<(), String>> {
        let output = self.output(script)?;
        if output.status.success() {
            return Ok(Ok(()));
        }
        let said = [output.stdout, output.stderr].concat();
        Ok(Err(String::from_utf8_lossy(&said).into_owned()))
    }
}

/// Mounts `/proc` and the null device in a root, in a new mount namespace.
fn mount_for_script(proc: &CStr, null: &CStr) -> nix::Result<()> {
    let none: Option<&str> = None;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)?;
    let bind = MsFlags::MS_BIND | MsFlags::MS_REC;
    mount(Some("/proc"), proc, none, bind, none)?;
    mount(Some("/dev/null"), null, none, MsFlags::MS_BIND, none)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_package_that_is_none_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let package = folder.path().join("cut.deb");
        fs::write(&package, "!<arch>\n").unwrap();
        let error = Root::unpack(folder.path().join("root"), [package]).unwrap_err();
        let text = error.to_string();
        assert!(text.contains("cut.deb"), "{text}");
    }
}
