//! The machine of a Linux guest: QEMU's command line and the kernel's.

use std::arch::x86_64::_rdtsc;
use std::os::fd::RawFd;
use std::path::PathBuf;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use tdxlab_protocol::addr::Gpa;
use tdxlab_protocol::linux::{PORT, QEMU_GA_PORT};
use tdxlab_qemu::environment::INSIDE_L1;
use tdxlab_qemu::{Accelerator, CommandLine, Cpu, Installed, Version};

use crate::disk::Disk;
use crate::memory::Layout;
use crate::pusher::LINE;

/// Which board the guest is built on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Board {
    /// The smallest board: no real firmware, and the fastest boot.
    Microvm,
    /// A PC, as a TD has.
    Q35,
}

impl Board {
    /// QEMU's name for it.
    pub const fn name(self) -> &'static str {
        match self {
            Board::Microvm => "microvm",
            Board::Q35 => "q35",
        }
    }
}

/// Device of the agent's line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AgentLine {
    /// A virtio-serial port.
    VirtioSerial,
    /// The second serial line; only q35 has one.
    Serial,
}

/// Parameters of a TD.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Td {
    /// Firmware that starts as a TD.
    pub firmware: PathBuf,
    /// Abstract name of the socket of a quote generation service; `None` for none.
    pub quotes: Option<String>,
}

impl Td {
    /// QEMU's object. Source: `TdxGuestProperties` in qapi/qom.json.
    fn object(&self) -> String {
        let service = self.quotes.as_ref().map_or(String::new(), |name| {
            format!(
                r#","quote-generation-socket":{{"type":"unix","abstract":true,"path":"{name}"}}"#
            )
        });
        format!(r#"{{"qom-type":"tdx-guest","id":"tdx0"{service}}}"#)
    }
}

/// What QEMU starts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Start {
    /// A kernel that QEMU loads.
    Kernel {
        /// For `-kernel`.
        kernel: PathBuf,
        /// For `-initrd`.
        initramfs: PathBuf,
    },
    /// The boot loader on the disk, by this firmware, or else by QEMU's own.
    Disk {
        /// For `-bios`.
        firmware: Option<PathBuf>,
    },
}

/// Inputs of QEMU's command line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Machine {
    /// The program.
    pub qemu: PathBuf,
    /// Its version.
    pub version: Version,
    /// The accelerator.
    pub accelerator: Accelerator,
    /// The CPU model.
    pub cpu: Cpu,
    /// The board.
    pub board: Board,
    /// Runs the guest as a TD.
    pub td: Option<Td>,
    /// Number of vCPUs.
    pub vcpus: u16,
    /// Memory in MiB.
    pub mebibytes: u64,
    /// Further memory in MiB that can be plugged; a q35 has a place for it.
    pub pluggable: u64,
    /// What is started.
    pub start: Start,
    /// A disk of the user's.
    pub disk: Option<Disk>,
    /// Whether qemu-ga in the guest is to be spoken with.
    pub qemu_ga: bool,
    /// Words for the end of the kernel's command line.
    pub append: String,
    /// Device of the agent's line.
    pub line: AgentLine,
    /// Descriptors that QEMU inherits; the guest's start fills them in.
    pub ends: Ends,
}

/// The ends of the lines that QEMU inherits, and the guest's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ends {
    /// COM1.
    pub console: RawFd,
    /// The agent's line.
    pub agent: RawFd,
    /// QMP.
    pub qmp: RawFd,
    /// qemu-ga's line, if it is spoken with.
    pub qemu_ga: Option<RawFd>,
    /// A memfd of the size of the guest's memory; `None` for a TD, whose private memory is KVM's.
    pub memory: Option<RawFd>,
}

/// QEMU's id of the device that memory is plugged by.
pub const PLUGGED: &str = "plugged";

/// First QEMU in which monitors are objects.
const MONITOR_OBJECTS: Version = Version::new(11, 1);

impl Ends {
    /// None yet.
    const NONE: Ends = Ends {
        console: -1,
        agent: -1,
        qmp: -1,
        qemu_ga: None,
        memory: None,
    };
}

impl Machine {
    /// A plain guest under QEMU's translator with one vCPU, 512 MiB and nothing that can be left out.
    pub fn small(qemu: &Installed, start: Start) -> Machine {
        Machine {
            qemu: qemu.program.clone(),
            version: qemu.version,
            accelerator: Accelerator::Tcg,
            cpu: Cpu::Max,
            board: Board::Microvm,
            td: None,
            vcpus: 1,
            mebibytes: 512,
            pluggable: 0,
            start,
            disk: None,
            qemu_ga: false,
            append: String::new(),
            line: AgentLine::VirtioSerial,
            ends: Ends::NONE,
        }
    }

    /// Where the memory lies that it starts with.
    pub fn layout(&self) -> Layout {
        Layout::of(self.board, self.mebibytes)
    }

    /// Upper bound of guest addresses.
    pub fn limit(&self) -> Gpa {
        match self.pluggable {
            0 => self.layout().end(),
            // What is plugged begins at the next GiB above 4 GiB.
            more => {
                let most = (self.mebibytes << 20).next_multiple_of(1 << 30);
                Gpa::new((5 << 30) + most + (more << 20))
            }
        }
    }

    /// The command line.
    pub fn command_line(&self) -> CommandLine {
        let mut args: Vec<String> = ["-nodefaults", "-no-user-config", "-no-reboot"]
            .map(str::to_owned)
            .to_vec();
        let mut option = |name: &str, value: String| args.extend([name.to_owned(), value]);
        option("-name", "tdxlab-linux,debug-threads=on".to_owned());
        option("-display", "none".to_owned());
        option("-machine", self.machine());
        let (accelerator, cpu) = match (self.accelerator, self.cpu) {
            // One thread for all vCPUs: with one each, one of some hundred boots on two vCPUs did not
            // end. QEMU 7.2 then lets a vCPU run what another has just patched out of the kernel.
            // Five-level paging only makes every walk of the emulated MMU longer.
            (Accelerator::Tcg, _) => ("tcg,thread=single", "max,la57=off"),
            (Accelerator::Kvm, Cpu::Max) => ("kvm", "max"),
            // An emulated CPU reports contradicting XSAVE sizes in a guest, and Linux warns.
            // What a TD sees of XSAVE is the TDX module's.
            (Accelerator::Kvm, Cpu::Host) if in_an_l1() && self.td.is_none() => {
                ("kvm", "host,xsave=off")
            }
            (Accelerator::Kvm, Cpu::Host) => ("kvm", "host"),
        };
        option("-accel", accelerator.to_owned());
        option("-cpu", cpu.to_owned());
        option("-smp", self.vcpus.to_string());
        match self.pluggable {
            0 => option("-m", format!("{}M", self.mebibytes)),
            more => {
                let most = self.mebibytes + more;
                option("-m", format!("{}M,maxmem={most}M", self.mebibytes));
                option(
                    "-object",
                    format!("memory-backend-memfd,id=more,size={more}M,share=on"),
                );
                option(
                    "-device",
                    format!("virtio-mem-pci,id={PLUGGED},memdev=more,requested-size=0"),
                );
            }
        }
        if let Some(memory) = self.ends.memory {
            option(
                "-object",
                format!(
                    "memory-backend-file,id=ram,size={}M,mem-path=/proc/self/fd/{memory},share=on",
                    self.mebibytes
                ),
            );
        }
        if let Some(td) = &self.td {
            // Its shared memory, which then has 4K pages, whatever the THP setting.
            option(
                "-object",
                format!(
                    "memory-backend-memfd,id=ram,size={}M,share=on",
                    self.mebibytes
                ),
            );
            option("-object", td.object());
            option("-bios", td.firmware.display().to_string());
        }
        let socket = |id: &str, fd: RawFd| format!("socket,id={id},fd={fd}");
        option("-chardev", socket("console", self.ends.console));
        option("-serial", "chardev:console".to_owned());
        option("-chardev", socket("agent", self.ends.agent));
        match self.line {
            AgentLine::VirtioSerial => {
                option("-device", "virtio-serial-pci".to_owned());
                option(
                    "-device",
                    format!("virtserialport,chardev=agent,name={PORT}"),
                );
            }
            AgentLine::Serial => option("-serial", "chardev:agent".to_owned()),
        }
        option("-chardev", socket("qmp", self.ends.qmp));
        if self.version < MONITOR_OBJECTS {
            option("-mon", "chardev=qmp,mode=control".to_owned());
        } else {
            option("-object", "monitor-qmp,id=monitor,chardev=qmp".to_owned());
        }
        if let Some(fd) = self.ends.qemu_ga {
            option("-chardev", socket(LINE, fd));
            if self.line == AgentLine::Serial {
                option("-device", "virtio-serial-pci".to_owned());
            }
            let port = format!("virtserialport,chardev={LINE},name={QEMU_GA_PORT}");
            option("-device", port);
        }
        if let Some(disk) = &self.disk {
            option("-drive", disk.drive("disk"));
            let first = match self.start {
                Start::Disk { .. } => ",bootindex=0",
                Start::Kernel { .. } => "",
            };
            option("-device", format!("virtio-blk-pci,drive=disk{first}"));
        }
        match &self.start {
            Start::Kernel { kernel, initramfs } => {
                option("-kernel", kernel.display().to_string());
                option("-initrd", initramfs.display().to_string());
                option("-append", self.append());
            }
            Start::Disk {
                firmware: Some(firmware),
            } if self.td.is_none() => option("-bios", firmware.display().to_string()),
            Start::Disk { .. } => {}
        }
        CommandLine {
            program: self.qemu.clone(),
            args: args.into_iter().map(Into::into).collect(),
            only_small_pages: false,
        }
    }

    fn machine(&self) -> String {
        let mut machine = match self.board {
            // Without PCI a kernel needs virtio_mmio, which is rarely built in.
            Board::Microvm => "microvm,pcie=on".to_owned(),
            Board::Q35 => "q35,hpet=off,vmport=off,graphics=off".to_owned(),
        };
        if self.td.is_some() {
            machine += ",kernel-irqchip=split,confidential-guest-support=tdx0";
        }
        if self.ends.memory.is_some() || self.td.is_some() {
            machine += ",memory-backend=ram";
        }
        machine
    }

    /// The kernel's command line.
    pub fn append(&self) -> String {
        // Warnings and worse are evidence; a chatty console costs an emulated CPU seconds. The end
        // of the kernel is the end of QEMU.
        let mut line = "console=ttyS0 loglevel=4 panic=-1 oops=panic".to_owned();
        let emulated = self.accelerator == Accelerator::Tcg;
        if emulated || in_an_l1() {
            // A CPU that is emulated may stand still for as long as the machine is busy.
            line += " nowatchdog";
        }
        if emulated {
            // On a busy host Linux fails to calibrate the TSC, and microvm has no other clock: it
            // would wait forever. QEMU's TCG gives the guest the host's TSC.
            line += &format!(" tsc_early_khz={} tsc=reliable", host_tsc_khz());
        }
        if self.pluggable > 0 {
            // There is no udev to use what is plugged.
            line += " memhp_default_state=online";
        }
        format!("{line} {}", self.append).trim_end().to_owned()
    }
}

/// Whether this machine is an L1, whose CPU is emulated.
fn in_an_l1() -> bool {
    std::env::var_os(INSIDE_L1).is_some()
}

/// Frequency of this machine's TSC.
fn host_tsc_khz() -> u64 {
    static KHZ: OnceLock<u64> = OnceLock::new();
    *KHZ.get_or_init(|| {
        // SAFETY: reads a counter that every x86-64 CPU has.
        let now = || (Instant::now(), unsafe { _rdtsc() });
        let (began, first) = now();
        std::thread::sleep(Duration::from_millis(10));
        let (ended, last) = now();
        let micros = ended.duration_since(began).as_micros().max(1);
        let khz = u128::from(last.wrapping_sub(first)) * 1000 / micros;
        u64::try_from(khz).unwrap_or(u64::MAX)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine() -> Machine {
        let qemu = Installed {
            program: "qemu".into(),
            version: Version::new(7, 2),
            banner: String::new(),
        };
        let start = Start::Kernel {
            kernel: "vmlinux".into(),
            initramfs: "initrd".into(),
        };
        Machine {
            ends: Ends {
                console: 3,
                agent: 4,
                qmp: 5,
                qemu_ga: None,
                memory: Some(6),
            },
            ..Machine::small(&qemu, start)
        }
    }

    #[test]
    fn a_plain_guest_has_memory_that_the_lab_holds() {
        let line = machine().command_line().to_string();
        for part in [
            "microvm,pcie=on,memory-backend=ram",
            "/proc/self/fd/6,share=on",
            "name=tdxlab.agent",
        ] {
            assert!(line.contains(part), "{line}");
        }
        assert_eq!(machine().limit(), Gpa::new(512 << 20));
    }

    #[test]
    fn a_td_has_firmware_and_memory_of_kvm() {
        let line = Machine {
            board: Board::Q35,
            td: Some(Td {
                firmware: "/fw/OVMF.fd".into(),
                quotes: Some("tdxlab-1".to_owned()),
            }),
            accelerator: Accelerator::Kvm,
            cpu: Cpu::Host,
            version: Version::new(11, 1),
            ends: Ends {
                memory: None,
                ..machine().ends
            },
            ..machine()
        }
        .command_line()
        .to_string();
        for part in [
            "confidential-guest-support=tdx0,memory-backend=ram",
            "memory-backend-memfd,id=ram,size=512M,share=on",
            "-bios /fw/OVMF.fd",
            "monitor-qmp",
            r#""quote-generation-socket":{"type":"unix","abstract":true,"path":"tdxlab-1"}}"#,
        ] {
            assert!(line.contains(part), "{line}");
        }
        assert!(!line.contains("memory-backend-file"), "{line}");
    }

    #[test]
    fn a_disk_starts_by_itself_or_under_a_kernel_and_is_never_written() {
        let image = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(image.path(), [0; 512]).unwrap();
        let with_disk = Machine {
            disk: Some(Disk::open(image.path()).unwrap()),
            qemu_ga: true,
            ends: Ends {
                qemu_ga: Some(7),
                ..machine().ends
            },
            ..machine()
        };
        let line = with_disk.command_line().to_string();
        for part in [
            "snapshot=on",
            "virtio-blk-pci,drive=disk ",
            "socket,id=qemu-ga,fd=7",
            "virtserialport,chardev=qemu-ga,name=org.qemu.guest_agent.0",
            "-kernel vmlinux",
        ] {
            assert!(line.contains(part), "{part}: {line}");
        }
        let line = Machine {
            start: Start::Disk {
                firmware: Some("/fw/OVMF.fd".into()),
            },
            ..with_disk
        }
        .command_line()
        .to_string();
        assert!(line.contains("drive=disk,bootindex=0"), "{line}");
        assert!(line.contains("-bios /fw/OVMF.fd"), "{line}");
        assert!(
            !line.contains("-kernel") && !line.contains("-append"),
            "{line}"
        );
    }

    #[test]
    fn memory_to_be_plugged_has_a_device_and_a_place_above_the_rest() {
        let machine = Machine {
            board: Board::Q35,
            pluggable: 256,
            ..machine()
        };
        let line = machine.command_line().to_string();
        for part in [
            "512M,maxmem=768M",
            "virtio-mem-pci,id=plugged,memdev=more,requested-size=0",
            "memhp_default_state=online",
        ] {
            assert!(line.contains(part), "{line}");
        }
        assert!(machine.limit() > Gpa::new((4 << 30) + (256 << 20)));
    }

    #[test]
    fn a_kernel_without_virtio_gets_the_second_serial_line() {
        let line = Machine {
            board: Board::Q35,
            line: AgentLine::Serial,
            ..machine()
        }
        .command_line()
        .to_string();
        assert!(
            line.contains("-serial chardev:agent") && !line.contains("virtio"),
            "{line}"
        );
    }
}
