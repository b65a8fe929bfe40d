//! Counters, events, errno, the kernel log, and whether the TD lives.

use rstest::rstest;
use tdxlab_journal::{
    Death, Ending, Finding, FindingKind, Killer, Reading, Taken, Verdict, Witness,
};
use tdxlab_plan::{Expectation, Op, Size, VcpuId};

use super::*;

#[test]
fn a_hole_done_right_passes_and_every_witness_is_heard() {
    let judgement = Hole::new().judge();
    assert_eq!(judgement.verdict, Verdict::Pass, "{judgement:#?}");
    assert_eq!(judgement.missing, []);
    for witness in [
        Witness::Debugfs,
        Witness::QueryStats,
        Witness::Splits,
        Witness::Populated,
        Witness::Exits,
        Witness::Entries,
        Witness::Errno,
        Witness::KernelLog,
    ] {
        assert!(judgement.heard.contains(&witness), "{witness}");
    }
}

#[test]
fn a_page_too_many_is_seen_by_both_counters() {
    let mut hole = Hole::new();
    hole.after.debugfs = sample(255, 1).debugfs;
    hole.after.query_stats = sample(255, 1).query_stats;
    let judgement = hole.judge();
    assert_eq!(judgement.verdict, Verdict::Fail);
    let said: Vec<String> = judgement.findings.iter().map(Finding::to_string).collect();
    assert_eq!(
        said,
        [
            "debugfs: expected pages_4k +256, found +255",
            "query-stats: expected pages_4k +256, found +255",
        ]
    );
}

#[test]
fn counters_that_differ_are_a_finding_of_their_own() {
    let mut hole = Hole::new();
    hole.expected.pages.pages_4k = Interval { min: 0, max: 512 };
    hole.after.query_stats = sample(257, 1).query_stats;
    let judgement = hole.judge();
    let finding = only_finding(&judgement);
    assert_eq!(finding.kind, FindingKind::Disagreement);
    assert!(finding.expected.contains("pages_4k +256"), "{finding}");
    assert!(finding.found.contains("pages_4k +257"), "{finding}");
    assert_eq!(judgement.verdict, Verdict::Fail);
}

/// As when one of them is read from another VM that does the same.
#[test]
fn counters_that_change_alike_from_different_values_disagree() {
    let mut hole = Hole::new();
    for (sample, pages) in [(&mut hole.before, (700, 3)), (&mut hole.after, (956, 2))] {
        sample.query_stats = self::sample(pages.0, pages.1).query_stats;
    }
    let judgement = hole.judge();
    let finding = only_finding(&judgement);
    assert_eq!(finding.kind, FindingKind::Disagreement);
    assert!(finding.found.contains("pages_4k 956"), "{finding}");
    assert_eq!(judgement.verdict, Verdict::Fail);
}

#[test]
fn a_missing_witness_is_said_and_is_no_failure() {
    let mut hole = Hole::new();
    hole.after.debugfs = missing();
    hole.before.exits = missing();
    let judgement = hole.judge();
    assert_eq!(judgement.verdict, Verdict::Pass);
    let who: Vec<Witness> = judgement.missing.iter().map(|m| m.witness).collect();
    assert_eq!(who, [Witness::Debugfs, Witness::Exits]);
    assert_eq!(judgement.missing[0].reason, "not permitted");
    assert!(!judgement.heard.contains(&Witness::Debugfs));
}

/// Fewer events than there were may look just right.
#[test]
fn a_witness_that_lost_something_makes_an_error_of_the_step() {
    let mut hole = Hole::new();
    hole.after.splits = Reading::incomplete("the ring buffer lost 9 events");
    let judgement = hole.judge();
    assert_eq!(judgement.verdict, Verdict::Error);
    let said = judgement.findings[0].to_string();
    assert!(said.contains("lost 9 events"), "{said}");
    assert!(!judgement.heard.contains(&Witness::Splits));
}

#[test]
fn a_step_nobody_could_judge_is_an_error() {
    let op = Op::Accept {
        range: at(0, 0),
        size: Size::Size4K,
        vcpu: VcpuId(0),
    };
    let judgement = guest(op, Expectation::default(), vec![]);
    assert_eq!(judgement.verdict, Verdict::Error);
    assert_eq!(judgement.heard, []);
}

#[test]
fn the_silence_of_the_kernel_log_judges_nothing() {
    let mut hole = Hole::new();
    for sample in [&mut hole.before, &mut hole.after] {
        sample.debugfs = missing();
        sample.query_stats = missing();
        sample.splits = missing();
        sample.populated = missing();
        sample.exits = missing();
    }
    hole.observed.errno = None;
    hole.observed.entries_looked_at = None;
    let judgement = hole.judge();
    assert_eq!(judgement.heard, [Witness::KernelLog]);
    assert_eq!(judgement.verdict, Verdict::Error);
}

#[test]
fn the_wrong_leaf_split_names_both_leaves() {
    let mut hole = Hole::new();
    hole.after.splits = Reading::Read(vec![SplitEvent {
        gpa: Gpa::new(BASE + TWO_M),
        level: 2,
        errno: 0,
        tid: 7,
    }]);
    let judgement = hole.judge();
    let places: Vec<_> = judgement.findings.iter().map(|f| f.at).collect();
    assert_eq!(places, [Some(at(0, TWO_M)), Some(at(TWO_M, TWO_M))]);
}

#[test]
fn a_split_that_failed_is_not_counted_and_is_named() {
    let mut hole = Hole::new();
    hole.after.splits = Reading::Read(vec![SplitEvent {
        gpa: Gpa::new(BASE),
        level: 2,
        errno: -12,
        tid: 9,
    }]);
    let judgement = hole.judge();
    let said: Vec<String> = judgement.findings.iter().map(Finding::to_string).collect();
    assert!(said.iter().any(|s| s.contains("ENOMEM")), "{said:?}");
    assert!(
        said.iter()
            .any(|s| s.contains("expected 1 splits, found 0")),
        "{said:?}"
    );
}

#[rstest]
#[case::of_one_leaf_twice(vec![BASE, BASE])]
#[case::of_no_leaf(vec![])]
fn splits_are_counted_leaf_by_leaf(#[case] leaves: Vec<u64>) {
    let mut hole = Hole::new();
    let event = |gpa| SplitEvent {
        gpa: Gpa::new(gpa),
        level: 2,
        errno: 0,
        tid: 7,
    };
    hole.after.splits = Reading::Read(leaves.into_iter().map(event).collect());
    let judgement = hole.judge();
    assert_eq!(judgement.verdict, Verdict::Fail);
    assert!(
        judgement
            .findings
            .iter()
            .any(|f| f.at == Some(at(0, TWO_M)))
    );
}

#[test]
fn an_errno_out_of_place_is_named() {
    let mut hole = Hole::new();
    hole.observed.errno = Some(22);
    let judgement = hole.judge();
    let finding = only_finding(&judgement);
    assert_eq!(finding.to_string(), "errno: expected success, found EINVAL");
}

#[test]
fn looking_at_too_many_entries_is_a_finding() {
    let mut hole = Hole::new();
    hole.observed.entries_looked_at = Some(6_291_456);
    let judgement = hole.judge();
    assert_eq!(only_finding(&judgement).witness, Witness::Entries);
}

#[test]
fn populated_pages_gone_wrong_are_found_once() {
    let mut hole = Hole::new();
    hole.after.populated = Reading::Read(1024);
    let observed = [vec![hole.observed.clone()]];
    let evidence = Evidence {
        action: &hole.action,
        expected: &hole.expected,
        observed: &observed,
        before: &hole.before,
        after: &hole.after,
    };
    let mut judge = Judge::default();
    assert_eq!(
        only_finding(&judge.step(&evidence)).witness,
        Witness::Populated
    );
    assert_eq!(judge.step(&evidence).verdict, Verdict::Pass);
}

#[rstest]
#[case("WARNING: CPU: 1 PID: 99 at arch/x86/kvm/vmx/tdx.c:1700")]
#[case("BUG: KASAN: use-after-free in tdp_mmu_zap_leafs")]
#[case("WARNING: possible circular locking dependency detected")]
#[case("kernel BUG at mm/filemap.c:100!")]
#[case("INFO: task qemu:9 blocked for more than 120 seconds.")]
#[case("rcu: INFO: rcu_preempt detected stalls on CPUs/tasks:")]
#[case("watchdog: BUG: soft lockup - CPU#1 stuck for 26s!")]
#[case("kmemleak: 3 new suspected memory leaks (see /sys/kernel/debug/kmemleak)")]
fn a_complaint_of_the_kernel_fails_the_step(#[case] line: &str) {
    let mut hole = Hole::new();
    hole.after.kernel_log = Reading::Read(vec!["kvm: fine".to_owned(), line.to_owned()]);
    let judgement = hole.judge();
    assert_eq!(only_finding(&judgement).witness, Witness::KernelLog);
    assert_eq!(judgement.verdict, Verdict::Fail);
}

#[test]
fn a_complaint_fails_the_step_even_if_the_kernel_log_lost_others() {
    let mut hole = Hole::new();
    let lost = |lines: &[&str]| Reading::Incomplete {
        reason: "records were overwritten".to_owned(),
        rest: Some(lines.iter().map(|&line| line.to_owned()).collect()),
    };
    hole.after.kernel_log = lost(&["kvm: fine"]);
    assert_eq!(hole.judge().verdict, Verdict::Error);
    hole.after.kernel_log = lost(&["WARNING: CPU: 1 at arch/x86/kvm/mmu/mmu.c:3"]);
    let judgement = hole.judge();
    assert_eq!(judgement.verdict, Verdict::Fail);
    assert_eq!(judgement.findings.len(), 2, "{:#?}", judgement.findings);
}

#[test]
fn an_allowed_line_of_the_kernel_log_passes() {
    let mut hole = Hole::new();
    hole.after.kernel_log = Reading::Read(vec!["WARNING: CPU: 1 at foo.c:3 known".to_owned()]);
    let allowed = AllowList::parse("# known since 7.1\nfoo.c:3 known\n").unwrap();
    let judgement = Judge::new(allowed).step(&Evidence {
        action: &hole.action,
        expected: &hole.expected,
        observed: &[vec![hole.observed.clone()]],
        before: &hole.before,
        after: &hole.after,
    });
    assert_eq!(judgement.verdict, Verdict::Pass);
}

#[test]
fn an_allow_list_that_hides_everything_is_refused() {
    let error = AllowList::parse("# all\nWARN\n").unwrap_err();
    assert!(error.to_string().contains("line 2"), "{error}");
}

/// EAGAIN is right, and the page at which the call stopped must be, too.
#[rstest]
#[case::there(Some(0x4030_0000), Some(0x4030_0000), Verdict::Pass)]
#[case::elsewhere(Some(0x4030_0000), Some(0x4000_0000), Verdict::Fail)]
#[case::nowhere(Some(0x4030_0000), None, Verdict::Fail)]
#[case::not_at_all(None, Some(0x4030_0000), Verdict::Fail)]
fn where_a_call_stops_is_judged(
    #[case] expected: Option<u64>,
    #[case] found: Option<u64>,
    #[case] verdict: Verdict,
) {
    let mut hole = Hole::new();
    hole.expected.errnos = vec![11];
    hole.observed.errno = Some(11);
    hole.expected.error_at = expected.map(Gpa::new);
    hole.observed.error_at = found.map(Gpa::new);
    let judgement = hole.judge();
    assert_eq!(judgement.verdict, verdict, "{judgement:#?}");
}

#[rstest]
#[case::kvm_is_to_blame(Killer::KvmBug, "KVM ended the TD")]
#[case::the_guest_is_to_blame(Killer::Guest, "the guest ended itself")]
#[case::the_vmm_is_to_blame(Killer::Vmm, "the VMM ended")]
#[case::the_machine_is_to_blame(Killer::HostMemory, "the machine's memory")]
fn an_unexpected_death_blames_the_right_side(#[case] by: Killer, #[case] words: &str) {
    let mut hole = Hole::new();
    hole.observed.death = Some(Death {
        by,
        text: "last words".to_owned(),
    });
    let judgement = hole.judge();
    let finding = only_finding(&judgement);
    assert_eq!(finding.witness, Witness::Td);
    assert!(finding.found.contains(words), "{finding}");
    assert!(finding.found.contains("last words"), "{finding}");
}

#[rstest]
#[case::of_the_expected_kind(Some(Killer::AccessBeforeAccept), Verdict::Pass)]
#[case::of_another_kind(Some(Killer::KvmBug), Verdict::Fail)]
#[case::that_did_not_come(None, Verdict::Fail)]
fn an_expected_death(#[case] by: Option<Killer>, #[case] verdict: Verdict) {
    let mut hole = Hole::new();
    hole.expected.td_alive = false;
    hole.observed.death = by.map(|by| Death {
        by,
        text: String::new(),
    });
    assert_eq!(hole.judge().verdict, verdict);
}

/// What moves without a guest may move; whoever holds what is left is named.
#[test]
fn what_is_left_is_judged_beyond_what_moves_by_itself() {
    let left = |after| Taken {
        before: 100,
        slack: 10,
        detail: "812 (collector)".to_owned(),
        ..Taken::by_guest("guest_memfds", Reading::Read(after))
    };
    let judged = |after| {
        let ending = Ending {
            kernel_log: Reading::Read(Vec::new()),
            taken: vec![left(after)],
        };
        Judge::new(AllowList::default()).end(&ending)
    };
    assert_eq!(judged(110).verdict, Verdict::Pass);
    let found = &judged(111).findings[0].found;
    assert_eq!(found, "111 after it has gone, in 812 (collector)");
}

/// A guest that has gone must have given everything back; what cannot be counted is no complaint.
#[rstest]
#[case::all_back(0, Reading::Read(0), Verdict::Pass)]
#[case::less_than_before(7, Reading::Read(5), Verdict::Pass)]
#[case::a_page_kept(7, Reading::Read(8), Verdict::Fail)]
#[case::not_counted(0, Reading::missing("no debugfs"), Verdict::Pass)]
fn what_a_guest_took_is_back(
    #[case] before: u64,
    #[case] after: Reading<u64>,
    #[case] verdict: Verdict,
) {
    let ending = Ending {
        kernel_log: Reading::Read(Vec::new()),
        taken: vec![Taken {
            before,
            ..Taken::by_guest("2M leaves", after)
        }],
    };
    let judgement = Judge::new(AllowList::default()).end(&ending);
    assert_eq!(judgement.verdict, verdict, "{judgement:#?}");
    for finding in &judgement.findings {
        assert_eq!(finding.witness, Witness::Remains);
        assert!(finding.expected.starts_with("2M leaves: 7"), "{finding}");
    }
}
