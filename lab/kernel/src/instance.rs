//! A private tracefs instance: its buffers are isolated from all other tracing.
//!
//! Source: Documentation/trace/ftrace.rst ("Instances") and kprobetrace.rst.

use std::collections::BTreeSet;
use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::{fs, io};

use crate::returned::{Returns, TRIGGER};
use crate::trace_lines::{Mark, NoMark, TraceLines};

/// Beginning of the names of the lab's instances and probes; the process that made it follows.
const PREFIX: &str = "tdxlab_";

/// Size of the ring buffer of each processor: room for 16 MiB of splits and more.
const BUFFER_KIB: u32 = 4096;

/// An instance. Dropping it removes it; one that a killed lab left behind is removed by the next.
#[derive(Debug)]
pub struct Instance {
    root: PathBuf,
    name: String,
    probes: Vec<String>,
    /// Its folder, locked for as long as this lab lives.
    _lock: File,
}

impl Instance {
    /// Makes one below `root` (see [`super::tracefs::ROOT`]), and removes those of labs that are
    /// gone.
    ///
    /// # Errors
    ///
    /// tracefs is not mounted or not writable, or the kernel has no memory for buffers; in words.
    pub fn new(root: &Path) -> Result<Instance, String> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        sweep(root);
        let (name, lock) = loop {
            let number = NUMBER.fetch_add(1, Ordering::Relaxed);
            let name = format!("{PREFIX}{}_{number}", std::process::id());
            let path = folder_of(root, &name);
            match fs::create_dir(&path) {
                Ok(()) => {}
                // A lab of another PID namespace may have the same number.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => continue,
                Err(error) => return Err(refused(root, &path, &error)),
            }
            match locked(&path) {
                Ok(lock) if path.exists() => break (name, lock),
                Err(error) if error.kind() != io::ErrorKind::WouldBlock && path.exists() => {
                    let _ = fs::remove_dir(&path);
                    return Err(refused(root, &path, &error));
                }
                // A lab that sweeps had it before it was locked.
                Ok(_) | Err(_) => {}
            }
        };
        let instance = Instance {
            root: root.to_owned(),
            name,
            probes: Vec::new(),
            _lock: lock,
        };
        let path = instance.path();
        let buffer = path.join("buffer_size_kb");
        fs::write(&buffer, BUFFER_KIB.to_string())
            .map_err(|error| refused(root, &buffer, &error))?;
        Ok(instance)
    }

    /// Path of the instance.
    pub fn path(&self) -> PathBuf {
        folder_of(&self.root, &self.name)
    }

    /// The file that gives each event once, as text.
    pub fn pipe(&self) -> PathBuf {
        self.path().join("trace_pipe")
    }

    /// Enables an event, such as `kvmmmu/kvm_mmu_split_huge_page`.
    ///
    /// # Errors
    ///
    /// The kernel has no such event; as text.
    pub fn enable(&self, event: &str) -> Result<(), String> {
        self.write(&format!("events/{event}/enable"), "1")
    }

    /// Checks that an event is enabled by reading it back.
    ///
    /// # Errors
    ///
    /// It is disabled, or its state cannot be read; as text.
    pub fn is_on(&self, event: &str) -> Result<(), String> {
        let path = self.path().join(format!("events/{event}/enable"));
        match fs::read_to_string(&path) {
            Ok(text) if text.trim() == "1" => Ok(()),
            Ok(text) => Err(format!(
                "{}: the event is not on ({:?}); somebody turned it off, or this kernel cannot \
                 turn it on",
                path.display(),
                text.trim()
            )),
            Err(error) => Err(format!("{}: {error}", path.display())),
        }
    }

    /// Writes a line into the trace, through `trace_marker`, that nobody else writes; returns it.
    ///
    /// # Errors
    ///
    /// The kernel rejects it; as text.
    pub(crate) fn mark(&self) -> Result<Mark, String> {
        let mark = Mark::of_this_thread(format!("tdxlab {}", rand::random::<u128>()));
        self.write("trace_marker", &mark.text)?;
        Ok(mark)
    }

    /// Checks that threads have the numbers in this trace, and in its histograms, by which the lab knows
    /// them. To be called while nothing else reads the trace.
    ///
    /// # Errors
    ///
    /// They do not, as in a PID namespace, or what is written into the trace does not come out; as text.
    pub fn names_our_threads(&self) -> Result<(), String> {
        TraceLines::open(self.pipe())
            .saw(&self.mark()?, |_| Ok(()))
            .map_err(NoMark::into_reason)
    }

    /// Restricts events to these threads, and to those they start from now on.
    ///
    /// # Errors
    ///
    /// The kernel has no such filter; as text.
    pub fn follow(&self, threads: &[u32]) -> Result<(), String> {
        self.write("options/event-fork", "1")?;
        let numbers: Vec<String> = threads.iter().map(u32::to_string).collect();
        append(&self.path().join("set_event_pid"), &numbers.join(" "))
            .map_err(|error| format!("set_event_pid: {error}"))
    }

    /// Adds a probe on the return of a kernel function and has its values counted.
    ///
    /// # Errors
    ///
    /// The kernel has no such function, no kprobes or no histograms of events, or lockdown forbids them;
    /// as text.
    pub fn probe_return(&mut self, function: &str) -> Result<Returns, String> {
        let group = &self.name;
        let probe = format!("r:{group}/{function} {function} ret=$retval\n");
        append(&self.root.join("kprobe_events"), &probe)
            .map_err(|error| format!("{function}: {error}"))?;
        let event = format!("events/{group}/{function}");
        self.probes.push(format!("{group}/{function}"));
        self.write(&format!("{event}/trigger"), TRIGGER)
            .map_err(|error| format!("{function}: {error}; is CONFIG_HIST_TRIGGERS missing?"))?;
        Ok(Returns(self.path().join(event).join("hist")))
    }

    /// Adds a probe on the entry of the first of `functions` that the kernel has, and records its
    /// `arguments` (see kprobetrace.rst) as events called `name`.
    ///
    /// # Errors
    ///
    /// The kernel has none of them or no kprobes, or lockdown forbids them; as text.
    pub fn probe_entry(
        &mut self,
        name: &str,
        functions: &[&str],
        arguments: &str,
    ) -> Result<(), String> {
        let group = self.name.clone();
        let mut refused = Vec::new();
        for function in functions {
            let probe = format!("p:{group}/{name} {function} {arguments}\n");
            match append(&self.root.join("kprobe_events"), &probe) {
                Ok(()) => {
                    self.probes.push(format!("{group}/{name}"));
                    return self.enable(&format!("{group}/{name}"));
                }
                Err(error) => refused.push(format!("{function}: {error}")),
            }
        }
        Err(refused.join("; "))
    }

    fn write(&self, file: &str, text: &str) -> Result<(), String> {
        let path = self.path().join(file);
        fs::write(&path, text).map_err(|error| format!("{}: {error}", path.display()))
    }
}

/// The threads of a process now, as [`Instance::follow`] takes them.
pub fn threads_of(pid: u32) -> BTreeSet<u32> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task"))
        .into_iter()
        .flatten()
        .flatten();
    tasks
        .filter_map(|task| task.file_name().to_str()?.parse().ok())
        .collect()
}

/// Why there is no instance, and the remedy.
fn refused(root: &Path, path: &Path, error: &io::Error) -> String {
    let advice = match error.kind() {
        io::ErrorKind::NotFound => {
            format!(
                "no tracefs there; mount -t tracefs tracefs {}",
                root.display()
            )
        }
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
            format!("{error}; run as root, and without lockdown")
        }
        // Each instance has its own ring buffers, the large ones since it asked for them.
        io::ErrorKind::OutOfMemory | io::ErrorKind::StorageFull => format!(
            "{error}; rmdir instances that nobody needs in {} (each of the lab's wants \
             {BUFFER_KIB} KiB for each processor)",
            root.join("instances").display()
        ),
        _ => error.to_string(),
    };
    format!("{}: {advice}", path.display())
}

impl Drop for Instance {
    fn drop(&mut self) {
        // A probe cannot go while an instance has it on.
        let _ = fs::remove_dir(self.path());
        for probe in &self.probes {
            let _ = append(&self.root.join("kprobe_events"), &format!("-:{probe}\n"));
        }
    }
}

fn append(path: &Path, text: &str) -> io::Result<()> {
    use std::io::Write;
    fs::OpenOptions::new()
        .append(true)
        .open(path)?
        .write_all(text.as_bytes())
}

fn folder_of(root: &Path, name: &str) -> PathBuf {
    root.join("instances").join(name)
}

/// The folder of an instance, once it is locked. The kernel unlocks it when its owner ends, however that
/// comes.
///
/// A process id says nothing of an owner in another PID namespace: there may be no such process here, or
/// another one. A lock is the same in all of them.
fn locked(path: &Path) -> io::Result<File> {
    let folder = File::open(path)?;
    match folder.try_lock() {
        Ok(()) => Ok(folder),
        Err(TryLockError::WouldBlock) => Err(io::ErrorKind::WouldBlock.into()),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

/// Removes what labs have left behind that were killed.
fn sweep(root: &Path) {
    let is_stale = |name: &str| {
        let pid = name
            .strip_prefix(PREFIX)
            .and_then(|rest| rest.split('_').next());
        pid.and_then(|pid| pid.parse::<u32>().ok())
            .is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists())
    };
    for entry in fs::read_dir(root.join("instances"))
        .into_iter()
        .flatten()
        .flatten()
    {
        if is_stale(&entry.file_name().to_string_lossy())
            && let Ok(_lock) = locked(&entry.path())
        {
            let _ = fs::remove_dir(entry.path());
        }
    }
    // Lines of the form `r:GROUP/NAME FUNCTION ret=$retval`; a group has the name of its instance, which
    // lives as long as its owner.
    let probes = fs::read_to_string(root.join("kprobe_events")).unwrap_or_default();
    for probe in probes
        .lines()
        .filter_map(|line| line.split_whitespace().next())
    {
        if let Some((_, name)) = probe.split_once(':')
            && let Some((group, _)) = name.split_once('/')
            && is_stale(group)
            && !folder_of(root, group).exists()
        {
            let _ = append(&root.join("kprobe_events"), &format!("-:{name}\n"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A folder with the files that are written to; the kernel would make those of an instance.
    #[test]
    fn what_a_killed_lab_left_is_swept() {
        let root = tempfile::tempdir().unwrap();
        let instances = root.path().join("instances");
        let own = format!("{PREFIX}{}_9", std::process::id());
        for name in ["tdxlab_4294967294_0", "somebody", &own] {
            fs::create_dir_all(instances.join(name)).unwrap();
        }
        let probes = root.path().join("kprobe_events");
        fs::write(
            &probes,
            format!("r:{own}/aug tdh\nr:tdxlab_4294967294_0/aug tdh ret=$retval\n"),
        )
        .unwrap();
        sweep(root.path());
        assert!(!instances.join("tdxlab_4294967294_0").exists());
        assert!(instances.join("somebody").exists() && instances.join(&own).exists());
        let text = fs::read_to_string(probes).unwrap();
        assert!(text.ends_with("-:tdxlab_4294967294_0/aug\n"), "{text}");
        assert!(!text.contains(&format!("-:{own}")), "{text}");
    }

    /// To a lab in another PID namespace the owner's number is that of nobody.
    #[test]
    fn what_a_live_lab_of_another_pid_namespace_has_stays_until_that_lab_ends() {
        let root = tempfile::tempdir().unwrap();
        let theirs = folder_of(root.path(), "tdxlab_4294967294_0");
        fs::create_dir_all(&theirs).unwrap();
        let probes = root.path().join("kprobe_events");
        fs::write(&probes, "r:tdxlab_4294967294_0/aug tdh ret=$retval\n").unwrap();
        let lives = locked(&theirs).unwrap();
        sweep(root.path());
        assert!(theirs.exists());
        let text = fs::read_to_string(&probes).unwrap();
        assert!(!text.contains("-:"), "{text}");
        drop(lives);
        sweep(root.path());
        assert!(!theirs.exists());
        let text = fs::read_to_string(&probes).unwrap();
        assert!(text.ends_with("-:tdxlab_4294967294_0/aug\n"), "{text}");
    }

    #[test]
    fn an_instance_is_locked_while_it_is_there() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("instances")).unwrap();
        let instance = Instance::new(root.path()).unwrap();
        let again = locked(&instance.path()).unwrap_err();
        assert_eq!(again.kind(), io::ErrorKind::WouldBlock);
    }

    #[rstest::rstest]
    #[case::no_rights(libc::EPERM, "run as root")]
    #[case::lockdown(libc::EACCES, "lockdown")]
    #[case::in_a_container(libc::EROFS, "run as root")]
    #[case::too_many(libc::ENOMEM, "rmdir instances that nobody needs")]
    #[case::too_many(libc::ENOSPC, "rmdir instances that nobody needs")]
    fn a_kernel_that_gives_none_is_quoted_with_advice(#[case] errno: i32, #[case] advice: &str) {
        let error = io::Error::from_raw_os_error(errno);
        let root = Path::new("/t");
        let said = refused(root, &root.join("instances/x"), &error);
        assert!(said.starts_with("/t/instances/x: "), "{said}");
        assert!(said.contains(advice), "{said}");
    }

    #[test]
    fn an_event_that_is_off_is_no_witness() {
        let root = tempfile::tempdir().unwrap();
        let instance = Instance {
            root: root.path().to_owned(),
            name: "tdxlab_1_0".to_owned(),
            probes: Vec::new(),
            _lock: File::open(root.path()).unwrap(),
        };
        let folder = instance.path().join("events/kvmmmu/split");
        fs::create_dir_all(&folder).unwrap();
        for (text, on) in [("1\n", true), ("0\n", false), ("1*\n", false)] {
            fs::write(folder.join("enable"), text).unwrap();
            assert_eq!(instance.is_on("kvmmmu/split").is_ok(), on, "{text:?}");
        }
        assert!(instance.is_on("kvmmmu/none").is_err());
    }

    #[test]
    fn a_machine_without_tracefs_is_told_what_to_do() {
        let error = Instance::new(Path::new("/nonexistent")).unwrap_err();
        assert!(error.contains("mount -t tracefs"), "{error}");
    }
}
