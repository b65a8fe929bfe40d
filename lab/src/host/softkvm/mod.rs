//! A software KVM and TDX module that really do the work, with page tables.
//!
//! They know nothing of the predictor; what the two have in common is the address types only. That
//! is what makes their agreement evidence.

mod machine;

use std::str::FromStr;

pub use self::machine::{Machine, Pfn};
pub use super::Death;
pub use crate::witness::ExitCounters;

use crate::addr::{Gpa, GpaRange};
use crate::plan::{Side, Slot, VcpuId};

/// A memory slot over test memory, bound to the guest_memfd.
pub type MemSlot = Slot;

/// How the played KVM handles huge private pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum KvmDesign {
    /// Mainline: 4K private pages only.
    Stock,
    /// The series of January 2026 as posted.
    V3,
    /// The RFC that followed.
    V5,
    /// Head and tail by arithmetic, holes at 4K.
    HeadTail,
}

impl FromStr for KvmDesign {
    type Err = SoftKvmError;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        match name {
            "stock" => Ok(KvmDesign::Stock),
            "v3" => Ok(KvmDesign::V3),
            "v5" => Ok(KvmDesign::V5),
            "headtail" => Ok(KvmDesign::HeadTail),
            _ => Err(SoftKvmError::NoSuchDesign(name.to_owned())),
        }
    }
}

/// What the software KVM is to run.
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
    /// Seed of everything the host may choose.
    pub seed: u64,
}

/// Why a software KVM could not be made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SoftKvmError {
    /// No such design.
    #[error("no design `{0}`: stock, v3, v5 and headtail are known")]
    NoSuchDesign(String),
    /// The configuration makes no sense.
    #[error("{0}")]
    BadConfig(String),
    /// Machine memory is too small for the image and its tables.
    #[error("machine memory has too few free frames: {0}")]
    OutOfMemory(String),
}

/// What a vCPU needs of its host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// TDCALL with the registers handed to [`SoftKvm::submit`].
    Tdcall,
    /// An access found no translation.
    Fault {
        /// Where.
        gpa: Gpa,
        /// Through which window.
        side: Side,
        /// Whether it was a write.
        write: bool,
    },
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
        /// File offset.
        offset: u64,
        /// Length.
        len: u64,
    },
    /// KVM_PRE_FAULT_MEMORY.
    Prefault {
        /// Where.
        range: GpaRange,
    },
    /// fallocate(KEEP_SIZE) on the guest_memfd, in bytes.
    Allocate {
        /// File offset.
        offset: u64,
        /// Length.
        len: u64,
    },
}

/// Every decision a real kernel could get wrong, with the right answer as the default.
pub trait Policy: Send {}

/// Decides everything right.
#[derive(Clone, Copy, Debug, Default)]
pub struct Faithful;

impl Policy for Faithful {}

/// The software KVM with the TDX module under it.
pub struct SoftKvm<M> {
    machine: M,
}

impl<M: Machine> SoftKvm<M> {
    /// Builds the TD: slots, image, control page.
    pub fn new(
        machine: M,
        _config: Config,
        _policy: Box<dyn Policy>,
    ) -> Result<Self, SoftKvmError> {
        Ok(SoftKvm { machine })
    }

    /// Hands in a request of a vCPU, with its general registers in the order of
    /// [`tdxlab_protocol::tdcall::reg`].
    pub fn submit(&mut self, _vcpu: VcpuId, _request: Request, _gprs: [u64; 16]) {
        todo!()
    }

    /// One TD entry up to exit or completion, or the handling of one exit.
    pub fn advance(&mut self, _vcpu: VcpuId) -> Advance {
        todo!()
    }

    /// The vCPU's registers.
    pub fn gprs(&self, _vcpu: VcpuId) -> [u64; 16] {
        todo!()
    }

    /// Starts a host call. One at a time: as on a real inode, calls exclude each other.
    pub fn begin(&mut self, _call: HostCall) {
        todo!()
    }

    /// One stage of the host call; its errno when it is over, 0 for success.
    pub fn advance_call(&mut self) -> Option<i32> {
        todo!()
    }

    /// The pieces of the guest_memfd behind a range: (offset, length) in bytes, contiguous ones
    /// joined. What lies past the last slot is put past the end of the file.
    pub fn gmem_pieces(&self, _range: GpaRange) -> Vec<(u64, u64)> {
        todo!()
    }

    /// debugfs files of the VM: name and text exactly as the kernel prints it.
    pub fn debugfs(&self) -> Vec<(&'static str, String)> {
        todo!()
    }

    /// New trace lines, exactly as tracefs prints them.
    pub fn take_trace(&mut self) -> String {
        todo!()
    }

    /// New kernel log lines.
    pub fn take_log(&mut self) -> Vec<String> {
        todo!()
    }

    /// Populated 4K pages of the guest_memfd behind a range.
    pub fn populated(&self, _range: GpaRange) -> u64 {
        todo!()
    }

    /// VM exits since boot.
    pub fn exits(&self) -> ExitCounters {
        todo!()
    }

    /// Entries looked at to decide splits since the previous call.
    pub fn take_entries_looked_at(&mut self) -> u64 {
        todo!()
    }

    /// Leaves zapped since the previous call.
    pub fn take_leaves_zapped(&mut self) -> u64 {
        todo!()
    }

    /// How the TD died, if it did.
    pub fn death(&self) -> Option<Death> {
        todo!()
    }

    /// Names the threads that trace lines carry: one per vCPU, and the one that makes host calls.
    pub fn set_threads(&mut self, _vcpus: Vec<u32>, _host: u32) {
        todo!()
    }

    /// The machine.
    pub fn machine_mut(&mut self) -> &mut M {
        &mut self.machine
    }

    /// The machine.
    pub fn machine(&self) -> &M {
        &self.machine
    }
}
