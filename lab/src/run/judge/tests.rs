//! Each test bends one thing a host or guest may get wrong and looks at who says so.

use rstest::rstest;
use tdxlab_protocol::message::{Access, Content as Found, Run};
use tdxlab_protocol::tdcall::status;

use super::*;
use crate::addr::{Gpa, GpaRange, PageLevel};
use crate::host::Killer;
use crate::plan::{AccessKind, Generation, Gone, OnVe, Side, Size, VcpuId};
use crate::predict::{
    AccessOutcome, Content, Interval, PageDelta, ProbeRun, ReadPlan, SplitLeaf, StatusRun,
};
use crate::witness::{ExitCounters, PageCounters, SplitEvent};

const BASE: u64 = 0x4000_0000;
const TWO_M: u64 = 2 << 20;

fn at(offset: u64, bytes: u64) -> GpaRange {
    GpaRange::with_len(Gpa::new(BASE + offset), bytes).unwrap()
}

fn fill(number: u16) -> Generation {
    Generation::new(number).unwrap()
}

fn sample(pages_4k: u64, pages_2m: u64) -> Sample {
    let pages = PageCounters {
        pages_4k,
        pages_2m,
        pages_1g: 0,
    };
    Sample {
        debugfs: Reading::Read(pages),
        query_stats: Reading::Read(pages),
        splits: Reading::Read(Vec::new()),
        populated: Reading::Read(1024),
        exits: Reading::Read(ExitCounters::default()),
        kernel_log: Reading::Read(Vec::new()),
    }
}

fn missing<T>() -> Reading<T> {
    Reading::Missing {
        reason: "not permitted".to_owned(),
    }
}

/// A hole from the middle of the first 2M leaf to its end, and everything about it as it must be.
struct Hole {
    action: Action,
    expected: Expectation,
    observed: Observed,
    before: Sample,
    after: Sample,
}

impl Hole {
    fn new() -> Hole {
        let mut after = sample(256, 1);
        after.splits = Reading::Read(vec![SplitEvent {
            gpa: Gpa::new(BASE),
            level: 2,
            errno: 0,
            tid: 7,
        }]);
        after.populated = Reading::Read(768);
        Hole {
            action: Action::One(Op::Punch {
                range: at(TWO_M / 2, TWO_M / 2),
            }),
            expected: Expectation {
                td_alive: true,
                splits: Interval::exactly(1),
                split_leaves: vec![SplitLeaf {
                    gpa: Gpa::new(BASE),
                    level: PageLevel::Size2M,
                }],
                pages: PageDelta {
                    pages_4k: Interval::exactly(256),
                    pages_2m: Interval::exactly(-1),
                    pages_1g: Interval::exactly(0),
                },
                populated: Interval::exactly(768),
                entries_at_most: Some(2),
                errnos: vec![0],
                ..Expectation::default()
            },
            observed: Observed {
                errno: Some(0),
                entries_looked_at: Some(2),
                ..Observed::default()
            },
            before: sample(0, 2),
            after,
        }
    }

    fn judge(&self) -> Judgement {
        Judge::default().step(&Evidence {
            action: &self.action,
            expected: &self.expected,
            observed: &[vec![self.observed.clone()]],
            before: &self.before,
            after: &self.after,
        })
    }
}

/// A guest command with nothing but the guest's word for it.
fn guest(op: Op, expected: Expectation, runs: Vec<Run>) -> Judgement {
    let quiet = Sample {
        debugfs: missing(),
        query_stats: missing(),
        splits: missing(),
        populated: missing(),
        exits: missing(),
        kernel_log: missing(),
    };
    Judge::default().step(&Evidence {
        action: &Action::One(op),
        expected: &Expectation {
            td_alive: true,
            ..expected
        },
        observed: &[vec![Observed {
            runs,
            ..Observed::default()
        }]],
        before: &quiet,
        after: &quiet,
    })
}

fn only_finding(judgement: &Judgement) -> &Finding {
    assert_eq!(judgement.findings.len(), 1, "{:#?}", judgement.findings);
    &judgement.findings[0]
}

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
fn a_complaint_of_the_kernel_fails_the_step(#[case] line: &str) {
    let mut hole = Hole::new();
    hole.after.kernel_log = Reading::Read(vec!["kvm: fine".to_owned(), line.to_owned()]);
    let judgement = hole.judge();
    assert_eq!(only_finding(&judgement).witness, Witness::KernelLog);
    assert_eq!(judgement.verdict, Verdict::Fail);
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

#[rstest]
#[case::kvm_is_to_blame(Killer::KvmBug, "KVM ended the TD")]
#[case::the_guest_is_to_blame(Killer::Guest, "the guest ended itself")]
#[case::the_vmm_is_to_blame(Killer::Vmm, "the VMM ended")]
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

fn accepted(offset: u64, count: u32, status: u64) -> Run {
    Run::Accept {
        start: Gpa::new(BASE + offset),
        level: PageLevel::Size4K,
        count,
        status,
    }
}

fn accept_4k(bytes: u64) -> Op {
    Op::Accept {
        range: at(0, bytes),
        size: Size::Size4K,
        vcpu: VcpuId(0),
    }
}

fn all_succeed(count: u64) -> Expectation {
    Expectation {
        statuses: Some(vec![StatusRun {
            start: Gpa::new(BASE),
            level: PageLevel::Size4K,
            count,
            status: 0,
        }]),
        ..Expectation::default()
    }
}

#[test]
fn statuses_are_compared_however_they_are_cut_into_runs() {
    let runs = vec![accepted(0, 3, 0), accepted(0x3000, 509, 0)];
    let judgement = guest(accept_4k(TWO_M), all_succeed(512), runs);
    assert_eq!(judgement.verdict, Verdict::Pass, "{judgement:#?}");
    assert_eq!(judgement.heard, [Witness::Status]);
}

#[test]
fn one_wrong_status_of_many_is_named_with_its_page() {
    let runs = vec![
        accepted(0, 7, 0),
        accepted(0x7000, 1, status::PAGE_ALREADY_ACCEPTED),
        accepted(0x8000, 504, 0),
    ];
    let judgement = guest(accept_4k(TWO_M), all_succeed(512), runs);
    let finding = only_finding(&judgement);
    assert_eq!(finding.at, Some(at(0x7000, 0x1000)));
    assert!(finding.found.contains("PAGE_ALREADY_ACCEPTED L=0"));
}

#[test]
fn the_level_digit_of_a_status_counts() {
    let expected = Expectation {
        statuses: Some(vec![StatusRun {
            start: Gpa::new(BASE),
            level: PageLevel::Size4K,
            count: 1,
            status: status::PAGE_ALREADY_ACCEPTED | 1,
        }]),
        ..Expectation::default()
    };
    let runs = vec![accepted(0, 1, status::PAGE_ALREADY_ACCEPTED)];
    let judgement = guest(accept_4k(0x1000), expected, runs);
    assert_eq!(judgement.verdict, Verdict::Fail);
}

#[test]
fn accepts_that_were_never_made_are_missed() {
    let judgement = guest(
        accept_4k(TWO_M),
        all_succeed(512),
        vec![accepted(0, 500, 0)],
    );
    let finding = only_finding(&judgement);
    assert_eq!(finding.at, Some(at(500 << 12, 12 << 12)));
}

#[rstest]
#[case::a_status_no_module_has(accepted(0, 512, 0xdead_0000_0000_0000), "dead000000000000")]
#[case::an_address_never_asked_for(accepted(TWO_M, 1, 0), "start")]
#[case::a_result_of_another_command(
    Run::MapGpa { status: 0, stopped_at: Gpa::new(0), calls: 1 },
    "MapGpa"
)]
#[case::nothing_at_all(accepted(0, 0, 0), "count: 0")]
fn a_guest_that_lies_is_an_error_with_the_bytes(#[case] run: Run, #[case] bytes: &str) {
    let judgement = guest(accept_4k(TWO_M), all_succeed(512), vec![run]);
    assert_eq!(judgement.verdict, Verdict::Error);
    let lie = judgement
        .findings
        .iter()
        .find(|f| f.kind == FindingKind::Impossible)
        .unwrap();
    assert!(lie.found.contains(bytes), "{lie}");
}

#[rstest]
#[case::legal(status::PAGE_SIZE_MISMATCH | 1, Verdict::Pass)]
#[case::illegal(status::OPERAND_INVALID, Verdict::Fail)]
fn a_racing_status_must_be_legal(#[case] status: u64, #[case] verdict: Verdict) {
    let expected = Expectation {
        statuses: None,
        legal_statuses: vec![0, status::PAGE_SIZE_MISMATCH | 1],
        ..Expectation::default()
    };
    let judgement = guest(accept_4k(0x1000), expected, vec![accepted(0, 1, status)]);
    assert_eq!(judgement.verdict, verdict);
}

fn verify(bytes: u64) -> Op {
    Op::Verify {
        range: at(0, bytes),
        gone: Gone::Skip,
        side: Side::Private,
        vcpu: VcpuId(0),
    }
}

fn must_hold(bytes: u64, content: Content) -> Expectation {
    Expectation {
        reads: vec![ReadPlan {
            range: at(0, bytes),
            content,
        }],
        ..Expectation::default()
    }
}

fn holds(offset: u64, count: u32, content: Found) -> Run {
    Run::Content {
        start: Gpa::new(BASE + offset),
        count,
        content,
    }
}

#[rstest]
#[case::intact(Found::Own(fill(2)), Content::Filled(fill(2)), true, "intact (fill 2)")]
#[case::lost(Found::Zero, Content::Filled(fill(2)), false, "zero")]
#[case::of_an_older_fill(Found::Own(fill(1)), Content::Filled(fill(2)), false, "stale (fill 1)")]
#[case::left_over(Found::Own(fill(1)), Content::Zero, false, "stale (fill 1)")]
#[case::of_another_page(
    Found::Foreign { generation: fill(2), distance: -16 },
    Content::Filled(fill(2)),
    false,
    "data of 0x40010000..0x40011000 (fill 2)"
)]
#[case::still_there(Found::Own(fill(2)), Content::Gone, false, "stale (fill 2)")]
#[case::gone(Found::NotAccepted, Content::Gone, true, "not accepted")]
#[case::raced_away(Found::NotAccepted, Content::Raced, true, "not accepted")]
#[case::raced_but_foreign(
    Found::Foreign { generation: fill(2), distance: 1 },
    Content::Raced,
    false,
    "data of 0x3ffff000..0x40000000 (fill 2)"
)]
fn a_page_is_classified(
    #[case] found: Found,
    #[case] content: Content,
    #[case] right: bool,
    #[case] words: &str,
) {
    let judgement = guest(
        verify(0x1000),
        must_hold(0x1000, content),
        vec![holds(0, 1, found)],
    );
    assert_eq!(judgement.content.len(), 1);
    assert_eq!(judgement.content[0].right, right);
    assert_eq!(judgement.content[0].found.to_string(), words);
    assert_eq!(
        judgement.verdict,
        if right { Verdict::Pass } else { Verdict::Fail }
    );
}

#[test]
fn a_torn_page_says_whose_words_it_has() {
    let word = tdxlab_protocol::pattern::word(Gpa::new(0x5000), 9, fill(3));
    let torn = Found::Torn {
        like_first: 500,
        words: [(0, 0), (9, word)].into_iter().collect(),
    };
    let judgement = guest(
        verify(0x1000),
        must_hold(0x1000, Content::Filled(fill(1))),
        vec![holds(0, 1, torn)],
    );
    let finding = only_finding(&judgement);
    assert!(
        finding
            .found
            .contains("word 9 is word 9 of 0x5000 (fill 3)"),
        "{finding}"
    );
}

#[test]
fn content_is_reported_as_ranges_not_pages() {
    let shifted = |offset| {
        holds(
            offset,
            2,
            Found::Foreign {
                generation: fill(1),
                distance: 256,
            },
        )
    };
    let runs = vec![
        holds(0, 2, Found::Own(fill(1))),
        holds(0x2000, 2, Found::Own(fill(1))),
        shifted(0x4000),
        shifted(0x6000),
    ];
    let judgement = guest(
        verify(0x8000),
        must_hold(0x8000, Content::Filled(fill(1))),
        runs,
    );
    let ranges: Vec<GpaRange> = judgement.content.iter().map(|span| span.range).collect();
    assert_eq!(ranges, [at(0, 0x4000), at(0x4000, 0x4000)]);
    assert_eq!(
        judgement.content[1].found,
        PageClass::Foreign {
            generation: fill(1),
            owner: GpaRange::with_len(Gpa::new(BASE - 0xfc000), 0x4000).unwrap(),
        }
    );
}

#[test]
fn pages_the_guest_did_not_answer_for_are_an_error() {
    let judgement = guest(
        verify(0x2000),
        must_hold(0x2000, Content::Zero),
        vec![holds(0, 1, Found::Zero)],
    );
    assert_eq!(judgement.verdict, Verdict::Error);
    assert_eq!(only_finding(&judgement).at, Some(at(0x1000, 0x1000)));
}

#[test]
fn too_many_findings_are_counted_not_kept() {
    let torn = || Found::Torn {
        like_first: 1,
        words: [(0, 0)].into_iter().collect(),
    };
    let pages = 2 * Judgement::MAX_SPANS as u64;
    let runs = (0..pages)
        .map(|page| holds(page << 12, 1, torn()))
        .collect();
    let judgement = guest(
        verify(pages << 12),
        must_hold(pages << 12, Content::Zero),
        runs,
    );
    assert_eq!(judgement.findings.len(), Judgement::MAX_FINDINGS);
    assert_eq!(
        judgement.findings_omitted,
        pages - Judgement::MAX_FINDINGS as u64
    );
    assert_eq!(judgement.content.len(), Judgement::MAX_SPANS);
    assert_eq!(judgement.spans_omitted, pages - Judgement::MAX_SPANS as u64);
}

fn touch(stride: PageLevel) -> Op {
    Op::Touch {
        range: at(0, 2 * TWO_M),
        stride,
        access: AccessKind::Write,
        side: Side::Private,
        on_ve: OnVe::Skip,
        vcpu: VcpuId(0),
    }
}

#[rstest]
#[case::as_predicted(vec![(0, 1, Access::Done), (TWO_M, 1, Access::Ve)], Verdict::Pass)]
#[case::a_page_that_should_be_gone(vec![(0, 2, Access::Done)], Verdict::Fail)]
#[case::a_ve_for_something_else(
    vec![(0, 1, Access::Done), (TWO_M, 1, Access::StrangeVe { reason: 48, gpa: Gpa::new(0) })],
    Verdict::Fail
)]
#[case::half_an_answer(vec![(0, 1, Access::Done)], Verdict::Error)]
fn accesses_are_judged_extent_by_extent(
    #[case] runs: Vec<(u64, u32, Access)>,
    #[case] verdict: Verdict,
) {
    let expected = Expectation {
        accesses: Some(vec![
            (at(0, TWO_M), AccessOutcome::Done),
            (at(TWO_M, TWO_M), AccessOutcome::Ve),
        ]),
        ..Expectation::default()
    };
    let runs = runs
        .into_iter()
        .map(|(offset, count, outcome)| Run::Access {
            start: Gpa::new(BASE + offset),
            count,
            outcome,
        })
        .collect();
    let judgement = guest(touch(PageLevel::Size2M), expected, runs);
    assert_eq!(judgement.verdict, verdict, "{judgement:#?}");
}

#[rstest]
#[case::as_predicted(true, 0, Verdict::Pass)]
#[case::accepted_already(false, 0, Verdict::Fail)]
#[case::refused(true, status::OPERAND_BUSY, Verdict::Fail)]
fn probes_are_judged(#[case] pending: bool, #[case] status: u64, #[case] verdict: Verdict) {
    let op = Op::Probe {
        range: at(0, 4 * TWO_M),
        stride: PageLevel::Size2M,
        vcpu: VcpuId(0),
    };
    let expected = Expectation {
        probes: Some(vec![ProbeRun {
            start: Gpa::new(BASE),
            count: 4,
            level: PageLevel::Size2M,
            pending: true,
        }]),
        ..Expectation::default()
    };
    let run = Run::Probe {
        start: Gpa::new(BASE),
        count: 4,
        status,
        level: 1,
        pending,
        attributes: 0,
    };
    assert_eq!(guest(op, expected, vec![run]).verdict, verdict);
}

#[test]
fn a_conversion_that_stops_half_way_says_where() {
    let op = Op::Convert {
        range: at(0, TWO_M),
        to: Side::Shared,
        vcpu: VcpuId(0),
    };
    let expected = Expectation {
        map_gpa: Some(0),
        ..Expectation::default()
    };
    let run = Run::MapGpa {
        status: 0x8000_0000_0000_0000,
        stopped_at: Gpa::new(BASE + 0x1000),
        calls: 1,
    };
    let judgement = guest(op, expected, vec![run]);
    let finding = only_finding(&judgement);
    assert_eq!(finding.found, "INVALID_OPERAND, stopped at 0x40001000");
}

#[test]
fn of_a_dead_guest_only_what_it_said_is_compared() {
    let quiet = sample(0, 0);
    let expected = Expectation {
        td_alive: false,
        populated: Interval::exactly(1024),
        ..all_succeed(512)
    };
    let judgement = Judge::default().step(&Evidence {
        action: &Action::One(accept_4k(TWO_M)),
        expected: &expected,
        observed: &[vec![Observed {
            runs: vec![accepted(0, 100, 0)],
            death: Some(Death {
                by: Killer::AccessBeforeAccept,
                text: String::new(),
            }),
            ..Observed::default()
        }]],
        before: &quiet,
        after: &quiet,
    });
    assert_eq!(judgement.verdict, Verdict::Pass, "{judgement:#?}");
}
