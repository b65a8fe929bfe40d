//! Version of the TDX module that the machine runs.
//!
//! Source: the attribute `version` of the driver tdx-host (`drivers/virt/coco/tdx-host`, Linux 7.3), which
//! follows an update of the module under the running host; else the line that
//! `arch/x86/virt/vmx/tdx/tdx_global_metadata.c` prints when the module is initialised, which does not.

use std::path::{Path, PathBuf};
use std::{fs, io};

use tdxlab_journal::Reading;

use crate::kmsg;

/// The attribute, below the root of sysfs.
pub(crate) const ATTRIBUTE: &str = "devices/faux/tdx_host/version";

/// The kernel's line when it initialises the module, up to the version.
const LINE: &str = "virt/tdx: Module version: ";
/// That of an update, up to the versions: `1.5.28 -> 1.5.34`.
const UPDATED: &str = "virt/tdx: version ";
/// Part of that of kernels before TDX was merged, and of vendors' kernels:
/// `TDX module: attributes 0x0, vendor_id 0x8086, major_version 1, minor_version 5, build_date 20240129, build_num 784`.
const OF_VENDORS: &str = "TDX module: attributes ";

/// Places to read the version from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sources {
    /// Root of sysfs.
    pub sysfs: PathBuf,
    /// The kernel log.
    pub kmsg: PathBuf,
}

impl Default for Sources {
    /// Those of this machine.
    fn default() -> Sources {
        Sources {
            sysfs: "/sys".into(),
            kmsg: kmsg::DEVICE.into(),
        }
    }
}

/// A version, and how it was found out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Version {
    /// As the kernel has it: `1.5.28`.
    pub number: String,
    /// Whether it is the version now: the kernel log has that of the boot.
    pub is_current: bool,
}

impl std::fmt::Display for Version {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.number)?;
        match self.is_current {
            true => Ok(()),
            false => f.write_str(", when it was initialised, by the kernel log"),
        }
    }
}

impl Sources {
    /// The version, or why it is not known.
    pub fn version(&self) -> Reading<Version> {
        let path = self.sysfs.join(ATTRIBUTE);
        let why = match fs::read_to_string(&path) {
            Ok(text) => match number(text.trim()) {
                Some(number) => {
                    return Reading::Read(Version {
                        number,
                        is_current: true,
                    });
                }
                None => format!("{} holds no version: {:?}", path.display(), text.trim()),
            },
            Err(error) => unreadable(&path, &error),
        };
        match self.logged() {
            Ok(Some(number)) => Reading::Read(Version {
                number,
                is_current: false,
            }),
            Ok(None) => Reading::missing(format!("{why}; the kernel log does not name it")),
            Err(error) => {
                Reading::missing(format!("{why}; the kernel log cannot be read: {error}"))
            }
        }
    }

    /// The version that the kernel log has, the newest of several.
    fn logged(&self) -> io::Result<Option<String>> {
        let lines = kmsg::since_boot(&self.kmsg, |line| in_line(line).is_some())?;
        let versions = lines.iter().rev();
        Ok(versions.filter_map(|line| in_line(line)).next())
    }
}

/// The version in a line of the kernel log that tells it.
pub(crate) fn in_line(line: &str) -> Option<String> {
    if let Some((_, fields)) = line.split_once(OF_VENDORS) {
        let field = |name| {
            let (_, rest) = fields.split_once(name)?;
            let end = rest.find(|c: char| !c.is_ascii_digit());
            rest.get(..end.unwrap_or(rest.len()).min(9))
        };
        let (major, minor) = (field("major_version ")?, field("minor_version ")?);
        return Some(format!("{major}.{minor}, build {}", field("build_num ")?));
    }
    let updated = line.strip_prefix(UPDATED);
    match updated.and_then(|versions| versions.split_once(" -> ")) {
        Some((_, now)) => number(now),
        None => number(line.strip_prefix(LINE)?),
    }
}

/// A version of three numbers.
pub(crate) fn number(text: &str) -> Option<String> {
    let parts: Vec<&str> = text.trim().split('.').collect();
    let digits = |part: &&str| {
        (1..=5).contains(&part.len()) && part.bytes().all(|byte| byte.is_ascii_digit())
    };
    (parts.len() == 3 && parts.iter().all(digits)).then(|| parts.join("."))
}

fn unreadable(path: &Path, error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound => format!(
            "no {} (Linux 7.3, CONFIG_TDX_HOST_SERVICES: modprobe tdx-host)",
            path.display()
        ),
        _ => format!("{}: {error}", path.display()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A machine with this attribute and this kernel log.
    fn machine(attribute: Option<&str>, log: &str) -> (tempfile::TempDir, Sources) {
        let folder = tempfile::tempdir().unwrap();
        let sources = Sources {
            sysfs: folder.path().join("sys"),
            kmsg: folder.path().join("kmsg"),
        };
        if let Some(text) = attribute {
            let path = sources.sysfs.join(ATTRIBUTE);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        fs::write(&sources.kmsg, log).unwrap();
        (folder, sources)
    }

    const LOGGED: &str = "6,1,1,-;virt/tdx: Module version: 1.5.28\n";

    #[test]
    fn sysfs_knows_the_version_of_now() {
        let (_folder, sources) = machine(Some("2.0.18\n"), LOGGED);
        let version = sources.version().value().unwrap().to_string();
        assert_eq!(version, "2.0.18");
    }

    #[test]
    fn the_log_knows_the_version_of_the_boot() {
        let (_folder, sources) = machine(None, LOGGED);
        let reading = sources.version();
        let version = reading.value().unwrap();
        assert_eq!(
            (version.number.as_str(), version.is_current),
            ("1.5.28", false)
        );
    }

    /// A user program can write a line that looks like the kernel's.
    #[test]
    fn what_a_program_wrote_is_no_version() {
        let (_folder, sources) = machine(None, "14,1,1,-;virt/tdx: Module version: 9.9.9\n");
        assert_eq!(sources.version().value(), None);
    }

    #[test]
    fn an_unknown_version_is_missing_with_the_reason() {
        for attribute in [
            None,
            Some("garbled"),
            Some("1.5"),
            Some("1.5.28.1"),
            Some(""),
        ] {
            let (_folder, sources) = machine(attribute, "");
            let Reading::Missing { reason } = sources.version() else {
                panic!("{attribute:?}");
            };
            assert!(reason.contains("tdx_host/version"), "{reason}");
            assert!(
                reason.contains("the kernel log does not name it"),
                "{reason}"
            );
        }
    }
}
