//! The software KVM: decides on mappings, and has the TDX module make them.
//!
//! | part | what it holds |
//! |---|---|
//! | [`design`] | the four designs, each a small value |
//! | [`slots`] | memory slots |
//! | [`mirror`] | the software copy of the S-EPT |
//! | [`ept`] | tables for shared memory |
//! | [`fault`] | EPT violations |
//! | [`split`], [`zap`] | changes to a range |
//! | [`convert`] | between private and shared |
//! | [`hole`] | calls of the host |
//! | [`others`] | held pages, slots that go, a VMM that does not serve |
//! | [`tdx`] | SEAMCALL sequences |
//! | [`pamt`] | pages for the module's metadata, where it takes them as they are needed |
//! | [`teardown`] | the end of the VM |
//! | [`stats`] | externally visible counters, events and log lines |
//! | [`dump`] | all mappings as text, for debugging |

mod attributes;
pub(crate) mod convert;
pub(crate) mod design;
mod dump;
mod ept;
pub(crate) mod fault;
pub(crate) mod hole;
mod mirror;
mod others;
mod pamt;
mod slots;
mod split;
pub(crate) mod stats;
mod tdx;
mod teardown;
mod zap;

use std::collections::{BTreeMap, BTreeSet};

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use tdxlab_protocol::addr::{Gpa, GpaRange, PageLevel};
use tdxlab_tdxmodule::policy::{Counted, Failure, FileId, Policy};
use tdxlab_tdxmodule::{Pfn, PhysicalMemory, Platform, TdParams};

use self::design::Rules;
use self::ept::SharedEpt;
use self::mirror::Mirror;
use self::pamt::PamtCounts;
use self::slots::Slots;
use self::stats::{PageGauges, Trace};
use super::gmem::GuestMemfd;
use super::ranges::RangeSet;
use crate::api::{Config, Death, Exits, Killer, Work};
use crate::error::SoftKvmError;

/// One VM.
pub(crate) struct Kvm<M> {
    pub(crate) hardware: Platform<M>,
    rules: Rules,
    slots: Slots,
    /// Indexed by [`FileId`].
    files: [GuestMemfd; 2],
    mirror: Mirror,
    ept: SharedEpt,
    /// Frames of the S-EPT's tables, which KVM gave to the module.
    sept_tables: Vec<Pfn>,
    pamt: PamtCounts,
    /// The VMM's own memory behind shared pages, where conversion is not in place.
    user_pages: BTreeMap<Gpa, Pfn>,
    /// Pages whose attribute is shared.
    shared: RangeSet,
    /// Shared pages of the guest_memfd to which a device has references.
    held: RangeSet,
    /// Pages of the VMM's own memory to which a device has references.
    held_elsewhere: BTreeMap<Gpa, Pfn>,
    /// What the VMM refuses to convert.
    refused: RangeSet,
    /// What the VMM converts when it is asked for the second time.
    delayed: RangeSet,
    /// Chunks that it was asked for once.
    put_off: BTreeSet<Gpa>,
    /// Where the last call on a file stopped.
    pub(crate) error_at: Option<Gpa>,
    /// 2M regions in which the guest has accepted at 4K.
    inhibited: BTreeSet<Gpa>,
    invalidation: Invalidation,
    /// When interrupts come, drawn from the seed.
    interrupts: ChaCha8Rng,
    gauges: PageGauges,
    pub(crate) trace: Trace,
    pub(crate) exits: Exits,
    /// Exits since they were last taken; the module counts its own part.
    pub(crate) work: Work,
    pub(crate) entries_looked_at: u64,
    pub(crate) leaves_zapped: u64,
    log: Vec<String>,
    death: Option<Death>,
}

/// Tells a fault that its lookup may be stale.
#[derive(Clone, Debug, Default)]
struct Invalidation {
    /// Raised at the end of every invalidation.
    sequence: u64,
    /// Ranges being invalidated.
    ranges: Vec<GpaRange>,
}

/// A death by `killer`, with its message.
pub(crate) fn death(by: Killer, text: String) -> Death {
    Death { by, text }
}

impl<M: PhysicalMemory> Kvm<M> {
    /// Builds the VM: slots, files, image.
    pub(crate) fn new(
        machine: M,
        config: &Config,
        policy: Box<dyn Policy>,
    ) -> Result<Kvm<M>, SoftKvmError> {
        let rules = config.design.rules();
        let slots = Slots::new(&config.slots, config.control).map_err(SoftKvmError::BadConfig)?;
        let file = |id, folio| GuestMemfd::new(slots.file_size(id), folio);
        let files = [
            file(FileId::Test, rules.folio),
            file(FileId::Control, PageLevel::Size4K),
        ];
        let params = TdParams {
            vcpus: config.vcpus,
            sept_ve_disable: config.sept_ve_disable,
            wide: false,
        };
        let mut hardware = Platform::new(machine, policy, config.module, params);
        let dynamic_pamt = rules.dynamic_pamt && config.module.has_dynamic_pamt();
        if dynamic_pamt {
            hardware.enable_dynamic_pamt();
        }
        let mut kvm = Kvm {
            hardware,
            rules,
            slots,
            files,
            mirror: Mirror::default(),
            ept: SharedEpt::default(),
            sept_tables: Vec::new(),
            pamt: PamtCounts::new(dynamic_pamt),
            user_pages: BTreeMap::new(),
            shared: RangeSet::default(),
            held: RangeSet::default(),
            held_elsewhere: BTreeMap::new(),
            refused: RangeSet::default(),
            delayed: RangeSet::default(),
            put_off: BTreeSet::new(),
            error_at: None,
            inhibited: BTreeSet::new(),
            invalidation: Invalidation::default(),
            interrupts: ChaCha8Rng::seed_from_u64(config.seed),
            gauges: PageGauges::default(),
            trace: Trace::new(config.vcpus),
            exits: Exits::default(),
            work: Work::default(),
            entries_looked_at: 0,
            leaves_zapped: 0,
            log: Vec::new(),
            death: None,
        };
        for &range in &config.image {
            kvm.add_image(range)?;
        }
        kvm.hardware.td.finalize();
        Ok(kvm)
    }

    /// KVM_TDX_INIT_MEM_REGION: adds zero pages of 4K to the TD before it runs.
    fn add_image(&mut self, range: GpaRange) -> Result<(), SoftKvmError> {
        for gpa in range.pages(PageLevel::Size4K) {
            let slot = self.slots.find(gpa).ok_or_else(|| {
                SoftKvmError::BadConfig(format!("image page {gpa} lies in no memory slot"))
            })?;
            let offset = slot.offset_of(gpa);
            let added = self.files[slot.file as usize]
                .populate(offset, &mut self.hardware)
                .ok_or(Failure::NoMemory)
                .and_then(|page| {
                    self.hardware.machine.zero_frames(page.frame, 1);
                    self.map_private(gpa, PageLevel::Size4K, page.frame)
                });
            added.map_err(|failure| {
                SoftKvmError::OutOfMemory(format!(
                    "image page {gpa} could not be added ({failure:?})"
                ))
            })?;
        }
        Ok(())
    }

    /// Draws interrupts from this seed.
    pub(crate) fn draw_interrupts_from(&mut self, seed: u64) {
        self.interrupts = ChaCha8Rng::seed_from_u64(seed);
    }

    /// How the VM died, if it did.
    pub(crate) fn death(&self) -> Option<&Death> {
        self.death.as_ref()
    }

    /// Ends the VM. What killed it first is what counts.
    pub(crate) fn die(&mut self, death: Death) {
        self.death.get_or_insert(death);
    }

    /// Adds a line to the kernel log.
    pub(crate) fn log(&mut self, line: String) {
        if let Some(line) = self.hardware.policy.logged(line) {
            self.log.push(line);
        }
    }

    /// Log lines since the previous call.
    pub(crate) fn take_log(&mut self) -> Vec<String> {
        std::mem::take(&mut self.log)
    }

    /// Current values of the debugfs files.
    pub(crate) fn gauges(&self) -> PageGauges {
        self.gauges
    }

    /// The VM's debugfs files.
    pub(crate) fn debugfs(&self) -> Vec<(&'static str, String)> {
        self.gauges.files()
    }

    /// The pieces of the test file behind `range`.
    pub(crate) fn pieces(&self, range: GpaRange) -> Vec<(u64, u64)> {
        self.slots.pieces(range)
    }

    /// Populated 4K pages of the test file behind `range`. Pages of a folio beyond the part of the
    /// file that slots use do not count.
    pub(crate) fn populated(&self, range: GpaRange) -> u64 {
        let file = &self.files[FileId::Test as usize];
        self.slots
            .layout(range)
            .filter(|(slot, _)| slot.file == FileId::Test)
            .map(|(slot, part)| (slot.offset_of(part.start()), part.bytes()))
            .map(|(offset, bytes)| file.populated(offset..offset + bytes))
            .sum()
    }

    /// 4K pages of shared memory that the VMM has of its own, outside the guest_memfd.
    pub(crate) fn shared_apart(&self) -> u64 {
        self.user_pages.len() as u64
    }

    /// Whether `gpa` is mapped shared.
    pub(crate) fn is_mapped_shared(&self, gpa: Gpa) -> bool {
        self.ept.is_mapped(gpa, &self.hardware.machine)
    }

    fn count(&mut self, event: Counted, level: PageLevel, delta: i64) {
        let delta = self.hardware.policy.counted(event, level, delta);
        self.gauges.add(level, delta);
    }
}
