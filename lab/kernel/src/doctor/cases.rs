//! Kernel messages seen on real machines, and the doctor's expected diagnosis.
//!
//! One line per case, each a variation of a machine on which all is well.

use rstest::rstest;

use super::tests::{machine, text, without};
use super::*;

const KEYS: &str = "virt/tdx: BIOS enabled: private KeyID range [32, 64)\n";
const S3: &str = "virt/tdx: Disable ACPI S3. Turn off TDX in the BIOS to use ACPI S3.\n";
const READY: &str = "virt/tdx: TDX-Module initialized\n";

const LOG: &str = "/answers/kernel-log";
const KVM: &str = "/answers/kvm";
const TDX: &str = "/sys/module/kvm_intel/parameters/tdx";
const RELEASE: &str = "/proc/sys/kernel/osrelease";
const CAPACITY: &str = "/sys/fs/cgroup/misc.capacity";
const IN_PLACE: &str = "/sys/module/kvm/parameters/gmem_in_place_conversion";
const ATTRIBUTES: &str = "/sys/module/kvm/parameters/vm_memory_attributes";
const HUGE: &str = "/sys/module/kvm_intel/parameters/tdx_huge_page";
const OBJECTS: &str = "/answers/qemu-objects";

/// Answers of KVM: without TDX, with it, and with it but without the attribute of VMs.
const NO_TDX: &str = "233 0\n234 0\n235 1\n244 0";
const OFFERED: &str = "233 8\n234 1\n235 33\n244 3";
const OFFERED_IN_PLACE: &str = "233 0\n234 1\n235 33\n244 3";

fn with(answers: &[(&str, &str)]) -> ThisMachine {
    let changed = answers
        .iter()
        .fold(text("all-well"), |text, (path, answer)| {
            without(&text, path, &format!("--- {path}\n{answer}\n"))
        });
    machine(&changed)
}

/// A machine with TDX off and this kernel log.
fn off(log: &str) -> ThisMachine {
    with(&[
        (LOG, log),
        (KVM, NO_TDX),
        (TDX, "N"),
        (CAPACITY, "sev 0\nsev_es 0"),
    ])
}

fn fact(machine: &ThisMachine, name: &str) -> Fact {
    let facts = examine(machine);
    let fact = facts.iter().find(|fact| fact.name == name);
    fact.unwrap_or_else(|| panic!("no {name}: {facts:#?}"))
        .clone()
}

/// TDX is off: the cause from the log, and the remedy. Reported before all else.
#[rstest]
// Each message of arch/x86/virt/vmx/tdx/tdx.c.
#[case(&[KEYS, "virt/tdx: initialization failed: Hibernation support is enabled"], "Hibernation", "nohibernate")]
#[case(&[KEYS, "virt/tdx: initialization failed: too few private KeyIDs available."], "too few", "key split")]
#[case(&[KEYS, "virt/tdx: initialization failed: register_memory_notifier() failed (-12)"], "notifier", "boot again")]
#[case(&[KEYS, "virt/tdx: initialization failed: TDMRs exhausted.", "virt/tdx: TDX-Module initialization failed (-28)"], "\"virt/tdx: initialization failed: TDMRs", "more pieces")]
#[case(&[KEYS, "virt/tdx: initialization failed: TDMR [0x0, 0x40000000): reserved areas exhausted.", "virt/tdx: module initialization failed (-28)"], "reserved areas", "more pieces")]
#[case(&[KEYS, "virt/tdx: frame pointer (RBP) clobber bug present, upgrade TDX module", "virt/tdx: module initialization failed (-22)"], "RBP", "update the TDX module")]
#[case(&[KEYS, "virt/tdx: module not loaded", "virt/tdx: TDX-Module initialization failed (-19)"], "module not loaded", "SEAM loader")]
#[case(&["virt/tdx: TDX not supported by the host platform"], "not supported", "key ids")]
#[case(&[KEYS, "virt/tdx: XSAVE is required for TDX"], "XSAVE", "noxsave")]
#[case(&[KEYS, "virt/tdx: MOVDIR64B is required for TDX"], "MOVDIR64B", "clearcpuid")]
#[case(&[KEYS, "virt/tdx: Self-snoop is required for TDX"], "Self-snoop", "clearcpuid")]
// The failed step is reported by its error number alone.
#[case(&[KEYS, "virt/tdx: module initialization failed (-19)"], "(-19)", "no TDX module is loaded")]
#[case(&[KEYS, "virt/tdx: module initialization failed (-12)"], "(-12)", "contiguous memory")]
#[case(&[KEYS, "virt/tdx: TDX-Module initialization failed (-95)"], "(-95)", "refuses SEAMCALLs")]
#[case(&[KEYS, "virt/tdx: module initialization failed (-13)"], "(-13)", "VT-x")]
#[case(&[KEYS, "virt/tdx: module initialization failed (-28)"], "(-28)", "more pieces")]
#[case(&[KEYS, "virt/tdx: module initialization failed (-22)"], "(-22)", "memory map")]
#[case(&[KEYS, "virt/tdx: module initialization failed (-5)"], "(-5)", "not have it any more")]
#[case(&[KEYS, "virt/tdx: module initialization failed (-4095)"], "(-4095)", "update the TDX module")]
#[case(&[KEYS, "kvm_intel: Failed to initialize TDX module."], "Failed to initialize", "update the TDX module")]
#[case(&[KEYS, "virt/tdx: module initialization failed (-12)", "kvm_intel: Failed to initialize TDX module."], "(-12)", "contiguous memory")]
// A call of the module, by class of its status.
#[case(&[KEYS, S3, "virt/tdx: SEAMCALL (0x0000000000000021) failed: 0xc000090000000000"], "TDH.SYS.INIT: INCORRECT_CPUID_VALUE", "update the firmware")]
#[case(&[KEYS, S3, "virt/tdx: SEAMCALL (0x0000000000000023) failed: 0xc000092000000000", "virt/tdx: module initialization failed (-5)"], "TDH.SYS.LP.INIT: INCONSISTENT_MSR", "differs between packages")]
#[case(&[KEYS, "virt/tdx: SEAMCALL (0x0000000000000022) failed: 0xc000050500000000", "virt/tdx: RCX 0x0000000000000000 RDX 0x9100000100000008 R08 0x0000000000000000", "virt/tdx: R09 0x0000000000000000 R10 0x0000000000000000 R11 0x0000000000000000", "virt/tdx: module initialization failed (-5)", "kvm_intel: Failed to initialize TDX module."], "TDH.SYS.RD: SYS_NOT_READY", "boot the machine anew")]
#[case(&[KEYS, "virt/tdx: SEAMCALL (0x000000000000002d) failed: 0xc0000a0200000060", "virt/tdx: TDX-Module initialization failed (-5)"], "TDH.SYS.CONFIG: TDMR_OUTSIDE_CMRS, operand TDMR_INFO_PA", "list of memory")]
#[case(&[KEYS, "virt/tdx: SEAMCALL (0x0000000000000022) failed: 0xc0000c0000000000", "virt/tdx: module initialization failed (-5)"], "METADATA_FIELD_ID_INCORRECT", "older kernel")]
#[case(&[KEYS, "virt/tdx: SEAMCALL (0x000000000000001f) failed: 0x8000080000000000"], "KEY_GENERATION_FAILED", "random number")]
#[case(&[KEYS, "tdx: SEAMCALL failed: leaf 33, error 0xc000090000000000."], "TDH.SYS.INIT", "firmware")]
// Kernels before TDX was merged.
#[case(&["tdx: SEAMCALL failed: CPU 94: leaf 33, error 0xc000092100000122.", "tdx: additional output: rcx 0x0, rdx 0x0, r8 0x0, r9 0x0, r10 0x0, r11 0x0."], "TDH.SYS.INIT", "firmware")]
#[case(&["SEAM: CPU doesn't support EPT violation #VE"], "EPT violation #VE", "clearcpuid")]
#[case(&["tdx: [firmware bug]: TDX is not enabled by BIOS.", "tdx: initialization failed (-19)", "kvm_intel: Failed to initialize TDX module."], "firmware bug", "turn TDX on in the firmware")]
#[case(&[KEYS, "tdx: not enabled by BIOS."], "not enabled", "turn TDX on in the firmware")]
#[case(&["virt/tdx: TDX module: attributes 0x0, vendor_id 0x8086, major_version 1, minor_version 0, build_date 20230206, build_num 457", "virt/tdx: SEAMCALL (0x0000000000000022) failed: 0xc000010000000000", "virt/tdx: module initialization failed (-5)"], "minor_version 0", "KVM needs 1.5")]
// The P-SEAMLDR's statuses are its own.
#[case(&[KEYS, "virt/tdx: SEAMCALL (0x8000000000000001) failed: 0x8000000000010002"], "SEAMLDR.INSTALL: ENOMEM", "made for this machine")]
// What nobody knows, before what everybody knows.
#[case(&[KEYS, "virt/tdx: the moon is in the third house", "virt/tdx: module initialization failed (-19)"], "the moon", "this lab does not know it; else: no TDX module is loaded")]
// The newest attempt counts, and what came before it if it says nothing.
#[case(&[KEYS, "kvm_intel: EPT is required for TDX", "virt/tdx: module initialization failed (-12)", "kvm_intel: Failed to initialize TDX module."], "says \"virt/tdx: module initialization failed (-12)", "contiguous memory")]
#[case(&[KEYS, "virt/tdx: initialization failed: Hibernation support is enabled", "kvm_intel: tdx: no TDX private KeyIDs available", "kvm_intel: tdx: no TDX private KeyIDs available"], "Hibernation", "nohibernate")]
// Each message of arch/x86/kvm/vmx/tdx.c, also after the module was initialised.
#[case(&[KEYS, "kvm_intel: EPT is required for TDX"], "EPT", "ept=1")]
#[case(&[KEYS, "kvm_intel: TDP MMU and MMIO caching and EPT A/D bit is required for TDX"], "TDP MMU", "tdp_mmu=1")]
#[case(&[KEYS, READY, "kvm_intel: APICv is required for TDX"], "APICv", "enable_apicv=1")]
#[case(&[KEYS, "kvm_intel: tdx: OSXSAVE is required for TDX"], "OSXSAVE", "noxsave")]
#[case(&[KEYS, "kvm_intel: tdx: MOVDIR64B is required for TDX"], "MOVDIR64B", "clearcpuid")]
#[case(&[KEYS, "kvm_intel: Self-snoop is reqiured for TDX"], "Self-snoop", "clearcpuid")]
#[case(&[KEYS, "kvm_intel: tdx: no TDX private KeyIDs available"], "no TDX private", "nohibernate")]
#[case(&[KEYS, "virt/tdx: initialization failed: Hibernation support is enabled", "kvm_intel: tdx: no TDX private KeyIDs available"], "Hibernation", "nohibernate")]
#[case(&[KEYS, "kvm_intel: tdx: tdx requires kvm.enable_virt_at_load=1"], "enable_virt_at_load", "load kvm with enable_virt_at_load=1")]
#[case(&[KEYS, "virt/tdx: module initialized", "kvm_intel: tdx: tdx requires kvm.enable_virt_at_load=1"], "enable_virt_at_load", "load kvm with enable_virt_at_load=1")]
#[case(&[KEYS, READY, "kvm_intel: Disable TDX: MAX_VCPU_PER_TD (64) smaller than number of logical CPUs (512)."], "MAX_VCPU_PER_TD", "nr_cpus")]
#[case(&[KEYS, "kvm_intel: Disable TDX: MAX_VCPU_PER_TD (64) smaller than max logical CPUs (512)."], "MAX_VCPU_PER_TD", "nr_cpus")]
#[case(&[KEYS, READY, "kvm_intel: MSR c0000103 isn't included by kvm_find_user_return_msr"], "c0000103", "bug of KVM")]
#[case(&["kvm_intel: unknown parameter 'tdx' ignored"], "unknown parameter", "CONFIG_INTEL_TDX_HOST")]
// As other tools print them.
#[case(&["[    0.314159] virt/tdx: BIOS enabled: private KeyID range [32, 64)", "[    3.141592] virt/tdx: initialization failed: Hibernation support is enabled"], "\"virt/tdx: initialization failed: Hibernation", "nohibernate")]
#[case(&["Nov 20 09:30:01 lab-7 kernel: kvm_intel: tdx: tdx requires kvm.enable_virt_at_load=1"], "enable_virt_at_load", "load kvm with enable_virt_at_load=1")]
#[case(&["kern  :err   : [Fri Nov 20 09:30:01 2026] kvm_intel: APICv is required for TDX"], "APICv", "enable_apicv=1")]
// Prerequisites of TDX.
#[case(&["kvm_intel: VMX not enabled (by BIOS) in MSR_IA32_FEAT_CTL on CPU 0"], "VMX", "VT-x")]
#[case(&["x86/tme: not enabled by BIOS"], "x86/tme", "TME")]
#[case(&["x86/tme: enabled by BIOS", "x86/mktme: disabled by BIOS"], "mktme", "TME-MT")]
#[case(&["x86/tme: enabled by BIOS", "x86/tme: configuration is inconsistent between CPUs"], "inconsistent", "all sockets alike")]
fn tdx_is_off_and_the_log_says_why(
    #[case] lines: &[&str],
    #[case] found: &str,
    #[case] advice: &str,
) {
    let lines: Vec<&str> = lines.iter().map(|line| line.trim_end()).collect();
    let machine = off(&lines.join("\n"));
    let module = fact(&machine, "tdx.module");
    assert_eq!(module.standing, Status::Unusable, "{module:?}");
    assert!(module.found.contains(found), "{module:?}");
    // Whatever failed last is shown, too, without what a tool printed before it.
    let last = lines.last().unwrap();
    let starts = ["virt/tdx: ", "kvm_intel: ", "x86/", "tdx: ", "SEAM: "];
    let start = starts.iter().find_map(|start| last.find(start)).unwrap();
    assert!(module.found.contains(&last[start..]), "{module:?}");
    let cure = module.advice.clone().unwrap();
    assert!(cure.contains(advice), "{cure}");
    assert_eq!(why_no_tdx(&machine), Some(module));
    assert_eq!(fact(&machine, "tdx.kvm_intel").advice, Some(cure));
    let keys = fact(&machine, "tdx.key_ids");
    assert!(keys.found.contains("turned off"), "{keys:?}");
}

/// The parameter is on, so that to turn it on is no advice.
#[test]
fn a_module_that_is_switched_on_and_not_heard_of_is_looked_for_in_the_journal() {
    let machine = with(&[(LOG, KEYS), (KVM, NO_TDX)]);
    let module = fact(&machine, "tdx.module");
    assert_eq!(module.standing, Status::Limited, "{module:?}");
    let cure = module.advice.unwrap();
    assert!(
        cure.contains("journalctl -k -b") && !cure.contains("tdx=1"),
        "{cure}"
    );
}

/// No message says that TDX is off.
#[rstest]
#[case::nothing_said(&[], NO_TDX, Status::Limited, "no TDX module message")]
#[case::key_ids_alone(&[KEYS, S3], NO_TDX, Status::Limited, "nothing says that the module was initialised")]
#[case::key_ids_and_offered(&[KEYS, S3], OFFERED, Status::Usable, "KVM offers TDX VMs")]
#[case::lost_and_offered(&[], OFFERED, Status::Usable, "KVM offers TDX VMs")]
#[case::a_new_reason(&[KEYS, READY, "kvm_intel: tdx: needs the moon in the third house"], NO_TDX, Status::Limited, "the moon in the third house")]
#[case::a_new_name(&["Linux version 7.3.4-tdx (builder)", "Kernel command line: root=/dev/x kvm_intel.tdx=1", KEYS], NO_TDX, Status::Limited, "nothing says that the module was initialised")]
#[case::a_new_note(&[KEYS, READY, "virt/tdx: feeling fine"], OFFERED, Status::Usable, "TDX-Module initialized")]
#[case::initialised(&[KEYS, READY], OFFERED, Status::Usable, "TDX-Module initialized")]
#[case::loaded_again(&[KEYS, READY, "kvm_intel: EPT is required for TDX"], OFFERED, Status::Limited, "EPT is required")]
#[case::failed_later(&[KEYS, READY, "kvm_intel: SEAMCALL TDH_PHYMEM_PAGE_RECLAIM failed: 0x8000020000000000"], OFFERED, Status::Limited, "OPERAND_BUSY")]
#[case::failed_on_the_way(&[KEYS, "virt/tdx: SEAMCALL (0x22) failed: 0xc0000c0000000000", READY], OFFERED, Status::Limited, "METADATA_FIELD_ID_INCORRECT")]
#[case::failed_and_initialised_lost(&["kvm_intel: SEAMCALL TDH_MNG_CREATE failed: 0xc000030300000080"], OFFERED, Status::Limited, "PAGE_NOT_FREE")]
#[case::a_package_offline(&[KEYS, READY, "kvm_intel: All packages need to have online CPU to create TD. Online CPU and retry."], OFFERED, Status::Limited, "online CPU")]
#[case::a_package_offline_and_the_rest_lost(&["kvm_intel: All packages need to have online CPU to create TD. Online CPU and retry."], OFFERED, Status::Limited, "online CPU")]
#[case::few_tdmrs_left(&[KEYS, "virt/tdx: consumed TDMRs reaching limit: 62 used out of 64", READY], OFFERED, Status::Usable, "initialized")]
#[case::notes_of_vendors(&[KEYS, "virt/tdx: CMR: [0x100000, 0x77800000)", "virt/tdx: 1050644 KBs allocated for PAMT"], NO_TDX, Status::Limited, "nothing says that the module was initialised")]
#[case::an_update(&[KEYS, READY, "virt/tdx: SEAMCALL (0x35) failed: 0xc000050900000000", "virt/tdx: version 1.5.28 -> 1.5.34"], OFFERED, Status::Limited, "1.5.28 -> 1.5.34")]
#[case::tried_twice(&[KEYS, "virt/tdx: module not loaded", "virt/tdx: module initialization failed (-19)", "virt/tdx: module initialized"], OFFERED, Status::Usable, "module initialized")]
fn what_else_the_log_may_say(
    #[case] lines: &[&str],
    #[case] kvm: &str,
    #[case] standing: Status,
    #[case] found: &str,
) {
    let log: String = lines
        .iter()
        .map(|line| format!("{}\n", line.trim_end()))
        .collect();
    let on = if kvm == NO_TDX { "N" } else { "Y" };
    let machine = with(&[(LOG, &log), (KVM, kvm), (TDX, on)]);
    let module = fact(&machine, "tdx.module");
    assert_eq!(module.standing, standing, "{module:?}");
    assert!(module.found.contains(found), "{module:?}");
    let obstacle = why_no_tdx(&machine).map(|fact| fact.name);
    let expected = (kvm == NO_TDX).then(|| "tdx.kvm_intel".to_owned());
    assert_eq!(obstacle, expected);
}

/// The module was shut down for the update, whatever KVM goes on to offer.
#[rstest]
#[case(
    "virt/tdx: SEAMCALL (0x8000000000000001) failed: 0x8000000000020001",
    "EBADHASH",
    "one release"
)]
#[case(
    "virt/tdx: SEAMCALL (0x8000000000000001) failed: 0x8000000000030000",
    "EINTERRUPT",
    "update it again"
)]
#[case(
    "virt/tdx: SEAMCALL (0x0000000000000035) failed: 0xc000050900000000",
    "TDH.SYS.UPDATE: SYS_INVALID_HANDOFF",
    "boot the machine anew"
)]
#[case(
    "seamldr: update failed, SEAMCALLs will report failure until TDs killed",
    "update failed",
    "boot the machine anew"
)]
fn an_update_that_fails_takes_tdx_away(
    #[case] line: &str,
    #[case] found: &str,
    #[case] advice: &str,
) {
    let module = why_no_tdx(&with(&[(LOG, &format!("{KEYS}{READY}{line}"))])).unwrap();
    assert_eq!(module.name, "tdx.module");
    assert!(
        module.found.contains("an update has since failed") && module.found.contains(found),
        "{module:?}"
    );
    let cure = module.advice.unwrap();
    assert!(cure.contains(advice), "{cure}");
}

/// A kernel that does not set TDX up does not set the processor's flag either; with a range of key
/// ids in its log that is not the firmware's fault.
#[test]
fn the_firmware_is_not_blamed_for_what_the_kernel_does() {
    let cpuinfo =
        "vendor_id : GenuineIntel\ncpu family : 6\nmodel : 207\nmodel name : X\nflags : vmx tme";
    let log = format!("{KEYS}virt/tdx: initialization failed: Hibernation support is enabled");
    for (log, blamed) in [(log.as_str(), "tdx.module"), ("", "tdx.processor")] {
        let machine = with(&[
            ("/proc/cpuinfo", cpuinfo),
            (LOG, log),
            (KVM, NO_TDX),
            (TDX, "N"),
        ]);
        assert_eq!(why_no_tdx(&machine).unwrap().name, blamed);
    }
}

/// Diagnosis from the kernel version alone, and from KVM's answers.
#[rstest]
#[case::backport("5.14.0-611.tdx.el9.x86_64", OFFERED, "Y", Status::Limited, "backport")]
#[case::another_backport("6.8.0-1040-tdx", OFFERED, "Y", Status::Limited, "backport")]
#[case::too_old("5.14.0-611.el9.x86_64", NO_TDX, "N", Status::Unusable, "from 6.16 on")]
#[case::racy("6.17.0-12-generic", OFFERED, "Y", Status::Limited, "before 6.19")]
#[case::new("7.4.0-rc3+", OFFERED, "Y", Status::Usable, "7.4")]
fn kernels_are_taken_by_what_they_can(
    #[case] release: &str,
    #[case] kvm: &str,
    #[case] on: &str,
    #[case] standing: Status,
    #[case] found: &str,
) {
    let machine = with(&[(RELEASE, release), (KVM, kvm), (TDX, on)]);
    let kernel = fact(&machine, "tdx.kernel");
    assert_eq!(kernel.standing, standing, "{kernel:?}");
    assert!(kernel.found.contains(found), "{kernel:?}");
    assert_eq!(why_no_tdx(&machine).is_some(), standing == Status::Unusable);
}

/// The module's version: by sysfs, by the log, or not at all; and what it means for huge pages.
#[rstest]
#[case::by_sysfs("2.0.18", READY, "Y", Status::Usable, "2.0.18, by /sys/devices/faux")]
#[case::updated_since(
    "1.5.34",
    "virt/tdx: Module version: 1.5.28",
    "Y",
    Status::Usable,
    "1.5.34"
)]
#[case::by_the_log(
    "",
    "virt/tdx: Module version: 1.5.28",
    "Y",
    Status::Usable,
    "by the kernel log"
)]
#[case::unknown("", READY, "Y", Status::Limited, "unknown")]
#[case::garbled("none", READY, "Y", Status::Limited, "unknown")]
#[case::no_splits("1.5.25", READY, "Y", Status::Limited, "private memory at 4K")]
#[case::no_splits_in_the_other_series(
    "2.0.14",
    READY,
    "N",
    Status::Limited,
    "private memory at 4K"
)]
#[case::no_huge_pages_anyway("1.5.16", READY, "", Status::Usable, "1.5.16")]
#[case::a_later_series("3.1.02", READY, "Y", Status::Usable, "3.1.02")]
fn the_module_has_a_version(
    #[case] sysfs: &str,
    #[case] line: &str,
    #[case] huge: &str,
    #[case] standing: Status,
    #[case] found: &str,
) {
    let log = format!("{}\n{}", KEYS.trim_end(), line.trim_end());
    let mut answers = vec![
        (LOG, log.as_str()),
        (KVM, OFFERED),
        (TDX, "Y"),
        ("/sys/devices/faux/tdx_host/version", sysfs),
    ];
    if !huge.is_empty() {
        answers.push((HUGE, huge));
    }
    let version = fact(&with(&answers), "tdx.module_version");
    assert_eq!(version.standing, standing, "{version:?}");
    assert!(version.found.contains(found), "{version:?}");
}

const OLD_QEMU: &str = "List of user creatable objects:\n  memory-backend-memfd\n  tdx-guest";
const NEW_QEMU: &str = "List of user creatable objects:\n  memory-backend-guest-memfd\n  tdx-guest";

/// Conversion in place, by parameter name and value, KVM's answers and QEMU's objects: the
/// diagnosis of huge pages and of private memory.
#[rstest]
#[case::on(
    IN_PLACE,
    "Y",
    OFFERED_IN_PLACE,
    OLD_QEMU,
    "private memory at 2M",
    "gmem_in_place_conversion=N",
    Status::Unusable
)]
#[case::on_and_qemu_knows(
    IN_PLACE,
    "Y",
    OFFERED_IN_PLACE,
    NEW_QEMU,
    "private memory at 2M",
    "gmem_in_place_conversion=N",
    Status::Limited
)]
#[case::off(
    IN_PLACE,
    "N",
    OFFERED,
    OLD_QEMU,
    "gmem_in_place_conversion=Y",
    "memory can be private",
    Status::Usable
)]
#[case::old_name_on(
    ATTRIBUTES,
    "N",
    OFFERED_IN_PLACE,
    OLD_QEMU,
    "private memory at 2M",
    "vm_memory_attributes=Y",
    Status::Unusable
)]
#[case::old_name_off(
    ATTRIBUTES,
    "Y",
    OFFERED,
    OLD_QEMU,
    "vm_memory_attributes=N",
    "memory can be private",
    Status::Usable
)]
fn conversion_in_place_goes_by_the_kernels_own_name(
    #[case] parameter: &str,
    #[case] value: &str,
    #[case] kvm: &str,
    #[case] objects: &str,
    #[case] huge_pages: &str,
    #[case] private: &str,
    #[case] standing: Status,
) {
    let machine = with(&[
        (parameter, value),
        (HUGE, "Y"),
        (KVM, kvm),
        (OBJECTS, objects),
    ]);
    let said = |name| {
        let fact = fact(&machine, name);
        let advice = fact.advice.unwrap_or_default();
        (format!("{} {advice}", fact.found), fact.standing)
    };
    assert!(
        said("tdx.huge_pages").0.contains(huge_pages),
        "{:?}",
        said("tdx.huge_pages")
    );
    let (text, found) = said("tdx.guest_memfd");
    assert!(text.contains(private), "{text}");
    assert_eq!(found, standing, "{text}");
    // The other name is of another kernel.
    let other = if parameter == IN_PLACE {
        "vm_memory_attributes"
    } else {
        "gmem_in_place"
    };
    assert!(!(text + &said("tdx.huge_pages").0).contains(other));
}

/// What the guest_memfd itself answered; a kernel that has the call, with a QEMU that does not know it.
#[rstest]
#[case::has_it("yes", OLD_QEMU, Status::Unusable, "the file's own does")]
#[case::has_it_and_qemu_too("yes", NEW_QEMU, Status::Limited, "the file's own does")]
#[case::has_it_not("no", OLD_QEMU, Status::Unusable, "nor does one of the file")]
#[case::not_tried("", OLD_QEMU, Status::Unusable, "is not known")]
fn the_guest_memfd_is_asked_by_doing(
    #[case] answer: &str,
    #[case] objects: &str,
    #[case] standing: Status,
    #[case] found: &str,
) {
    let mut answers = vec![(KVM, OFFERED_IN_PLACE), (OBJECTS, objects)];
    if !answer.is_empty() {
        answers.push(("/answers/guest-memfd-attributes", answer));
    }
    let memory = fact(&with(&answers), "tdx.guest_memfd");
    assert_eq!(memory.standing, standing, "{memory:?}");
    assert!(memory.found.contains(found), "{memory:?}");
}

#[rstest]
#[case::off("sev 0\nsev_es 0", NO_TDX, Status::Limited, "turned off")]
#[case::off_with_a_line("sev 0\ntdx 0", NO_TDX, Status::Limited, "turned off")]
#[case::not_counted("sev 0", OFFERED, Status::Limited, "no line tdx")]
#[case::counted("sev 0\ntdx 31", OFFERED, Status::Usable, "of 31")]
fn key_ids_are_counted_where_the_kernel_counts(
    #[case] capacity: &str,
    #[case] kvm: &str,
    #[case] standing: Status,
    #[case] found: &str,
) {
    let machine = with(&[(CAPACITY, capacity), (KVM, kvm)]);
    let keys = fact(&machine, "tdx.key_ids");
    assert_eq!(keys.standing, standing, "{keys:?}");
    assert!(keys.found.contains(found), "{keys:?}");
    assert!(!keys.advice.unwrap_or_default().contains("mount"));
}

/// kvm_intel's state, and where TDX is turned off or missing: the first obstacle, what it says, and
/// the remedy.
#[rstest]
#[case::command_line(&[("/proc/cmdline", "quiet kvm_intel.tdx=0"), (TDX, "N")], "tdx.kvm_intel", "command line says", "off the kernel's command line")]
#[case::command_line_twice(&[("/proc/cmdline", "kvm_intel.tdx=0 kvm_intel.tdx=1"), (TDX, "N")], "tdx.kvm_intel", "command line asks for it", "SEAM loader")]
#[case::spelt_otherwise(&[("/proc/cmdline", "kvm-intel.tdx=Off"), (TDX, "N")], "tdx.kvm_intel", "command line says", "off the kernel's command line")]
#[case::asked_and_no_word(&[("/proc/cmdline", "kvm_intel.tdx=1 nohibernate"), (LOG, KEYS), (TDX, "N")], "tdx.kvm_intel", "command line asks for it", "Operation not supported")]
#[case::asked_and_wanting(&[("/proc/cmdline", "kvm_intel.tdx"), (LOG, READY), (TDX, "N")], "tdx.kvm_intel", "command line asks for it", "update the TDX module")]
#[case::not_asked_for(&[(TDX, "0")], "tdx.kvm_intel", "tdx=0", "boot with kvm_intel.tdx=1")]
#[case::not_built(&[("/proc/cpuinfo", EMERALD), ("/sys/module/kvm_intel/parameters/ept", "Y")], "tdx.kvm_intel", "no parameter tdx", "CONFIG_INTEL_TDX_HOST")]
#[case::not_built_for_kexec(&[(RELEASE, "6.17.0-8-generic"), ("/proc/cpuinfo", EMERALD), ("/sys/module/kvm_intel/parameters/ept", "Y")], "tdx.kvm_intel", "no parameter tdx", "KEXEC_CORE")]
#[case::nested(&[("/proc/cpuinfo", "vendor_id : GenuineIntel\ncpu family : 6\nmodel : 207\nmodel name : X\nflags : vmx hypervisor"), (TDX, "N")], "tdx.processor", "virtual machine", "bare machine")]
#[case::newer_than_the_lab(&[("/proc/cpuinfo", "vendor_id : GenuineIntel\ncpu family : 18\nmodel : 9\nmodel name : X\nflags : vmx tme"), (TDX, "N")], "tdx.kvm_intel", "tdx=N", "boot with kvm_intel.tdx=1")]
#[case::newer_and_known(&[("/proc/cpuinfo", "vendor_id : GenuineIntel\ncpu family : 19\nmodel : 1\nmodel name : X\nflags : vmx tme"), (TDX, "N")], "tdx.processor", "Diamond Rapids", "SEAM loader")]
#[case::of_another_vendor(&[("/proc/cpuinfo", "vendor_id : AuthenticAMD\nmodel name : X\nflags : svm"), ("/sys/module/kvm_intel/ (errno 2)", "")], "tdx.processor", "no processor that is known", "rehearse")]
fn what_turns_tdx_off_is_the_first_obstacle(
    #[case] answers: &[(&str, &str)],
    #[case] name: &str,
    #[case] found: &str,
    #[case] advice: &str,
) {
    let mut all = vec![(LOG, ""), (KVM, NO_TDX), (CAPACITY, "sev 0")];
    all.extend(answers);
    let known = answers.iter().any(|(path, _)| *path == TDX);
    let text = all.iter().fold(text("all-well"), |text, (path, answer)| {
        without(&text, path, &format!("--- {path}\n{answer}\n"))
    });
    let text = match known {
        true => text,
        false => without(&text, TDX, &format!("--- {TDX} (errno 2)\n")),
    };
    let first = why_no_tdx(&machine(&text)).unwrap();
    assert_eq!(first.name, name, "{first:?}");
    assert!(first.found.contains(found), "{first:?}");
    let cure = first.advice.unwrap();
    assert!(cure.contains(advice), "{cure}");
}

const EMERALD: &str =
    "vendor_id : GenuineIntel\ncpu family : 6\nmodel : 207\nmodel name : X\nflags : vmx tme";

/// From 7.3 on kvm_intel does not load at all where its set-up of TDX fails: the log has the cause.
#[test]
fn a_module_that_did_not_load_has_a_cause() {
    let line =
        "kvm_intel: Disable TDX: MAX_VCPU_PER_TD (64) smaller than number of logical CPUs (512).";
    let text = without(
        &without(&text("all-well"), TDX, ""),
        LOG,
        &format!("--- {LOG}\n{KEYS}{READY}{line}\n--- /sys/module/kvm_intel/ (errno 2)\n"),
    );
    let text = without(&text, KVM, &format!("--- {KVM} (errno 2)\n"));
    let parameter = fact(&machine(&text), "tdx.kvm_intel");
    assert!(parameter.found.contains("not loaded"), "{parameter:?}");
    let cure = parameter.advice.unwrap();
    assert!(cure.contains("nr_cpus"), "{cure}");
    assert_eq!(why_no_tdx(&machine(&text)).unwrap().name, "tdx.module");
}

/// Banner and objects of a QEMU, and what it is good for.
#[rstest]
#[case::distribution(
    "QEMU emulator version 10.1.2 (Debian 1:10.1.2+ds-3ubuntu2~24.04)",
    OLD_QEMU,
    Status::Usable,
    "10.1.2, which ends"
)]
#[case::epoch_and_module(
    "QEMU emulator version 10.1.0 (qemu-kvm-10.1.0-8.module+el10+1)",
    OLD_QEMU,
    Status::Usable,
    "10.1.0"
)]
#[case::candidate(
    "QEMU emulator version 10.0.94 (v10.1.0-rc4)",
    OLD_QEMU,
    Status::Usable,
    "next release"
)]
#[case::snapshot(
    "QEMU emulator version 11.1.50 (v11.1.0-412-gabcdef0123)",
    OLD_QEMU,
    Status::Usable,
    "makes a TD anew"
)]
#[case::patched_in_place(
    "QEMU emulator version 11.1.50 (v11.1.0-412-gabcdef0123-dirty)",
    NEW_QEMU,
    Status::Usable,
    "11.1.50"
)]
#[case::backport(
    "QEMU emulator version 9.1.0 (qemu-kvm-9.1.0-15.el9.tdx)",
    OLD_QEMU,
    Status::Limited,
    "backport"
)]
#[case::too_old(
    "QEMU emulator version 9.2.4 (openSUSE Leap)",
    "  memory-backend-memfd",
    Status::Unusable,
    "9.2.4"
)]
#[case::too_old_snapshot(
    "QEMU emulator version 10.0.50 (v10.0.0-1)",
    "  memory-backend-memfd",
    Status::Unusable,
    "10.0.50"
)]
#[case::no_answer("Segmentation fault", OLD_QEMU, Status::Unusable, "no QEMU")]
fn qemus_are_taken_by_what_they_can(
    #[case] banner: &str,
    #[case] objects: &str,
    #[case] standing: Status,
    #[case] found: &str,
) {
    let machine = with(&[("/answers/qemu-version", banner), (OBJECTS, objects)]);
    let qemu = fact(&machine, "tdx.qemu");
    assert_eq!(qemu.standing, standing, "{qemu:?}");
    assert!(qemu.found.contains(found), "{qemu:?}");
}

/// KVM counts key ids for the whole machine, and cgroups for those in them.
#[rstest]
#[case("max", Status::Usable, "61 of 63 private key ids are free")]
#[case("7", Status::Usable, "this process 7 more")]
#[case("0", Status::Unusable, "allows no more TDs")]
fn cgroups_limit_tds(#[case] room: &str, #[case] standing: Status, #[case] found: &str) {
    let keys = fact(
        &with(&[("/answers/key-ids-of-cgroup", room)]),
        "tdx.key_ids",
    );
    assert_eq!(keys.standing, standing, "{keys:?}");
    assert!(keys.found.contains(found), "{keys:?}");
}
