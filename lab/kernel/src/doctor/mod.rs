//! What this machine can do: each fact looked at by doing, with what it means and what to do.
//!
//! "The device node exists" is not "usable": where something can be tried without changing the
//! machine, it is tried.

mod kvm;
mod machine;
mod qemu;
mod recording;
mod rights;
mod stats;
mod tdx;
#[cfg(test)]
mod tests;

use schemars::JsonSchema;
use serde::Serialize;

pub use machine::ThisMachine;
pub use recording::MachineRecording;

/// One thing about this machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Fact {
    /// What was looked at.
    pub name: String,
    /// What was found.
    pub found: String,
    /// What it means for the lab.
    pub standing: Status,
    /// What to do about it, where something can be done.
    pub advice: Option<String>,
}

/// What a fact means for the lab.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// The lab can use it.
    Usable,
    /// The lab can go on without it, with fewer witnesses or more slowly.
    Limited,
    /// The lab cannot use it.
    Unusable,
}

impl Status {
    /// The name in tables.
    pub const fn name(self) -> &'static str {
        match self {
            Status::Usable => "usable",
            Status::Limited => "limited",
            Status::Unusable => "unusable",
        }
    }

    /// The standing of that name.
    fn named(name: &str) -> Option<Status> {
        [Status::Usable, Status::Limited, Status::Unusable]
            .into_iter()
            .find(|standing| standing.name() == name)
    }
}

impl Fact {
    fn new(name: &str, standing: Status, found: impl Into<String>) -> Fact {
        Fact {
            name: name.to_owned(),
            found: found.into(),
            standing,
            advice: None,
        }
    }

    pub fn usable(name: &str, found: impl Into<String>) -> Fact {
        Fact::new(name, Status::Usable, found)
    }

    pub fn limited(name: &str, found: impl Into<String>) -> Fact {
        Fact::new(name, Status::Limited, found)
    }

    pub fn unusable(name: &str, found: impl Into<String>) -> Fact {
        Fact::new(name, Status::Unusable, found)
    }

    pub fn advise(self, advice: impl Into<String>) -> Fact {
        Fact {
            advice: Some(advice.into()),
            ..self
        }
    }
}

/// Everything there is to know, in the order it is shown.
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

/// The first fact that keeps this machine from running TDs; `None` where nothing does.
pub fn why_no_tdx(machine: &ThisMachine) -> Option<Fact> {
    tdx::facts(machine)
        .into_iter()
        .chain(kvm_of(machine))
        .find(|fact| fact.standing == Status::Unusable)
}

/// Whether the machine's KVM runs a guest. A recorded machine's is not here to be tried, only to
/// be ruled out.
fn kvm_of(machine: &ThisMachine) -> Option<Fact> {
    machine.kvm_probe().or_else(|| kvm::ruled_out(machine))
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
