//! Detects the design of a host's KVM.
//!
//! Module parameters say whether private memory may be mapped at 2M at all, but not by which
//! design. A probe with a TD tells the designs apart: a 2M ACCEPT of an untouched region, and a 4K
//! hole in unused memory.

use std::{fmt, fs};

use tdxlab_host::{HostError, Session};
use tdxlab_journal::Observed;
use tdxlab_plan::{Converts, Design, Guest, LOW_BASE, Op, Size, Slot, VcpuId};
use tdxlab_protocol::addr::{GpaRange, PageLevel};
use tdxlab_protocol::message::Run;
use tdxlab_protocol::tdcall::status;

/// Module parameters that matter; `None` where the kernel has no such parameter.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Parameters {
    /// `kvm_intel.tdx_huge_page`.
    pub huge_page: Option<bool>,
    /// Whether memory converts in place: `kvm.gmem_in_place_conversion`, or the opposite of
    /// `kvm.vm_memory_attributes`, as early series called it.
    pub in_place: Option<bool>,
}

impl Parameters {
    /// Those of this machine.
    pub fn of_machine() -> Parameters {
        let read = |path: &str| {
            let text = fs::read_to_string(path).ok()?;
            Some(matches!(text.trim(), "Y" | "1"))
        };
        Parameters {
            huge_page: read("/sys/module/kvm_intel/parameters/tdx_huge_page"),
            in_place: read("/sys/module/kvm/parameters/gmem_in_place_conversion").or_else(|| {
                read("/sys/module/kvm/parameters/vm_memory_attributes")
                    .map(|attributes| !attributes)
            }),
        }
    }

    /// How memory converts: a kernel without a parameter about it knows attributes of a VM only.
    pub fn converts(&self) -> Converts {
        match self.in_place {
            Some(true) => Converts::InPlace,
            Some(false) | None => Converts::AttributesAndHole,
        }
    }
}

/// Behaviour found on a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Detected {
    /// Private memory at 4K, holes of 4K.
    Stock,
    /// Private memory at 2M, holes of 2M: `v3` or `v5`, which look alike from outside.
    HugeCoarseHoles,
    /// Private memory at 2M, holes of 4K.
    HugeFineHoles,
    /// Private memory at 2M; holes were not tried.
    Huge,
}

impl Detected {
    /// The design that fits and converts like that, the newest where several do.
    pub fn design(self, converts: Converts) -> Option<&'static Design> {
        let design = Design::named(match self {
            Detected::Stock => "stock",
            Detected::HugeCoarseHoles => "v5",
            Detected::HugeFineHoles => "headtail",
            Detected::Huge => return None,
        })?;
        Some(design.converting(converts))
    }

    /// Whether these parameters are consistent with the probe's result.
    pub fn agrees_with(self, found: Detected) -> bool {
        match self {
            Detected::Huge => found != Detected::Stock,
            promised => promised == found,
        }
    }

    /// Whether a host that shows this may follow `design`, as far as leaves and holes go.
    pub fn fits(self, design: &Design) -> bool {
        let coarse = design.hole_alignment == PageLevel::Size2M;
        match self {
            Detected::Stock => !design.huge(),
            Detected::HugeCoarseHoles => design.huge() && coarse,
            Detected::HugeFineHoles => design.huge() && !coarse,
            Detected::Huge => design.huge(),
        }
    }
}

impl fmt::Display for Detected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Detected::Stock => "stock",
            Detected::HugeCoarseHoles => "v3 or v5",
            Detected::HugeFineHoles => "headtail",
            Detected::Huge => "one with huge pages; a deep probe tells which",
        })
    }
}

/// The behaviour the parameters promise.
pub fn from_parameters(parameters: &Parameters) -> Detected {
    match (parameters.huge_page, parameters.in_place) {
        // Per-VM memory attributes and huge private pages exclude each other.
        (Some(true), None | Some(true)) => Detected::Huge,
        _ => Detected::Stock,
    }
}

/// The guest that is probed: 16 MiB of test memory.
pub fn guest() -> Guest {
    let memory = memory();
    Guest {
        // As QEMU lays it out: test memory lies in main RAM.
        slots: vec![Slot {
            range: memory,
            gmem_offset: LOW_BASE.as_u64(),
        }],
        ..Guest::over(memory)
    }
}

fn memory() -> GpaRange {
    GpaRange::with_len(LOW_BASE, 16 << 20).expect("far from the end")
}

/// Finds out by doing, in the first 4 MiB of a session with [`guest`].
///
/// # Errors
///
/// The guest cannot be talked to, or shows something that none of the designs do.
pub fn probe(session: &mut dyn Session) -> Result<Detected, HostError> {
    let range = memory().start().page(PageLevel::Size2M);
    let accept = Op::Accept {
        range,
        size: Size::Size2M,
        vcpu: VcpuId(0),
    };
    let observed = alive(session.perform(&accept, &[])?, "an ACCEPT of 2M")?;
    let code = match observed.runs.as_slice() {
        [Run::Accept { status, .. }] => *status,
        other => {
            return Err(HostError::GuestLies {
                what: format!("{other:x?} to one ACCEPT of 2M"),
            });
        }
    };
    if code & status::CLASS_MASK == status::PAGE_SIZE_MISMATCH {
        return Ok(Detected::Stock);
    }
    if code != status::SUCCESS {
        return Err(HostError::GuestLies {
            what: format!("status {code:#x} to an ACCEPT of 2M on untouched memory"),
        });
    }
    let last = GpaRange::with_len(range.end(), PageLevel::Size4K.bytes()).expect("inside");
    let punch = session.perform(&Op::Punch { range: last }, &[])?;
    let punch = alive(punch, "a hole of 4K in untouched memory")?;
    match punch.errno {
        Some(0) => Ok(Detected::HugeFineHoles),
        Some(libc::EINVAL) => Ok(Detected::HugeCoarseHoles),
        other => Err(HostError::GuestLies {
            what: format!("errno {other:?} to a hole of 4K in untouched memory"),
        }),
    }
}

/// The observation, unless the TD died: a dead TD follows no design.
fn alive(observed: Observed, of: &str) -> Result<Observed, HostError> {
    match &observed.death {
        None => Ok(observed),
        Some(death) => Err(HostError::Qemu {
            what: format!("lost the TD of the probe to {of}: {}", death.text),
            advice: "see dmesg; name the design with --design, and report what kernel this is"
                .into(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use tdxlab_host::{BootOptions, Host};
    use tdxlab_host_soft::sim::SimHost;
    use tdxlab_journal::{Death, Killer};

    use super::*;

    #[rstest]
    #[case(None, None, Detected::Stock)]
    #[case(Some(false), Some(true), Detected::Stock)]
    #[case(Some(true), Some(false), Detected::Stock)]
    #[case(Some(true), Some(true), Detected::Huge)]
    #[case(Some(true), None, Detected::Huge)]
    fn parameters(
        #[case] huge_page: Option<bool>,
        #[case] in_place: Option<bool>,
        #[case] detected: Detected,
    ) {
        assert_eq!(
            from_parameters(&Parameters {
                huge_page,
                in_place
            }),
            detected
        );
    }

    #[rstest]
    #[case(None, Converts::AttributesAndHole)]
    #[case(Some(false), Converts::AttributesAndHole)]
    #[case(Some(true), Converts::InPlace)]
    fn the_way_of_converting(#[case] in_place: Option<bool>, #[case] converts: Converts) {
        let parameters = Parameters {
            in_place,
            ..Parameters::default()
        };
        assert_eq!(parameters.converts(), converts);
    }

    #[test]
    fn promises_are_held_against_what_is_found() {
        assert!(Detected::Stock.agrees_with(Detected::Stock));
        assert!(!Detected::Stock.agrees_with(Detected::HugeFineHoles));
        assert!(Detected::Huge.agrees_with(Detected::HugeCoarseHoles));
        assert!(!Detected::Huge.agrees_with(Detected::Stock));
    }

    #[test]
    fn a_dead_td_follows_no_design() {
        let died = Observed {
            death: Some(Death {
                by: Killer::KvmBug,
                text: "KVM_BUG_ON".to_owned(),
            }),
            errno: Some(0),
            ..Observed::default()
        };
        let error = alive(died, "a hole").unwrap_err().to_string();
        assert!(error.contains("a hole: KVM_BUG_ON"), "{error}");
        assert!(alive(Observed::default(), "a hole").is_ok());
    }

    /// The same probe on a host whose design is known.
    #[rstest]
    #[case("stock", Detected::Stock)]
    #[case("v3", Detected::HugeCoarseHoles)]
    #[case("v5", Detected::HugeCoarseHoles)]
    #[case("headtail", Detected::HugeFineHoles)]
    fn the_deep_probe_tells_designs_apart(#[case] design: &str, #[case] detected: Detected) {
        let folder = tempfile::tempdir().unwrap();
        let options = BootOptions {
            design: design.to_owned(),
            module: None,
            seed: 1,
            folder: folder.path().to_owned(),
            patience: std::time::Duration::from_secs(60),
            fresh: true,
        };
        let mut session = SimHost::new().boot(&guest(), &options).unwrap();
        let found = probe(session.as_mut()).unwrap();
        assert_eq!(found, detected);
        for other in Design::all() {
            let alike = matches!((design, other.name), ("v3", "v5") | ("v5", "v3"));
            assert_eq!(found.fits(other), other.name == design || alike);
        }
        for converts in [Converts::InPlace, Converts::AttributesAndHole] {
            let design = found.design(converts).unwrap();
            assert!(found.fits(design) && design.converts == converts);
        }
    }
}
