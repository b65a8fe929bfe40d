//! The host `tdx`: a guest that is a TD.
//!
//! ```text
//! boot        QEMU with tdx-guest, stopped before the first instruction
//!   gmem      duplicates its guest_memfds                     layout, mtree
//!   tdvf      pages that must be populated by then, no others
//!   cont      the guest says hello
//! session     operations; punches holes into QEMU's guest_memfd
//!   death     diagnoses a dead TD
//!   watch     counters, split events, SEAMCALLs, kernel log
//! ```
//!
//! Under `tdxlab rehearse` all of this runs unchanged, on KVM's own TDX code over the software TDX
//! module. The guest, the kernel and the report all say so.

mod attributes;
mod boot;
mod console;
pub mod death;
pub mod detect;
pub mod gmem;
mod host;
mod last_words;
pub mod layout;
pub mod mtree;
pub mod preflight;
pub mod refusal;
mod reports;
mod seamcalls;
mod session;
mod set_attributes;
mod start;
pub mod tdvf;
pub mod terabytes;
mod watch;

use std::path::Path;
use std::time::Duration;

pub use boot::Stages;
pub use host::{TdxHost, is_rehearsal};
use tdxlab_host::{BootOptions, Host, HostError, Session};
use tdxlab_journal::{ONE_SHOT, REHEARSAL, REHEARSAL_FACT};
use tdxlab_kernel::{meminfo, once};
use tdxlab_plan::{Converts, Design, Guest, HostKind, HostProfile};

use detect::Detected;

/// Longest an operation of a probe may take.
const PROBE_PATIENCE: Duration = Duration::from_secs(60);

impl TdxHost {
    /// Boots the TD of a probe. If it does not boot, its evidence is written to `folder`.
    ///
    /// # Errors
    ///
    /// As for [`Host::boot`]; `stages` tells how far it came.
    pub fn boot_probe(
        &self,
        folder: &Path,
        stages: &mut Stages,
    ) -> Result<Box<dyn Session>, HostError> {
        let options = BootOptions {
            design: "stock".to_owned(),
            module: None,
            seed: 1,
            folder: folder.to_owned(),
            patience: PROBE_PATIENCE,
            fresh: true,
        };
        let session = boot::boot(self, &detect::guest(), &options, stages)?;
        Ok(Box::new(session))
    }

    /// Behaviour of its KVM found with a TD, once in the life of this host; or why the probe
    /// failed.
    pub fn probed(&self) -> &Result<Detected, String> {
        self.probed.get_or_init(|| {
            let probe = || {
                let folder = tempfile::tempdir().map_err(|source| HostError::System {
                    doing: "making a folder for a probe".into(),
                    source,
                })?;
                let mut session = self.boot_probe(folder.path(), &mut Stages::default())?;
                let found = detect::probe(session.as_mut());
                session.end()?;
                found
            };
            probe().map_err(|error: HostError| error.to_string())
        })
    }
}

impl Host for TdxHost {
    fn kind(&self) -> HostKind {
        HostKind::Tdx
    }

    fn profile(&self) -> HostProfile {
        HostProfile::of(HostKind::Tdx)
    }

    fn facts(&self) -> Vec<(String, String)> {
        let mut facts = Vec::new();
        let mut fact = |name: &str, value: String| facts.push((name.to_owned(), value));
        if self.rehearsal {
            fact(REHEARSAL_FACT, REHEARSAL.to_owned());
        }
        if let Ok(release) = std::fs::read_to_string("/proc/sys/kernel/osrelease") {
            fact("kernel", release.trim().to_owned());
        }
        fact("QEMU", self.qemu.described());
        let (name, version) = self.module_fact();
        fact(&name, version);
        let promised = detect::from_parameters(&detect::Parameters::of_machine());
        fact("design by module parameters", promised.to_string());
        fact("converts", self.converts.described().to_owned());
        match self.probed.get() {
            Some(Ok(found)) if promised.agrees_with(*found) => {
                fact("design by probe", found.to_string());
            }
            Some(Ok(found)) => fact(
                "design by probe",
                format!("{found}, WHICH IS NOT WHAT THE PARAMETERS PROMISE"),
            ),
            Some(Err(reason)) => fact("design by probe", format!("not found out: {reason}")),
            None => {}
        }
        fact(
            ONE_SHOT,
            once::described(&self.places.debugfs, &self.places.kmsg),
        );
        match self.seamcalls.get() {
            Some(Ok(watched)) => fact("SEAMCALLs", watched.clone()),
            Some(Err(reason)) => fact("SEAMCALLs", format!("not watched: {reason}")),
            None => {}
        }
        facts
    }

    fn changing_facts(&self) -> Vec<(String, String)> {
        vec![self.module_fact()]
    }

    fn misfit(&self, design: &'static Design) -> Option<String> {
        let found = self.probed.get()?.as_ref().ok()?;
        if !found.fits(design) {
            return Some(format!(
                "{} was asked for, but the KVM of this host looks like {found}",
                design.name
            ));
        }
        let twin = design.converting(self.converts);
        (twin != design).then(|| {
            format!(
                "{} was asked for, but the KVM of this host converts {}: see {}",
                design.name,
                self.converts.described(),
                twin.name
            )
        })
    }

    fn unmet(&self, guest: &Guest) -> Option<String> {
        match self.converts {
            Converts::AttributesAndHole => {
                attributes::unmet(guest.memory.bytes(), meminfo::available()?)
            }
            Converts::InPlace => None,
        }
    }

    fn boot(&self, guest: &Guest, options: &BootOptions) -> Result<Box<dyn Session>, HostError> {
        let session = boot::boot(self, guest, options, &mut Stages::default())?;
        Ok(Box::new(session))
    }

    /// The design found with a TD; if that fails, the one the module parameters promise.
    fn design(&self) -> Option<&'static Design> {
        let found = self.probed().as_ref().copied();
        found
            .unwrap_or_else(|_| detect::from_parameters(&detect::Parameters::of_machine()))
            .design(self.converts)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::OnceLock;

    use rstest::rstest;
    use tdxlab_qemu::interrupt::Interrupt;
    use tdxlab_qemu::{Installed, Version};

    use super::*;

    fn host(found: Detected) -> TdxHost {
        let qemu = Installed {
            program: "/nonexistent".into(),
            version: Version::new(11, 1),
            banner: "QEMU emulator version 11.1.3".to_owned(),
        };
        TdxHost {
            probed: OnceLock::from(Ok(found)),
            ..TdxHost::new(qemu, Interrupt::of_process())
        }
    }

    /// `v3` and `v5` look alike from outside: naming either is right on a host of both.
    #[rstest]
    #[case("stock", Detected::Stock, true)]
    #[case("v3", Detected::Stock, false)]
    #[case("v3", Detected::HugeCoarseHoles, true)]
    #[case("v5", Detected::HugeCoarseHoles, true)]
    #[case("stock", Detected::HugeCoarseHoles, false)]
    #[case("headtail", Detected::HugeCoarseHoles, false)]
    #[case("headtail", Detected::HugeFineHoles, true)]
    #[case("v5", Detected::HugeFineHoles, false)]
    fn a_design_that_was_asked_for_is_held_against_what_was_found(
        #[case] asked: &str,
        #[case] found: Detected,
        #[case] fits: bool,
    ) {
        let design = Design::named(asked).unwrap();
        let host = TdxHost {
            converts: design.converts,
            ..host(found)
        };
        let misfit = host.misfit(design);
        assert_eq!(misfit.is_none(), fits, "{misfit:?}");
        if let Some(misfit) = misfit {
            assert!(misfit.contains(asked) && misfit.contains(&found.to_string()));
        }
    }

    #[test]
    fn a_way_of_converting_that_the_host_does_not_have_is_said() {
        let host = TdxHost {
            converts: Converts::AttributesAndHole,
            ..host(Detected::HugeFineHoles)
        };
        let misfit = host.misfit(Design::named("headtail").unwrap()).unwrap();
        assert!(misfit.contains("headtail-attributes"), "{misfit}");
        assert_eq!(
            host.misfit(Design::named("headtail-attributes").unwrap()),
            None
        );
        assert_eq!(host.design().unwrap().name, "headtail-attributes");
    }

    /// A host that was not probed contradicts no design.
    #[test]
    fn nothing_is_said_before_anything_was_found() {
        let mut host = host(Detected::Stock);
        host.probed = OnceLock::new();
        assert_eq!(host.misfit(Design::named("v3").unwrap()), None);
        host.probed = OnceLock::from(Err("no TD can be made".to_owned()));
        assert_eq!(host.misfit(Design::named("v3").unwrap()), None);
    }

    /// A module can be updated under a running host.
    #[test]
    fn the_version_of_the_module_is_that_of_now() {
        let sysfs = tempfile::tempdir().unwrap();
        let attribute = sysfs.path().join("devices/faux/tdx_host/version");
        std::fs::create_dir_all(attribute.parent().unwrap()).unwrap();
        let mut host = host(Detected::Stock);
        host.module.sysfs = sysfs.path().to_owned();
        for version in ["1.5.28", "1.5.34"] {
            std::fs::write(&attribute, format!("{version}\n")).unwrap();
            let fact = ("TDX module".to_owned(), version.to_owned());
            assert!(host.facts().contains(&fact), "{:?}", host.facts());
            assert_eq!(host.changing_facts(), [fact]);
        }
    }

    #[test]
    fn whether_seamcalls_are_watched_is_a_fact() {
        let host = host(Detected::Stock);
        host.heard_of_seamcalls(Err("no kprobes".to_owned()));
        let facts = host.facts();
        let said = facts.iter().find(|(name, _)| name == "SEAMCALLs").unwrap();
        assert_eq!(said.1, "not watched: no kprobes");
    }
}
