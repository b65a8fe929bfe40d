//! Several vCPUs: start, distribution of tasks, simultaneous begin.

use core::cell::UnsafeCell;
use core::hint::spin_loop;
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::SeqCst};

use tdxlab_protocol::layout::MAX_VCPUS;
use tdxlab_protocol::message::{Reply, Task};

use crate::vcpu::this;
use crate::{boot, command, cpu, machine, serial, td};

/// Clock ticks to wait for a vCPU before it counts as lost; at least some seconds on any machine.
const PATIENCE: u64 = 60_000_000_000;

/// Whether the boot processor has built what all vCPUs share.
static OPEN: AtomicBool = AtomicBool::new(false);
/// vCPUs that are up, one bit each.
static ONLINE: AtomicU64 = AtomicU64::new(0);

/// A task for a vCPU.
struct Job {
    /// Whether there is one that has not begun.
    waiting: AtomicBool,
    work: UnsafeCell<Option<(u32, Task)>>,
}

// SAFETY: `work` is written by the boot processor while `waiting` is clear and read by the vCPU it
// belongs to while it is set.
unsafe impl Sync for Job {}

static JOBS: [Job; MAX_VCPUS as usize] = [const {
    Job {
        waiting: AtomicBool::new(false),
        work: UnsafeCell::new(None),
    }
}; MAX_VCPUS as usize];

/// Tasks of the current request.
static TASKS: AtomicU32 = AtomicU32::new(0);
/// Those that are ready to begin.
static READY: AtomicU32 = AtomicU32::new(0);
/// Those that are not over.
static LEFT: AtomicU32 = AtomicU32::new(0);

/// Lets the other vCPUs in, and starts them if they do not come on their own.
pub(crate) fn open(vcpus: u16) {
    OPEN.store(true, SeqCst);
    if !td::is_td() && vcpus > 1 {
        machine::start_others();
    }
}

/// Waits until all vCPUs are up.
pub(crate) fn wait_for_all(vcpus: u16) {
    assert!(
        u32::from(vcpus) <= MAX_VCPUS,
        "{vcpus} vCPUs are more than {MAX_VCPUS}"
    );
    // The boot processor is up and has no bit.
    let all = (u64::MAX >> (64 - u32::from(vcpus).max(1))) & !1;
    let start = cpu::rdtsc();
    while ONLINE.load(SeqCst) & all != all {
        let stray = boot::STRAY.load(SeqCst);
        let online = ONLINE.load(SeqCst);
        assert!(
            stray == 0 && online & !all == 0,
            "APIC ids do not go from 0 to {}: put all vCPUs into one socket (stray {stray}, online {online:#x})",
            vcpus - 1
        );
        assert!(
            cpu::rdtsc() - start < PATIENCE,
            "vCPU {} did not start",
            (all & !online).trailing_zeros()
        );
        spin_loop();
    }
}

/// What every vCPU but the boot processor does.
pub(crate) fn serve_as_other() -> ! {
    if !td::is_td() {
        machine::set_up_apic();
    }
    ONLINE.fetch_or(1 << this().id().0, SeqCst);
    let job = &JOBS[this().index()];
    loop {
        while !job.waiting.load(SeqCst) {
            if td::is_td() {
                spin_loop();
            } else {
                machine::sleep();
            }
        }
        // SAFETY: `waiting` is set.
        let work = unsafe { *job.work.get() };
        job.waiting.store(false, SeqCst);
        if let Some((id, task)) = work {
            run(id, &task);
        }
    }
}

/// Waits in the rest of the boot code until there are tasks to share.
pub(crate) fn wait_until_open() {
    while !OPEN.load(SeqCst) {
        spin_loop();
    }
}

/// Starts `tasks`, of which no two are for the same vCPU and each is for one that is up. Returns
/// when the boot processor's own is over, if it has one.
pub(crate) fn start(id: u32, tasks: &[Task]) {
    // A lab that does not wait for `Idle` is made to wait here.
    while LEFT.load(SeqCst) != 0 {
        spin_loop();
    }
    if tasks.is_empty() {
        return serial::send(&Reply::Idle { id });
    }
    TASKS.store(tasks.len() as u32, SeqCst);
    LEFT.store(tasks.len() as u32, SeqCst);
    READY.store(0, SeqCst);
    let mut own = None;
    for task in tasks {
        if task.vcpu == this().id() {
            own = Some(task);
            continue;
        }
        let job = &JOBS[usize::from(task.vcpu.0)];
        // SAFETY: `waiting` is clear, since the job's last task is over.
        unsafe { *job.work.get() = Some((id, *task)) };
        job.waiting.store(true, SeqCst);
        if !td::is_td() {
            machine::wake(task.vcpu);
        }
    }
    if let Some(task) = own {
        run(id, task);
    }
}

/// Runs a task together with the others of its request. The last to end reports it.
fn run(id: u32, task: &Task) {
    READY.fetch_add(1, SeqCst);
    while READY.load(SeqCst) != TASKS.load(SeqCst) {
        spin_loop();
    }
    command::run(id, task);
    this().check_stacks();
    if LEFT.fetch_sub(1, SeqCst) == 1 {
        serial::send(&Reply::Idle { id });
    }
}
