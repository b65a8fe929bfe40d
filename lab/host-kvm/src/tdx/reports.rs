//! Whose a report in the kernel log is: KVM's, or that of somebody else which fell into the same moment.
//!
//! A report is a line that complains and what follows it: who ran, RIP, a trace. The line itself may name
//! the place in the source (`WARNING: arch/x86/kvm/...`), a place in `lib/` or `mm/` that KVM has called, or
//! nothing. An interrupt's report comes with a trace of its own, below which the task is only where the
//! processor was.

use tdxlab_journal::klog::{self, Kind};

/// Most lines of one report.
const MOST_LINES: usize = 200;

/// What ends a report, and what begins the next.
const ENDS: [&str; 2] = ["---[ end trace", "------------[ cut here ]"];

/// Beginnings of functions of KVM, where it is built in and no frame names its module.
const FUNCTIONS: [&str; 7] = [
    "kvm_", "__kvm_", "tdx_", "__tdx_", "tdh_", "tdp_mmu_", "vmx_",
];

/// Reports that end nobody: they say so of a debugging aid, or of pages and slabs of anyone.
const ENDS_NOBODY: [&str; 9] = [
    "KCSAN",
    "KFENCE",
    "KASAN",
    "MAX_LOCKDEP",
    "Bad page",
    "Bad rss-counter",
    "sleeping function called",
    "scheduling while atomic",
    "): ",
];

/// The first complaint of the log that is about KVM, or ends a thread of QEMU.
pub(super) fn of_kvm(log: &[String]) -> Option<&str> {
    let found = (0..log.len()).find(|&at| {
        klog::complaint(&log[at]).is_some_and(|complaint| is_of_kvm(complaint.kind, &log[at..]))
    });
    found.map(|at| log[at].as_str())
}

/// Whether the report that begins this log is.
fn is_of_kvm(kind: Kind, log: &[String]) -> bool {
    let ends_thread = match kind {
        Kind::Oops | Kind::Panic | Kind::Vmx => true,
        Kind::Bug | Kind::Corruption => !ENDS_NOBODY.iter().any(|text| log[0].contains(text)),
        Kind::Warn | Kind::Ubsan => false,
        // They say nothing of what KVM did, or are looked for apart.
        Kind::Lockdep
        | Kind::Stall
        | Kind::Leak
        | Kind::Msr
        | Kind::Seamcall
        | Kind::KeyLeak
        | Kind::BrokenMemory
        | Kind::WrittenPastTdx
        | Kind::Hardware => return false,
    };
    // The name of the task comes last in a WARNING, and that of a vCPU's thread has KVM in it.
    let place = log[0].split(", CPU#").next().unwrap_or_default();
    if ["kvm", "KVM", "tdx"]
        .iter()
        .any(|name| place.contains(name))
    {
        return true;
    }
    let rest = || {
        let rest = log.iter().skip(1).take(MOST_LINES).map(|line| line.trim());
        rest.take_while(|line| !ENDS.iter().any(|end| line.contains(end)))
    };
    if !rest().any(|line| {
        ["RIP: ", "Call Trace:", "Comm: "]
            .iter()
            .any(|mark| line.contains(mark))
    }) {
        return ends_thread;
    }
    let interrupt = rest().any(|line| line.contains("<IRQ>"));
    let task = || rest().skip_while(move |line| interrupt && !line.contains("RIP: "));
    let until = if interrupt { "</IRQ>" } else { "entry_SYSCALL" };
    let mut frames = task().take_while(|line| !line.contains(until));
    let by_qemu = |line: &str| line.contains("Comm: qemu") || line.contains("Comm: CPU ");
    frames.any(is_frame) || ends_thread && !interrupt && rest().any(by_qemu)
}

/// Whether a line of a report names a function of KVM: as RIP, or as a frame that is sure.
fn is_frame(line: &str) -> bool {
    let function = line
        .split_once("RIP: 0010:")
        .map_or(line, |(_, function)| function);
    !function.starts_with('?')
        && function.contains("+0x")
        && (function.contains("[kvm") || FUNCTIONS.iter().any(|name| function.starts_with(name)))
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    const REFCOUNT: &str =
        "WARNING: CPU: 3 PID: 812 at lib/refcount.c:28 refcount_warn_saturate+0xba/0x110";
    const SOFTIRQ: &str =
        "WARNING: net/core/dev.c:6789 at __napi_schedule+0x1/0x2, CPU#5: CPU 0/KVM/4711";
    const RAN: &str = "CPU: 3 UID: 0 PID: 812 Comm: CPU 0/KVM Not tainted 7.3.4";
    const OTHER: &str = "CPU: 3 UID: 0 PID: 99 Comm: nginx Not tainted 7.3.4";
    const RIP: &str = "RIP: 0010:refcount_warn_saturate+0xba/0x110";
    const KVM: &str = " kvm_gmem_release+0x1/0x2 [kvm]";
    const NFS: &str = " c_show+0x2fc/0x380 [sunrpc]";
    const END: &str = "---[ end trace 0000000000000000 ]---";
    const NULL: &str = "BUG: kernel NULL pointer dereference, address: 0000000000000098";

    #[rstest]
    #[case::place(&["WARNING: arch/x86/kvm/vmx/tdx.c:17 at f+0x1/0x2, CPU#5: x/1"], true)]
    #[case::only_the_task(&[SOFTIRQ], false)]
    #[case::only_the_lab(&["WARNING: fs/x.c:1 at f+0x1/0x2, CPU#3: tdxlab/99"], false)]
    #[case::called_by_kvm(&[REFCOUNT, RAN, RIP, " <TASK>", KVM, " entry_SYSCALL_64+0x1", END], true)]
    #[case::called_by_another(&[REFCOUNT, OTHER, RIP, " <TASK>", NFS, " entry_SYSCALL_64+0x1", END], false)]
    #[case::a_guess_is_no_frame(&[REFCOUNT, OTHER, RIP, " ? kvm_x+0x1/0x2 [kvm]", NFS, END], false)]
    #[case::of_the_next(&[REFCOUNT, OTHER, RIP, NFS, END, KVM], false)]
    #[case::on_top_of_a_vcpu(&[SOFTIRQ, RAN, RIP, " <IRQ>", NFS, " </IRQ>", " <TASK>", KVM, END], false)]
    #[case::of_kvm_in_an_interrupt(&[SOFTIRQ, RAN, RIP, " <IRQ>", KVM, " </IRQ>", " <TASK>", NFS, END], true)]
    #[case::nothing_more_known(&[NULL], true)]
    #[case::oops_of_another(&[NULL, OTHER, RIP, NFS, END], false)]
    #[case::oops_of_qemu(&[NULL, RAN, RIP, NFS, END], true)]
    #[case::oops_of_a_driver(&[NULL, RAN, RIP, " <IRQ>", NFS, " </IRQ>", " <TASK>", KVM, END], false)]
    #[case::a_table_that_is_full(&["BUG: MAX_LOCKDEP_CHAINS too low!"], false)]
    #[case::a_race_of_others(&["BUG: KCSAN: data-race in tick_nohz_next / tick_nohz_stop"], false)]
    #[case::a_race_of_kvm(&["BUG: KCSAN: data-race in kvm_gmem_get_pfn / x"], true)]
    #[case::a_slab_of_others(&["BUG nfs_inode_cache (Tainted: G    B): Poison overwritten"], false)]
    #[case::an_spte(&["Invalid SPTE change: cannot replace a present leaf"], true)]
    fn reports_have_owners(#[case] lines: &[&str], #[case] kvms: bool) {
        let log: Vec<String> = lines.iter().map(|&line| line.to_owned()).collect();
        assert_eq!(of_kvm(&log).is_some(), kvms);
    }
}
