//! Requirements of a TD in the order in which they fail: processor, firmware, kernel, KVM, QEMU.

mod asked;
mod in_place;
mod keys;
mod kvm;
mod log;
pub(super) mod messages;
mod module;
mod module_version;
mod processor;

use std::io;

use self::asked::{Asked, InKvm};
use self::log::{Story, TdxLog};
use super::qemu;
use crate::doctor::fact::Fact;
use crate::doctor::machine::{RELEASE, ThisMachine};
use crate::doctor::recording::is_unrecorded;

/// First kernel whose KVM runs TDs, and first one without races that bug the VM.
const FIRST_KERNEL: (u32, u32) = (6, 16);
const SOUND_KERNEL: (u32, u32) = (6, 19);

/// First kernel that can be built with both TDX and kexec.
const WITH_KEXEC: (u32, u32) = (6, 18);

const HUGE_PAGE: &str = "/sys/module/kvm_intel/parameters/tdx_huge_page";
const KVM_INTEL: &str = "/sys/module/kvm_intel";

pub(super) fn facts(machine: &ThisMachine) -> Vec<Fact> {
    let log = TdxLog::of(machine);
    let key_ids = log.as_ref().is_ok_and(TdxLog::has_key_ids);
    let kvm = InKvm::of(machine);
    let offered = kvm.offered;
    let mut facts = vec![
        processor::fact(machine, key_ids),
        kernel(machine, offered),
        module::fact(&log, kvm),
        parameter(machine, &log, kvm.asked),
        kvm::vm_type(machine),
        kvm::private_memory(machine),
        huge_pages(machine),
        keys::fact(machine, offered),
    ];
    if let Some(version) = module_version::fact(machine, &log, offered) {
        facts.insert(3, version);
    }
    facts.extend(qemu::for_tdx(machine));
    facts
}

fn kernel(machine: &ThisMachine, offered: bool) -> Fact {
    let name = "tdx.kernel";
    if let Some(unknown) = machine.unrecorded(name, RELEASE) {
        return unknown;
    }
    match machine.kernel_version() {
        None => Fact::limited(name, "the kernel's version cannot be read"),
        Some(version) if version < FIRST_KERNEL && offered => Fact::limited(
            name,
            format!(
                "Linux {}.{}, whose KVM offers TDX VMs: a backport, which the lab was not tried with",
                version.0, version.1
            ),
        )
        .advise("`tdxlab doctor --deep` tries a TD; what fails may be the backport's"),
        Some(version) if version < FIRST_KERNEL => Fact::unusable(
            name,
            format!(
                "Linux {}.{}: KVM runs TDs from 6.16 on",
                version.0, version.1
            ),
        )
        .advise("install Linux 6.16 or newer, built with CONFIG_INTEL_TDX_HOST"),
        Some(version) if version < SOUND_KERNEL => Fact::limited(
            name,
            format!(
                "Linux {}.{}: before 6.19, holes that race with the guest can bug the VM",
                version.0, version.1
            ),
        )
        .advise("install Linux 6.19 or newer for the scenarios in race/"),
        Some(version) => Fact::usable(name, format!("Linux {}.{}", version.0, version.1)),
    }
}

/// kvm_intel's parameter for TDX, which KVM clears where it cannot enable TDX.
fn tdx_parameter(machine: &ThisMachine) -> io::Result<String> {
    machine.read(&format!("{KVM_INTEL}/parameters/tdx"))
}

fn is_on(value: &str) -> bool {
    matches!(value, "Y" | "1")
}

fn parameter(machine: &ThisMachine, log: &io::Result<TdxLog>, asked: Asked) -> Fact {
    let name = "tdx.kvm_intel";
    match tdx_parameter(machine) {
        Ok(value) if is_on(&value) => Fact::usable(name, "kvm_intel.tdx=Y"),
        Ok(value) => {
            let found = format!("kvm_intel.tdx={value}");
            match log.as_ref().map(TdxLog::story) {
                Ok(Story::Off(failure) | Story::Lost(failure)) => {
                    Fact::unusable(name, format!("{found}, for the reason that tdx.module tells"))
                        .advise(failure.cure)
                }
                Ok(story) if asked == Asked::On => Fact::unusable(
                    name,
                    format!("{found}, although the kernel's command line asks for it"),
                )
                .advise(unsaid(&story)),
                _ if asked == Asked::Off => Fact::unusable(
                    name,
                    format!("{found}, as the kernel's command line says"),
                )
                .advise("take kvm_intel.tdx=0 off the kernel's command line, or make it 1"),
                Ok(_) => Fact::unusable(name, found).advise(
                    "boot with kvm_intel.tdx=1, or load kvm_intel with tdx=1; if it stays off, the \
                     kernel log says why when kvm_intel is loaded",
                ),
                Err(_) => Fact::unusable(name, found).advise(
                    "boot with kvm_intel.tdx=1 nohibernate; the kernel log, which cannot be read, says \
                     why it stays off",
                ),
            }
        }
        Err(error) if is_unrecorded(&error) && !is_not_loaded(machine) => {
            Fact::limited(name, format!("the parameter tdx of kvm_intel is {error}"))
        }
        Err(_) if machine.exists(KVM_INTEL) => {
            let excluded = machine.kernel_version() < Some(WITH_KEXEC);
            let because = match excluded && machine.kernel_version() >= Some(FIRST_KERNEL) {
                true => "; before 6.18 it excludes CONFIG_KEXEC_CORE, which distributions have",
                false => "",
            };
            Fact::unusable(name, "kvm_intel has no parameter tdx").advise(format!(
                "use a kernel with CONFIG_INTEL_TDX_HOST, which brings CONFIG_KVM_INTEL_TDX{because}"
            ))
        }
        // What __tdx_hardware_setup() finds wrong keeps the whole module from loading.
        Err(_) => {
            let fact = Fact::unusable(name, "kvm_intel is not loaded");
            match log.as_ref().map(TdxLog::story) {
                Ok(Story::Off(failure) | Story::Lost(failure)) => fact.advise(format!(
                    "tdx.module says why it may not load: {}; without TDX, modprobe kvm_intel tdx=0 loads it",
                    failure.cure
                )),
                Ok(story) if asked == Asked::On => fact.advise(unsaid(&story)),
                _ => fact.advise("modprobe kvm_intel tdx=1"),
            }
        }
    }
}

/// What to do where KVM was asked for TDX, has it off, and the log does not say why.
fn unsaid(story: &Story) -> &str {
    match story {
        Story::Initialised {
            but: Some(failure), ..
        }
        | Story::Trouble(failure) => &failure.cure,
        Story::Initialised { .. } => module::WANTING,
        _ => module::SILENT,
    }
}

/// Whether KVM is there, and was built without TDX.
fn kernel_lacks_tdx(machine: &ThisMachine) -> bool {
    tdx_parameter(machine).is_err_and(|error| !is_unrecorded(&error)) && machine.exists(KVM_INTEL)
}

/// Whether it is known that kvm_intel is not loaded.
fn is_not_loaded(machine: &ThisMachine) -> bool {
    machine
        .may_list(KVM_INTEL)
        .is_err_and(|error| !is_unrecorded(&error))
}

/// Without huge pages the design is `stock`, which is no fault.
fn huge_pages(machine: &ThisMachine) -> Fact {
    let name = "tdx.huge_pages";
    if let Some(unknown) = machine.unrecorded(name, HUGE_PAGE) {
        return unknown;
    }
    let huge = machine.read(HUGE_PAGE);
    let switch = in_place::switch(machine);
    let in_place = match &switch {
        Some(switch) => switch.to_string(),
        None => "no conversion in place".to_owned(),
    };
    match (huge.as_deref(), &switch) {
        (Ok("Y" | "1"), Some(switch)) if !switch.on => Fact::limited(
            name,
            format!("tdx_huge_page=Y, {in_place}: per-VM attributes keep private memory at 4K"),
        )
        .advise(format!("load kvm with {}", switch.other_way())),
        (Ok("Y" | "1"), _) => Fact::usable(
            name,
            format!("tdx_huge_page=Y, {in_place}: private memory at 2M"),
        ),
        (Ok(value), _) => Fact::limited(
            name,
            format!("tdx_huge_page={value}, {in_place}: design stock"),
        )
        .advise("boot with kvm_intel.tdx_huge_page=1 to test huge pages"),
        (Err(_), _) => Fact::limited(
            name,
            format!("no tdx_huge_page, {in_place}: private memory at 4K, design stock"),
        ),
    }
}
