//! Whether KVM runs a guest here, by running one of three instructions.

use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::thread::JoinHandleExt;
use std::path::Path;
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Duration;

use kvm_bindings::{KVM_API_VERSION, kvm_userspace_memory_region};
use kvm_ioctls::{Kvm, VcpuExit};
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};

use super::stats;
use crate::doctor::fact::{Fact, Status};
use crate::doctor::machine::ThisMachine;

pub(super) const NAME: &str = "kvm";

/// Longest the guest may take. It takes microseconds, unless an emulator crawls through it.
const PATIENCE: Duration = Duration::from_secs(2);

/// The same in an L1, whose only processor may be an emulated one that others keep waiting.
const PATIENCE_IN_L1: Duration = Duration::from_secs(60);

fn patience() -> Duration {
    match std::env::var_os(tdxlab_qemu::environment::INSIDE_L1) {
        Some(_) => PATIENCE_IN_L1,
        None => PATIENCE,
    }
}

/// Where the guest lives.
const GUEST: u64 = 0x1000;

/// `mov [0x2000], al; hlt` in real mode: a store that must be mapped, then the end.
const CODE: [u8; 4] = [0xa2, 0x00, 0x20, 0xf4];

/// KVM parameters the lab depends on, and where they are set.
///
/// Without two-dimensional paging there are no leaves to count or split, and without the TDP MMU
/// the rules of splitting differ.
const NEEDED: [(&str, &str); 3] = [
    ("kvm_intel/parameters/ept", "Extended Page Tables (EPT)"),
    ("kvm_amd/parameters/npt", "nested page tables (NPT)"),
    ("kvm/parameters/tdp_mmu", "the TDP MMU"),
];

/// Whether a guest runs on the machine's KVM; `None` where that was not recorded, since a KVM that is
/// elsewhere cannot be tried.
pub(super) fn of(machine: &ThisMachine) -> Option<Fact> {
    const PATH: &str = "/answers/kvm-probe";
    if let Some(answer) = machine.recorded_answer(PATH) {
        let text = answer.ok()?;
        let mut lines = text.lines();
        let standing = Status::named(lines.next()?)?;
        return Some(Fact {
            advice: lines.clone().nth(1).map(str::to_owned),
            ..Fact::new(NAME, standing, lines.next()?)
        });
    }
    let fact = probe(machine);
    let _ = machine.answer(PATH, || {
        let lines = [
            Some(fact.standing.name()),
            Some(&fact.found),
            fact.advice.as_deref(),
        ];
        Ok(lines.into_iter().flatten().collect::<Vec<_>>().join("\n"))
    });
    Some(fact)
}

/// The problem with KVM's parameters; `None` if they are fine.
pub(super) fn ruled_out(machine: &ThisMachine) -> Option<Fact> {
    NEEDED.iter().find_map(|(parameter, what)| {
        let path = format!("/sys/module/{parameter}");
        let value = machine.read(&path).ok()?;
        let (module, name) = parameter.split_once("/parameters/")?;
        matches!(value.as_str(), "N" | "0").then(|| {
            Fact::unusable(NAME, format!("KVM does without {what}: {path} is {value}")).advise(
                format!(
                    "load {module} with {name}=1 (if it stays off, the processor or the machine \
                     that this one runs in has none)"
                ),
            )
        })
    })
}

/// Makes a VM with one page of code, runs it, and checks the value it stored.
///
/// It runs in a separate thread: a KVM that never returns must not hang the lab.
pub(super) fn probe(machine: &ThisMachine) -> Fact {
    let tried = tried();
    match tried.standing {
        // The result of running it outweighs a parameter.
        Status::Unusable => tried,
        Status::Usable | Status::Limited => ruled_out(machine).unwrap_or(tried),
    }
}

fn tried() -> Fact {
    match bounded(patience(), run_guest) {
        Err(error) => Fact::limited(NAME, format!("not tried: {error}")),
        Ok(Some(Ok(Shown { found, uncounted: None }))) => Fact::usable(NAME, found),
        Ok(Some(Ok(Shown { found, uncounted: Some(why) }))) => {
            Fact::limited(NAME, format!("{found}; {why}"))
                .advise("page counters come from debugfs alone, where it has them")
        }
        Ok(Some(Err(problem))) => Fact::unusable(NAME, problem.found).advise(problem.advice),
        Ok(None) => Fact::unusable(
            NAME,
            format!(
                "/dev/kvm opens, but a guest of two instructions was not done after {:?}",
                patience()
            ),
        )
        .advise("this KVM emulates guests (as KVM's PVM vendor does); soft and sim do without, and `tdxlab l1` boots a kernel that has one"),
    }
}

/// The result of `work`, run in a separate thread; `None` after a timeout. Then the system call it
/// waits in, such as KVM_RUN, is interrupted until the thread has ended; otherwise it would keep a
/// processor busy.
fn bounded<T: Send + 'static>(
    patience: Duration,
    work: impl FnOnce() -> T + Send + 'static,
) -> io::Result<Option<T>> {
    let (sender, receiver) = mpsc::channel();
    let thread = std::thread::Builder::new()
        .name("kvm-probe".to_owned())
        .spawn(move || {
            let _ = sender.send(work());
        })?;
    let result = receiver.recv_timeout(patience).ok();
    if result.is_none() {
        interrupt(&thread);
    }
    Ok(result)
}

/// Bound on the signals sent to a thread.
const KICKS: u32 = 200;

fn interrupt(thread: &JoinHandle<()>) {
    extern "C" fn nothing(_: libc::c_int) {}
    // No other part uses this signal, and its default action is to ignore it. Without SA_RESTART a
    // system call that it interrupts fails with EINTR.
    let action = SigAction::new(
        SigHandler::Handler(nothing),
        SaFlags::empty(),
        SigSet::empty(),
    );
    // SAFETY: the handler does nothing, so it is async-signal-safe.
    if unsafe { sigaction(Signal::SIGURG, &action) }.is_err() {
        return;
    }
    // A signal between two system calls interrupts none, so one is not enough.
    for _ in 0..KICKS {
        if thread.is_finished() {
            return;
        }
        // SAFETY: the handle is not joined yet, so it still refers to this thread.
        unsafe { libc::pthread_kill(thread.as_pthread_t(), libc::SIGURG) };
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Result of running a guest.
struct Shown {
    found: String,
    /// Why its pages could not be seen to count.
    uncounted: Option<String>,
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

fn run_guest() -> Result<Shown, Problem> {
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
    let uncounted = store_and_halt(&kvm).map_err(|what| {
        problem(
            format!("/dev/kvm opens, but {what}"),
            "this KVM cannot run guests; soft and sim do without, and `tdxlab l1` boots a kernel that has one",
        )
    })?;
    Ok(Shown {
        found: "a guest ran, stored to memory and halted".to_owned(),
        uncounted,
    })
}

/// The result is why its pages were not seen to count, where they were not.
fn store_and_halt(kvm: &Kvm) -> Result<Option<String>, String> {
    let failed = |doing: &str| {
        let doing = doing.to_owned();
        move |error: kvm_ioctls::Error| format!("{doing} failed: {error}")
    };
    let memory = memfd_pages()?;
    let vm = kvm.create_vm().map_err(failed("KVM_CREATE_VM"))?;
    // SAFETY: the mapping outlives the VM, which is dropped at the end of this function, and no
    // other code of this process accesses it while the guest runs.
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
    counted(stats::read(&vm, "pages_4k"))
}

/// Judges the page counter of a guest that stored to memory.
fn counted(pages: io::Result<Option<u64>>) -> Result<Option<String>, String> {
    match pages {
        Ok(Some(0)) => Err(format!(
            "it maps no page for its guest: it emulates every instruction{}",
            vendor(Path::new("/sys/module"))
        )),
        Ok(Some(_)) => Ok(None),
        Ok(None) => Ok(Some("its statistics have no pages_4k".to_owned())),
        // The positive control of each guest will show whether debugfs counts.
        Err(error) if error.raw_os_error() == Some(libc::ENOTTY) => Ok(Some(
            "it has no binary statistics, which came with Linux 5.14".to_owned(),
        )),
        Err(error) => Err(format!("its statistics cannot be read: {error}")),
    }
}

/// The vendor module, if known.
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    #[test]
    fn what_takes_too_long_is_interrupted_and_ends() {
        let ended = Arc::new(AtomicBool::new(false));
        let ends = Arc::clone(&ended);
        let work = move || {
            // Waits for a signal, as KVM_RUN of a guest that never exits does. SAFETY: no
            // arguments, no memory access.
            unsafe { libc::pause() };
            ends.store(true, Ordering::Release);
        };
        assert_eq!(bounded(Duration::from_millis(20), work).unwrap(), None);
        assert!(ended.load(Ordering::Acquire), "it goes on");
        let quick = bounded(Duration::from_secs(60), || 7).unwrap();
        assert_eq!(quick, Some(7));
    }

    #[test]
    fn only_a_counter_that_was_seen_to_move_makes_a_kvm_usable() {
        assert_eq!(counted(Ok(Some(2))), Ok(None));
        assert!(counted(Ok(Some(0))).unwrap_err().contains("maps no page"));
        assert!(counted(Ok(None)).unwrap().unwrap().contains("no pages_4k"));
        let error = |errno| Err(io::Error::from_raw_os_error(errno));
        let old = counted(error(libc::ENOTTY)).unwrap().unwrap();
        assert!(old.contains("Linux 5.14"), "{old}");
        let broken = counted(error(libc::EIO)).unwrap_err();
        assert!(broken.contains("cannot be read"), "{broken}");
    }
}
