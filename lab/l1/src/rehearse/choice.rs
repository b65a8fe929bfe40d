//! The kernel of a rehearsal: one that Debian packages, or one that a developer has built.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// Argument of `rehearse --kernel`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Choice {
    /// A kernel that Debian packages.
    Distributed(Distributed),
    /// The image of a kernel that was built from the tree of `--source`.
    Image(PathBuf),
}

/// A kernel that Debian packages.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Distributed {
    /// The newest one.
    #[default]
    Newest,
    /// The newest one of this version.
    Version(Version),
}

/// The first two numbers of a kernel's version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    major: u32,
    minor: u32,
}

/// The first kernel whose KVM runs TDs.
const FIRST_WITH_TDX: Version = Version {
    major: 6,
    minor: 16,
};

impl Distributed {
    /// Name of the link to its parts, in the cache.
    pub(super) fn link(&self) -> String {
        match self {
            Distributed::Newest => "current".to_owned(),
            Distributed::Version(version) => format!("current-{version}"),
        }
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

impl FromStr for Version {
    type Err = String;

    fn from_str(text: &str) -> Result<Version, String> {
        let numbers = text.split_once('.').and_then(|(major, minor)| {
            Some(Version {
                major: major.parse().ok()?,
                minor: minor.parse().ok()?,
            })
        });
        let version = numbers.ok_or_else(|| format!("{text:?} is no version, such as 7.2"))?;
        if version < FIRST_WITH_TDX {
            return Err(format!(
                "KVM runs TDs from Linux {FIRST_WITH_TDX} on, not in {version}"
            ));
        }
        Ok(version)
    }
}

impl FromStr for Choice {
    type Err = String;

    /// `newest`, a version of two numbers, or a path (with a slash, or of a file that is there).
    fn from_str(text: &str) -> Result<Choice, String> {
        match text {
            "newest" => Ok(Choice::Distributed(Distributed::Newest)),
            _ if text.contains('/') || Path::new(text).is_file() => Ok(Choice::Image(text.into())),
            _ => {
                let version = text.parse().map_err(|why| {
                    format!("{why}; write `newest`, a version, or the path of an image")
                })?;
                Ok(Choice::Distributed(Distributed::Version(version)))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_is_a_version_or_an_image() {
        let parse = |text: &str| text.parse::<Choice>();
        let newest = Choice::Distributed(Distributed::Newest);
        assert_eq!(parse("newest"), Ok(newest));
        let Ok(Choice::Distributed(version)) = parse("7.2") else {
            panic!("a version");
        };
        assert_eq!(version.link(), "current-7.2");
        assert_eq!(parse("./bzImage"), Ok(Choice::Image("./bzImage".into())));
        for text in ["7", "7.2.1", "bzImage", "", "7.x"] {
            let error = parse(text).unwrap_err();
            assert!(error.contains("is no version"), "{text}: {error}");
        }
    }

    #[test]
    fn kernels_without_tdx_are_refused_before_a_download() {
        let error = "6.12".parse::<Choice>().unwrap_err();
        assert!(error.contains("from Linux 6.16 on, not in 6.12"), "{error}");
        assert!("6.16".parse::<Choice>().is_ok());
    }
}
