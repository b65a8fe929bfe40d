//! apt with its own lists, sources and package status, independent of the machine's.

use std::ffi::OsString;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::{fs, io};

use super::complaint::Complaint;

/// Where Debian's packages are when the machine's own lists do not say.
const DEBIAN: &str = "http://deb.debian.org/debian";

/// Keys of Debian's archive, oldest name first.
const KEYRINGS: [&str; 2] = [
    "/usr/share/keyrings/debian-archive-keyring.gpg",
    "/usr/share/keyrings/debian-archive-keyring.pgp",
];

/// apt with one set of package lists.
#[derive(Debug)]
pub(super) struct Apt {
    options: Vec<OsString>,
}

impl Apt {
    /// apt with the machine's own sources and lists.
    pub(super) fn of_machine() -> Apt {
        let options = [
            "-qq",
            "-oAcquire::Languages=none",
            "-oAcquire::Retries=1",
            "-oAcquire::http::Timeout=20",
            "-oAcquire::https::Timeout=20",
        ];
        Apt {
            options: options.into_iter().map(OsString::from).collect(),
        }
    }

    /// apt with its lists and downloads in `folder`; with these suites of Debian, or with the
    /// machine's own sources where there are none.
    pub(super) fn of_folder(folder: &Path, suites: &[&str]) -> io::Result<Apt> {
        let mut apt = Apt::of_machine();
        fs::create_dir_all(folder.join("lists/partial"))?;
        fs::create_dir_all(folder.join("cache/archives/partial"))?;
        apt.set("Dir::State", folder);
        apt.set("Dir::State::lists", &folder.join("lists"));
        apt.set("Dir::State::status", Path::new("/var/lib/dpkg/status"));
        apt.set("Dir::Cache", &folder.join("cache"));
        apt.set(
            "Acquire::IndexTargets::deb::DEP-11::DefaultEnabled",
            Path::new("false"),
        );
        if !suites.is_empty() {
            let sources = folder.join("sources.list");
            let keyring = KEYRINGS.into_iter().find(|path| Path::new(path).exists());
            let signed = keyring
                .map(|path| format!("[signed-by={path}] "))
                .unwrap_or_default();
            let mirror = mirror().unwrap_or_else(|| DEBIAN.to_owned());
            let lines = suites.iter();
            let lines = lines.map(|suite| format!("deb {signed}{mirror} {suite} main\n"));
            fs::write(&sources, lines.collect::<String>())?;
            apt.set("Dir::Etc::sourcelist", &sources);
            apt.set("Dir::Etc::sourceparts", Path::new("/dev/null"));
        }
        Ok(apt)
    }

    /// Sets one of apt's options.
    pub(super) fn set(&mut self, name: &str, value: &Path) {
        let mut option = OsString::from(format!("-o{name}="));
        option.push(value);
        self.options.push(option);
    }

    /// Runs `apt-get` or `apt-cache` in `folder`.
    pub(super) fn run(
        &self,
        program: &str,
        arguments: &[&str],
        folder: &Path,
    ) -> io::Result<Output> {
        Command::new(program)
            .args(&self.options)
            .args(arguments)
            .current_dir(folder)
            .env("LC_ALL", "C")
            .stdin(Stdio::null())
            .output()
    }

    /// Runs `apt-get` in `folder`; the complaint where it does not end well.
    pub(super) fn get(
        &self,
        arguments: &[&str],
        folder: &Path,
    ) -> io::Result<Result<Output, Complaint>> {
        let output = self.run("apt-get", arguments, folder)?;
        Ok(match output.status.success() {
            true => Ok(output),
            false => {
                Err(Complaint::in_output(&output).unwrap_or_else(|| Complaint::ended(&output)))
            }
        })
    }
}

/// The Debian mirror this machine uses.
fn mirror() -> Option<String> {
    let arguments = [
        "indextargets",
        "--format",
        "$(REPO_URI)",
        "Created-By: Packages",
        "Origin: Debian",
    ];
    let output = Apt::of_machine()
        .run("apt-get", &arguments, Path::new("/"))
        .ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    let not_security = |line: &&str| !line.contains("security");
    text.lines()
        .find(not_security)
        .map(|line| line.trim_end_matches('/').to_owned())
}
