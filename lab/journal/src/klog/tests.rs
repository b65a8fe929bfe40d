//! Lines of the kernel log, and their classification.

use rstest::rstest;

use super::*;

/// Real messages of the kernel, and their classification.
#[rstest]
// Calls of the TDX module.
#[case(
    "kvm_intel: SEAMCALL TDH_PHYMEM_PAGE_RECLAIM failed: 0x8000020000000000",
    Kind::Seamcall
)]
#[case(
    "kvm_intel: SEAMCALL TDH_MEM_PAGE_DEMOTE failed: 0xc000060800000000",
    Kind::Seamcall
)]
#[case(
    "kvm_intel: SEAMCALL TDH_MEM_RANGE_BLOCK failed: 0xc000010000000001, entry 0x0, level_state 0x1",
    Kind::Seamcall
)]
#[case(
    "kvm_intel: SEAMCALL TDH_MR_FINALIZE failed: 0xc000060900000000",
    Kind::Seamcall
)]
#[case("kvm_intel: SEAMCALL TDH_NEW_ONE failed: 0x1", Kind::Seamcall)]
#[case(
    "kvm_intel: TDH_VP_RD[VMCS.0x4002] failed 0xc000070000000000",
    Kind::Seamcall
)]
#[case(
    "kvm_intel: TDH_VP_WR[MANAGEMENT.0x0b] = 0x1 failed: 0xc000070000000000",
    Kind::Seamcall
)]
#[case(
    "virt/tdx: SEAMCALL (0x000000000000001c) failed: 0x8000020000000000",
    Kind::Seamcall
)]
#[case("virt/tdx: TDH.SYS.DISABLE failed: 0x8000020200000000", Kind::Seamcall)]
#[case(
    "seamldr: SEAMCALL (0x8000000000000001) failed: 0x8000000000000003",
    Kind::Seamcall
)]
#[case(
    "tdx: SEAMCALL failed: leaf 35, error 0xc000050300000000.",
    Kind::Seamcall
)]
#[case("kvm [4711]: TD vp_enter_ret 0x6000000500000000", Kind::Seamcall)]
#[case(
    "kvm_intel: tdh_mng_vpflushdone() failed. HKID 70 is leaked.",
    Kind::KeyLeak
)]
#[case(
    "kvm_intel: tdh_mng_key_freeid() failed. HKID 70 is leaked.",
    Kind::KeyLeak
)]
#[case(
    "MCE: Killing qemu-system-x86:812 due to hardware memory corruption fault at 7f0000001000",
    Kind::BrokenMemory
)]
// WARN and BUG, old form and new.
#[case(
    "WARNING: CPU: 1 PID: 77 at arch/x86/kvm/mmu/tdp_mmu.c:512 handle_changed_spte+0x4/0x9 [kvm]",
    Kind::Warn
)]
#[case(
    "WARNING: arch/x86/kvm/vmx/tdx.c:1815 at tdx_sept_remove+0x1/0x2 [kvm_intel], CPU#3: qemu/99",
    Kind::Warn
)]
#[case(
    "[   77.123456] WARNING: CPU: 1 PID: 77 at mm/memory.c:1 f+0x1/0x2",
    Kind::Warn
)]
#[case(
    "<4>[  T99] WARNING: CPU: 1 PID: 77 at mm/memory.c:1 f+0x1/0x2",
    Kind::Warn
)]
#[case("kernel BUG at virt/kvm/guest_memfd.c:99!", Kind::Bug)]
#[case(
    "BUG: kernel NULL pointer dereference, address: 0000000000000008",
    Kind::Bug
)]
#[case(
    "BUG: unable to handle page fault for address: ffffc90000123000",
    Kind::Bug
)]
#[case("BUG: KASAN: slab-use-after-free in kvm_gmem_fault+0x1/0x2", Kind::Bug)]
#[case(
    "BUG: KFENCE: use-after-free read in kvm_gmem_release+0x1/0x2",
    Kind::Bug
)]
#[case(
    "BUG: KCSAN: data-race in tdp_mmu_zap_leafs / kvm_tdp_mmu_map",
    Kind::Bug
)]
#[case("BUG: Bad page state in process qemu-system-x86  pfn:12345", Kind::Bug)]
#[case(
    "BUG: Bad page map in process qemu-system-x86  pte:80000000 pmd:12345",
    Kind::Bug
)]
#[case(
    "BUG: Bad rss-counter state mm:00000000aabbccdd type:MM_FILEPAGES val:512",
    Kind::Bug
)]
#[case(
    "BUG: scheduling while atomic: qemu-system-x86/99/0x00000002",
    Kind::Bug
)]
#[case(
    "BUG: sleeping function called from invalid context at kernel/locking/mutex.c:1",
    Kind::Bug
)]
#[case("BUG: spinlock bad magic on CPU#3, qemu-system-x86/99", Kind::Bug)]
#[case(
    "BUG: workqueue leaked atomic, lock or RCU: kworker/1:2[99]",
    Kind::Bug
)]
#[case(
    "BUG kmalloc-64 (Tainted: G        W          ): Redzone overwritten",
    Kind::Corruption
)]
#[case("mempool: BUG: mempool element poison mismatch", Kind::Bug)]
#[case(
    "CFI failure at kvm_vcpu_ioctl+0x1/0x2 (target: x+0x0/0x1; expected type: 0x12345678)",
    Kind::Bug
)]
// Exceptions of the kernel.
#[case(
    "Oops: general protection fault, probably for non-canonical address 0xdead000000000100: 0000 [#1] SMP",
    Kind::Oops
)]
#[case("general protection fault: 0000 [#1] PREEMPT SMP NOPTI", Kind::Oops)]
#[case(
    "general protection fault, probably for non-canonical address 0xdead000000000122: 0000 [#3] SMP",
    Kind::Oops
)]
#[case("invalid opcode: 0000 [#1] PREEMPT SMP", Kind::Oops)]
#[case("divide error: 0000 [#12] SMP", Kind::Oops)]
#[case(
    "qemu-system-x86: Corrupted page table at address 7f0000000000",
    Kind::Oops
)]
#[case("traps: PANIC: double fault, error_code: 0x0", Kind::Panic)]
#[case("Kernel panic - not syncing: Fatal exception", Kind::Panic)]
// Stalls.
#[case(
    "watchdog: BUG: soft lockup - CPU#3 stuck for 26s! [qemu-system-x86:99]",
    Kind::Stall
)]
#[case("watchdog: CPU3: Watchdog detected hard LOCKUP on cpu 3", Kind::Stall)]
#[case("NMI watchdog: Watchdog detected hard LOCKUP on cpu 3", Kind::Stall)]
#[case(
    "INFO: task qemu-system-x86:99 blocked for more than 122 seconds.",
    Kind::Stall
)]
#[case(
    "INFO: task qemu-system-x86:99 blocked in I/O wait for more than 122 seconds.",
    Kind::Stall
)]
#[case("rcu: INFO: rcu_preempt detected stalls on CPUs/tasks:", Kind::Stall)]
#[case("rcu: INFO: rcu_preempt self-detected stall on CPU", Kind::Stall)]
#[case(
    "rcu: INFO: rcu_preempt detected expedited stalls on CPUs/tasks: { 3-.... }",
    Kind::Stall
)]
#[case("INFO: rcu_tasks detected stalls on tasks:", Kind::Stall)]
#[case(
    "BUG: workqueue lockup - pool cpus=3 node=0 flags=0x0 nice=0 stuck for 33s!",
    Kind::Stall
)]
#[case(
    "smp: csd: Detected non-responsive CSD lock (#1) on CPU#3, waiting 5000000000 ns for CPU#01",
    Kind::Stall
)]
// Locks.
#[case(
    "WARNING: possible circular locking dependency detected",
    Kind::Lockdep
)]
#[case(
    "WARNING: HARDIRQ-safe -> HARDIRQ-unsafe lock order detected",
    Kind::Lockdep
)]
#[case("WARNING: bad unlock balance detected!", Kind::Lockdep)]
#[case("WARNING: held lock freed!", Kind::Lockdep)]
#[case("WARNING: qemu-system-x86/99 still has locks held!", Kind::Lockdep)]
#[case("[ BUG: Invalid wait context ]", Kind::Lockdep)]
#[case("INFO: trying to register non-static key.", Kind::Lockdep)]
// Memory and page tables.
#[case(
    "kvm: Invalid SPTE change: cannot replace a present leaf",
    Kind::Corruption
)]
#[case("kvm: Unexpected SPTE change! Nonpresent SPTEs", Kind::Corruption)]
#[case(
    "kvm: get_mmio_spte: reserved bits set on MMU-present spte, addr 0x1000, hierarchy:",
    Kind::Corruption
)]
#[case(
    "list_del corruption. prev->next should be ffff888100000000, but was 0000000000000000",
    Kind::Corruption
)]
#[case("pagealloc: memory corruption", Kind::Corruption)]
#[case(
    "UBSAN: array-index-out-of-bounds in arch/x86/kvm/mmu/mmu.c:1:2",
    Kind::Ubsan
)]
#[case(
    "kmemleak: 3 new suspected memory leaks (see /sys/kernel/debug/kmemleak)",
    Kind::Leak
)]
#[case(
    "unchecked MSR access error: RDMSR from 0x1401 at rIP: 0xffffffff81000000 (f+0x1/0x2)",
    Kind::Msr
)]
#[case("kvm_intel: vmwrite failed: field=4002 val=1 err=12", Kind::Vmx)]
#[case(
    "Memory failure: 0x123456: Sending SIGBUS to qemu-system-x86:99 due to hardware memory corruption",
    Kind::BrokenMemory
)]
#[case(
    "mce: [Hardware Error]: Machine check: TDX private memory error. Possible kernel bug.",
    Kind::WrittenPastTdx
)]
#[case(
    "mm/pgtable-generic.c:50: bad pmd 00000000af22fc02(dffffffe71fbfe02)",
    Kind::Corruption
)]
#[case(
    "get_swap_device: Bad swap file entry 1400000000000001",
    Kind::Corruption
)]
#[case("kvm: unexpected emulation request on private memory", Kind::Warn)]
#[case(
    "mce: [Hardware Error]: CPU 3: Machine Check Exception: 5 Bank 1: be00000000800400",
    Kind::BrokenMemory
)]
#[case(
    "mce: Uncorrected hardware memory error in user-access at 123456000",
    Kind::BrokenMemory
)]
#[case("{1}[Hardware Error]: event severity: recoverable", Kind::Hardware)]
#[case(
    "EDAC MC0: 1 UE memory read error on CPU_SrcID#0_MC#0_Chan#1_DIMM#0",
    Kind::BrokenMemory
)]
fn the_kernel_complains_of_itself(#[case] line: &str, #[case] kind: Kind) {
    let found = complaint(line).unwrap_or_else(|| panic!("not found: {line}"));
    assert_eq!(found.kind, kind, "{line}");
}

/// Messages about user programs or the machine, and informational ones.
#[rstest]
#[case(
    "traps: worker[812] general protection fault ip:55d0c1 sp:7ffd10 error:0 in worker[55d0c0+2000]"
)]
#[case("traps: worker[812] trap invalid opcode ip:55d0c1 sp:7ffd10 error:0 in worker[55d0c0+2000]")]
#[case("traps: worker[812] trap divide error ip:55d0c1 sp:7ffd10 error:0 in worker[55d0c0+2000]")]
#[case(
    "worker[812]: segfault at 10 ip 000055d0c1 sp 00007ffd10 error 4 in worker[55d0c0+2000] likely on CPU 3"
)]
#[case("Code: 00 00 0f 0b <0f> 0b 00")]
#[case("NMI watchdog: Enabled. Permanently consumes one hw-PMU counter.")]
#[case("NMI watchdog: Perf NMI watchdog permanently disabled")]
#[case("watchdog: watchdog0: watchdog did not stop!")]
#[case("watchdog: watchdog0: nowayout prevents watchdog being stopped!")]
#[case("watchdog: Disabling watchdog on nohz_full cores by default")]
#[case("audit: type=1400 audit(1.2:3): apparmor=\"DENIED\" operation=\"exec\" comm=\"BUG: x\"")]
#[case("audit: type=1701 audit(1.2:3): auid=0 comm=\"qemu-system-x86\" sig=11 res=1")]
#[case("process 'worker' launched '/tmp/WARNING: x' with NULL argv: empty string added")]
#[case(
    "Spectre V2 : WARNING: Unprivileged eBPF is enabled with eIBRS on, data leaks possible via Spectre v2 BHB attacks!"
)]
#[case(
    "x86/split lock detection: #AC: qemu-system-x86/99 took a split_lock trap at address: 0x401000"
)]
#[case("usb 1-1: DEBUG: new high-speed device")]
#[case(
    "perf: interrupt took too long (2501 > 2500), lowering kernel.perf_event_max_sample_rate to 79000"
)]
#[case("hrtimer: interrupt took 41234 ns")]
#[case("INFO: NMI handler (perf_event_nmi_handler) took too long to run: 1.234 msecs")]
#[case("INFO: lockdep is turned off.")]
#[case(
    "clocksource: timekeeping watchdog on CPU3: Marking clocksource 'tsc' as unstable because the skew is too large:"
)]
#[case("workqueue: kvm_mmu_zap hogged CPU for >10000us 4 times, consider switching to WQ_UNBOUND")]
#[case("kvm_intel: Guest access before accepting 0x40001000 on vCPU 0")]
#[case("kvm [99]: ignored rdmsr: 0x1401 data 0x0")]
#[case("Out of memory: Killed process 99 (worker) total-vm:1kB, anon-rss:1kB")]
#[case(
    "worker invoked oom-killer: gfp_mask=0x140dca(GFP_HIGHUSER_MOVABLE), order=0, oom_score_adj=0"
)]
#[case("mce: [Hardware Error]: Machine check events logged")]
#[case("mce: [Hardware Error]: CPU 3: Machine Check: 0 Bank 7: 8c00004000010090")]
#[case("INFO: task a:1 is blocked on a mutex likely owned by task b:2.")]
#[case("EDAC MC0: 1 CE memory read error on CPU_SrcID#0_Ha#0_Chan#1_DIMM#0")]
#[case("mce: CPU3: Core temperature above threshold, cpu clock throttled (total events = 1)")]
#[case("[Firmware Bug]: cpu 3, invalid threshold interrupt offset")]
#[case("loading out-of-tree module taints kernel.")]
#[case("virt/tdx: SEAMCALL wrappers ready")]
#[case("module kvm: loading failed: bad vermagic")]
#[case("---[ end trace 0000000000000000 ]---")]
#[case("------------[ cut here ]------------")]
#[case("systemd[1]: unit failed")]
#[case("")]
#[case("{1}[Hardware Error]: event severity: corrected")]
#[case("Out of memory: Killed process 99 (BUG: x) total-vm:1kB, anon-rss:1kB")]
fn what_is_not_of_the_kernel_is_no_complaint(#[case] line: &str) {
    assert_eq!(complaint(line), None, "{line}");
}

#[rstest]
#[case(
    "kvm_intel: SEAMCALL TDH_PHYMEM_PAGE_RECLAIM failed: 0x8000020000000000",
    "TDH_PHYMEM_PAGE_RECLAIM: OPERAND_BUSY: "
)]
#[case(
    "kvm_intel: SEAMCALL TDH_MEM_PAGE_AUG failed: 0xc000030300000008, entry 0x0, level_state 0x0",
    "TDH_MEM_PAGE_AUG: PAGE_NOT_FREE, operand R8: "
)]
#[case(
    "virt/tdx: SEAMCALL (0x0000000000000021) failed: 0xc000090000000000",
    "TDH.SYS.INIT: INCORRECT_CPUID_VALUE: "
)]
#[case(
    "tdx: SEAMCALL failed: leaf 35, error 0xc000050300000000.",
    "TDH.SYS.LP.INIT: SYS_LP_INIT_DONE: "
)]
#[case(
    "virt/tdx: SEAMCALL (0x00000000000000fe) failed: 0x1",
    "SEAMCALL 0xfe: SUCCESS"
)]
#[case(
    "kvm_intel: TDH_VP_RD[VMCS.0x4002] failed 0xc000070000000000",
    "TDH_VP_RD[VMCS.0x4002]: VCPU_STATE_INCORRECT: "
)]
#[case(
    "kvm [4711]: TD vp_enter_ret 0x6000000500000000",
    "TDH.VP.ENTER: NON_RECOVERABLE_TD_NON_ACCESSIBLE: "
)]
#[case("kvm_intel: SEAMCALL TDH_VP_FLUSH failed: ", "TDH_VP_FLUSH")]
#[case(
    "virt/tdx: SEAMCALL (0x8000000000000001) failed: 0x8000000000020001",
    "SEAMLDR.INSTALL: EBADHASH: the new module"
)]
fn failed_seamcalls_are_decoded(#[case] line: &str, #[case] starts: &str) {
    let decoded = complaint(line).unwrap().decoded.unwrap();
    assert!(decoded.starts_with(starts), "{decoded}");
}

#[rstest]
#[case(
    "Out of memory: Killed process 812 (qemu-system-x86) total-vm:1kB",
    Some(812)
)]
#[case(
    "[  9.9] Memory cgroup out of memory: Killed process 812 (qemu-system-x86) total-vm:1kB",
    Some(812)
)]
#[case(
    "Out of memory (oom_kill_allocating_task): Killed process 812 (qemu)",
    Some(812)
)]
#[case(
    "oom_reaper: reaped process 812 (qemu-system-x86), now anon-rss:0kB",
    None
)]
#[case("sysrq: Killed process 812", None)]
fn who_was_killed_for_memory_is_known(#[case] line: &str, #[case] pid: Option<u32>) {
    assert_eq!(oom_victim(line), pid);
}

proptest::proptest! {
    #[test]
    fn any_line_is_read(line in "\\PC{0,200}") {
        let _ = (complaint(&line), oom_victim(&line));
    }

    #[test]
    fn any_failed_seamcall_is_read(name in "[A-Z_.()\\[\\]0x]{0,20}", status in "(0x)?[0-9a-fg]{0,20}") {
        let line = format!("kvm_intel: SEAMCALL {name} failed: {status}");
        proptest::prop_assert!(complaint(&line).is_some());
    }
}

#[rstest]
#[case(
    "kvm_intel: Guest access before accepting 0x40001000 on vCPU 0",
    Some(0x4000_1000)
)]
#[case("kvm_intel: Guest access before accepting", None)]
#[case("kvm_intel: Guest access before accepting memory", None)]
fn the_page_that_was_not_accepted(#[case] line: &str, #[case] gpa: Option<u64>) {
    assert_eq!(used_before_accept(line), gpa.map(Gpa::new));
}
