//! A software KVM with real page tables, on a TDX module in software.
//!
//! Invariant: this crate names that module and the guest protocol, and no other crate of the lab.
//! It and the predictor cannot name each other and share address types only, so that their
//! agreement is evidence.
//!
//! | file | holds |
//! |---|---|
//! | `api` | inputs and outputs |
//! | `kvm/` | KVM: mirror page tables, faults, holes, conversions, splits |
//! | `vcpu` | a vCPU between TD entry and exit |
//! | `gmem` | guest_memfd |

mod api;
mod error;
mod gmem;
mod kvm;
mod ranges;
mod vcpu;

#[cfg(test)]
mod tests;

pub use self::api::{
    Advance, Answer, Config, Death, Exits, HostCall, Killer, MemSlot, PortWrite, Request, Work,
};
pub use self::error::SoftKvmError;
pub use self::kvm::design::{Conversion, KvmDesign, RangeSplit, Rules};
pub use self::kvm::stats::PageGauges;

pub use tdxlab_tdxmodule::{
    Faithful, Level, ModuleVersion, Pfn, PhysicalMemory, Policy, SHARED_BIT, Seamcall, SeptEntry,
    State, Status, Watched, memory, policy,
};

use tdxlab_protocol::addr::{Gpa, GpaRange, PageLevel};
use tdxlab_protocol::message::VcpuId;

use self::kvm::Kvm;
use self::kvm::hole::Running;
use self::kvm::stats::Actor;
use self::vcpu::Vcpu;

/// The software KVM with the TDX module under it.
///
/// Guest-physical addresses must be below [`SHARED_BIT`]. All methods may be called at any time;
/// after the TD's death, requests end in [`Advance::Dead`].
pub struct SoftKvm<M> {
    kvm: Kvm<M>,
    vcpus: Vec<Vcpu>,
    call: Option<Running>,
    io: Vec<PortWrite>,
}

impl<M: PhysicalMemory> SoftKvm<M> {
    /// Builds the TD: slots, image, control page; then lets it run.
    ///
    /// # Errors
    /// Where the configuration makes no sense, or machine memory is too small for the image.
    pub fn new(machine: M, config: Config, policy: Box<dyn Policy>) -> Result<Self, SoftKvmError> {
        check(&config)?;
        let kvm = Kvm::new(machine, &config, policy)?;
        Ok(SoftKvm {
            kvm,
            vcpus: vec![Vcpu::default(); usize::from(config.vcpus)],
            call: None,
            io: Vec::new(),
        })
    }

    /// Hands in a request of a vCPU, with its general registers in the order of
    /// [`tdxlab_protocol::tdcall::reg`]. A vCPU that does not exist is ignored.
    pub fn submit(&mut self, vcpu: VcpuId, request: Request, gprs: [u64; 16]) {
        if let Some(state) = self.vcpus.get_mut(usize::from(vcpu.0)) {
            state.submit(request, gprs);
        }
    }

    /// One TD entry up to exit or completion, or the handling of one exit. A vCPU that does not
    /// exist is dead.
    pub fn advance(&mut self, vcpu: VcpuId) -> Advance {
        match self.vcpus.get_mut(usize::from(vcpu.0)) {
            Some(state) => state.advance(vcpu, &mut self.kvm, &mut self.io),
            None => Advance::Dead,
        }
    }

    /// The vCPU's registers; zeros for a vCPU that does not exist.
    pub fn gprs(&self, vcpu: VcpuId) -> [u64; 16] {
        self.vcpus
            .get(usize::from(vcpu.0))
            .map_or([0; 16], |state| state.gprs)
    }

    /// Starts a host call. One at a time: as on a real inode, calls exclude each other. One that
    /// is under way is brought to its end first.
    pub fn begin(&mut self, call: HostCall) {
        while self.call.is_some() {
            self.advance_call();
        }
        self.kvm.trace.actor = Actor::Host;
        self.call = Some(self.kvm.start(call));
    }

    /// One stage of the host call; its errno when it is over, 0 for success. Without a call, 0.
    pub fn advance_call(&mut self) -> Option<i32> {
        let Some(running) = self.call.take() else {
            return Some(0);
        };
        self.kvm.trace.actor = Actor::Host;
        self.kvm.trace.tick();
        match self.kvm.advance_call(running) {
            Running::Over(errno) => Some(errno),
            running => {
                self.call = Some(running);
                None
            }
        }
    }

    /// The page at which the last call says that it stopped (`error_offset`), once.
    pub fn take_error_at(&mut self) -> Option<Gpa> {
        self.kvm.error_at.take()
    }

    /// Whether a host call is under way.
    pub fn call_is_running(&self) -> bool {
        self.call.is_some()
    }

    /// The pieces of the guest_memfd behind a range: (offset, length) in bytes, contiguous ones
    /// joined. Addresses past the last slot map past the end of the file.
    pub fn gmem_pieces(&self, range: GpaRange) -> Vec<(u64, u64)> {
        self.kvm.pieces(range)
    }

    /// Values of the VM's debugfs files; unchanged as long as this is.
    pub fn gauges(&self) -> PageGauges {
        self.kvm.gauges()
    }

    /// debugfs files of the VM: name and text exactly as the kernel prints it.
    pub fn debugfs(&self) -> Vec<(&'static str, String)> {
        self.kvm.debugfs()
    }

    /// New trace lines, exactly as tracefs prints them.
    pub fn take_trace(&mut self) -> String {
        self.kvm.trace.take()
    }

    /// Takes the guest apart, as KVM does when the last file of a VM is closed.
    pub fn tear_down(&mut self) {
        self.kvm.tear_down();
    }

    /// Frames of machine memory that the guest holds: its memory and the tables that map it. None
    /// once it was taken apart.
    pub fn frames_in_use(&self) -> u64 {
        self.kvm.frames_in_use()
    }

    /// New kernel log lines.
    pub fn take_log(&mut self) -> Vec<String> {
        self.kvm.take_log()
    }

    /// Port writes of the guest since the previous call.
    pub fn take_port_writes(&mut self) -> Vec<PortWrite> {
        std::mem::take(&mut self.io)
    }

    /// Populated 4K pages of the guest_memfd behind a range.
    pub fn populated(&self, range: GpaRange) -> u64 {
        self.kvm.populated(range)
    }

    /// VM exits since boot.
    pub fn exits(&self) -> Exits {
        self.kvm.exits
    }

    /// Entries visited to decide splits since the previous call: one for each table entry a walk
    /// came to and did not descend from.
    pub fn take_entries_looked_at(&mut self) -> u64 {
        std::mem::take(&mut self.kvm.entries_looked_at)
    }

    /// Leaves zapped since the previous call.
    pub fn take_leaves_zapped(&mut self) -> u64 {
        std::mem::take(&mut self.kvm.leaves_zapped)
    }

    /// Exits and SEAMCALLs since the previous call.
    pub fn take_work(&mut self) -> Work {
        let module = self.kvm.hardware.take_done();
        let kvm = std::mem::take(&mut self.kvm.work);
        Work {
            auged: module.auged,
            tracks: module.tracks,
            ..kvm
        }
    }

    /// 4K pages of shared memory that lie outside the guest_memfd.
    pub fn shared_apart(&self) -> u64 {
        self.kvm.shared_apart()
    }

    /// How the TD died, if it did.
    pub fn death(&self) -> Option<Death> {
        self.kvm.death().cloned()
    }

    /// Whether a watched policy has changed any decision; `None` if none is watched: see
    /// [`Watched`].
    pub fn fault_reached(&self) -> Option<bool> {
        self.kvm.hardware.policy.reached()
    }

    /// Replaces the policy, and draws interrupts from another seed: as after a boot, but memory stays.
    pub fn decide_anew(&mut self, policy: Box<dyn Policy>, seed: u64) {
        self.kvm.hardware.policy = policy;
        self.kvm.draw_interrupts_from(seed);
    }

    /// Text of all mappings: private leaves with their states, then shared ranges.
    pub fn describe_memory(&self) -> String {
        self.kvm.describe_memory()
    }

    /// Frames of the machine in use, for tables and pages.
    pub fn frames_used(&self) -> u64 {
        self.kvm.hardware.pool.used()
    }

    /// Names the threads that trace lines carry: one per vCPU, and the one that makes host calls.
    pub fn set_threads(&mut self, vcpus: Vec<u32>, host: u32) {
        self.kvm.trace.set_threads(vcpus, host);
    }

    /// The machine.
    pub fn machine_mut(&mut self) -> &mut M {
        &mut self.kvm.hardware.machine
    }

    /// The machine.
    pub fn machine(&self) -> &M {
        &self.kvm.hardware.machine
    }
}

/// Refuses a configuration that makes no sense.
fn check(config: &Config) -> Result<(), SoftKvmError> {
    let refuse = |reason: String| Err(SoftKvmError::BadConfig(reason));
    if config.vcpus == 0 {
        return refuse("a TD needs at least one vCPU".to_owned());
    }
    if config.memory.end().as_u64() > SHARED_BIT {
        return refuse(format!(
            "test memory {} reaches past the shared bit at {SHARED_BIT:#x}",
            config.memory
        ));
    }
    let outside = |range: &GpaRange| !config.memory.contains_range(*range);
    if let Some(slot) = config.slots.iter().find(|slot| outside(&slot.range)) {
        return refuse(format!(
            "memory slot {} lies outside test memory {}",
            slot.range, config.memory
        ));
    }
    if let Some(image) = config.image.iter().find(|range| outside(range)) {
        return refuse(format!(
            "image range {image} lies outside test memory {}",
            config.memory
        ));
    }
    if !config.control.is_aligned(PageLevel::Size4K) || config.memory.contains(config.control) {
        return refuse(format!(
            "control page {} is not a page outside test memory",
            config.control
        ));
    }
    Ok(())
}
