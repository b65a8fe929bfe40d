//! Finding QEMU and asking it for its version.

use std::ffi::OsStr;
use std::io::Read;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::error::QemuError;
use super::version::{OLDEST, OLDEST_FOR_TDX, Version};

/// Names QEMU in place of the search: a name to look up in PATH, or a path.
pub const PROGRAM_VARIABLE: &str = "TDXLAB_QEMU";

/// Names and paths under which distributions install it.
pub const CANDIDATES: [&str; 3] = ["qemu-system-x86_64", "qemu-kvm", "/usr/libexec/qemu-kvm"];

/// Longest that an answer may take. It takes 15 ms.
const PATIENCE: Duration = Duration::from_secs(20);

/// The same in an L1, which first reads QEMU and its libraries over 9p, with an emulated CPU.
const PATIENCE_IN_L1: Duration = Duration::from_secs(120);

/// Timeout of a QEMU that only prints its version or help.
pub fn patience() -> Duration {
    match std::env::var_os(crate::environment::INSIDE_L1) {
        Some(_) => PATIENCE_IN_L1,
        None => PATIENCE,
    }
}

/// Most bytes of an answer that are read.
const MOST_SAID: u64 = 64 << 10;

/// A QEMU on this machine that reported its version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Installed {
    /// Path of the binary.
    pub program: PathBuf,
    /// Its version.
    pub version: Version,
    /// The whole first line of its answer, with the distribution's own version.
    pub banner: String,
}

impl Installed {
    /// Finds QEMU: the one named in [`PROGRAM_VARIABLE`], else the first of the usual names.
    ///
    /// # Errors
    ///
    /// Missing, not QEMU, or older than `needed`.
    pub fn find(needed: Version) -> Result<Installed, QemuError> {
        match std::env::var_os(PROGRAM_VARIABLE) {
            Some(named) if !named.is_empty() => Installed::first_of(&[named.as_ref()], needed),
            _ => Installed::first_of(&CANDIDATES.map(OsStr::new), needed),
        }
    }

    /// The QEMU at `program`.
    ///
    /// # Errors
    ///
    /// Missing, not QEMU, or older than `needed`.
    pub fn at(program: &Path, needed: Version) -> Result<Installed, QemuError> {
        Installed::first_of(&[program.as_os_str()], needed)
    }

    /// Finds one that starts TDs: QEMU 10.1 or newer, or an older one to which a distribution brought
    /// `tdx-guest`.
    ///
    /// # Errors
    ///
    /// Missing, not QEMU, or older than 10.1 and without that object.
    pub fn find_for_tdx() -> Result<Installed, QemuError> {
        let installed = Installed::find(OLDEST)?;
        if installed.version.reaches(OLDEST_FOR_TDX) || installed.objects().is_ok_and(has_tdx_guest)
        {
            return Ok(installed);
        }
        Err(QemuError::TooOld {
            program: installed.program,
            found: installed.version,
            needed: OLDEST_FOR_TDX,
        })
    }

    /// Output of `-object help`: the object types it supports.
    ///
    /// # Errors
    ///
    /// QEMU cannot be started, or does not end.
    pub fn objects(&self) -> Result<String, QemuError> {
        let (said, answered) = listen(&self.program, &["-object", "help"])?;
        if answered {
            Ok(said)
        } else {
            Err(silent(self.program.clone()))
        }
    }

    /// Version, distribution's version and path, for a report.
    pub fn described(&self) -> String {
        let version = self
            .banner
            .strip_prefix("QEMU emulator version ")
            .unwrap_or(&self.banner);
        format!("{version}, {}", self.program.display())
    }

    fn first_of(names: &[&OsStr], needed: Version) -> Result<Installed, QemuError> {
        let found = names.iter().find_map(|name| look_up(Path::new(name)));
        let Some(program) = found else {
            return Err(QemuError::Missing {
                tried: names
                    .iter()
                    .map(|name| name.to_string_lossy().into_owned())
                    .collect(),
            });
        };
        let installed = ask(program)?;
        if !installed.version.reaches(needed) {
            return Err(QemuError::TooOld {
                program: installed.program,
                found: installed.version,
                needed,
            });
        }
        Ok(installed)
    }
}

/// Whether the output of `-object help` names the object of TDs.
pub fn has_tdx_guest(objects: impl AsRef<str>) -> bool {
    let mut words = objects.as_ref().split_whitespace();
    words.any(|word| word == "tdx-guest")
}

/// Resolves `name`: a path as it is, else the first such file in PATH.
fn look_up(name: &Path) -> Option<PathBuf> {
    if name.components().count() > 1 {
        return name.is_file().then(|| name.to_path_buf());
    }
    std::env::split_paths(&std::env::var_os("PATH")?)
        .map(|folder| folder.join(name))
        .find(|path| path.is_file())
}

/// Asks for the version.
fn ask(program: PathBuf) -> Result<Installed, QemuError> {
    let (said, answered) = listen(&program, &["--version"])?;
    let banner = said.lines().next().unwrap_or_default().trim().to_owned();
    match Version::parse(&banner) {
        Some(version) if banner.contains("QEMU") => Ok(Installed {
            program,
            version,
            banner,
        }),
        _ if !answered => Err(silent(program)),
        _ => Err(QemuError::NotQemu {
            program,
            said: format!("answers {banner:?}, not a QEMU version"),
        }),
    }
}

fn silent(program: PathBuf) -> QemuError {
    QemuError::NotQemu {
        program,
        said: format!("gave no answer within {:?}", patience()),
    }
}

/// Runs a program with bounds on time and output. Returns the output, and whether the program
/// ended.
fn listen(program: &Path, args: &[&str]) -> Result<(String, bool), QemuError> {
    let child = Command::new(program)
        .args(args)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn();
    let mut child = child.map_err(|source| QemuError::CouldNotStart {
        program: program.to_owned(),
        source,
    })?;

    let mut said = Vec::new();
    let mut stdout = child.stdout.take().expect("stdout is piped");
    let answered = read_until_closed(&mut stdout, &mut said);
    // Kill it if it still runs; its output is complete either way.
    let _ = child.kill();
    let _ = child.wait();
    Ok((String::from_utf8_lossy(&said).into_owned(), answered))
}

/// Whether the other end was closed in time.
fn read_until_closed(from: &mut (impl Read + AsFd), into: &mut Vec<u8>) -> bool {
    let until = Instant::now() + patience();
    let mut buffer = [0; 512];
    loop {
        let left = until.saturating_duration_since(Instant::now());
        let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        let mut fds = [PollFd::new(from.as_fd(), PollFlags::POLLIN)];
        match poll(&mut fds, timeout) {
            Ok(0) => return false,
            Ok(_) => {}
            Err(nix::Error::EINTR) => continue,
            Err(_) => return false,
        }
        match from.read(&mut buffer) {
            Ok(0) => return true,
            Ok(count) => into.extend(&buffer[..count]),
            Err(_) => return false,
        }
        if into.len() as u64 > MOST_SAID {
            return true;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_of_distributions_are_read() {
        let debian = "QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7+deb12u18+b3)";
        let fedora = "QEMU emulator version 10.1.2 (qemu-10.1.2-1.fc43)";
        let snapshot = "QEMU emulator version 10.0.50 (v10.0.0-1234-gdeadbeef)";
        assert_eq!(Version::parse(debian).unwrap().to_string(), "7.2.22");
        assert_eq!(Version::parse(fedora).unwrap().to_string(), "10.1.2");
        assert!(Version::parse(snapshot).unwrap() < Version::new(10, 1));
        assert_eq!(Version::parse("QEMU emulator version seven"), None);
        assert_eq!(Version::parse(""), None);
    }

    #[test]
    fn a_path_that_is_not_there_is_missing() {
        let error = Installed::at(Path::new("/nonexistent/qemu"), Version::new(7, 0)).unwrap_err();
        assert!(matches!(error, QemuError::Missing { .. }), "{error}");
    }

    #[test]
    fn another_program_is_not_qemu() {
        let error = Installed::at(Path::new("echo"), Version::new(7, 0)).unwrap_err();
        assert!(matches!(error, QemuError::NotQemu { .. }), "{error}");
    }
}
