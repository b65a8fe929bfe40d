//! Access to the machine (or to a recording of one), and its basic facts.

use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use kvm_ioctls::Kvm;
use nix::sys::resource::{Resource, getrlimit};
use parking_lot::Mutex;
use tdxlab_qemu::installed::CANDIDATES;
use tdxlab_qemu::{Installed, QemuError, Version};

use super::printed_log;
use super::recording::{MachineRecording, is_unrecorded};
use crate::doctor::fact::Fact;
use crate::gmem_attributes;
use crate::kmsg;
use crate::meminfo::field_kib;

/// The kernel's version.
pub(super) const RELEASE: &str = "/proc/sys/kernel/osrelease";
/// The path that stands for the number of processors.
const PROCESSORS: &str = "/answers/processors";
/// That of RLIMIT_MEMLOCK.
pub(super) const MEMLOCK: &str = "/answers/memlock";
/// Those of QEMU's version, and of the objects it can make.
pub(super) const QEMU_VERSION: &str = "/answers/qemu-version";
pub(super) const QEMU_OBJECTS: &str = "/answers/qemu-objects";

/// A machine to be examined: this one, or one whose answers were recorded.
#[derive(Clone, Debug)]
pub struct ThisMachine {
    answers: Answers,
}

/// Source of answers.
#[derive(Clone, Debug)]
enum Answers {
    /// This machine; answers are recorded if there is a tape.
    This(Option<Arc<Mutex<MachineRecording>>>),
    Recorded(MachineRecording),
}

impl ThisMachine {
    /// This machine.
    pub fn this() -> ThisMachine {
        ThisMachine {
            answers: Answers::This(None),
        }
    }

    /// This machine, recording all answers; see [`ThisMachine::recording`].
    pub fn recorder() -> ThisMachine {
        ThisMachine {
            answers: Answers::This(Some(Arc::default())),
        }
    }

    /// A machine that is elsewhere.
    pub fn recorded(recording: MachineRecording) -> ThisMachine {
        ThisMachine {
            answers: Answers::Recorded(recording),
        }
    }

    /// The answers recorded so far; empty unless made by [`ThisMachine::recorder`].
    pub fn recording(&self) -> MachineRecording {
        let mut recording = match &self.answers {
            Answers::This(None) => MachineRecording::default(),
            Answers::This(Some(tape)) => tape.lock().clone(),
            Answers::Recorded(recording) => recording.clone(),
        };
        recording.describe(&format!(
            "Recorded by tdxlab {}.",
            env!("CARGO_PKG_VERSION")
        ));
        recording
    }

    /// The recorded answer for a path; `None` on this machine.
    pub(super) fn recorded_answer(&self, path: &str) -> Option<io::Result<String>> {
        match &self.answers {
            Answers::Recorded(recording) => Some(recording.answer(path)),
            Answers::This(_) => None,
        }
    }

    /// The answer to a question that has a path: read and recorded, or from the recording.
    pub(super) fn answer(
        &self,
        path: &str,
        look: impl FnOnce() -> io::Result<String>,
    ) -> io::Result<String> {
        match &self.answers {
            Answers::Recorded(recording) => recording.answer(path),
            Answers::This(tape) => {
                let answer = look();
                if let Some(tape) = tape {
                    tape.lock().note(path, &answer);
                }
                answer
            }
        }
    }

    /// Result of KVM_CHECK_EXTENSION.
    pub(super) fn kvm_extension(&self, capability: u32) -> io::Result<i32> {
        const PATH: &str = "/answers/kvm";
        let tape = match &self.answers {
            Answers::This(tape) => tape,
            Answers::Recorded(recording) => {
                let text = recording.answer(PATH)?;
                let answer = text.lines().find_map(|line| {
                    let (number, value) = line.split_once(' ')?;
                    (number.parse() == Ok(capability))
                        .then(|| value.trim().parse())?
                        .ok()
                });
                // A kernel that does not know a capability answers 0.
                return Ok(answer.unwrap_or(0));
            }
        };
        let answer = Kvm::new()
            .map(|kvm| kvm.check_extension_raw(capability.into()))
            .map_err(|error| io::Error::from_raw_os_error(error.errno()));
        match (tape, &answer) {
            (None, _) => {}
            (Some(tape), Ok(value)) => {
                tape.lock()
                    .note_line(PATH, &format!("{capability} {value}"));
            }
            (Some(tape), Err(error)) => {
                let errno = error.raw_os_error().unwrap_or(libc::EIO);
                tape.lock()
                    .note(PATH, &Err(io::Error::from_raw_os_error(errno)));
            }
        }
        answer
    }

    /// Whether a guest_memfd of its KVM keeps private and shared itself. Tried on one of an empty VM.
    pub(super) fn gmem_has_attributes(&self) -> io::Result<bool> {
        let answer = self.answer("/answers/guest-memfd-attributes", || {
            gmem_attributes::is_known().map(|known| if known { "yes" } else { "no" }.to_owned())
        });
        answer.map(|answer| answer == "yes")
    }

    /// Messages of its kernel that satisfy `wanted`, oldest first.
    pub(super) fn kernel_messages(&self, wanted: impl Fn(&str) -> bool) -> io::Result<Vec<String>> {
        let text = self.answer("/answers/kernel-log", || {
            Ok(kmsg::since_boot(Path::new(kmsg::DEVICE), &wanted)?.join("\n"))
        })?;
        let lines = match &self.answers {
            Answers::Recorded(_) => printed_log::messages(&text),
            Answers::This(_) => text.lines().map(str::to_owned).collect(),
        };
        Ok(lines.into_iter().filter(|line| wanted(line)).collect())
    }

    /// Its QEMU, if that is `needed` or newer.
    pub(super) fn qemu(&self, needed: Version) -> Result<Installed, QemuError> {
        let Answers::Recorded(recording) = &self.answers else {
            if let Answers::This(Some(_)) = &self.answers {
                self.note_qemu();
            }
            return Installed::find(needed);
        };
        let missing = || QemuError::Missing {
            tried: CANDIDATES.map(str::to_owned).to_vec(),
        };
        let banner = recording.answer(QEMU_VERSION).map_err(|_| missing())?;
        let banner = banner.lines().next().unwrap_or_default().to_owned();
        let program = recording
            .answer("/answers/qemu-program")
            .unwrap_or_else(|_| "/usr/bin/qemu-system-x86_64".to_owned());
        let program = PathBuf::from(program);
        let version = Version::parse(&banner).ok_or_else(missing)?;
        if !version.reaches(needed) {
            return Err(QemuError::TooOld {
                program,
                found: version,
                needed,
            });
        }
        Ok(Installed {
            program,
            version,
            banner,
        })
    }

    /// The fact of this name that stands on what a recording does not have; `None` where it has it.
    pub(super) fn unrecorded(&self, name: &str, path: &str) -> Option<Fact> {
        let Answers::Recorded(recording) = &self.answers else {
            return None;
        };
        let missing = |error: io::Error| is_unrecorded(&error);
        let lacks = recording.answer(path).is_err_and(missing)
            && recording.folder(path).is_err_and(missing);
        lacks.then(|| Fact::limited(name, format!("{path} is not in the recording")))
    }

    /// Records any QEMU, even one that is too old.
    fn note_qemu(&self) {
        let found = Installed::find(Version::new(0, 0));
        let about = |what: fn(&Installed) -> String| match &found {
            Ok(installed) => Ok(what(installed)),
            Err(_) => Err(io::Error::from_raw_os_error(libc::ENOENT)),
        };
        let _ = self.answer(QEMU_VERSION, || about(|installed| installed.banner.clone()));
        let _ = self.answer("/answers/qemu-program", || {
            about(|installed| installed.program.display().to_string())
        });
    }

    /// Output of that QEMU for `-object help`.
    pub(super) fn qemu_objects(&self, qemu: &Installed) -> Result<String, QemuError> {
        if let Answers::Recorded(recording) = &self.answers {
            return Ok(recording.answer(QEMU_OBJECTS).unwrap_or_default());
        }
        let objects = qemu.objects()?;
        let _ = self.answer(QEMU_OBJECTS, || Ok(objects.clone()));
        Ok(objects)
    }

    /// The text of a small file, without white space around it.
    pub(super) fn read(&self, path: &str) -> io::Result<String> {
        self.answer(path, || {
            std::fs::read_to_string(path).map(|text| text.trim().to_owned())
        })
    }

    /// Entries of a folder. For folders whose entries reveal their owner, use
    /// [`ThisMachine::may_list`].
    pub(super) fn list(&self, path: &str) -> io::Result<Vec<String>> {
        if let Answers::Recorded(recording) = &self.answers {
            return recording.folder(path);
        }
        let names = self.answer(&format!("{path}/"), || {
            let mut names: Vec<String> = std::fs::read_dir(path)?
                .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
                .collect();
            names.sort();
            Ok(names.join("\n"))
        })?;
        Ok(names.lines().map(str::to_owned).collect())
    }

    /// Whether a folder can be looked into.
    pub(super) fn may_list(&self, path: &str) -> io::Result<()> {
        if let Answers::Recorded(recording) = &self.answers {
            return recording.folder(path).map(drop);
        }
        self.answer(&format!("{path}/"), || {
            std::fs::read_dir(path).map(|_| String::new())
        })
        .map(drop)
    }

    /// Whether a file, which may be a device, can be opened for this.
    pub(super) fn may_open(&self, path: &str, wanted: Access) -> io::Result<()> {
        self.answer(path, || {
            OpenOptions::new()
                .read(wanted == Access::Read)
                .write(wanted == Access::Write)
                .custom_flags(libc::O_NONBLOCK)
                .open(path)
                .map(|_| String::new())
        })
        .map(drop)
    }

    pub(super) fn exists(&self, path: &str) -> bool {
        self.may_list(path).is_ok()
    }

    /// Whether the effective user is root.
    pub(super) fn is_root(&self) -> bool {
        let uid = self.answer("/answers/uid", || Ok(nix::unistd::geteuid().to_string()));
        uid.is_ok_and(|uid| uid == "0")
    }

    /// How many processors it has.
    pub(super) fn processors(&self) -> Option<usize> {
        let count = self.answer(PROCESSORS, || {
            std::thread::available_parallelism().map(|count| count.to_string())
        });
        count.ok()?.parse().ok()
    }

    /// Bytes a process may lock; `u64::MAX` without a limit.
    pub(super) fn memlock(&self) -> io::Result<u64> {
        const UNLIMITED: &str = "unlimited";
        let limit = self.answer(MEMLOCK, || {
            let (soft, _) = getrlimit(Resource::RLIMIT_MEMLOCK)?;
            Ok(match soft {
                libc::RLIM_INFINITY => UNLIMITED.to_owned(),
                bytes => bytes.to_string(),
            })
        })?;
        match limit.as_str() {
            UNLIMITED => Ok(u64::MAX),
            bytes => bytes
                .parse()
                .map_err(|_| io::Error::from_raw_os_error(libc::EINVAL)),
        }
    }

    /// Major and minor version of its kernel.
    pub(super) fn kernel_version(&self) -> Option<(u32, u32)> {
        let release = self.read(RELEASE).ok()?;
        let mut parts = release.split(['.', '-']);
        Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
    }
}

/// The mode to open a file with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Access {
    /// Reading.
    Read,
    /// Writing.
    Write,
}

pub(super) fn kernel(machine: &ThisMachine) -> Fact {
    match machine.read(RELEASE) {
        Ok(release) => Fact::usable("kernel", format!("Linux {release}")),
        Err(error) => Fact::limited("kernel", format!("/proc is not readable: {error}")),
    }
}

/// Processors and memory.
pub(super) fn memory(machine: &ThisMachine) -> Fact {
    let unknown = [PROCESSORS, "/proc/meminfo"]
        .iter()
        .find_map(|path| machine.unrecorded("memory", path));
    if let Some(unknown) = unknown {
        return unknown;
    }
    let processors = machine.processors().unwrap_or(1);
    let available = machine
        .read("/proc/meminfo")
        .ok()
        .and_then(|text| field_kib(&text, "MemAvailable:"))
        .map(|kib| kib / 1024);
    let found = match available {
        Some(mib) => format!("{processors} processors, {mib} MiB available"),
        None => format!("{processors} processors, memory unknown"),
    };
    match available {
        Some(mib) if mib < 256 => {
            Fact::limited("memory", found).advise("a guest of the soft host needs about 100 MiB")
        }
        _ => Fact::usable("memory", found),
    }
}
