//! Error output of apt.

use std::io;
use std::process::Output;

use crate::error::L1Error;

/// An error of apt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Complaint {
    said: String,
}

/// apt's messages for an unreachable mirror.
const NOT_REACHED: [&str; 10] = [
    "Temporary failure resolving",
    "Could not resolve",
    "Could not connect",
    "Cannot initiate the connection",
    "Unable to connect",
    "Connection failed",
    "Connection timed out",
    "Connection refused",
    "Network is unreachable",
    "No route to host",
];

impl Complaint {
    pub(super) fn new(said: &str) -> Complaint {
        Complaint {
            said: said.trim().to_owned(),
        }
    }

    pub(crate) fn of(error: &io::Error) -> Complaint {
        Complaint::new(&error.to_string())
    }

    /// The first thing that apt complained of: an error, or else a file that it could not fetch.
    pub(super) fn in_output(output: &Output) -> Option<Complaint> {
        let text = String::from_utf8_lossy(&output.stderr);
        let starts = ["E: ", "Err:", "W: Failed to fetch"];
        let found = starts.iter().find_map(|start| {
            let mut lines = text.lines().map(str::trim);
            lines.find(|line| line.starts_with(start))
        })?;
        let said = found.trim_start_matches("E: ").trim_start_matches("W: ");
        Some(Complaint::new(said.trim_start_matches("Err:")))
    }

    /// For an apt that failed without a message.
    pub(super) fn ended(output: &Output) -> Complaint {
        Complaint::new(&format!("apt ended with {}", output.status))
    }

    /// The error text.
    pub(crate) fn said(&self) -> &str {
        &self.said
    }

    /// Whether it is about the network rather than about a package.
    pub(super) fn is_unreachable(&self) -> bool {
        NOT_REACHED.iter().any(|text| self.said.contains(text))
    }

    /// The host in `Failed to fetch http://HOST/PATH  REASON`.
    fn mirror(&self) -> Option<&str> {
        let mut words = self.said.split_whitespace();
        let (_, rest) = words.find_map(|word| word.split_once("://"))?;
        rest.split('/').next()
    }

    /// The error about `package` that it makes.
    pub(crate) fn about(self, package: &str) -> L1Error {
        let package = package.to_owned();
        let Complaint { said } = self.clone();
        if !self.is_unreachable() {
            return L1Error::NoPackage { package, said };
        }
        L1Error::Unreachable {
            package,
            mirror: self.mirror().unwrap_or("its mirror").to_owned(),
            said,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(stderr: &str) -> Output {
        Output {
            status: std::process::ExitStatus::default(),
            stdout: Vec::new(),
            stderr: stderr.as_bytes().to_vec(),
        }
    }

    #[test]
    fn a_network_that_is_down_is_told_from_a_package_that_is_not_there() {
        // Output of `apt-get update`, with an exit code of 0.
        let down = said(
            "W: Download is performed unsandboxed as root\n\
             W: Failed to fetch http://deb.debian.org/debian/dists/bookworm/InRelease  Temporary \
             failure resolving 'deb.debian.org'\n\
             W: Some index files failed to download.\n",
        );
        let error = Complaint::in_output(&down)
            .unwrap()
            .about("linux-image-amd64");
        assert!(
            matches!(&error, L1Error::Unreachable { mirror, .. } if mirror == "deb.debian.org"),
            "{error}"
        );
        let gone = said(
            "E: Failed to fetch http://deb.debian.org/debian/pool/l/linux_6.1.deb  404  Not Found\n",
        );
        let error = Complaint::in_output(&gone)
            .unwrap()
            .about("linux-image-amd64");
        assert!(error.to_string().ends_with("404  Not Found"), "{error}");
        assert!(matches!(error, L1Error::NoPackage { .. }), "{error}");
        assert_eq!(Complaint::in_output(&said("W: harmless\n")), None);
    }
}
