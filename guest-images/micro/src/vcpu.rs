//! Data of each vCPU: stacks, descriptor tables, counters.

use core::arch::asm;
use core::cell::{Cell, UnsafeCell};
use core::mem::{MaybeUninit, offset_of};

use tdxlab_protocol::layout::MAX_VCPUS;
use tdxlab_protocol::message::{Counts, Run, VcpuId};

use crate::cpu;
use crate::td::VeInfo;

/// Bytes of the stack on which a vCPU runs.
pub(crate) const MAIN_STACK_BYTES: usize = 12 * 1024;
/// Bytes of the stack of an exception whose handler does something and returns.
const WORKING_STACK_BYTES: usize = 2 * 1024;
/// Bytes of the stack of an exception that is fatal or an interrupt that only wakes.
const SMALL_STACK_BYTES: usize = 512;

/// Stacks of the exceptions, counted as the processor does, from 1.
#[derive(Clone, Copy)]
#[repr(u8)]
pub(crate) enum Stack {
    /// #UD: TDCALL on a soft host.
    InvalidOpcode = 1,
    /// #PF: a window fault on a soft host.
    PageFault = 2,
    /// #VE.
    Virtualization = 3,
    /// #DF.
    DoubleFault = 4,
    /// NMI.
    Nmi = 5,
    /// #GP.
    GeneralProtection = 6,
    /// Everything else. None of these interrupts another: all but interrupts are fatal.
    Others = 7,
}

/// A vCPU's memory. Zero at first, which RAM is at power-on and TEMP_MEM pages are in a TD.
#[repr(C, align(16))]
pub(crate) struct Area {
    main: [u8; MAIN_STACK_BYTES],
    working: [[u8; WORKING_STACK_BYTES]; 3],
    small: [[u8; SMALL_STACK_BYTES]; 4],
    vcpu: UnsafeCell<MaybeUninit<Vcpu>>,
}

/// Size of an [`Area`].
pub(crate) const AREA_BYTES: usize = size_of::<Area>();

/// The memory of all vCPUs.
#[repr(transparent)]
pub(crate) struct Areas([MaybeUninit<Area>; MAX_VCPUS as usize]);

// SAFETY: each area is used by its own vCPU only.
unsafe impl Sync for Areas {}

/// The memory of all vCPUs, by index.
pub(crate) static AREAS: Areas = Areas([const { MaybeUninit::uninit() }; MAX_VCPUS as usize]);

/// The lowest word of each stack holds this; another value means that the stack was too small.
const CANARY: u64 = 0x57ac_4b07_703e_57ac;

/// A vCPU's own data, reached through GS. Only this vCPU and its exception handlers use it.
#[repr(C)]
pub(crate) struct Vcpu {
    this: *const Vcpu,
    id: VcpuId,
    gdt: [u64; 6],
    tss: Tss,
    /// Counted since the current task has begun.
    pub(crate) counts: Cell<Counts>,
    /// Which copy of an instruction made the last access, see [`crate::window::Instruction`].
    pub(crate) turn: Cell<u64>,
    /// Information of the last #VE, until the code that caused it takes it.
    pub(crate) ve: Cell<Option<VeInfo>>,
    /// Results that are not yet sent.
    pub(crate) runs: UnsafeCell<heapless::Vec<Run, { tdxlab_protocol::message::MAX_RUNS }>>,
}

/// The 64-bit task state segment; only the interrupt stacks matter.
#[repr(C, packed(4))]
struct Tss {
    reserved_0: u32,
    rsp: [u64; 3],
    reserved_1: u64,
    ist: [u64; 7],
    reserved_2: u64,
    reserved_3: u16,
    io_map: u16,
}

const SELECTOR_DATA: u16 = 0x10;
const SELECTOR_TSS: u16 = 0x20;
const MSR_GS_BASE: u32 = 0xc000_0101;

/// Sets up the vCPU that runs this; called once on each, first of all.
pub(crate) fn set_up(id: VcpuId) {
    let area = AREAS.0[usize::from(id.0)].as_ptr();
    // SAFETY: the area is this vCPU's own, zeroed memory, of which only the main stack is in use,
    // and only above its lowest word.
    unsafe {
        let vcpu = UnsafeCell::raw_get(&raw const (*area).vcpu).cast::<Vcpu>();
        (&raw mut (*vcpu).this).write(vcpu);
        (&raw mut (*vcpu).id).write(id);
        (&raw mut (*vcpu).counts).write(Cell::default());
        (&raw mut (*vcpu).turn).write(Cell::new(0));
        (&raw mut (*vcpu).ve).write(Cell::new(None));
        (&raw mut (*vcpu).runs).write(UnsafeCell::default());
        (&raw mut (*vcpu).tss).write(Tss {
            reserved_0: 0,
            rsp: [0; 3],
            reserved_1: 0,
            ist: stacks(area).map(|(_, top)| top),
            reserved_2: 0,
            reserved_3: 0,
            io_map: size_of::<Tss>() as u16,
        });
        (&raw mut (*vcpu).gdt).write(descriptors((&raw const (*vcpu).tss).addr() as u64));
        for (bottom, _) in stacks(area) {
            (bottom as *mut u64).write(CANARY);
        }
        area.cast::<u64>().cast_mut().write(CANARY);
        touch(area);

        load_tables((&raw const (*vcpu).gdt).addr() as u64);
        cpu::wrmsr(MSR_GS_BASE, vcpu.addr() as u64);
    }
}

/// Has the host map all of an area now, so that no counter of pages moves for it later.
fn touch(area: *const Area) {
    for offset in (0..AREA_BYTES).step_by(4096).chain([AREA_BYTES - 1]) {
        let byte = area.cast::<u8>().wrapping_add(offset);
        // SAFETY: the byte is in the area and is not changed.
        unsafe { asm!("or byte ptr [{}], 0", in(reg) byte, options(nostack)) };
    }
}

/// Lowest and first unused higher address of each exception's stack.
fn stacks(area: *const Area) -> [(u64, u64); 7] {
    let working = area.addr() + offset_of!(Area, working);
    let small = area.addr() + offset_of!(Area, small);
    core::array::from_fn(|number| {
        let (bottom, bytes) = match number {
            0..3 => (working + number * WORKING_STACK_BYTES, WORKING_STACK_BYTES),
            _ => (small + (number - 3) * SMALL_STACK_BYTES, SMALL_STACK_BYTES),
        };
        (bottom as u64, (bottom + bytes) as u64)
    })
}

/// The descriptors of boot.s, and one for the task state segment at `tss`.
fn descriptors(tss: u64) -> [u64; 6] {
    const AVAILABLE_TSS: u64 = 0x89 << 40;
    let limit = size_of::<Tss>() as u64 - 1;
    let base = (tss & 0x00ff_ffff) << 16 | (tss & 0xff00_0000) << 32;
    [
        0,
        0x00cf_9b00_0000_ffff,
        0x00cf_9300_0000_ffff,
        0x00af_9b00_0000_ffff,
        limit | base | AVAILABLE_TSS,
        tss >> 32,
    ]
}

/// Loads the descriptor table at `gdt`, whose code segment is the one in use.
///
/// # Safety
///
/// `gdt` is made by [`descriptors`] and stays for good.
unsafe fn load_tables(gdt: u64) {
    #[repr(C, packed)]
    struct Pointer(u16, u64);
    let pointer = Pointer(size_of::<[u64; 6]>() as u16 - 1, gdt);
    // SAFETY: the caller's promise.
    unsafe {
        asm!(
            "lgdt [{pointer}]",
            "mov ds, {data:e}", "mov es, {data:e}", "mov ss, {data:e}",
            "mov fs, {data:e}", "mov gs, {data:e}",
            "ltr {tss:x}",
            pointer = in(reg) &raw const pointer,
            data = in(reg) u32::from(SELECTOR_DATA),
            tss = in(reg) SELECTOR_TSS,
            options(nostack, preserves_flags),
        );
    }
}

/// The vCPU that runs this.
pub(crate) fn this() -> &'static Vcpu {
    let vcpu: *const Vcpu;
    // SAFETY: `set_up` has run, so that GS points to this vCPU's data, which begins with its own
    // address and stays for good.
    unsafe {
        asm!("mov {}, gs:[0]", out(reg) vcpu, options(readonly, nostack, preserves_flags));
        &*vcpu
    }
}

impl Vcpu {
    /// Its index.
    pub(crate) fn id(&self) -> VcpuId {
        self.id
    }

    /// Its place in tables by vCPU.
    pub(crate) fn index(&self) -> usize {
        usize::from(self.id.0)
    }

    /// Changes its counters.
    pub(crate) fn count(&self, change: impl FnOnce(&mut Counts)) {
        let mut counts = self.counts.get();
        change(&mut counts);
        self.counts.set(counts);
    }

    /// Panics where a stack was too small.
    pub(crate) fn check_stacks(&self) {
        let area = AREAS.0[self.index()].as_ptr();
        let bottoms = stacks(area).map(|(bottom, _)| bottom);
        for bottom in bottoms.into_iter().chain([area.addr() as u64]) {
            // SAFETY: the address lies in this vCPU's area.
            let found = unsafe { (bottom as *const u64).read_volatile() };
            assert!(found == CANARY, "stack overflow at {bottom:#x}");
        }
    }
}
