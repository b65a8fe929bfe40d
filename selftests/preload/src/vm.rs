//! The VM and its parts, as QEMU makes them: noted on their way to the kernel.

use std::collections::BTreeMap;
use std::os::fd::RawFd;
use std::sync::atomic::AtomicU64;

use kvm_bindings::{
    KVM_CAP_MEMORY_ATTRIBUTES, KVM_CAP_VM_TYPES, KVM_CPUID_FLAG_SIGNIFCANT_INDEX,
    KVM_MEM_GUEST_MEMFD, KVM_MEMORY_ATTRIBUTE_PRIVATE, kvm_cpuid_entry2, kvm_memory_attributes,
    kvm_pre_fault_memory, kvm_userspace_memory_region2,
};
use libc::{c_int, c_void};

use crate::kvm::{self, Errno, Result};
use crate::lie::{Lies, Refusable};
use crate::ranges::Ranges;
use crate::run::Vcpu;
use crate::sept::{PAGE, Sept, State};
use crate::setup::Region;
use crate::windows::{Memory, Window, Windows};

/// The VM of this process, from its creation on.
#[derive(Debug)]
pub(crate) struct Vm {
    /// Its file descriptor; `None` until QEMU has created a TD.
    pub(crate) fd: Option<RawFd>,
    /// `/dev/kvm`.
    pub(crate) kvm: RawFd,
    slots: BTreeMap<u32, Slot>,
    /// Which GPAs are private in KVM's eyes.
    pub(crate) private: Ranges,
    /// By vCPU index.
    pub(crate) vcpus: Vec<Vcpu>,
    /// TD attributes of `KVM_TDX_INIT_VM`.
    pub(crate) attributes: u64,
    /// The initial image, until it is put in place.
    pub(crate) image: Vec<Region>,
    /// Whether the TD may run.
    pub(crate) finalized: bool,
    /// States of private pages.
    pub(crate) sept: Sept,
    /// What the guest can reach.
    pub(crate) windows: Windows,
    /// Whether KVM has given the TD up.
    pub(crate) dead: bool,
    /// What is told wrongly on request.
    pub(crate) lies: Lies,
}

/// A memory slot.
#[derive(Clone, Copy, Debug)]
struct Slot {
    gpa: u64,
    bytes: u64,
    /// Address of its shared half in this process.
    host: u64,
    /// Its private half and the offset in there.
    gmem: Option<(RawFd, u64)>,
}

impl Slot {
    fn offset(&self, gpa: u64) -> Option<u64> {
        gpa.checked_sub(self.gpa)
            .filter(|&offset| offset < self.bytes)
    }
}

impl Vm {
    pub(crate) const fn new() -> Vm {
        Vm {
            fd: None,
            kvm: -1,
            slots: BTreeMap::new(),
            private: Ranges::new(),
            vcpus: Vec::new(),
            attributes: 0,
            image: Vec::new(),
            finalized: false,
            sept: Sept::new(),
            windows: Windows::new(),
            dead: false,
            lies: Lies::new(),
        }
    }

    /// Address in this process of the shared half of `gpa`, with at least `bytes` behind it.
    pub(crate) fn host(&self, gpa: u64, bytes: u64) -> Option<*mut u8> {
        self.slots.values().find_map(|slot| {
            let offset = slot.offset(gpa)?;
            let fits = slot.bytes - offset >= bytes;
            (fits && slot.host != 0).then(|| (slot.host + offset) as *mut u8)
        })
    }

    /// The guest_memfd behind `gpa`, and the offset in it.
    pub(crate) fn gmem(&self, gpa: u64) -> Option<(RawFd, u64)> {
        self.slots.values().find_map(|slot| {
            let offset = slot.offset(gpa)?;
            let (fd, start) = slot.gmem?;
            Some((fd, start + offset))
        })
    }

    /// Whether a hole that QEMU punches is to be refused, `start` being its offset and length.
    pub(crate) fn refuses_hole(&self, file: RawFd, mode: c_int, start: libc::off_t) -> bool {
        const COARSE: libc::off_t = 2 << 20;
        let is_gmem = |slot: &Slot| slot.gmem.is_some_and(|(fd, _)| fd == file);
        self.lies.coarse_holes
            && mode & libc::FALLOC_FL_PUNCH_HOLE != 0
            && start % COARSE != 0
            && self.slots.values().any(is_gmem)
    }

    /// Takes a page out of the private window; the guest must then flush.
    pub(crate) fn hide_private(&self, gpa: u64) -> bool {
        self.windows.hide(&Shared(self), Window::Private, gpa)
    }
}

/// A VM's shared memory.
pub(crate) struct Shared<'a>(pub(crate) &'a Vm);

impl Memory for Shared<'_> {
    fn word(&self, gpa: u64) -> Option<&AtomicU64> {
        let address = self.0.host(gpa, 8)?.cast::<u64>();
        // SAFETY: the address lies in guest memory, which QEMU keeps mapped as long as the VM
        // lives, and is aligned as `gpa` is, which callers compute from page addresses.
        address
            .is_aligned()
            .then(|| unsafe { AtomicU64::from_ptr(address) })
    }
}

/// `KVM_CREATE_VM`.
pub(crate) unsafe fn create(kvm: RawFd, vm_type: *mut c_void) -> Result<c_int> {
    if vm_type.addr() != kvm::VM_TYPE_TDX {
        // SAFETY: the caller's promise.
        return unsafe { kvm::call(kvm, kvm::CREATE_VM, vm_type) };
    }
    let lies = Lies::of_environment().map_err(|error| {
        eprintln!("tdxlab-preload: {error}");
        Errno(libc::EINVAL)
    })?;
    let played = std::ptr::without_provenance_mut(kvm::VM_TYPE_SW_PROTECTED);
    // SAFETY: the argument is a number.
    let fd = unsafe { kvm::call(kvm, kvm::CREATE_VM, played) }.inspect_err(|_| {
        eprintln!(
            "tdxlab-preload: this kernel has no software-protected VMs (CONFIG_KVM_SW_PROTECTED_VM)"
        );
    })?;
    eprintln!("tdxlab-preload: REHEARSAL: the TDX module is played, nothing here is TDX");
    // A VM that QEMU makes anew, as on a reset, starts from nothing.
    *crate::vm() = Vm {
        fd: Some(fd),
        kvm,
        lies,
        ..Vm::new()
    };
    Ok(fd)
}

/// `KVM_CHECK_EXTENSION`: TDX is one of the VM types.
pub(crate) unsafe fn check_extension(fd: RawFd, extension: *mut c_void) -> Result<c_int> {
    // SAFETY: the caller's promise.
    let value = unsafe { kvm::call(fd, kvm::CHECK_EXTENSION, extension) }?;
    // What is no lie is said where the VM is made.
    let lies = Lies::of_environment().unwrap_or_default();
    if lies.no_attributes && extension.addr() == KVM_CAP_MEMORY_ATTRIBUTES as usize {
        return Ok(0);
    }
    if lies.no_tdx {
        return Ok(value);
    }
    if extension.addr() == KVM_CAP_VM_TYPES as usize && value & 1 << kvm::VM_TYPE_SW_PROTECTED != 0
    {
        return Ok(value | 1 << kvm::VM_TYPE_TDX);
    }
    Ok(value)
}

/// `KVM_CREATE_VCPU`.
pub(crate) unsafe fn create_vcpu(fd: RawFd, id: *mut c_void) -> Result<c_int> {
    // SAFETY: the caller's promise.
    let vcpu = unsafe { kvm::call(fd, kvm::CREATE_VCPU, id) }?;
    let mut vm = crate::vm();
    if vm.fd == Some(fd) {
        let kvm = vm.kvm;
        vm.vcpus.push(Vcpu::new(kvm, vcpu)?);
    }
    Ok(vcpu)
}

/// `KVM_SET_USER_MEMORY_REGION2`.
pub(crate) unsafe fn set_slot(fd: RawFd, region: *mut c_void) -> Result<c_int> {
    // SAFETY: the caller's promise.
    let value = unsafe { kvm::call(fd, kvm::SET_USER_MEMORY_REGION2, region) }?;
    let mut vm = crate::vm();
    if vm.fd != Some(fd) {
        return Ok(value);
    }
    // SAFETY: the kernel has just read the same structure.
    let region = unsafe { region.cast::<kvm_userspace_memory_region2>().read() };
    if region.memory_size == 0 {
        let Some(slot) = vm.slots.remove(&region.slot) else {
            return Ok(value);
        };
        // As in a TD: the private pages of a slot that goes are gone with it.
        for gpa in vm.sept.free_range(slot.gpa, slot.gpa + slot.bytes) {
            vm.hide_private(gpa);
        }
    } else {
        let gmem = (region.flags & KVM_MEM_GUEST_MEMFD != 0)
            .then_some((region.guest_memfd as RawFd, region.guest_memfd_offset));
        vm.slots.insert(
            region.slot,
            Slot {
                gpa: region.guest_phys_addr,
                bytes: region.memory_size,
                host: region.userspace_addr,
                gmem,
            },
        );
    }
    Ok(value)
}

/// `KVM_CREATE_GUEST_MEMFD`: as it is, unless it is to be refused.
pub(crate) unsafe fn create_guest_memfd(fd: RawFd, argument: *mut c_void) -> Result<c_int> {
    let mut vm = crate::vm();
    if vm.fd == Some(fd) {
        vm.lies.about(Refusable::CreateGuestMemfd)?;
    }
    // SAFETY: the caller's promise.
    unsafe { kvm::call(fd, kvm::CREATE_GUEST_MEMFD, argument) }
}

/// `KVM_SET_MEMORY_ATTRIBUTES`: QEMU prepares a slot or converts memory.
pub(crate) unsafe fn set_attributes(fd: RawFd, attributes: *mut c_void) -> Result<c_int> {
    // SAFETY: the caller's promise.
    let asked = unsafe { attributes.cast::<kvm_memory_attributes>().read() };
    let mut vm = crate::vm();
    if vm.fd == Some(fd) {
        vm.lies.about(Refusable::SetMemoryAttributes)?;
    }
    // SAFETY: the caller's promise.
    let value = unsafe { kvm::call(fd, kvm::SET_MEMORY_ATTRIBUTES, attributes) }?;
    if vm.fd != Some(fd) {
        return Ok(value);
    }
    let (start, end) = (asked.address, asked.address + asked.size);
    let mut hidden = false;
    if asked.attributes & u64::from(KVM_MEMORY_ATTRIBUTE_PRIVATE) != 0 {
        if vm.finalized {
            let shown = (start..end).step_by(PAGE as usize);
            for gpa in shown {
                hidden |= vm.windows.hide(&Shared(&vm), Window::Shared, gpa);
            }
        }
        vm.private.insert(start, end);
    } else {
        for gpa in vm.sept.free_range(start, end) {
            hidden |= vm.hide_private(gpa);
        }
        vm.private.remove(start, end);
    }
    if hidden {
        crate::tdcall::ask_for_flush(&vm);
    }
    Ok(value)
}

/// `KVM_PRE_FAULT_MEMORY`, which QEMU asks for after a conversion: private pages are pending then.
pub(crate) unsafe fn pre_fault(fd: RawFd, range: *mut c_void) -> Result<c_int> {
    let range = range.cast::<kvm_pre_fault_memory>();
    // SAFETY: the caller passes that structure, whose start the kernel moves over what is mapped.
    let (start, result, end) = unsafe {
        let start = (*range).gpa;
        let result = kvm::call(fd, kvm::PRE_FAULT_MEMORY, range.cast());
        (start, result, (*range).gpa)
    };
    let mut vm = crate::vm();
    if vm.vcpus.iter().any(|vcpu| vcpu.fd == fd) {
        for gpa in (start..end).step_by(PAGE as usize) {
            if vm.private.contains(gpa) && vm.sept.state(gpa).is_none() {
                vm.sept.set(gpa, State::Pending);
            }
        }
    }
    result
}

/// `KVM_SET_CPUID2`: the guest is told that it is a TD.
pub(crate) unsafe fn set_cpuid(fd: RawFd, cpuid: *mut c_void) -> Result<c_int> {
    let mut vm = crate::vm();
    let Some(vcpu) = vm.vcpus.iter_mut().find(|vcpu| vcpu.fd == fd) else {
        // SAFETY: the caller's promise.
        return unsafe { kvm::call(fd, kvm::SET_CPUID2, cpuid) };
    };
    // SAFETY: the structure is a count, padding, and that many entries.
    let given = unsafe {
        let count = cpuid.cast::<u32>().read() as usize;
        std::slice::from_raw_parts(cpuid.cast::<u8>().add(8).cast::<kvm_cpuid_entry2>(), count)
    };
    if let Some(entry) = given.iter().find(|entry| entry.function == 1) {
        vcpu.signature = entry.eax;
    }
    let mut buffer = cpuid_buffer(&as_td(given));
    // SAFETY: the buffer is laid out as the kernel's structure.
    unsafe { kvm::call(fd, kvm::SET_CPUID2, buffer.as_mut_ptr().cast()) }
}

/// CPUID leaf that names a TD: "IntelTDX    " in EBX, EDX, ECX.
const LEAF_TD: u32 = 0x21;

/// The entries with the leaf of a TD in place of what may be there.
fn as_td(given: &[kvm_cpuid_entry2]) -> Vec<kvm_cpuid_entry2> {
    let mut entries: Vec<_> = given
        .iter()
        .filter(|entry| entry.function != LEAF_TD)
        .copied()
        .collect();
    if let Some(first) = entries.iter_mut().find(|entry| entry.function == 0) {
        first.eax = first.eax.max(LEAF_TD);
    }
    let word = |text: &[u8; 4]| u32::from_le_bytes(*text);
    entries.push(kvm_cpuid_entry2 {
        function: LEAF_TD,
        flags: KVM_CPUID_FLAG_SIGNIFCANT_INDEX,
        ebx: word(b"Inte"),
        edx: word(b"lTDX"),
        ecx: word(b"    "),
        ..Default::default()
    });
    entries
}

/// A `struct kvm_cpuid2` in 8-byte words.
fn cpuid_buffer(entries: &[kvm_cpuid_entry2]) -> Vec<u64> {
    const WORDS: usize = size_of::<kvm_cpuid_entry2>() / 8;
    let mut buffer = vec![0; 1 + entries.len() * WORDS];
    buffer[0] = entries.len() as u64;
    for (number, entry) in entries.iter().enumerate() {
        // SAFETY: each entry has its own words in the buffer; the structure needs no more
        // alignment than they have.
        unsafe {
            buffer
                .as_mut_ptr()
                .add(1 + number * WORDS)
                .cast::<kvm_cpuid_entry2>()
                .write(*entry);
        }
    }
    buffer
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_guest_is_told_that_it_is_a_td() {
        let basic = kvm_cpuid_entry2 {
            eax: 0x16,
            ..Default::default()
        };
        let stale = kvm_cpuid_entry2 {
            function: LEAF_TD,
            ebx: 1,
            ..Default::default()
        };
        let entries = as_td(&[basic, stale]);
        assert_eq!(entries.len(), 2);
        assert_eq!(entries[0].eax, LEAF_TD);
        let name: Vec<u8> = [entries[1].ebx, entries[1].edx, entries[1].ecx]
            .into_iter()
            .flat_map(u32::to_le_bytes)
            .collect();
        assert_eq!(name, b"IntelTDX    ");
        assert_eq!(cpuid_buffer(&entries).len(), 1 + 2 * 5);
    }
}
