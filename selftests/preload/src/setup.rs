//! The six commands behind `KVM_MEMORY_ENCRYPT_OP` with which QEMU makes a TD.
//!
//! Source: `Documentation/virt/kvm/x86/intel-tdx.rst`, `arch/x86/kvm/vmx/tdx.c`.

use std::os::fd::RawFd;

use kvm_bindings::{KVM_CPUID_FLAG_SIGNIFCANT_INDEX, kvm_cpuid_entry2};
use libc::{c_int, c_void};
use tdxlab_protocol::layout;
use tdxlab_protocol::tdcall::ATTRIBUTES_SEPT_VE_DISABLE;

use crate::kvm::{self, Errno, Result};
use crate::lie::Refusable;
use crate::sept::{PAGE, State};
use crate::vm::Vm;
use crate::windows::{POOL_BYTES, POOL_START};

/// A command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Command {
    Capabilities,
    InitVm,
    InitVcpu,
    InitMemRegion,
    FinalizeVm,
    GetCpuid,
}

impl Command {
    /// In the order of their numbers.
    const ALL: [(Command, &'static str); 6] = [
        (Command::Capabilities, "CAPABILITIES"),
        (Command::InitVm, "INIT_VM"),
        (Command::InitVcpu, "INIT_VCPU"),
        (Command::InitMemRegion, "INIT_MEM_REGION"),
        (Command::FinalizeVm, "FINALIZE_VM"),
        (Command::GetCpuid, "GET_CPUID"),
    ];

    /// The command called `KVM_TDX_name`.
    pub(crate) fn named(name: &str) -> Option<Command> {
        let found = Command::ALL.iter().find(|(_, known)| *known == name);
        found.map(|(command, _)| *command)
    }
}

/// `struct kvm_tdx_cmd`.
#[repr(C)]
struct TdxCmd {
    id: u32,
    flags: u32,
    data: u64,
    hw_error: u64,
}

/// A place in the test memory of every scenario, of which no initial image takes anything.
const UNPOPULATED: u64 = (1 << 30) + (14 << 20);

/// Attributes and extended features a TD may have here.
const XFAM: u64 = 0x0006_02e7;

/// `KVM_MEMORY_ENCRYPT_OP`.
pub(crate) unsafe fn command(fd: RawFd, argument: *mut c_void) -> Result<c_int> {
    let mut vm = crate::vm();
    let vcpu = vm.vcpus.iter().position(|vcpu| vcpu.fd == fd);
    if vm.fd.is_none() || (vm.fd != Some(fd) && vcpu.is_none()) {
        // SAFETY: the caller's promise.
        return unsafe { kvm::call(fd, kvm::MEMORY_ENCRYPT_OP, argument) };
    }
    // SAFETY: QEMU passes a `struct kvm_tdx_cmd`.
    let given = unsafe { argument.cast::<TdxCmd>().read() };
    let (command, _) = *Command::ALL
        .get(given.id as usize)
        .ok_or(Errno(libc::EINVAL))?;
    vm.lies.about(Refusable::Tdx(command))?;
    // SAFETY: `data` is what each command's documentation says.
    unsafe {
        match command {
            Command::Capabilities => capabilities(given.data as *mut u64),
            Command::InitVm => {
                // The attributes are the first word of `struct kvm_tdx_init_vm`.
                vm.attributes = (given.data as *const u64).read();
                Ok(0)
            }
            Command::InitVcpu => {
                let index = vcpu.ok_or(Errno(libc::EINVAL))?;
                vm.vcpus[index].initial_rcx = given.data;
                Ok(0)
            }
            Command::InitMemRegion => add_region(&mut vm, (given.data as *const [u64; 3]).read()),
            Command::FinalizeVm => finalize(&mut vm),
            // No CPUID leaf is the TDX module's own here: the count of entries is 0.
            Command::GetCpuid => {
                (given.data as *mut u32).write(0);
                Ok(0)
            }
        }
    }
}

/// `struct kvm_tdx_capabilities`: 256 words, then a `struct kvm_cpuid2` with room for as many
/// entries as its count says.
unsafe fn capabilities(data: *mut u64) -> Result<c_int> {
    const CPUID_AT: usize = 256;
    let all = |function, index, flags| kvm_cpuid_entry2 {
        function,
        index,
        flags,
        eax: !0,
        ebx: !0,
        ecx: !0,
        edx: !0,
        ..Default::default()
    };
    let indexed = KVM_CPUID_FLAG_SIGNIFCANT_INDEX;
    let entries = [
        all(1, 0, 0),
        all(7, 0, indexed),
        all(7, 1, indexed),
        all(0xd, 0, indexed),
        all(0xd, 1, indexed),
        all(0x8000_0001, 0, 0),
        all(0x8000_0008, 0, 0),
    ];
    // SAFETY: the caller passes the structure described above.
    unsafe {
        let count = data.add(CPUID_AT).cast::<u32>();
        let room = count.read() as usize;
        count.write(entries.len() as u32);
        if room < entries.len() {
            return Err(Errno(libc::E2BIG));
        }
        data.write_bytes(0, CPUID_AT);
        data.write(ATTRIBUTES_SEPT_VE_DISABLE);
        data.add(1).write(XFAM);
        let first = data.add(CPUID_AT + 1).cast::<kvm_cpuid_entry2>();
        for (number, entry) in entries.into_iter().enumerate() {
            first.add(number).write(entry);
        }
    }
    Ok(0)
}

/// Part of the initial image.
#[derive(Debug)]
pub(crate) struct Region {
    gpa: u64,
    content: Vec<u8>,
}

impl Region {
    fn bytes(&self) -> u64 {
        self.content.len() as u64
    }

    /// Whether it is the micro guest's own: image, runtime memory, mailbox, HOB. That memory is
    /// shared in a rehearsal, since this library has to write to it.
    fn is_guests_own(&self) -> bool {
        const IMAGE_END: u64 = 1 << 32;
        let end = self.gpa + self.bytes();
        end <= layout::HOST_POOL_START
            || (IMAGE_END - layout::IMAGE_BYTES..IMAGE_END).contains(&self.gpa)
    }
}

/// `KVM_TDX_INIT_MEM_REGION`: the pages are populated now, the bytes put in place at the end,
/// because QEMU discards the shared half in between.
unsafe fn add_region(vm: &mut Vm, [source, gpa, pages]: [u64; 3]) -> Result<c_int> {
    if vm.finalized || gpa % PAGE != 0 || source % PAGE != 0 || pages == 0 {
        return Err(Errno(libc::EINVAL));
    }
    let bytes = pages * PAGE;
    let (gmem, offset) = vm.gmem(gpa).ok_or(Errno(libc::EINVAL))?;
    if !vm.private.contains(gpa) {
        return Err(Errno(libc::EFAULT));
    }
    kvm::allocate(gmem, offset, bytes)?;
    // SAFETY: QEMU passes the address of that many bytes.
    let content = unsafe { std::slice::from_raw_parts(source as *const u8, bytes as usize) };
    vm.image.push(Region {
        gpa,
        content: content.to_vec(),
    });
    Ok(0)
}

/// `KVM_TDX_FINALIZE_VM`.
fn finalize(vm: &mut Vm) -> Result<c_int> {
    let (Some(fd), Some(vcpu)) = (vm.fd, vm.vcpus.first().map(|vcpu| vcpu.fd)) else {
        return Err(Errno(libc::EINVAL));
    };
    if vm.finalized {
        return Err(Errno(libc::EINVAL));
    }
    for region in std::mem::take(&mut vm.image) {
        let (start, end) = (region.gpa, region.gpa + region.bytes());
        if region.is_guests_own() {
            let host = vm.host(start, region.bytes()).ok_or(Errno(libc::EFAULT))?;
            kvm::set_private(fd, start, region.bytes(), false)?;
            // SAFETY: `host` has room for the region, and no vCPU has run yet.
            unsafe { host.copy_from_nonoverlapping(region.content.as_ptr(), region.content.len()) };
        } else if region.content.iter().any(|&byte| byte != 0) {
            eprintln!("tdxlab-preload: cannot add pages with content at {start:#x} in a rehearsal");
            return Err(Errno(libc::EINVAL));
        }
        kvm::pre_fault(vcpu, start, region.bytes())?;
        for gpa in (start..end).step_by(PAGE as usize) {
            vm.sept.set(gpa, State::Mapped);
        }
    }
    kvm::set_private(fd, POOL_START, POOL_BYTES, false)?;
    vm.private.remove(POOL_START, POOL_START + POOL_BYTES);
    kvm::pre_fault(vcpu, POOL_START, POOL_BYTES)?;
    if vm.lies.populate > 0 {
        let (gmem, offset) = vm.gmem(UNPOPULATED).ok_or(Errno(libc::EINVAL))?;
        kvm::allocate(gmem, offset, vm.lies.populate * PAGE)?;
    }
    vm.finalized = true;
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_guests_own_memory_is_shared() {
        let region = |gpa, pages: usize| Region {
            gpa,
            content: vec![0; pages * PAGE as usize],
        };
        assert!(region(layout::RUNTIME_START, 512).is_guests_own());
        assert!(region(layout::TD_HOB_START, 2).is_guests_own());
        assert!(region((1 << 32) - layout::IMAGE_BYTES, 16).is_guests_own());
        assert!(!region(1 << 30, 16).is_guests_own());
        assert!(!region(1 << 32, 16).is_guests_own());
    }

    #[test]
    fn capabilities_ask_for_room() {
        let mut small = [0_u64; 257];
        // SAFETY: the structure has no room for entries and says so.
        let refused = unsafe { capabilities(small.as_mut_ptr()) };
        assert_eq!(refused, Err(Errno(libc::E2BIG)));
        let mut large = [0_u64; 257 + 5 * 16];
        large[256] = 16;
        // SAFETY: the structure has room for 16 entries and says so.
        let filled = unsafe { capabilities(large.as_mut_ptr()) };
        assert_eq!(filled, Ok(0));
        assert_eq!(large[0], ATTRIBUTES_SEPT_VE_DISABLE);
        assert_eq!(large[256] as u32, 7);
    }
}
