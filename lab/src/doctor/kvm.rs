//! Whether a KVM here runs a guest: by running one of three instructions.

use std::os::fd::AsRawFd;
use std::path::Path;
use std::sync::mpsc;
use std::time::Duration;

use kvm_bindings::{KVM_API_VERSION, kvm_userspace_memory_region};
use kvm_ioctls::{Kvm, VcpuExit};

use super::{Fact, stats};

pub(super) const NAME: &str = "kvm";

/// Longest the guest may take. It takes microseconds, unless an emulator crawls through it.
const PATIENCE: Duration = Duration::from_secs(2);

/// Where the guest lives.
const GUEST: u64 = 0x1000;

/// `mov [0x2000], al; hlt` in real mode: a store that must be mapped, then the end.
const CODE: [u8; 4] = [0xa2, 0x00, 0x20, 0xf4];

/// Makes a VM with one page of code, runs it, and looks whether it stored what it had to.
///
/// The guest runs in a thread of its own: a KVM that never returns must not hang the lab.
pub(super) fn probe() -> Fact {
    let (sender, receiver) = mpsc::channel();
    let spawned = std::thread::Builder::new()
        .name("kvm-probe".to_owned())
        .spawn(move || {
            let _ = sender.send(run_guest());
        });
    if let Err(error) = spawned {
        return Fact::limited(NAME, format!("not tried: {error}"));
    }
    match receiver.recv_timeout(PATIENCE) {
        Ok(Ok(found)) => Fact::usable(NAME, found),
        Ok(Err(problem)) => Fact::unusable(NAME, problem.found).advise(problem.advice),
        Err(_) => Fact::unusable(
            NAME,
            format!(
                "/dev/kvm opens, but a guest of two instructions was not done after {PATIENCE:?}"
            ),
        )
        .advise("this KVM emulates guests (as KVM's PVM vendor does); soft and sim do without, and `tdxlab l1` boots a kernel that has one"),
    }
}

struct Problem {
    found: String,
    advice: String,
}

fn problem(found: impl Into<String>, advice: &str) -> Problem {
    Problem {
        found: found.into(),
        advice: advice.to_owned(),
    }
}

fn run_guest() -> Result<String, Problem> {
    let kvm = Kvm::new().map_err(|error| match error.errno() {
        libc::ENOENT => problem(
            "no /dev/kvm",
            "turn on virtualization in the firmware and load kvm_intel or kvm_amd; soft and sim \
             do without",
        ),
        libc::EACCES => problem(
            "/dev/kvm may not be opened by this user",
            "add the user to the group kvm, or run as root",
        ),
        _ => problem(
            format!("/dev/kvm does not open: {error}"),
            "see dmesg for what kvm said when it was loaded",
        ),
    })?;
    let version = kvm.get_api_version();
    if version != KVM_API_VERSION as i32 {
        return Err(problem(
            format!("/dev/kvm speaks API {version}, not {KVM_API_VERSION}"),
            "use an ordinary Linux kernel",
        ));
    }
    store_and_halt(&kvm).map_err(|what| {
        problem(
            format!("/dev/kvm opens, but {what}"),
            "this KVM cannot run guests; soft and sim do without, and `tdxlab l1` boots a kernel that has one",
        )
    })?;
    Ok("a guest ran, stored to memory and halted".to_owned())
}

fn store_and_halt(kvm: &Kvm) -> Result<(), String> {
    let failed = |doing: &str| {
        let doing = doing.to_owned();
        move |error: kvm_ioctls::Error| format!("{doing} failed: {error}")
    };
    let memory = memfd_pages()?;
    let vm = kvm.create_vm().map_err(failed("KVM_CREATE_VM"))?;
    // SAFETY: the mapping outlives the VM, which is dropped at the end of this function, and
    // nothing else of this process looks at it while the guest runs.
    unsafe {
        vm.set_user_memory_region(kvm_userspace_memory_region {
            slot: 0,
            flags: 0,
            guest_phys_addr: GUEST,
            memory_size: memory.length as u64,
            userspace_addr: memory.start as u64,
        })
    }
    .map_err(failed("KVM_SET_USER_MEMORY_REGION"))?;
    let mut vcpu = vm.create_vcpu(0).map_err(failed("KVM_CREATE_VCPU"))?;
    let mut sregs = vcpu.get_sregs().map_err(failed("KVM_GET_SREGS"))?;
    for segment in [&mut sregs.cs, &mut sregs.ds] {
        segment.base = 0;
        segment.selector = 0;
    }
    vcpu.set_sregs(&sregs).map_err(failed("KVM_SET_SREGS"))?;
    let mut regs = vcpu.get_regs().map_err(failed("KVM_GET_REGS"))?;
    regs.rip = GUEST;
    regs.rax = 0x5a;
    regs.rflags = 2;
    vcpu.set_regs(&regs).map_err(failed("KVM_SET_REGS"))?;
    match vcpu.run().map_err(failed("KVM_RUN"))? {
        VcpuExit::Hlt => {}
        other => return Err(format!("its guest ended with {other:?} instead of a halt")),
    }
    match memory.byte(0x1000) {
        0x5a => {}
        other => return Err(format!("its guest's store went astray ({other:#x} found)")),
    }
    // Before Linux 5.14 there are no statistics to ask for; the positive control will tell then.
    match stats::read(&vm, "pages_4k") {
        Ok(Some(0)) => Err(format!(
            "it maps no page for its guest: it emulates every instruction{}",
            vendor(Path::new("/sys/module"))
        )),
        Ok(_) | Err(_) => Ok(()),
    }
}

/// Who does so, where it is known.
fn vendor(modules: &Path) -> &'static str {
    match modules.join("kvm_pvm").exists() {
        true => " (KVM's PVM vendor, kvm_pvm)",
        false => "",
    }
}

/// Two pages of anonymous memory, the code in the first.
struct Pages {
    start: *mut libc::c_void,
    length: usize,
}

fn memfd_pages() -> Result<Pages, String> {
    let length = 0x2000;
    let file = nix::sys::memfd::memfd_create("kvm-probe", nix::sys::memfd::MFdFlags::MFD_CLOEXEC)
        .map_err(|error| format!("no memory for its guest: {error}"))?;
    let file = std::fs::File::from(file);
    std::os::unix::fs::FileExt::write_all_at(&file, &CODE, 0)
        .and_then(|()| file.set_len(length as u64))
        .map_err(|error| format!("no memory for its guest: {error}"))?;
    // SAFETY: a fresh shared mapping of a file that is long enough.
    let start = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            length,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_SHARED,
            file.as_raw_fd(),
            0,
        )
    };
    if start == libc::MAP_FAILED {
        return Err(format!(
            "no memory for its guest: {}",
            std::io::Error::last_os_error()
        ));
    }
    Ok(Pages { start, length })
}

impl Pages {
    fn byte(&self, offset: usize) -> u8 {
        assert!(offset < self.length);
        // SAFETY: inside the mapping; the guest has halted.
        unsafe { self.start.cast::<u8>().add(offset).read_volatile() }
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours; the VM that used it is gone.
        unsafe { libc::munmap(self.start, self.length) };
    }
}
