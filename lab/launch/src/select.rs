//! Selects the host of a run: the one named, or the best of this machine.

use tdxlab_faults::Fault;
use tdxlab_host::{Host, HostError, OnHost};
use tdxlab_host_kvm::kvm::KvmHost;
use tdxlab_host_kvm::tdx::{self, TdxHost};
use tdxlab_host_soft::SoftwareHost;
use tdxlab_host_soft::sim::SimHost;
use tdxlab_host_soft::soft::SoftHost;
use tdxlab_journal::{REHEARSAL, REHEARSAL_FACT};
use tdxlab_kernel::doctor::{self, Fact, Status, ThisMachine};
use tdxlab_plan::{HostKind, TdxModule};
use tdxlab_qemu::Installed;
use tdxlab_qemu::interrupt::Interrupt;

/// The user's choice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice {
    /// The best host available.
    Auto,
    /// This host.
    Only(HostKind),
}

/// Fault and module of a software host.
#[derive(Clone, Copy, Debug, Default)]
pub struct Played {
    /// A fault, seeded into it.
    pub fault: Option<&'static Fault>,
    /// The TDX module, where the scenario needs none in particular.
    pub module: Option<TdxModule>,
    /// Nice value of QEMU (soft).
    pub nice: Option<i32>,
}

impl From<Option<&'static Fault>> for Played {
    fn from(fault: Option<&'static Fault>) -> Played {
        Played {
            fault,
            ..Played::default()
        }
    }
}

impl Played {
    /// `host` with this fault and module.
    pub fn on<H: SoftwareHost>(self, host: H) -> H {
        let host = match self.module {
            Some(module) => host.with_module(module),
            None => host,
        };
        match self.fault {
            Some(fault) => host.with_fault(fault.seeded()),
            None => host,
        }
    }
}

/// A host and why it was taken.
pub struct Selected {
    /// The host.
    pub host: Box<dyn Host>,
    /// Why this one, for the report.
    pub why: String,
}

/// Order in which `auto` tries hosts. A plain VM on KVM has no private memory, so `kvm` must be
/// named.
const AUTO: [HostKind; 3] = [HostKind::Tdx, HostKind::Soft, HostKind::Sim];

/// Finds the host, and makes sure that it is usable.
pub fn select(choice: Choice) -> Result<Selected, HostError> {
    select_with(choice, Played::default())
}

/// The same with a seeded fault, or with a version of the TDX module; the host must be a software
/// host.
pub fn select_with(choice: Choice, played: impl Into<Played>) -> Result<Selected, HostError> {
    select_for(choice, played.into(), false)
}

/// The same, with guests that can be attached to while they are held.
pub fn select_to_hold(choice: Choice, played: Played) -> Result<Selected, HostError> {
    select_for(choice, played, true)
}

fn select_for(choice: Choice, played: Played, hold: bool) -> Result<Selected, HostError> {
    match choice {
        Choice::Only(kind) => Ok(Selected {
            host: opened(kind, played, hold)?,
            why: match kind {
                HostKind::Tdx if tdx::is_rehearsal() => format!("{REHEARSAL_FACT}: {REHEARSAL}"),
                _ => "requested".to_owned(),
            },
        }),
        Choice::Auto => {
            let mut passed_over = Vec::new();
            for kind in AUTO {
                match opened(kind, played, hold) {
                    Ok(host) => {
                        return Ok(Selected {
                            host,
                            why: why(&passed_over),
                        });
                    }
                    Err(HostError::NotUsable { reason, .. }) => {
                        passed_over.push(format!("{} is not usable: {reason}", kind.name()));
                    }
                    Err(other) => return Err(other),
                }
            }
            Err(HostError::NotUsable {
                host: HostKind::Sim,
                reason: passed_over.join("; "),
                advice: "see `tdxlab doctor`".to_owned(),
            })
        }
    }
}

fn why(passed_over: &[String]) -> String {
    if passed_over.is_empty() {
        "the best there is".to_owned()
    } else {
        format!("the best this machine has ({})", passed_over.join("; "))
    }
}

/// Opens a host, if usable here, with its fault and module, and with guests to attach to if they
/// are to be held.
fn opened(kind: HostKind, played: Played, hold: bool) -> Result<Box<dyn Host>, HostError> {
    let real = |what: String, advice: &str| {
        Err(HostError::NotUsable {
            host: kind,
            reason: what,
            advice: advice.to_owned(),
        })
    };
    match (kind, played) {
        (HostKind::Soft, _) => {
            let host = played.on(SoftHost::find()?);
            let host = match played.nice {
                Some(nice) => host.with_nice(nice),
                None => host,
            };
            Ok(Box::new(if hold { host.attachable() } else { host }))
        }
        (HostKind::Sim, _) => Ok(Box::new(played.on(SimHost::in_memory()))),
        (
            _,
            Played {
                fault: Some(fault), ..
            },
        ) => real(
            format!("{} cannot be seeded into a real kernel", fault.name),
            "faults are seeded into hosts of software: --host soft or sim",
        ),
        (
            _,
            Played {
                module: Some(module),
                ..
            },
        ) => real(
            format!("TDX module {module} cannot be played on a real machine: it has its own"),
            "modules are played by hosts of software: --host soft or sim",
        ),
        (HostKind::Kvm, _) if hold => Ok(Box::new(KvmHost::find()?.attachable())),
        (HostKind::Tdx, _) if hold => Ok(Box::new(tdx()?.attachable())),
        (HostKind::Kvm, _) => Ok(Box::new(KvmHost::find()?)),
        (HostKind::Tdx, _) => Ok(Box::new(tdx()?)),
    }
}

/// The TDX host, if it is usable here.
///
/// # Errors
///
/// It is not, and why.
pub fn tdx() -> Result<TdxHost, HostError> {
    let kind = HostKind::Tdx;
    // In a rehearsal the machine itself has no TDX, so the doctor is not asked.
    let fact = (!tdx::is_rehearsal()).then(|| doctor::why_no_tdx(&ThisMachine::this()));
    if let Some(fact) = fact.flatten() {
        return Err(unusable(kind, fact));
    }
    let qemu = Installed::find_for_tdx().map_err(|error| error.on(kind))?;
    Ok(TdxHost::new(qemu, Interrupt::of_process()))
}

/// Why a host cannot be used, as the doctor found it.
fn unusable(host: HostKind, fact: Fact) -> HostError {
    HostError::NotUsable {
        host,
        reason: format!("{}: {}", fact.name, fact.found),
        advice: fact
            .advice
            .unwrap_or_else(|| "see `tdxlab doctor`".to_owned()),
    }
}

/// Every host and whether it is usable here, for the doctor.
pub fn hosts() -> Vec<Fact> {
    [HostKind::Tdx, HostKind::Kvm, HostKind::Soft, HostKind::Sim]
        .into_iter()
        .map(|kind| {
            let name = format!("host {}", kind.name());
            match opened(kind, Played::default(), false) {
                Ok(host) => {
                    let facts: Vec<String> = host
                        .facts()
                        .into_iter()
                        .map(|(name, value)| format!("{name} {value}"))
                        .collect();
                    Fact {
                        name,
                        found: facts.join(", "),
                        standing: Status::Usable,
                        advice: None,
                    }
                }
                Err(HostError::NotUsable { reason, advice, .. }) => Fact {
                    name,
                    found: reason,
                    standing: Status::Unusable,
                    advice: Some(advice),
                },
                Err(other) => Fact {
                    name,
                    found: other.to_string(),
                    standing: Status::Unusable,
                    advice: None,
                },
            }
        })
        .collect()
}
