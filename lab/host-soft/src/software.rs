//! Common to `soft` and `sim`: the software KVM's configuration for a plan's guest.

use tdxlab_host::{BootOptions, HostError};
use tdxlab_journal::{Cost, Death, ExitCounters, Killer, PageCounters, Reading, Taken};
use tdxlab_plan::{CONTROL_PAGE, Guest, HostKind, TdxModule};
use tdxlab_protocol::addr::GpaRange;
use tdxlab_softkvm::{Config, Exits, KvmDesign, MemSlot, ModuleVersion, SoftKvmError, Work};

/// The software KVM for `guest`. The design's name is the only thing that can be wrong here.
pub(crate) fn config(
    host: HostKind,
    guest: &Guest,
    options: &BootOptions,
    module: ModuleVersion,
) -> Result<Config, HostError> {
    let design: KvmDesign = options
        .design
        .parse()
        .map_err(|error| refused(host, &error))?;
    let slots = guest.slots.iter().map(|slot| MemSlot {
        range: slot.range,
        gmem_offset: slot.gmem_offset,
    });
    Ok(Config {
        memory: guest.memory,
        slots: slots.collect(),
        vcpus: guest.vcpus,
        sept_ve_disable: guest.sept_ve_disable,
        image: guest.image.clone(),
        control: CONTROL_PAGE,
        design,
        module: options.module.map_or(module, module_version),
        seed: options.seed,
    })
}

/// The version to play for one that a plan or a user names.
pub(crate) const fn module_version(module: TdxModule) -> ModuleVersion {
    match module {
        TdxModule::V1_5_01 => ModuleVersion::V1_5_01,
        TdxModule::V1_5_25 => ModuleVersion::V1_5_25,
        TdxModule::V1_5_34 => ModuleVersion::V1_5_34,
        TdxModule::V2_0_18 => ModuleVersion::V2_0_18,
    }
}

/// The name for one that is played.
pub(crate) const fn module_named(version: ModuleVersion) -> TdxModule {
    match version {
        ModuleVersion::V1_5_01 => TdxModule::V1_5_01,
        ModuleVersion::V1_5_25 => TdxModule::V1_5_25,
        ModuleVersion::V1_5_34 => TdxModule::V1_5_34,
        ModuleVersion::V2_0_18 => TdxModule::V2_0_18,
    }
}

/// Room for the control page, the upper tables, and folios that are in pieces.
const SLACK: u64 = 64 << 20;

/// Machine memory sufficient for a guest with this test memory: all of it twice, private and
/// shared, and the tables that map it.
pub(crate) fn machine_bytes(memory: GpaRange) -> u64 {
    memory
        .bytes()
        .saturating_mul(2)
        .saturating_add(memory.bytes() / 128)
        .saturating_add(SLACK)
}

/// A guest or design that the software KVM refuses.
pub(crate) fn refused(host: HostKind, error: &SoftKvmError) -> HostError {
    HostError::NotUsable {
        host,
        reason: error.to_string(),
        advice: "check the guest of the plan and the design's name".to_owned(),
    }
}

/// A death as a journal records it.
pub(crate) fn death(death: tdxlab_softkvm::Death) -> Death {
    Death {
        by: match death.by {
            tdxlab_softkvm::Killer::AccessBeforeAccept => Killer::AccessBeforeAccept,
            tdxlab_softkvm::Killer::KvmBug => Killer::KvmBug,
            tdxlab_softkvm::Killer::Guest => Killer::Guest,
            tdxlab_softkvm::Killer::Vmm => Killer::Vmm,
            tdxlab_softkvm::Killer::ExitsForEver => Killer::ExitsForEver,
        },
        text: death.text,
    }
}

/// What a guest held and must have given back, given KVM's counters after its end.
pub(crate) fn taken(counters: &Reading<PageCounters>, frames: u64) -> Vec<Taken> {
    let count = |what: &str, pages: fn(&PageCounters) -> u64| {
        let after = match counters {
            Reading::Read(counters) => Reading::Read(pages(counters)),
            _ => Reading::missing("KVM's counters cannot be read"),
        };
        Taken::by_guest(what, after)
    };
    vec![
        count("4K leaves that KVM counts", |counters| counters.pages_4k),
        count("2M leaves that KVM counts", |counters| counters.pages_2m),
        Taken::by_guest(
            "frames of guest memory and its tables",
            Reading::Read(frames),
        ),
    ]
}

/// Exits as a witness reads them.
pub(crate) fn exits(exits: Exits) -> ExitCounters {
    ExitCounters {
        accept: exits.accept,
        access: exits.access,
    }
}

/// Adds what was counted to the cost of an operation.
pub(crate) fn account(cost: &mut Cost, work: Work) {
    let [auged_4k, auged_2m, auged_1g] = work.auged;
    let add = |sum: &mut Option<u64>, more| *sum.get_or_insert(0) += more;
    add(&mut cost.exits, work.exits);
    add(&mut cost.vmcalls, work.vmcalls);
    add(&mut cost.auged_4k, auged_4k);
    add(&mut cost.auged_2m, auged_2m);
    add(&mut cost.auged_1g, auged_1g);
    add(&mut cost.kicks, work.tracks);
}
