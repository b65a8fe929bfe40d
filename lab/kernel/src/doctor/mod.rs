//! The doctor: what this machine can do, each fact found by trying, with its meaning and a remedy.
//!
//! "The device node exists" is not "usable": where something can be tried without changing the
//! machine, it is tried.

#[cfg(test)]
mod cases;
mod fact;
mod kvm;
mod machine;
mod printed_log;
mod qemu;
mod recording;
mod rights;
mod stats;
mod tdx;
#[cfg(test)]
mod tests;

pub use fact::{Fact, Status};
pub use machine::ThisMachine;
pub use recording::MachineRecording;

/// All facts, in the order of display.
pub fn examine(machine: &ThisMachine) -> Vec<Fact> {
    let mut facts = vec![
        machine::kernel(machine),
        machine::memory(machine),
        qemu::version(machine),
    ];
    facts.extend(kvm_of(machine));
    facts.extend(tdx::facts(machine));
    facts.extend(rights::facts(machine));
    facts
}

/// The first fact that keeps this machine from running TDs; `None` if there is none.
pub fn why_no_tdx(machine: &ThisMachine) -> Option<Fact> {
    tdx::facts(machine)
        .into_iter()
        .chain(kvm_of(machine))
        .find(|fact| fact.standing == Status::Unusable)
}

/// Whether the machine's KVM runs a guest. A recorded machine's is not here to be tried, only to
/// be ruled out.
fn kvm_of(machine: &ThisMachine) -> Option<Fact> {
    kvm::of(machine).or_else(|| kvm::ruled_out(machine))
}

/// Whether the KVM here has a capability, by its number.
pub fn kvm_can(capability: u32) -> bool {
    let answer = ThisMachine::this().kvm_extension(capability);
    answer.is_ok_and(|answer| answer > 0)
}

/// Whether a KVM here runs a guest.
pub fn kvm() -> Fact {
    kvm::probe(&ThisMachine::this())
}
