//! A TD of terabytes made by hand, without QEMU and without a guest: what a hole in it costs KVM.
//!
//! Only in a rehearsal: one folio stands for all of its memory, and KVM counts the page table entries
//! that it looks at, and the time that it holds mmu_lock, while it splits for a range.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd};
use std::ptr;
use std::time::{Duration, Instant};

use kvm_bindings::{
    CpuId, KVM_CAP_SPLIT_IRQCHIP, KVM_MAX_CPUID_ENTRIES, kvm_cpuid_entry2, kvm_create_guest_memfd,
    kvm_enable_cap, kvm_pre_fault_memory, kvm_userspace_memory_region2,
};
use kvm_ioctls::{Kvm, VcpuFd, VmFd};
use tdxlab_host::HostError;
use tdxlab_journal::Reading;
use tdxlab_kernel::debugfs::{self, VmFolder};

/// KVM_X86_TDX_VM.
const TD: u64 = 5;
/// `_IOWR(KVMIO, 0xba, unsigned long)`.
const MEMORY_ENCRYPT_OP: libc::c_ulong = 0xc008_aeba;
/// `_IOWR(KVMIO, 0xd5, struct kvm_pre_fault_memory)`.
const PRE_FAULT_MEMORY: libc::c_ulong = 0xc040_aed5;
/// KVM_MEM_GUEST_MEMFD.
const GUEST_MEMFD: u32 = 1 << 2;
/// TD attribute SEPT_VE_DISABLE.
const SEPT_VE_DISABLE: u64 = 1 << 28;
/// Where its memory starts: nothing of it is looked at by anything else.
const BASE: u64 = 1 << 40;
/// A slot has fewer than 2^31 pages.
const SLOT: u64 = 4 << 40;
/// GPA width, as CPUID leaf 0x80000008 of the TD says it in EAX 23:16.
const GPA_WIDTH: u32 = 48;

const PARAMETERS: &str = "/sys/module/kvm/parameters";
const RANGES: &str = "/sys/kernel/debug/softtdx/ranges";

/// `struct kvm_tdx_cmd`.
#[repr(C)]
struct Command {
    id: u32,
    flags: u32,
    data: u64,
    hw_error: u64,
}

const CAPABILITIES: u32 = 0;
const INIT_VM: u32 = 1;
const INIT_VCPU: u32 = 2;
const FINALIZE_VM: u32 = 4;

/// `struct kvm_tdx_capabilities`.
#[repr(C)]
struct Capabilities {
    attributes: u64,
    xfam: u64,
    reserved: [u64; 254],
    nent: u32,
    padding: u32,
    entries: [kvm_cpuid_entry2; KVM_MAX_CPUID_ENTRIES],
}

/// `struct kvm_tdx_init_vm`, with one entry of CPUID.
#[repr(C)]
struct InitVm {
    attributes: u64,
    xfam: u64,
    measured: [u64; 18],
    reserved: [u64; 12],
    nent: u32,
    padding: u32,
    entry: kvm_cpuid_entry2,
}

/// Bytes from an offset in test memory on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Span {
    /// Offset of the first.
    pub start: u64,
    /// How many.
    pub bytes: u64,
}

/// What a hole has cost.
#[derive(Clone, Copy, Debug)]
pub struct Cost {
    /// Leaves of 2M that were mapped before.
    pub leaves: u64,
    /// Page table entries looked at to split for the hole.
    pub entries: u64,
    /// Leaves split.
    pub splits: u64,
    /// How long mmu_lock was held for that.
    pub locked: Duration,
    /// The whole fallocate(), with the zap of all that was mapped.
    pub hole: Duration,
}

/// Maps `mapped` of a TD with so much memory at 2M where it can be, punches the hole, and says what that
/// has cost under a design of the modules.
///
/// # Errors
///
/// This is no machine of a rehearsal, KVM refuses a step, or what it counts cannot be read.
pub fn measure(design: &str, memory: u64, mapped: &[Span], hole: Span) -> Result<Cost, HostError> {
    set("softtdx_design", design)?;
    set("softtdx_one_folio", "1")?;
    let cost = Td::new(memory).and_then(|td| td.punch(mapped, hole));
    set("softtdx_one_folio", "0")?;
    cost
}

/// What is closed, is closed in this order.
struct Td {
    vcpu: VcpuFd,
    _vm: VmFd,
    gmem: File,
    _slots: Vec<Reserved>,
}

impl Td {
    fn new(memory: u64) -> Result<Td, HostError> {
        let kvm = Kvm::new().map_err(failed("opening /dev/kvm"))?;
        let vm = kvm
            .create_vm_with_type(TD)
            .map_err(failed("KVM_CREATE_VM of a TD"))?;
        let mut split = kvm_enable_cap {
            cap: KVM_CAP_SPLIT_IRQCHIP,
            ..kvm_enable_cap::default()
        };
        split.args[0] = 24;
        vm.enable_cap(&split)
            .map_err(failed("KVM_CAP_SPLIT_IRQCHIP"))?;
        init(&vm)?;
        let created = vm.create_guest_memfd(kvm_create_guest_memfd {
            size: memory,
            ..kvm_create_guest_memfd::default()
        });
        let gmem = created.map_err(failed("KVM_CREATE_GUEST_MEMFD"))?;
        // SAFETY: KVM has just made it, and it belongs to no one else.
        let gmem = unsafe { File::from_raw_fd(gmem) };
        let mut slots = Vec::new();
        for start in (0..memory).step_by(SLOT as usize) {
            let bytes = SLOT.min(memory - start);
            let reserved = Reserved::new(bytes)?;
            let region = kvm_userspace_memory_region2 {
                slot: slots.len() as u32,
                flags: GUEST_MEMFD,
                guest_phys_addr: BASE + start,
                memory_size: bytes,
                userspace_addr: reserved.0.addr() as u64,
                guest_memfd: gmem.as_raw_fd().cast_unsigned(),
                guest_memfd_offset: start,
                ..kvm_userspace_memory_region2::default()
            };
            // SAFETY: the addresses are reserved for it until after the VM has gone.
            unsafe { vm.set_user_memory_region2(region) }
                .map_err(failed("KVM_SET_USER_MEMORY_REGION2"))?;
            slots.push(reserved);
        }
        let vcpu = vm.create_vcpu(0).map_err(failed("KVM_CREATE_VCPU"))?;
        let cpuid: CpuId = kvm
            .get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)
            .map_err(failed("KVM_GET_SUPPORTED_CPUID"))?;
        vcpu.set_cpuid2(&cpuid).map_err(failed("KVM_SET_CPUID2"))?;
        command(&vcpu, INIT_VCPU, 0, "KVM_TDX_INIT_VCPU")?;
        command(&vm, FINALIZE_VM, 0, "KVM_TDX_FINALIZE_VM")?;
        Ok(Td {
            vcpu,
            _vm: vm,
            gmem,
            _slots: slots,
        })
    }

    fn punch(&self, mapped: &[Span], hole: Span) -> Result<Cost, HostError> {
        for span in mapped {
            self.map(*span)?;
        }
        let leaves = self.leaves()?;
        fs::write(RANGES, "0\n").map_err(system("starting KVM's counts of ranges again"))?;
        let began = Instant::now();
        // SAFETY: no memory of this process is concerned.
        let result = unsafe {
            libc::fallocate(
                self.gmem.as_raw_fd(),
                libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE,
                hole.start.cast_signed(),
                hole.bytes.cast_signed(),
            )
        };
        let took = began.elapsed();
        if result != 0 {
            return Err(system("punching the hole")(io::Error::last_os_error()));
        }
        let counts = fs::read_to_string(RANGES).map_err(system("reading KVM's counts"))?;
        let count = |name: &str| {
            let line = counts.lines().find_map(|line| line.strip_prefix(name));
            let number = line.and_then(|number| number.trim().parse::<u64>().ok());
            number.ok_or_else(|| {
                let wrong = io::Error::new(io::ErrorKind::InvalidData, format!("no `{name}`"));
                system("reading KVM's counts")(wrong)
            })
        };
        Ok(Cost {
            leaves,
            entries: count("entries ")?,
            splits: count("splits ")?,
            locked: Duration::from_nanos(count("lock_ns ")?),
            hole: took,
        })
    }

    /// KVM_PRE_FAULT_MEMORY.
    fn map(&self, span: Span) -> Result<(), HostError> {
        let mut rest = kvm_pre_fault_memory {
            gpa: BASE + span.start,
            size: span.bytes,
            ..kvm_pre_fault_memory::default()
        };
        while rest.size > 0 {
            // SAFETY: `rest` is what the ioctl takes, and lives as long as it runs.
            let result = unsafe { libc::ioctl(self.vcpu.as_raw_fd(), PRE_FAULT_MEMORY, &mut rest) };
            let error = io::Error::last_os_error();
            let again = matches!(error.raw_os_error(), Some(libc::EINTR | libc::EAGAIN));
            if result != 0 && !again {
                return Err(system("KVM_PRE_FAULT_MEMORY")(error));
            }
        }
        Ok(())
    }

    fn leaves(&self) -> Result<u64, HostError> {
        let wrong = |reason: String| system("reading pages_2m")(io::Error::other(reason));
        let folder = VmFolder::find(debugfs::ROOT.as_ref(), std::process::id()).map_err(wrong)?;
        match folder.counters() {
            Reading::Read(counters) => Ok(counters.pages_2m),
            Reading::Missing { reason } | Reading::Incomplete { reason, .. } => Err(wrong(reason)),
        }
    }
}

/// KVM_TDX_INIT_VM with what the module offers.
fn init(vm: &VmFd) -> Result<(), HostError> {
    let none = kvm_cpuid_entry2::default();
    let mut offered = Box::new(Capabilities {
        attributes: 0,
        xfam: 0,
        reserved: [0; 254],
        nent: KVM_MAX_CPUID_ENTRIES as u32,
        padding: 0,
        entries: [none; KVM_MAX_CPUID_ENTRIES],
    });
    let data = ptr::from_mut(offered.as_mut()).addr() as u64;
    command(vm, CAPABILITIES, data, "KVM_TDX_CAPABILITIES")?;
    let wanted = InitVm {
        attributes: offered.attributes & SEPT_VE_DISABLE,
        xfam: offered.xfam,
        measured: [0; 18],
        reserved: [0; 12],
        nent: 1,
        padding: 0,
        entry: kvm_cpuid_entry2 {
            function: 0x8000_0008,
            eax: GPA_WIDTH << 16 | GPA_WIDTH,
            ..none
        },
    };
    let data = ptr::from_ref(&wanted).addr() as u64;
    command(vm, INIT_VM, data, "KVM_TDX_INIT_VM")
}

/// One command of KVM_MEMORY_ENCRYPT_OP; `data` is an address where the command takes one.
fn command(fd: &impl AsRawFd, id: u32, data: u64, name: &str) -> Result<(), HostError> {
    let mut command = Command {
        id,
        flags: 0,
        data,
        hw_error: 0,
    };
    // SAFETY: the command and what it points to live as long as the ioctl runs.
    let result = unsafe { libc::ioctl(fd.as_raw_fd(), MEMORY_ENCRYPT_OP, &mut command) };
    if result == 0 {
        return Ok(());
    }
    let error = io::Error::last_os_error();
    let what = format!("{error}, status {:#x}", command.hw_error);
    Err(system(name)(io::Error::new(error.kind(), what)))
}

/// Addresses that nothing is behind: a slot wants some, though its memory is in the guest_memfd.
struct Reserved(*mut libc::c_void, usize);

impl Reserved {
    fn new(bytes: u64) -> Result<Reserved, HostError> {
        let length = bytes as usize;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        // SAFETY: a new mapping at an address of the kernel's choice.
        let start = unsafe { libc::mmap(ptr::null_mut(), length, libc::PROT_NONE, flags, -1, 0) };
        if start == libc::MAP_FAILED {
            let error = io::Error::last_os_error();
            return Err(system("reserving addresses for a memory slot")(error));
        }
        Ok(Reserved(start, length))
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        // SAFETY: nothing has used it but a slot of a VM that has gone.
        unsafe { libc::munmap(self.0, self.1) };
    }
}

fn set(parameter: &str, value: &str) -> Result<(), HostError> {
    let path = format!("{PARAMETERS}/{parameter}");
    fs::write(&path, value).map_err(system(&format!("writing {value} to {path}")))
}

fn system(doing: &str) -> impl FnOnce(io::Error) -> HostError + use<> {
    let doing = doing.to_owned();
    move |source| HostError::System { doing, source }
}

fn failed(doing: &str) -> impl FnOnce(kvm_ioctls::Error) -> HostError + use<> {
    let failed = system(doing);
    move |error| failed(io::Error::from_raw_os_error(error.errno()))
}
