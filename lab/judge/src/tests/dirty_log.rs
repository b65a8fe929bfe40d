//! The dirty log: what it leaves out, and what it names though nobody wrote it.

use rstest::rstest;
use tdxlab_journal::{Verdict, Witness};
use tdxlab_plan::{LoggedPages, Side, VcpuId};

use super::*;

/// A fill of the first 64K, of which the last page was written before, by what the log named.
fn judge(logged: Option<Reading<Vec<GpaRange>>>) -> Judgement {
    let range = at(0, 0x10000);
    let action = Action::One(Op::Fill {
        range,
        generation: fill(1),
        side: Side::Private,
        vcpu: VcpuId(0),
    });
    let expected = Expectation {
        td_alive: true,
        populated: Interval::exactly(1024),
        logged: Some(LoggedPages {
            must: vec![at(0, 0xf000)],
            may: vec![at(0xf000, 0x1000)],
        }),
        ..Expectation::default()
    };
    let observed = Observed {
        logged,
        ..Observed::default()
    };
    Judge::default().step(&Evidence {
        action: &action,
        expected: &expected,
        observed: &[vec![observed]],
        before: &sample(0, 2),
        after: &sample(0, 2),
    })
}

fn places(judgement: &Judgement) -> Vec<GpaRange> {
    let findings = judgement.findings.iter();
    findings
        .filter(|finding| finding.witness == Witness::DirtyLog)
        .filter_map(|finding| finding.at)
        .collect()
}

#[rstest]
#[case::all(vec![at(0, 0x10000)], vec![])]
#[case::without_what_may_be(vec![at(0, 0xf000)], vec![])]
#[case::a_page_is_left_out(vec![at(0, 0x3000), at(0x4000, 0xb000)], vec![at(0x3000, 0x1000)])]
#[case::nothing(vec![], vec![at(0, 0xf000)])]
#[case::one_too_many(vec![at(0, 0x11000)], vec![at(0x10000, 0x1000)])]
#[case::another(
    vec![at(0x1000, 0xf000), at(TWO_M, 0x1000)],
    vec![at(0, 0x1000), at(TWO_M, 0x1000)]
)]
fn pages_are_compared(#[case] named: Vec<GpaRange>, #[case] wrong: Vec<GpaRange>) {
    let judgement = judge(Some(Reading::Read(named)));
    assert_eq!(places(&judgement), wrong);
    assert_eq!(judgement.verdict == Verdict::Pass, wrong.is_empty());
    assert!(judgement.heard.contains(&Witness::DirtyLog));
}

#[test]
fn a_log_that_nobody_reads_is_missing_and_a_cut_one_is_an_error() {
    for unread in [None, Some(missing())] {
        let judgement = judge(unread);
        assert!(
            judgement
                .missing
                .iter()
                .any(|missing| missing.witness == Witness::DirtyLog)
        );
        assert!(!judgement.heard.contains(&Witness::DirtyLog));
    }
    let cut = judge(Some(Reading::incomplete("the ring buffer lost 9 events")));
    assert_eq!(cut.verdict, Verdict::Error);
}
