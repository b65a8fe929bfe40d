//! Results of the guest's calls and accesses.

use rstest::rstest;
use tdxlab_journal::{Death, FindingKind, Killer, Observed, Verdict, Witness};
use tdxlab_plan::{
    AccessKind, AccessOutcome, Action, Branch, Expectation, OnVe, Op, ProbeRun, Side, Size,
    StatusRun, VcpuId,
};
use tdxlab_protocol::message::Access;
use tdxlab_protocol::tdcall::status;

use super::*;

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

fn touch(stride: PageLevel) -> Op {
    Op::Touch {
        range: at(0, 2 * TWO_M),
        stride,
        access: AccessKind::Write,
        side: Side::Private,
        on_ve: OnVe::Skip,
        same_rip: false,
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
            stride: PageLevel::Size2M,
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

/// Each branch has a stride of its own: addresses between two of its probes were not probed.
#[test]
fn branches_probe_at_distances_of_their_own() {
    let branch = |offset, bytes, stride, vcpu| {
        Branch(vec![Op::Probe {
            range: at(offset, bytes),
            stride,
            vcpu: VcpuId(vcpu),
        }])
    };
    let wanted = |offset, stride, count| ProbeRun {
        start: Gpa::new(BASE + offset),
        stride,
        count,
        level: PageLevel::Size2M,
        pending: true,
    };
    let found = |offset, count| {
        vec![Observed {
            runs: vec![Run::Probe {
                start: Gpa::new(BASE + offset),
                count,
                status: 0,
                level: 1,
                pending: true,
                attributes: 0,
            }],
            ..Observed::default()
        }]
    };
    let judgement = Judge::default().step(&Evidence {
        action: &Action::Parallel(vec![
            branch(0, 4096, PageLevel::Size4K, 0),
            branch(TWO_M, 2 * TWO_M, PageLevel::Size2M, 1),
        ]),
        expected: &Expectation {
            td_alive: true,
            probes: Some(vec![
                wanted(0, PageLevel::Size4K, 1),
                wanted(TWO_M, PageLevel::Size2M, 2),
            ]),
            ..Expectation::default()
        },
        observed: &[found(0, 1), found(TWO_M, 2)],
        before: &quiet(),
        after: &quiet(),
    });
    assert_eq!(judgement.verdict, Verdict::Pass, "{judgement:#?}");
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
