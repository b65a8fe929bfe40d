//! The windows, the guest's only access to the memory under test.
//!
//! | windows | tables below the PML4 entries | a missing page |
//! |---|---|---|
//! | host owned | the soft host's, its S-EPT | #PF, which the soft host answers |
//! | direct | 1G pages onto the same machine address | EPT violation; in a TD perhaps #VE |

use core::arch::global_asm;
use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicU8, AtomicU64, Ordering};

use tdxlab_protocol::addr::{Gpa, GpaRange, PageLevel};
use tdxlab_protocol::layout::{PML4, PRIVATE_WINDOW, SHARED_WINDOW, WINDOW_BYTES};
use tdxlab_protocol::message::{INSTRUCTION_COPIES, Side, Windows};

use crate::td::{self, VeInfo};
use crate::vcpu::this;
use crate::{cpu, mailbox};

global_asm!(
    include_str!("window.s"),
    copies = const INSTRUCTION_COPIES + 1,
    options(att_syntax),
);

/// By which copy of its instruction an access is made.
#[derive(Clone, Copy)]
pub(crate) enum Instruction {
    /// The one after that of this vCPU's last access.
    Next,
    /// One that is used for nothing else, every time.
    Same,
}

impl Instruction {
    fn copy(self) -> u64 {
        match self {
            Instruction::Next => {
                let next = (this().turn.get() + 1) % INSTRUCTION_COPIES;
                this().turn.set(next);
                next
            }
            Instruction::Same => INSTRUCTION_COPIES,
        }
    }
}

unsafe extern "sysv64" {
    fn access_load(address: u64, value: &mut u64, copy: u64) -> u64;
    fn access_add_zero(address: u64, copy: u64) -> u64;
    fn access_fill(address: u64, first: u64, copy: u64) -> u64;
    fn access_match(address: u64, first: u64, step: u64, matching: &mut u64) -> u64;
    safe static accesses_begin: u8;
    safe static accesses_end: u8;
    safe static access_failed: u8;
}

const NOT_MAPPED: u8 = 0;
const HOST_OWNED: u8 = 1;
const DIRECT: u8 = 2;

static STATE: AtomicU8 = AtomicU8::new(NOT_MAPPED);
/// First GPA that cannot be reached.
static LIMIT: AtomicU64 = AtomicU64::new(0);

/// Whether a soft host owns the tables of the windows.
pub(crate) fn host_owned() -> bool {
    STATE.load(Ordering::Relaxed) == HOST_OWNED
}

/// Whether commands can be run.
pub(crate) fn are_mapped() -> bool {
    STATE.load(Ordering::Relaxed) != NOT_MAPPED
}

/// Whether TDCALL is answered.
pub(crate) fn answer_tdcall() -> bool {
    td::is_td() || host_owned()
}

/// Brings the windows about. A limit is at most [`DIRECT_BYTES`].
pub(crate) fn map(windows: Windows) {
    let limit = match windows {
        Windows::HostOwned => Gpa::new(WINDOW_BYTES),
        Windows::Direct { limit } => limit,
    };
    LIMIT.store(limit.as_u64(), Ordering::Relaxed);
    match windows {
        Windows::HostOwned => {
            STATE.store(HOST_OWNED, Ordering::Relaxed);
            cpu::flush_tlb();
            // The TDX module, real or emulated, also reports the width of its addresses.
            td::info();
        }
        Windows::Direct { limit } => {
            map_directly(limit);
            STATE.store(DIRECT, Ordering::Relaxed);
        }
    }
}

const ENTRIES: usize = 512;
const PRESENT_WRITE: u64 = 0b11;
const LARGE: u64 = 1 << 7;
/// Bytes mapped by one PML4 entry.
const PML4_ENTRY_BYTES: u64 = ENTRIES as u64 * PageLevel::Size1G.bytes();
/// Most machine memory that windows of the guest's own can show: 16 TiB.
pub(crate) const DIRECT_BYTES: u64 = DIRECT_ENTRIES as u64 * PML4_ENTRY_BYTES;
/// PML4 entries for that.
const DIRECT_ENTRIES: usize = 32;

/// Tables of 1G pages, for both windows.
#[repr(align(4096))]
struct Tables(UnsafeCell<[[[u64; ENTRIES]; DIRECT_ENTRIES]; 2]>);

// SAFETY: only the boot processor writes them, before any other vCPU uses a window.
unsafe impl Sync for Tables {}

static TABLES: Tables = Tables(UnsafeCell::new([[[0; ENTRIES]; DIRECT_ENTRIES]; 2]));

fn map_directly(limit: Gpa) {
    let has_1g_pages = core::arch::x86_64::__cpuid(0x8000_0001).edx & 1 << 26 != 0;
    assert!(
        has_1g_pages,
        "the processor has no 1G pages to map the windows with"
    );
    for (side, base, tables) in [
        (Side::Private, PRIVATE_WINDOW, 0),
        (Side::Shared, SHARED_WINDOW, 1),
    ] {
        for number in 0..limit.as_u64().div_ceil(PML4_ENTRY_BYTES) {
            // SAFETY: the tables and the PML4 are only used by this vCPU now, and the number is
            // below `DIRECT_ENTRIES`, since the limit is not above `DIRECT_BYTES`.
            unsafe {
                let table = &raw mut (*TABLES.0.get())[tables][number as usize];
                for entry in 0..ENTRIES {
                    let page = number * PML4_ENTRY_BYTES + entry as u64 * PageLevel::Size1G.bytes();
                    let value = match page < limit.as_u64() {
                        true => page | td::side_bit(side) | LARGE | PRESENT_WRITE,
                        false => 0,
                    };
                    (&raw mut (*table)[entry]).write_volatile(value);
                }
                let slot = base / PML4_ENTRY_BYTES + number;
                let pml4 = (PML4 as *mut u64).add(slot as usize % ENTRIES);
                pml4.write_volatile(table.addr() as u64 | PRESENT_WRITE);
            }
        }
    }
    cpu::flush_tlb();
}

/// Whether a range can be reached.
pub(crate) fn holds(range: GpaRange) -> bool {
    range.end().as_u64() <= LIMIT.load(Ordering::Relaxed)
}

fn address(gpa: Gpa, side: Side) -> u64 {
    gpa.as_u64()
        + match side {
            Side::Private => PRIVATE_WINDOW,
            Side::Shared => SHARED_WINDOW,
        }
}

/// The GPA and side of a window address whose tables belong to the soft host; `None` for any other
/// address.
pub(crate) fn fault_in_host_owned(address: u64) -> Option<(Gpa, Side)> {
    if !host_owned() {
        return None;
    }
    [
        (PRIVATE_WINDOW, Side::Private),
        (SHARED_WINDOW, Side::Shared),
    ]
    .into_iter()
    .find(|(base, _)| (*base..base + WINDOW_BYTES).contains(&address))
    .map(|(base, side)| (Gpa::new(address - base), side))
}

/// Address to continue at after a #VE at `rip`; `None` if that is not an access to a window.
pub(crate) fn recovery(rip: u64) -> Option<u64> {
    let accesses = (&raw const accesses_begin).addr()..(&raw const accesses_end).addr();
    accesses
        .contains(&(rip as usize))
        .then_some((&raw const access_failed).addr() as u64)
}

/// Makes one access; returns the #VE that ended it, if any.
fn access(access: impl FnOnce() -> u64) -> Result<(), VeInfo> {
    let failed = match host_owned() {
        true => mailbox::with_translations(access),
        false => access(),
    };
    match failed {
        0 => Ok(()),
        _ => Err(this()
            .ve
            .take()
            .expect("an access that fails has had a #VE")),
    }
}

/// Loads the word at `gpa`.
pub(crate) fn load(gpa: Gpa, side: Side, by: Instruction) -> Result<u64, VeInfo> {
    let mut value = 0;
    let copy = by.copy();
    // SAFETY: memory in windows has no other use; a fault is handled.
    access(|| unsafe { access_load(address(gpa, side), &mut value, copy) }).map(|()| value)
}

/// Writes to the word at `gpa` without changing it.
pub(crate) fn add_zero(gpa: Gpa, side: Side, by: Instruction) -> Result<(), VeInfo> {
    let copy = by.copy();
    // SAFETY: as for `load`.
    access(|| unsafe { access_add_zero(address(gpa, side), copy) })
}

/// Fills the page at `page` with words that rise by one from `first`.
pub(crate) fn fill(page: Gpa, side: Side, first: u64) -> Result<(), VeInfo> {
    let copy = Instruction::Next.copy();
    // SAFETY: as for `load`.
    access(|| unsafe { access_fill(address(page, side), first, copy) })
}

/// Counts the words of the page at `page` that are `first`, `first + step` and so on, up to the
/// first that is not.
pub(crate) fn matching(page: Gpa, side: Side, first: u64, step: u64) -> Result<usize, VeInfo> {
    let mut count = 0;
    // SAFETY: as for `load`.
    access(|| unsafe { access_match(address(page, side), first, step, &mut count) })
        .map(|()| count as usize)
}
