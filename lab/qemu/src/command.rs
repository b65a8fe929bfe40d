//! A typed description of a QEMU process, and its command line.
//!
//! The machine is q35 on every host, because a TD needs it, without any device the micro guest does
//! not use: creating devices takes most of the start-up time, which dominates small scenarios.
//!
//! All channels to the guest are inherited file descriptors: no socket path can collide, no file is
//! left behind.

use std::ffi::OsString;
use std::fmt;
use std::os::fd::RawFd;
use std::path::{Path, PathBuf};

use tdxlab_protocol::layout;

use super::ram::{RAM_ID, Ram, RamBacking};
use super::version::Version;

/// What to start, and with which devices.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QemuCommand {
    /// The QEMU binary.
    pub program: PathBuf,
    /// Its version, for options that have changed.
    pub version: Version,
    /// What runs the guest's instructions.
    pub accelerator: Accelerator,
    /// The CPU model.
    pub cpu: Cpu,
    /// Number of vCPUs.
    pub vcpus: u16,
    /// The guest's memory.
    pub ram: Ram,
    /// The guest image.
    pub image: Image,
    /// Where QMP is spoken.
    pub qmp: Line,
    /// Where people may speak QMP too.
    pub monitor: Option<Line>,
    /// The serial port that carries the protocol.
    pub serial: Line,
    /// A second serial port for a TD's text output.
    pub console: Option<Line>,
    /// The doorbell port of the soft host.
    pub doorbell: Option<Line>,
    /// Runs the guest as a TD.
    pub td: Option<Td>,
    /// Waits for `cont` before the first instruction.
    pub paused: bool,
}

/// What runs the guest's instructions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accelerator {
    /// QEMU's translator, one host thread per vCPU.
    Tcg,
    /// The kernel's KVM.
    Kvm,
}

/// The CPU model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cpu {
    /// Everything the accelerator can do.
    Max,
    /// The host's CPU model (KVM only; required by a TD).
    Host,
}

/// The guest image, loaded so that it ends at 4 GiB.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Image {
    /// A file descriptor QEMU inherits.
    Inherited(RawFd),
    /// A file.
    Path(PathBuf),
}

/// One end of a byte stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Line {
    /// A socket QEMU inherits.
    Inherited(RawFd),
    /// The write end of a pipe QEMU inherits, for output that comes byte by byte: each costs less than
    /// through a socket.
    Pipe(RawFd),
    /// A Unix socket at this path, on which QEMU listens.
    Listen(PathBuf),
    /// A file that receives the guest's output; there is no input.
    File(PathBuf),
}

/// Options of `-object tdx-guest`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Td {
    /// The attribute SEPT_VE_DISABLE.
    pub sept_ve_disable: bool,
}

/// Machine properties that leave devices out. All are known from QEMU 7.0 on. The interrupt
/// controllers stay: outside of a TD the guest sleeps until its serial port interrupts.
const BARE_MACHINE: &str =
    "smm=off,vmport=off,hpet=off,sata=off,i8042=off,pit=off,graphics=off,acpi=off";

/// First QEMU in which monitors are objects; it warns about `-mon`, which older ones need.
const MONITOR_OBJECTS: Version = Version::new(11, 1);

impl QemuCommand {
    /// The command line.
    pub fn line(&self) -> CommandLine {
        let mut args = Arguments::default();
        args.flag("-name", "tdxlab,debug-threads=on");
        for bare in ["-nodefaults", "-no-user-config", "-no-reboot"] {
            args.bare(bare);
        }
        args.flag("-display", "none");
        args.flag("-accel", self.accelerator());
        args.flag("-machine", self.machine());
        args.flag(
            "-cpu",
            match self.cpu {
                Cpu::Max => "max",
                Cpu::Host => "host",
            },
        );
        args.flag("-smp", self.vcpus.to_string());
        args.flag("-m", format!("{}M", self.ram.mebibytes));
        for (option, value) in self.ram.arguments() {
            args.flag(option, value);
        }
        if let Some(td) = self.td {
            args.flag(
                "-object",
                format!(
                    r#"{{"qom-type":"tdx-guest","id":"tdx0","sept-ve-disable":{}}}"#,
                    td.sept_ve_disable
                ),
            );
            args.flag("-action", "reboot=shutdown,panic=exit-failure");
        }
        args.flag("-bios", self.image.argument());
        args.flag("-chardev", self.qmp.chardev("qmp"));
        if self.version < MONITOR_OBJECTS {
            args.flag("-mon", "chardev=qmp,mode=control");
        } else {
            args.flag("-object", "monitor-qmp,id=monitor,chardev=qmp");
        }
        if let Some(monitor) = &self.monitor {
            args.flag("-chardev", monitor.chardev("monitor"));
            args.flag("-mon", "chardev=monitor,mode=control");
        }
        args.flag("-chardev", self.serial.chardev("serial"));
        args.flag("-serial", "chardev:serial");
        if let Some(console) = &self.console {
            args.flag("-chardev", console.chardev("console"));
            args.flag("-serial", "chardev:console");
        }
        if let Some(doorbell) = &self.doorbell {
            args.flag("-chardev", doorbell.chardev("doorbell"));
            args.flag(
                "-device",
                format!(
                    "isa-debugcon,iobase={:#x},chardev=doorbell",
                    layout::DOORBELL_PORT
                ),
            );
        }
        args.flag(
            "-device",
            format!("isa-debug-exit,iobase={:#x},iosize=1", layout::EXIT_PORT),
        );
        if self.paused {
            args.bare("-S");
        }
        CommandLine {
            program: self.program.clone(),
            args: args.0,
            only_small_pages: self.ram.only_small_pages(),
        }
    }

    /// The same QEMU to start by hand in the current folder: the image in [`IMAGE_FILE`], the
    /// monitor on a socket, the guest's output in files.
    pub fn for_pasting(&self) -> QemuCommand {
        QemuCommand {
            image: Image::Path(IMAGE_FILE.into()),
            qmp: Line::Listen("qmp.sock".into()),
            monitor: None,
            serial: Line::File("serial.out".into()),
            console: in_a_file(&self.console, "console.out"),
            doorbell: in_a_file(&self.doorbell, "doorbell.out"),
            // No monitor is connected that could send `cont`.
            paused: false,
            ..self.clone()
        }
    }

    fn machine(&self) -> String {
        let mut machine = String::from("q35");
        if self.td.is_some() {
            machine.push_str(",confidential-guest-support=tdx0");
        }
        machine = format!("{machine},{BARE_MACHINE}");
        if self.ram.is_whole() {
            machine += &format!(",memory-backend={RAM_ID}");
        }
        machine
    }

    fn accelerator(&self) -> &'static str {
        match (self.accelerator, self.ram.backing) {
            (Accelerator::Tcg, _) => "tcg,thread=multi",
            // With a ring, KVM splits leaves when dirty logging begins. Without one QEMU asks it to
            // split them bit by bit as it clears them (KVM_DIRTY_LOG_INITIALLY_SET).
            (Accelerator::Kvm, RamBacking::Parted { .. }) => "kvm,dirty-ring-size=4096",
            (Accelerator::Kvm, _) => "kvm",
        }
    }
}

/// A line that ends in a file of this name, if there is one.
fn in_a_file(line: &Option<Line>, name: &str) -> Option<Line> {
    line.as_ref().map(|_| Line::File(name.into()))
}

/// Name under which the image of a pasteable command line is to be found.
pub const IMAGE_FILE: &str = "guest.bin";

impl Image {
    fn argument(&self) -> String {
        match self {
            // QEMU opens it again, which works for a memfd as for any file.
            Image::Inherited(fd) => format!("/proc/self/fd/{fd}"),
            Image::Path(path) => path.display().to_string(),
        }
    }
}

impl Line {
    fn chardev(&self, id: &str) -> String {
        match self {
            Line::Inherited(fd) => format!("socket,id={id},fd={fd}"),
            // Opened again, as the image is.
            Line::Pipe(fd) => format!("file,id={id},path=/proc/self/fd/{fd}"),
            Line::Listen(path) => {
                format!("socket,id={id},path={},server=on,wait=off", escaped(path))
            }
            Line::File(path) => format!("file,id={id},path={}", escaped(path)),
        }
    }
}

/// A path inside a QEMU option list, where a comma ends a value unless doubled.
fn escaped(path: &Path) -> String {
    path.display().to_string().replace(',', ",,")
}

#[derive(Default)]
struct Arguments(Vec<OsString>);

impl Arguments {
    fn bare(&mut self, name: &str) {
        self.0.push(name.into());
    }

    fn flag(&mut self, name: &str, value: impl Into<OsString>) {
        self.0.push(name.into());
        self.0.push(value.into());
    }
}

/// A program and its arguments. Displays as a line for a shell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommandLine {
    /// The program.
    pub program: PathBuf,
    /// Its arguments.
    pub args: Vec<OsString>,
    /// Whether it runs without transparent huge pages (PR_SET_THP_DISABLE).
    pub only_small_pages: bool,
}

impl fmt::Display for CommandLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&quoted(&self.program.to_string_lossy()))?;
        for arg in &self.args {
            let arg = arg.to_string_lossy();
            // One option with its value on a line: these lines are read more often than run.
            let lead = if arg.starts_with('-') { " \\\n  " } else { " " };
            write!(f, "{lead}{}", quoted(&arg))?;
        }
        Ok(())
    }
}

/// `text` as one word of a POSIX shell.
fn quoted(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_=+,./:@%".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        text.to_owned()
    } else {
        format!("'{}'", text.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests;
