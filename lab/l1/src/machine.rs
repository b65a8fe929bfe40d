//! The machine of an L1: QEMU's command line and the kernel's.

use std::fmt;
use std::os::fd::RawFd;
use std::path::Path;
use std::str::FromStr;

use tdxlab_kernel::doctor::{self, Status};
use tdxlab_qemu::CommandLine;

use super::error::L1Error;
use super::{initramfs, job};
use crate::feature::Vendor;

/// Name of the hidden command that starts [`crate::init`].
pub const INIT_COMMAND: &str = "l1-init";

/// The accelerator to use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AcceleratorChoice {
    /// The machine's KVM where it runs guests and lets them use KVM themselves, else the translator.
    Auto,
    /// QEMU's translator: works everywhere.
    Tcg,
    /// The machine's KVM: fast, where it lets its guests use KVM themselves.
    Kvm,
}

impl AcceleratorChoice {
    /// Resolves the choice on this machine; with the reason.
    pub(crate) fn here(self) -> Result<(Accelerator, String), L1Error> {
        let asked = |accelerator| (accelerator, "as asked".to_owned());
        match self {
            AcceleratorChoice::Auto => Ok(AcceleratorChoice::automatic(
                AcceleratorChoice::nested(),
                doctor::kvm,
            )),
            AcceleratorChoice::Tcg => Ok(asked(Accelerator::Tcg)),
            AcceleratorChoice::Kvm => {
                AcceleratorChoice::nested()
                    .map(asked)
                    .map_err(|why| L1Error::Usage {
                        what: format!("--accel kvm: {why}; use --accel tcg"),
                    })
            }
        }
    }

    /// Uses KVM if it is `nested` and usable.
    fn automatic(
        nested: Result<Accelerator, String>,
        probe: impl FnOnce() -> doctor::Fact,
    ) -> (Accelerator, String) {
        let kvm = match nested {
            Ok(kvm) => kvm,
            Err(why) => return (Accelerator::Tcg, why),
        };
        let fact = probe();
        match fact.standing {
            Status::Usable => (kvm, format!("{}, and guests may use KVM", fact.found)),
            Status::Limited | Status::Unusable => (Accelerator::Tcg, fact.found),
        }
    }

    /// The machine's KVM, if it supports nesting; else why not.
    fn nested() -> Result<Accelerator, String> {
        let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let vendor = vendor(&info).ok_or("this CPU shows neither vmx nor svm")?;
        let module = vendor.feature().module;
        let nested = format!("/sys/module/{module}/parameters/nested");
        match std::fs::read_to_string(&nested).unwrap_or_default().trim() {
            "Y" | "1" => Ok(Accelerator::Kvm(vendor)),
            _ => Err(format!(
                "this machine's KVM does not let guests use KVM ({nested} is not Y; load {module} \
                 with nested=1)"
            )),
        }
    }
}

/// Vendor of the virtualisation in `/proc/cpuinfo`.
fn vendor(info: &str) -> Option<Vendor> {
    let flags = info.lines().find(|line| line.starts_with("flags"))?;
    let has = |flag: &str| flags.split_whitespace().any(|word| word == flag);
    match (has("svm"), has("vmx")) {
        (true, _) => Some(Vendor::Amd),
        (_, true) => Some(Vendor::Intel),
        _ => None,
    }
}

/// The accelerator of the L1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Accelerator {
    /// QEMU's translator, which emulates an AMD CPU with SVM and nested paging.
    Tcg,
    /// A KVM that lets its guests use KVM.
    Kvm(Vendor),
}

impl fmt::Display for Accelerator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Accelerator::Tcg => "TCG",
            Accelerator::Kvm(_) => "KVM",
        })
    }
}

impl Accelerator {
    /// Vendor of the virtualisation in the L1.
    pub(crate) const fn vendor(self) -> Vendor {
        match self {
            Accelerator::Tcg => Vendor::Amd,
            Accelerator::Kvm(vendor) => vendor,
        }
    }
}

/// An amount of memory, a whole number of MiB.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Memory {
    mebibytes: u64,
}

impl Memory {
    /// Least in which a distribution kernel and the lab get along.
    pub const LEAST: Memory = Memory { mebibytes: 512 };

    /// Default memory of an L1.
    pub const USUAL: Memory = Memory { mebibytes: 6 << 10 };

    /// MiB.
    pub const fn mebibytes(self) -> u64 {
        self.mebibytes
    }
}

impl FromStr for Memory {
    type Err = String;

    fn from_str(text: &str) -> Result<Memory, String> {
        let (digits, scale) = match text.strip_suffix(['G', 'g']) {
            Some(digits) => (digits, 1 << 10),
            None => (text.strip_suffix(['M', 'm']).unwrap_or(text), 1),
        };
        let bare = digits == text;
        let mebibytes = digits
            .parse::<u64>()
            .ok()
            .and_then(|number| number.checked_mul(scale));
        match mebibytes {
            Some(mebibytes) if !bare && Memory::LEAST.mebibytes <= mebibytes => {
                Ok(Memory { mebibytes })
            }
            Some(_) if !bare => Err(format!("an L1 needs at least {}", Memory::LEAST)),
            _ => Err("write a number and M or G, such as 6G".to_owned()),
        }
    }
}

impl fmt::Display for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.mebibytes % 1024 {
            0 => write!(f, "{}G", self.mebibytes / 1024),
            _ => write!(f, "{}M", self.mebibytes),
        }
    }
}

/// Huge pages an L1's kernel reserves at boot, when they are easily had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct HugePages {
    /// Pages of 2M.
    pub(crate) size_2m: u64,
    /// Pages of 1G.
    pub(crate) size_1g: u64,
}

impl HugePages {
    /// A sixth of the memory in 2M pages, and one 1G page for each 4G.
    pub(crate) const fn for_memory(memory: Memory) -> HugePages {
        HugePages {
            size_2m: memory.mebibytes / 12,
            size_1g: memory.mebibytes >> 12,
        }
    }
}

/// Inputs of QEMU's command line.
#[derive(Debug)]
pub(crate) struct ThisMachine<'a> {
    pub(crate) qemu: &'a Path,
    pub(crate) accelerator: Accelerator,
    pub(crate) memory: Memory,
    /// Path as QEMU sees it.
    pub(crate) kernel: String,
    /// Path as QEMU sees it.
    pub(crate) initramfs: String,
    /// COM1.
    pub(crate) console: RawFd,
    /// The virtio-serial port [`job::PORT`].
    pub(crate) port: RawFd,
    /// COM2.
    pub(crate) serial: RawFd,
}

impl ThisMachine<'_> {
    /// The command line.
    pub(crate) fn command_line(&self) -> CommandLine {
        let (accelerator, cpu) = match self.accelerator {
            // Five-level paging only makes every walk of the emulated MMU longer.
            Accelerator::Tcg => ("tcg", "max,la57=off,phys-bits=48"),
            Accelerator::Kvm(_) => ("kvm", "host"),
        };
        let memory = format!("{}M", self.memory.mebibytes());
        let socket = |id, fd| format!("socket,id={id},fd={fd}");
        let (console, port, serial) = (
            socket("console", self.console),
            socket("port", self.port),
            socket("serial", self.serial),
        );
        let append = self.append();
        let share = "local,id=host,path=/,readonly=on,security_model=none,multidevs=remap";
        let device_9p = format!("virtio-9p-pci,fsdev=host,mount_tag={}", job::HOST_TAG);
        let device_port = format!("virtserialport,chardev=port,name={}", job::PORT);
        let options: [(&str, &str); 17] = [
            ("-name", "tdxlab-l1"),
            ("-machine", "q35,hpet=off,vmport=off,graphics=off"),
            ("-accel", accelerator),
            ("-cpu", cpu),
            // Two vCPUs under TCG of QEMU 7.2 corrupt a kernel that patches itself.
            ("-smp", "1"),
            ("-m", &memory),
            ("-display", "none"),
            ("-chardev", &console),
            ("-serial", "chardev:console"),
            ("-chardev", &serial),
            ("-serial", "chardev:serial"),
            ("-chardev", &port),
            ("-device", "virtio-serial-pci"),
            ("-device", &device_port),
            ("-fsdev", share),
            ("-device", &device_9p),
            ("-append", &append),
        ];
        let mut args: Vec<_> = ["-nodefaults", "-no-user-config", "-no-reboot"]
            .map(Into::into)
            .to_vec();
        args.extend(["-kernel", &self.kernel, "-initrd", &self.initramfs].map(Into::into));
        args.extend(
            options
                .iter()
                .flat_map(|&(flag, value)| [flag.into(), value.into()]),
        );
        CommandLine {
            program: self.qemu.to_owned(),
            args,
            only_small_pages: false,
        }
    }

    /// The kernel's command line.
    fn append(&self) -> String {
        let HugePages { size_2m, size_1g } = HugePages::for_memory(self.memory);
        [
            // Warnings and worse are evidence; a chatty console costs an emulated CPU seconds.
            "console=ttyS0 earlyprintk=ttyS0 loglevel=5",
            // The end of the kernel is the end of QEMU.
            "panic=-1",
            // A periodic tick. QEMU's emulated SVM may lose an interrupt: VMRUN and #VMEXIT change
            // what the vCPU has pending without QEMU's lock, and undo what a device has just set.
            // The next interrupt delivers the lost one too, but a kernel that reprograms its timer
            // at each interrupt, and sleeps without one, waits forever.
            "nohz=off highres=off",
            // None of these pays off on one emulated CPU.
            "tsc=reliable no_timer_check mitigations=off nokaslr random.trust_cpu=on audit=0 \
             init_on_alloc=0 lsm= rcupdate.rcu_expedited=1 \
             nowatchdog cryptomgr.notests",
            &format!("hugepagesz=2M hugepages={size_2m} hugepagesz=1G hugepages={size_1g}"),
            &format!(
                "rdinit={} LD_LIBRARY_PATH={} -- {}",
                initramfs::PROGRAM,
                initramfs::LIBRARIES,
                INIT_COMMAND
            ),
        ]
        .join(" ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_a_number_with_a_unit() {
        assert_eq!("6G".parse(), Ok(Memory::USUAL));
        assert_eq!("1500M".parse::<Memory>().unwrap().to_string(), "1500M");
        for wrong in [
            "",
            "6",
            "G",
            "6T",
            "100M",
            "-1G",
            "99999999999999999999G",
            "18446744073709551615G",
        ] {
            assert!(wrong.parse::<Memory>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_cpu_says_whose_virtualisation_it_has() {
        assert_eq!(vendor("flags\t\t: fpu svm npt\n"), Some(Vendor::Amd));
        assert_eq!(vendor("model\nflags\t\t: fpu vmx\n"), Some(Vendor::Intel));
        assert_eq!(vendor("flags\t\t: fpu\n"), None);
    }

    #[test]
    fn kvm_is_chosen_only_where_it_runs_guests_and_lets_them_do_the_same() {
        let fact = |standing| doctor::Fact {
            name: "kvm".to_owned(),
            found: "found".to_owned(),
            standing,
            advice: None,
        };
        let choose = |standing| {
            let nested = Ok(Accelerator::Kvm(Vendor::Intel));
            AcceleratorChoice::automatic(nested, || fact(standing)).0
        };
        assert_eq!(choose(Status::Usable), Accelerator::Kvm(Vendor::Intel));
        assert_eq!(choose(Status::Limited), Accelerator::Tcg);
        assert_eq!(choose(Status::Unusable), Accelerator::Tcg);
        let not_nested = Err("guests may not".to_owned());
        let (chosen, why) = AcceleratorChoice::automatic(not_nested, || {
            panic!("what guests may not use is not tried")
        });
        assert_eq!((chosen, why.as_str()), (Accelerator::Tcg, "guests may not"));
    }

    #[test]
    fn huge_pages_leave_most_of_the_memory() {
        let pages = HugePages::for_memory(Memory::USUAL);
        assert_eq!((pages.size_2m, pages.size_1g), (512, 1));
        assert_eq!(HugePages::for_memory(Memory::LEAST).size_1g, 0);
    }

    #[test]
    fn what_stands_after_the_dashes_goes_to_the_first_process() {
        let machine = ThisMachine {
            qemu: Path::new("qemu"),
            accelerator: Accelerator::Tcg,
            memory: Memory::USUAL,
            kernel: "k".into(),
            initramfs: "i".into(),
            console: 3,
            port: 4,
            serial: 5,
        };
        let line = machine.command_line();
        let append = line.args.last().unwrap().to_str().unwrap();
        assert!(append.ends_with("-- l1-init"), "{append}");
        assert!(line.args.iter().any(|arg| arg == "socket,id=port,fd=4"));
    }
}
