//! A text file of all answers the doctor got from a machine, to reproduce its report elsewhere.
//!
//! A header describes the machine. Each answer follows its path, or has an error number instead. A
//! path that ends in a slash is a folder, and its answer the list of entries.
//!
//! ```text
//! # Recorded on ...
//! --- /proc/sys/kernel/yama/ptrace_scope
//! 1
//! --- /sys/kernel/debug/kvm/ (errno 13)
//! ```
//!
//! Answers that come from no file are under `/answers`:
//!
//! | path | content |
//! |---|---|
//! | `kernel-log` | messages of the kernel, oldest first |
//! | `key-ids-of-cgroup` | how many more TDs the cgroup of the process allows, or `max` |
//! | `kvm` | lines of a capability's number and KVM_CHECK_EXTENSION's answer |
//! | `kvm-probe` | result of running a guest: status, finding, advice |
//! | `memlock` | RLIMIT_MEMLOCK in bytes, or `unlimited` |
//! | `processors` | number of processors |
//! | `qemu-program`, `qemu-version`, `qemu-objects` | path, output of `--version` and of `-object help` |
//! | `uid` | the effective user |

use std::collections::BTreeMap;
use std::{fmt, io};

/// Prefix of a path.
const MARK: &str = "--- ";

/// Answers of a machine by path; an error number for a refusal.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MachineRecording {
    about: String,
    answers: BTreeMap<String, Result<String, i32>>,
}

impl MachineRecording {
    /// Whether it has no answer at all.
    pub fn is_empty(&self) -> bool {
        self.answers.is_empty()
    }

    /// Parses a recording. Text that does not fit the format is skipped, so its answer is missing.
    pub fn parse(text: &str) -> MachineRecording {
        let mut recording = MachineRecording::default();
        let mut path: Option<String> = None;
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        for line in text.lines() {
            if let Some(head) = line.strip_prefix(MARK) {
                let (name, answer) = match errno_of(head) {
                    Some((name, errno)) => (name, Err(errno)),
                    None => (head, Ok(String::new())),
                };
                recording.answers.insert(name.to_owned(), answer);
                path = Some(name.to_owned());
                continue;
            }
            let into = match &path {
                None => &mut recording.about,
                Some(path) => match recording.answers.get_mut(path) {
                    Some(Ok(content)) => content,
                    _ => continue,
                },
            };
            into.push_str(line);
            into.push('\n');
        }
        recording
    }

    /// Adds a header line about the machine.
    pub(super) fn describe(&mut self, about: &str) {
        self.about = format!("# {about}\n");
    }

    /// Records an answer, without unneeded data and without data that identifies the machine.
    pub(super) fn note(&mut self, path: &str, answer: &io::Result<String>) {
        let kept = match answer {
            Ok(content) => Ok(without_surplus(path, content)),
            Err(error) => Err(error.raw_os_error().unwrap_or(libc::EIO)),
        };
        self.answers.insert(path.to_owned(), kept);
    }

    /// Adds a line to an answer.
    pub(super) fn note_line(&mut self, path: &str, line: &str) {
        if let Ok(content) = self
            .answers
            .entry(path.to_owned())
            .or_insert(Ok(String::new()))
            && !content.lines().any(|known| known == line)
        {
            content.push_str(line);
            content.push('\n');
        }
    }

    /// The recorded answer.
    ///
    /// # Errors
    ///
    /// The recorded one, or [`is_unrecorded`].
    pub(super) fn answer(&self, path: &str) -> io::Result<String> {
        match self.answers.get(path) {
            Some(Ok(content)) => Ok(content.trim().to_owned()),
            Some(Err(errno)) => Err(io::Error::from_raw_os_error(*errno)),
            None => Err(unrecorded()),
        }
    }

    /// Entries of a folder.
    ///
    /// # Errors
    ///
    /// The recorded one, or [`is_unrecorded`].
    pub(super) fn folder(&self, path: &str) -> io::Result<Vec<String>> {
        let prefix = format!("{path}/");
        if let Some(Err(errno)) = self.answers.get(&prefix) {
            return Err(io::Error::from_raw_os_error(*errno));
        }
        let noted = self
            .answers
            .get(&prefix)
            .and_then(|noted| noted.as_ref().ok());
        let mut names: Vec<String> = noted
            .iter()
            .flat_map(|names| names.lines())
            .map(str::to_owned)
            .collect();
        for below in self
            .answers
            .keys()
            .filter_map(|key| key.strip_prefix(&prefix))
        {
            let name = below.split('/').next().unwrap_or_default();
            if !name.is_empty() && !names.iter().any(|known| known == name) {
                names.push(name.to_owned());
            }
        }
        match (names.is_empty(), noted) {
            (true, None) => Err(unrecorded()),
            _ => Ok(names),
        }
    }
}

fn unrecorded() -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, "not in the recording")
}

/// Whether an answer is missing because the recording is not a whole one.
pub(super) fn is_unrecorded(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound && error.raw_os_error().is_none()
}

/// Parses `PATH (errno N)`.
fn errno_of(head: &str) -> Option<(&str, i32)> {
    let (name, rest) = head.strip_suffix(')')?.rsplit_once(" (errno ")?;
    Some((name, rest.parse().ok()?))
}

/// Beginnings of those words of a kernel's command line that have to do with TDX or KVM. Others may
/// identify the machine.
const PARAMETERS: [&str; 9] = [
    "kvm",
    "tdx",
    "nohibernate",
    "hibernate=",
    "noxsave",
    "clearcpuid=",
    "nosmt",
    "nr_cpus=",
    "maxcpus=",
];

fn parameters_of_tdx(command_line: &str) -> String {
    let words = command_line.split_whitespace();
    let kept = words.filter(|word| PARAMETERS.iter().any(|start| word.starts_with(start)));
    kept.collect::<Vec<_>>().join(" ") + "\n"
}

fn without_surplus(path: &str, content: &str) -> String {
    let lines: Vec<&str> = match path {
        // One processor is like the other.
        "/proc/cpuinfo" => content
            .lines()
            .take_while(|line| !line.trim().is_empty())
            .collect(),
        "/proc/meminfo" => content
            .lines()
            .filter(|line| line.starts_with("Mem") || line.starts_with("Huge"))
            .collect(),
        "/proc/cmdline" => return parameters_of_tdx(content),
        _ => content.lines().collect(),
    };
    let mut kept = String::new();
    for line in lines {
        // It would look like a path.
        kept.push_str(if line.starts_with(MARK) { " " } else { "" });
        kept.push_str(line);
        kept.push('\n');
    }
    kept
}

impl fmt::Display for MachineRecording {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.about)?;
        for (path, answer) in &self.answers {
            match answer {
                Ok(content) => write!(f, "{MARK}{path}\n{content}")?,
                Err(errno) => writeln!(f, "{MARK}{path} (errno {errno})")?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_and_refusals_come_back() {
        let mut recording = MachineRecording::default();
        recording.describe("A machine.");
        recording.note("/a", &Ok("1\n2".to_owned()));
        recording.note("/b", &Err(io::Error::from_raw_os_error(libc::EACCES)));
        recording.note("/c/", &Ok(String::new()));
        recording.note("/d", &Ok("--- /not/a/path".to_owned()));
        recording.note_line("/answers/kvm", "7 1");
        recording.note_line("/answers/kvm", "7 1");
        let text = recording.to_string();
        assert_eq!(MachineRecording::parse(&text), recording, "{text}");
        assert_eq!(recording.answer("/a").unwrap(), "1\n2");
        let refused = recording.answer("/b").unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::PermissionDenied);
        assert_eq!(
            recording.answer("/x").unwrap_err().kind(),
            io::ErrorKind::NotFound
        );
        assert_eq!(recording.folder("/c").unwrap(), [""; 0]);
        assert_eq!(recording.folder("/answers").unwrap(), ["kvm"]);
        assert!(recording.folder("/x").is_err());
        assert_eq!(recording.answer("/answers/kvm").unwrap(), "7 1");
    }

    #[test]
    fn one_processor_stands_for_all() {
        let mut recording = MachineRecording::default();
        recording.note("/proc/cpuinfo", &Ok("a : 1\nb : 2\n\na : 1\n".to_owned()));
        recording.note(
            "/proc/cmdline",
            &Ok("root=UUID=7 kvm_intel.tdx=0 quiet nohibernate".to_owned()),
        );
        assert_eq!(
            recording.answer("/proc/cmdline").unwrap(),
            "kvm_intel.tdx=0 nohibernate"
        );
        recording.note(
            "/proc/meminfo",
            &Ok("MemFree: 1 kB\nSwap: 2 kB\n".to_owned()),
        );
        assert_eq!(recording.answer("/proc/cpuinfo").unwrap(), "a : 1\nb : 2");
        assert_eq!(recording.answer("/proc/meminfo").unwrap(), "MemFree: 1 kB");
    }
}
