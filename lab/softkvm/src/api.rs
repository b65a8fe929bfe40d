//! Inputs and outputs of the software KVM: plain values.

use tdxlab_protocol::addr::{Gpa, GpaRange, Side};
use tdxlab_protocol::message::VcpuId;
use tdxlab_tdxmodule::ModuleVersion;

use crate::kvm::design::KvmDesign;

/// A memory slot over test memory, bound to the guest_memfd.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemSlot {
    /// The GPAs it serves.
    pub range: GpaRange,
    /// Offset in the guest_memfd of the slot's first byte.
    pub gmem_offset: u64,
}

/// Configuration of the VM.
#[derive(Clone, Debug)]
pub struct Config {
    /// Test memory.
    pub memory: GpaRange,
    /// Memory slots that cover it.
    pub slots: Vec<MemSlot>,
    /// Number of vCPUs.
    pub vcpus: u16,
    /// The TD attribute SEPT_VE_DISABLE.
    pub sept_ve_disable: bool,
    /// Ranges added as 4K pages before the TD runs.
    pub image: Vec<GpaRange>,
    /// The one page of the positive control, in a slot and guest_memfd of its own.
    pub control: Gpa,
    /// The KVM to play.
    pub design: KvmDesign,
    /// The TDX module to play.
    pub module: ModuleVersion,
    /// Seed of what happens by chance: interrupts in the middle of a MapGPA.
    pub seed: u64,
}

/// Request of a vCPU to its host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// TDCALL with the registers handed to [`crate::SoftKvm::submit`].
    Tdcall {
        /// Address of the instruction.
        rip: u64,
    },
    /// An access found no translation.
    Fault {
        /// The faulting address.
        gpa: Gpa,
        /// Through which window.
        side: Side,
        /// Whether it was a write.
        write: bool,
        /// Address of the instruction that made it.
        rip: u64,
    },
}

impl Request {
    /// Address of the instruction.
    pub(crate) const fn rip(self) -> u64 {
        match self {
            Request::Tdcall { rip } | Request::Fault { rip, .. } => rip,
        }
    }
}

/// How far a request has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Advance {
    /// Not over: call again.
    Working,
    /// Over: the registers hold the result, or the access may be tried again.
    Done,
    /// #VE must be delivered; TDG.VP.VEINFO.GET has its information.
    Ve,
    /// The TD is dead.
    Dead,
}

/// Something done from the host's side, in stages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HostCall {
    /// fallocate(PUNCH_HOLE | KEEP_SIZE) on the guest_memfd, in bytes.
    Punch {
        /// File offset in bytes.
        offset: u64,
        /// Length in bytes.
        len: u64,
    },
    /// KVM_PRE_FAULT_MEMORY.
    Prefault {
        /// Range to map.
        range: GpaRange,
    },
    /// fallocate(KEEP_SIZE) on the guest_memfd, in bytes.
    Allocate {
        /// File offset in bytes.
        offset: u64,
        /// Length in bytes.
        len: u64,
    },
    /// KVM_SET_MEMORY_ATTRIBUTES2 on the guest_memfd, in bytes.
    SetAttributes {
        /// File offset in bytes.
        offset: u64,
        /// Length in bytes.
        len: u64,
        /// Private or shared.
        to: Side,
    },
    /// References to what user space maps of a range, as a device takes them.
    Pin {
        /// Where.
        range: GpaRange,
    },
    /// These references dropped.
    Unpin {
        /// Where.
        range: GpaRange,
    },
    /// The memory slot that serves exactly this range deleted.
    DeleteSlot {
        /// Which.
        range: GpaRange,
    },
    /// A deleted slot added again as it was.
    AddSlot {
        /// Which.
        range: GpaRange,
    },
    /// Dirty logging of the slots over the guest_memfd switched on or off.
    LogDirtyPages {
        /// Which.
        on: bool,
    },
    /// What the VMM answers from now on to conversions that touch a range.
    Conversions {
        /// Where.
        range: GpaRange,
        /// The answer.
        answer: Answer,
    },
}

/// What a VMM answers to a conversion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Done.
    Serve,
    /// Later: the guest is to ask again.
    Delay,
    /// No.
    Refuse,
}

/// A write to an I/O port through TDG.VP.VMCALL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortWrite {
    /// The vCPU that wrote.
    pub vcpu: VcpuId,
    /// Port number.
    pub port: u16,
    /// Value written.
    pub value: u32,
}

/// VM exits since boot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Exits {
    /// EPT violations of type ACCEPT.
    pub accept: u64,
    /// Other EPT violations on private memory.
    pub access: u64,
}

/// What work has been done, counted where it was done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Work {
    /// TD exits: EPT violations of all kinds and TDG.VP.VMCALLs.
    pub exits: u64,
    /// TDG.VP.VMCALLs among them.
    pub vmcalls: u64,
    /// Pages that TDH.MEM.PAGE.AUG has added, of 4K, 2M and 1G.
    pub auged: [u64; 3],
    /// TDH.MEM.TRACKs that were done, each with a kick of all vCPUs.
    pub tracks: u64,
}

/// How a TD died.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Death {
    /// Which side ended it.
    pub by: Killer,
    /// The message, as the kernel or the guest worded it.
    pub text: String,
}

/// Which side ended a TD.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Killer {
    /// KVM: the guest touched a pending page with SEPT_VE_DISABLE set.
    AccessBeforeAccept,
    /// KVM: something it relied on failed (KVM_BUG_ON).
    KvmBug,
    /// The guest: ReportFatalError.
    Guest,
    /// The VMM: it stopped at an exit that it cannot handle.
    Vmm,
    /// None: a vCPU exits forever and the guest makes no progress.
    ExitsForEver,
}
