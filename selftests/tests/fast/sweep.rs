//! `ci/sweep` on folders laid out like a kernel's: it ends leftovers only.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output};

use tdxlab_selftests::command::root;

/// A machine's `/proc` and tracefs.
struct Machine {
    folder: tempfile::TempDir,
}

const QEMU: &str = "/usr/bin/qemu-system-x86_64\0-name\0tdxlab,debug-threads=on\0-nodefaults\0";

/// A process id that is never used: above the kernel's limit.
const NOBODY: u32 = 4_294_967_290;

impl Machine {
    fn new() -> Machine {
        let machine = Machine {
            folder: tempfile::tempdir().unwrap(),
        };
        fs::create_dir_all(machine.tracing().join("instances")).unwrap();
        fs::create_dir_all(machine.proc()).unwrap();
        machine.process(1, 0, "systemd", "/sbin/init\0");
        machine
    }

    fn proc(&self) -> PathBuf {
        self.folder.path().join("proc")
    }

    fn tracing(&self) -> PathBuf {
        self.folder.path().join("tracing")
    }

    fn process(&self, pid: u32, parent: u32, comm: &str, cmdline: &str) {
        let folder = self.proc().join(pid.to_string());
        fs::create_dir(&folder).unwrap();
        fs::write(folder.join("cmdline"), cmdline).unwrap();
        fs::write(folder.join("comm"), format!("{comm}\n")).unwrap();
        let status = format!("Name:\t{comm}\nPid:\t{pid}\nPPid:\t{parent}\n");
        fs::write(folder.join("status"), status).unwrap();
    }

    fn instance(&self, name: &str) -> PathBuf {
        let folder = self.tracing().join("instances").join(name);
        fs::create_dir(&folder).unwrap();
        folder
    }

    fn sweep(&self, arguments: &[&str]) -> String {
        let output = self.call(arguments);
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stderr).unwrap()
    }

    fn call(&self, arguments: &[&str]) -> Output {
        Command::new("/bin/sh")
            .arg(root().join("ci/sweep"))
            .args(arguments)
            .env("TDXLAB_SWEEP_PROC", self.proc())
            .env("TDXLAB_SWEEP_TRACING", self.tracing())
            .env("TMPDIR", self.folder.path())
            .output()
            .unwrap()
    }
}

/// A process that can be killed.
struct Sleeper(Child);

impl Sleeper {
    fn new() -> Sleeper {
        Sleeper(Command::new("sleep").arg("600").spawn().unwrap())
    }

    fn lives(&mut self) -> bool {
        self.0.try_wait().unwrap().is_none()
    }
}

impl Drop for Sleeper {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn an_orphan_is_ended() {
    let machine = Machine::new();
    let mut orphan = Sleeper::new();
    let pid = orphan.0.id();
    machine.process(pid, 1, "qemu-system-x86", QEMU);
    let said = machine.sweep(&["--dry-run"]);
    assert!(said.contains(&format!("guest {pid} has lost")), "{said}");
    assert!(orphan.lives(), "only said, not done");
    machine.sweep(&[]);
    assert!(!orphan.0.wait().unwrap().success());
}

/// With help or an unknown option, no process is ended.
#[test]
fn help_and_mistyped_options_sweep_nothing() {
    let machine = Machine::new();
    let mut orphan = Sleeper::new();
    machine.process(orphan.0.id(), 1, "qemu-system-x86", QEMU);
    let stale = machine.instance(&format!("tdxlab_{NOBODY}_0"));
    let cases: [(&[&str], i32); 6] = [
        (&["--help"], 0),
        (&["-h"], 0),
        (&["--dryrun"], 64),
        (&["--dry-run", "now"], 64),
        (&["-n"], 64),
        (&[""], 64),
    ];
    for (arguments, code) in cases {
        let output = machine.call(arguments);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}");
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8(said).unwrap();
        assert!(said.contains("usage: ci/sweep [--dry-run]"), "{said}");
        assert!(!said.contains("has lost"), "{said}");
        assert!(orphan.lives() && stale.is_dir(), "{arguments:?}");
    }
}

/// The other scripts take no arguments, and refuse any.
#[test]
fn scripts_that_take_no_arguments_refuse_them() {
    for script in ["ci/setup", "ci/setup-tests", "ci/lint"] {
        for (argument, code) in [("--help", 0), ("--dry-run", 64)] {
            let output = Command::new("/bin/sh")
                .arg(root().join(script))
                .arg(argument)
                .output()
                .unwrap();
            assert_eq!(output.status.code(), Some(code), "{script} {argument}");
        }
    }
}

/// Also where a session's manager, not process 1, takes orphans in.
#[test]
fn so_is_one_that_a_subreaper_has_taken_in() {
    for reaper in ["systemd", "containerd-shim-runc-v2", "tini"] {
        let machine = Machine::new();
        machine.process(40, 1, reaper, "x\0");
        machine.process(NOBODY, 40, "qemu-system-x86", QEMU);
        let said = machine.sweep(&["--dry-run"]);
        assert!(said.contains(&format!("guest {NOBODY} has lost")), "{said}");
    }
}

/// Under any name: tdxlab, a test of it, or a renamed copy.
#[test]
fn guests_of_a_runner_that_lives_are_left_alone() {
    for runner in ["tdxlab", "scenarios-8f3a2c", "soft-1b2c", "nightly"] {
        let machine = Machine::new();
        let mut guest = Sleeper::new();
        machine.process(40, 1, runner, "x\0");
        machine.process(guest.0.id(), 40, "qemu-system-x86", QEMU);
        assert_eq!(machine.sweep(&[]), "", "{runner}");
        assert!(guest.lives(), "{runner}");
    }
}

#[test]
fn guests_of_others_are_left_alone() {
    let machine = Machine::new();
    let mut guest = Sleeper::new();
    let other = QEMU.replace("tdxlab,", "somebody,");
    machine.process(guest.0.id(), 1, "qemu-system-x86", &other);
    assert_eq!(machine.sweep(&[]), "");
    assert!(guest.lives());
}

#[test]
fn tracing_of_those_who_are_gone_is_removed_and_no_other() {
    let machine = Machine::new();
    let living = std::process::id();
    machine.process(living, 1, "tdxlab", "tdxlab\0");
    let stale = machine.instance(&format!("tdxlab_{NOBODY}_0"));
    let used = machine.instance(&format!("tdxlab_{living}_0"));
    let other = machine.instance("somebody");
    let probes = machine.tracing().join("kprobe_events");
    let lines = format!(
        "r64:tdxlab_{NOBODY}_1/aug tdh_mem_page_aug ret=$retval\n\
         r:tdxlab_{living}_1/aug tdh_mem_page_aug ret=$retval\n\
         p:kprobes/somebody do_exit\n"
    );
    fs::write(&probes, &lines).unwrap();

    let said = machine.sweep(&["--dry-run"]);
    assert_eq!(said.matches("whose process is gone").count(), 2, "{said}");
    assert!(stale.is_dir());
    assert_eq!(fs::read_to_string(&probes).unwrap(), lines);

    machine.sweep(&[]);
    assert!(!stale.exists());
    assert!(used.is_dir() && other.is_dir());
    // The kernel takes such a line as an order to remove the probe.
    let added = fs::read_to_string(&probes).unwrap();
    assert_eq!(added, format!("{lines}-:tdxlab_{NOBODY}_1/aug\n"));
}

#[test]
fn a_machine_without_tracing_is_swept_all_the_same() {
    let machine = Machine::new();
    fs::remove_dir_all(machine.tracing()).unwrap();
    assert_eq!(machine.sweep(&[]), "");
    assert!(Path::new(&machine.proc()).is_dir());
}

#[test]
fn folders_that_nobody_holds_are_removed_and_no_other() {
    let machine = Machine::new();
    let room = |name: &str| {
        let folder = machine.folder.path().join(format!("tdxlab-room-{name}"));
        fs::create_dir_all(folder.join("room")).unwrap();
        (fs::File::create(folder.join("lock")).unwrap(), folder)
    };
    let (held, living) = room("living");
    held.lock().unwrap();
    let (_, stale) = room("stale");
    machine.sweep(&["--dry-run"]);
    assert!(stale.is_dir());
    machine.sweep(&[]);
    assert!(living.is_dir() && !stale.exists());
}
