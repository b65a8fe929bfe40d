//! The host `kvm`: a plain VM on any KVM, so that the witnesses are read from an independent, real
//! kernel.
//!
//! There is no private memory and no TDX module. Test memory is a memfd of ordinary or huge pages,
//! mapped by EPT or NPT leaves of the same size. The lab punches holes into it, and enables dirty
//! logging, which splits every huge leaf.
//!
//! | part | what it is |
//! |---|---|
//! | [`start_probe`] | whether QEMU starts on this KVM |
//! | [`boot`] | boots a session for a plan's guest |
//! | [`hugetlb`] | whether this machine has the huge pages |
//! | [`memory`] | test memory on the host: holes, allocation, populated pages |
//! | [`dirty_log`] | dirty logging, through a stalled migration |
//! | [`session`] | operations in sequence, and the kernel's witnesses |

mod boot;
mod dirty_log;
mod hugetlb;
mod memory;
mod registers;
mod session;
mod start_probe;

use std::path::PathBuf;

use kvm_bindings::{KVM_CAP_DIRTY_LOG_RING, KVM_CAP_DIRTY_LOG_RING_ACQ_REL};
use tdxlab_host::{BootOptions, Host, HostError, OnHost, Session};
use tdxlab_journal::ONE_SHOT;
use tdxlab_kernel::doctor::{self, Status};
use tdxlab_kernel::in_use::MachineUse;
use tdxlab_kernel::{debugfs, kmsg, once, tracefs};
use tdxlab_plan::{Design, Guest, HostKind};
use tdxlab_protocol::message::VERSION;
use tdxlab_qemu::interrupt::Interrupt;
use tdxlab_qemu::{Installed, installed, version};

use self::hugetlb::Pools;

/// First Linux in which the end of dirty logging makes leaves of tables over huge pages
/// (`kvm_mmu_recover_huge_pages()`).
const RECOVERS_LEAVES: (u32, u32) = (6, 13);

/// The host `kvm`.
#[derive(Debug)]
pub struct KvmHost {
    qemu: Installed,
    interrupt: &'static Interrupt,
    places: Places,
    release: String,
    design: &'static Design,
    attachable: bool,
    /// Whether KVM can log dirty pages in a ring, without which it splits leaves late.
    dirty_ring: bool,
}

/// Where the kernel shows itself.
#[derive(Clone, Debug)]
struct Places {
    debugfs: PathBuf,
    tracefs: PathBuf,
    kmsg: PathBuf,
    huge_pages: PathBuf,
    buddies: PathBuf,
    /// Events to record beside those that are judged, such as `kvmmmu/kvm_tdp_mmu_spte_changed`.
    events: Vec<String>,
}

impl Places {
    fn in_use(&self) -> MachineUse {
        MachineUse {
            mm: self.huge_pages.clone(),
            ..MachineUse::of_machine(&self.debugfs)
        }
    }

    fn pools(&self) -> Pools<'_> {
        Pools {
            mm: &self.huge_pages,
            buddies: &self.buddies,
        }
    }
}

/// Names events to record, separated by commas.
const EVENTS_VARIABLE: &str = "TDXLAB_TRACE";

impl KvmHost {
    /// On this machine's KVM and the QEMU that is found first.
    ///
    /// # Errors
    ///
    /// Not usable: no QEMU, or no KVM that runs a guest; with what to do about it.
    pub fn find() -> Result<KvmHost, HostError> {
        let kvm = doctor::kvm();
        if kvm.standing == Status::Unusable {
            return Err(HostError::NotUsable {
                host: HostKind::Kvm,
                reason: kvm.found,
                advice: kvm.advice.unwrap_or_else(|| ANYWHERE.to_owned()),
            });
        }
        let qemu = Installed::find(version::OLDEST).map_err(|error| error.on(HostKind::Kvm))?;
        start_probe::start(&qemu.program, "kvm", "host", installed::patience())?;
        let release = release();
        Ok(KvmHost {
            qemu,
            interrupt: Interrupt::of_process(),
            places: Places {
                debugfs: debugfs::ROOT.into(),
                tracefs: tracefs::ROOT.into(),
                kmsg: kmsg::DEVICE.into(),
                huge_pages: "/sys/kernel/mm".into(),
                buddies: "/proc/buddyinfo".into(),
                events: events(&std::env::var(EVENTS_VARIABLE).unwrap_or_default()),
            },
            design: design_of(&release),
            release,
            attachable: false,
            dirty_ring: doctor::kvm_can(KVM_CAP_DIRTY_LOG_RING)
                || doctor::kvm_can(KVM_CAP_DIRTY_LOG_RING_ACQ_REL),
        })
    }

    /// The same host, with QEMUs that can be attached to: see [`Session::attach`].
    #[must_use]
    pub fn attachable(self) -> KvmHost {
        KvmHost {
            attachable: true,
            ..self
        }
    }
}

/// Dirty logging in a ring, since Linux 5.11. Without it QEMU uses a bitmap, whose leaves KVM
/// splits when they are written to.
const NO_DIRTY_RING: &str = "needs dirty rings (KVM_CAP_DIRTY_LOG_RING), which this kernel's KVM \
                             does not have; boot a newer one with `tdxlab l1 --kernel newest`";

/// Remedy without KVM.
const ANYWHERE: &str = "`tdxlab l1 -- run scenarios/kvm --host kvm` boots a kernel that has one";

/// The events that a list names; both `GROUP/EVENT` and the usual `GROUP:EVENT` are understood.
fn events(list: &str) -> Vec<String> {
    let names = list.split(',').map(str::trim);
    names
        .filter(|name| !name.is_empty())
        .map(|name| name.replace(':', "/"))
        .collect()
}

/// `uname -r`.
fn release() -> String {
    let name = nix::sys::utsname::uname();
    name.map(|name| name.release().to_string_lossy().into_owned())
        .unwrap_or_default()
}

/// The design of a kernel's KVM, by its release.
fn design_of(release: &str) -> &'static Design {
    let mut numbers = release
        .split(|c: char| !c.is_ascii_digit())
        .map(|part| part.parse().ok());
    let version = (
        numbers.next().flatten().unwrap_or(0),
        numbers.next().flatten().unwrap_or(0),
    );
    let name = if version >= RECOVERS_LEAVES {
        "plain"
    } else {
        "plain-zap"
    };
    Design::named(name).expect("both are in the list of designs")
}

impl Host for KvmHost {
    fn kind(&self) -> HostKind {
        HostKind::Kvm
    }

    fn facts(&self) -> Vec<(String, String)> {
        let fact = |name: &str, value: String| (name.to_owned(), value);
        vec![
            fact("kernel", self.release.clone()),
            fact("TDX module", "none: plain VMs".into()),
            fact("QEMU", self.qemu.described()),
            fact("accelerator", "KVM".into()),
            fact("guest", format!("micro guest, protocol version {VERSION}")),
            fact(
                ONE_SHOT,
                once::described(&self.places.debugfs, &self.places.kmsg),
            ),
        ]
    }

    fn design(&self) -> Option<&'static Design> {
        Some(self.design)
    }

    fn unmet(&self, guest: &Guest) -> Option<String> {
        if !self.dirty_ring {
            return Some(NO_DIRTY_RING.to_owned());
        }
        let places = &self.places;
        guest
            .backing
            .and_then(|backing| hugetlb::unmet(&places.pools(), backing, guest.memory))
    }

    fn boot(&self, guest: &Guest, options: &BootOptions) -> Result<Box<dyn Session>, HostError> {
        Ok(Box::new(boot::boot(self, guest, options)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_named_as_users_name_them() {
        let named = events("kvmmmu:kvm_tdp_mmu_spte_changed, kvm/kvm_exit,");
        assert_eq!(named, ["kvmmmu/kvm_tdp_mmu_spte_changed", "kvm/kvm_exit"]);
        assert!(events("").is_empty());
    }

    #[test]
    fn the_release_says_what_the_end_of_dirty_logging_does() {
        for (release, design) in [
            ("6.1.0-56-amd64", "plain-zap"),
            ("6.12.9", "plain-zap"),
            ("6.13.0", "plain"),
            ("7.3.4+deb13-amd64", "plain"),
            ("", "plain-zap"),
        ] {
            assert_eq!(design_of(release).name, design, "{release}");
        }
    }
}
