//! Content of guest memory.

use rstest::rstest;
use tdxlab_journal::{Judgement, PageClass, Verdict};
use tdxlab_plan::{Content, Expectation, Gone, Op, ReadPlan, Side, VcpuId};
use tdxlab_protocol::message::Content as Found;

use super::*;

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
