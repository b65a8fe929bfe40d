//! What a KVM that does wrong shows, against what had to be: each finding names the leaf and the side.

use tdxlab_journal::verdict::{Judgement, Verdict};

use super::*;
use crate::leaves::Blocks;

const BASE: u64 = 64 << 20;

fn range(first: u64, count: u64) -> GpaRange {
    GpaRange::with_len(Gpa::new(BASE + first * 4096), count * 4096).unwrap()
}

fn sept(text: &str) -> Sept {
    Sept::parse(text).unwrap()
}

/// Two leaves, and as many shared 4K leaves as Linux has touched.
fn sample(text: &str, calls: Calls, splits: &[u64], shared: u64) -> Sample {
    let sept = sept(text);
    let counters = PageCounters {
        pages_4k: sept.count(PageLevel::Size4K) + shared,
        pages_2m: sept.count(PageLevel::Size2M),
        pages_1g: 0,
    };
    let event = |gpa: &u64| SplitEvent {
        gpa: Gpa::new(*gpa),
        level: 2,
        errno: 0,
        tid: 1,
    };
    Sample {
        counters: Reading::Read(counters),
        query_stats: Reading::Read(counters),
        splits: Reading::Read(splits.iter().map(event).collect()),
        exits: None,
        sept: Reading::Read(sept),
        calls: Reading::Read(calls),
        demotes: Reading::missing("no probe"),
        complaints: Reading::Read(Vec::new()),
    }
}

const LEAVES: &str = "0x4000000..0x4400000 2M mapped 2\n";
/// After pages 0 to 15 have gone.
const SPLIT: &str = "0x4010000..0x4200000 4K mapped 496\n0x4200000..0x4400000 2M mapped 1\n";

fn before() -> Sample {
    sample(LEAVES, Calls::default(), &[], 100)
}

fn done(demoted: u64, removed: u64) -> Calls {
    Calls {
        demoted,
        removed,
        ..Calls::default()
    }
}

/// Judges a conversion of 16 pages to shared.
fn judged(after: &Sample) -> Judgement {
    let mut blocks = Blocks::default();
    blocks.learn(&sept(LEAVES), range(0, 1024));
    let mut change = Change::default();
    let done = blocks.convert(range(0, 16), Side::Shared, &mut change);
    done.unwrap();
    let prediction = Prediction::Exact(vec![range(0, 16)], Side::Shared, Box::new(change));
    judged_as(&prediction, &before(), after)
}

fn judged_as(prediction: &Prediction, before: &Sample, after: &Sample) -> Judgement {
    let mut court = Court::default();
    judge(&mut court, prediction, Some(before), after, 512 << 20);
    court.finish().0
}

fn fails(after: &Sample, says: &[&str]) {
    let judgement = judged(after);
    assert_eq!(judgement.verdict, Verdict::Fail);
    let said: Vec<_> = judgement.findings.iter().map(ToString::to_string).collect();
    for part in says {
        assert!(
            said.iter().any(|line| line.contains(part)),
            "{part}: {said:#?}"
        );
    }
}

#[test]
fn a_right_conversion_passes_also_with_more_shared_leaves() {
    for shared in [100, 116] {
        let judgement = judged(&sample(SPLIT, done(1, 16), &[BASE], shared));
        assert_eq!(judgement.findings, []);
        assert!(judgement.heard.contains(&Witness::Module));
    }
}

#[test]
fn a_leaf_that_was_not_split_is_named_on_each_side() {
    let whole = "0x4200000..0x4400000 2M mapped 1\n";
    fails(
        &sample(whole, done(0, 1), &[], 100),
        &[
            "at 0x4000000..0x4200000: expected this leaf split (KVM), found no event",
            "at 0x4000000..0x4200000: expected a table with 496 of 512 pages, found nothing (S-EPT)",
            "TDX module: expected 1 DEMOTE, found 0 DEMOTE",
        ],
    );
}

#[test]
fn a_neighbour_that_was_split_is_named() {
    let both = "0x4010000..0x4400000 4K mapped 1008\n";
    fails(
        &sample(both, done(2, 16), &[BASE, BASE + (2 << 20)], 100),
        &[
            "at 0x4200000..0x4400000: expected no split here (KVM), found a split",
            "at 0x4200000..0x4400000: expected no change outside",
        ],
    );
}

#[test]
fn a_page_too_many_is_named() {
    let text = "0x4011000..0x4200000 4K mapped 495\n0x4200000..0x4400000 2M mapped 1\n";
    fails(
        &sample(text, done(1, 17), &[BASE], 100),
        &["a table with 495 of 512 pages (S-EPT), which differs at 0x4010000"],
    );
}

#[test]
fn events_are_as_many_as_the_module_has_demoted() {
    fails(
        &sample(SPLIT, done(1, 16), &[], 100),
        &[
            "expected 1 split events, found 0",
            "expected a split event, since the S-EPT has a table where a leaf was, found none",
        ],
    );
    fails(
        &sample(SPLIT, done(1, 16), &[BASE, BASE], 100),
        &["at 0x4000000..0x4200000: expected one split event of this leaf, found 2"],
    );
}

#[test]
fn a_split_that_the_module_never_saw_is_one_of_kvm_alone() {
    fails(
        &sample(LEAVES, done(0, 0), &[BASE], 100),
        &["expected a table in the S-EPT, since KVM split this leaf, found a 2M leaf"],
    );
}

#[test]
fn counters_of_kvm_are_held_against_the_s_ept() {
    let with = |pages_4k: i64, pages_2m: i64| {
        let mut after = sample(SPLIT, done(1, 16), &[BASE], 100);
        let Reading::Read(counters) = &mut after.counters else {
            panic!("it was read");
        };
        counters.pages_4k = counters.pages_4k.checked_add_signed(pages_4k).unwrap();
        counters.pages_2m = counters.pages_2m.checked_add_signed(pages_2m).unwrap();
        after
    };
    fails(
        &with(0, 1),
        &["debugfs: expected pages_2m 1, as the S-EPT (TDX module) has, found pages_2m 2 (KVM)"],
    );
    fails(&with(-512, 0), &["debugfs: expected pages_4k"]);
    fails(&with(1 << 20, 0), &["leaves over at most 544 MiB"]);
}

#[test]
fn a_conversion_of_unknown_leaves_splits_none_but_those_under_it() {
    let prediction = Prediction::Converts(vec![range(0, 16)], Side::Shared);
    let mut hidden = before();
    hidden.sept = Reading::missing("a real module");
    hidden.calls = Reading::missing("a real module");
    let judged = |splits: &[u64]| {
        let mut after = sample(SPLIT, done(1, 16), splits, 100);
        after.sept = Reading::missing("a real module");
        after.calls = Reading::missing("a real module");
        judged_as(&prediction, &hidden, &after)
    };
    let judgement = judged(&[BASE]);
    assert_eq!(judgement.verdict, Verdict::Pass);
    assert_eq!(judgement.missing[0].witness, Witness::Module);
    assert_eq!(judged(&[]).verdict, Verdict::Pass);
    assert_eq!(judged(&[BASE + (2 << 20)]).verdict, Verdict::Fail);
}

#[test]
fn a_split_without_a_reason_fails_whatever_linux_did() {
    let after = sample(SPLIT, done(1, 0), &[BASE], 100);
    let said = judged_as(&Prediction::Free, &before(), &after).findings;
    assert!(
        said[0]
            .to_string()
            .contains("nothing was converted or accepted at 4K")
    );
}

#[test]
fn lost_events_are_no_verdict_and_a_vm_that_stays_fails() {
    let mut after = before();
    after.splits = Reading::incomplete("the ring buffer lost 3 events");
    let judgement = judged_as(&Prediction::Free, &before(), &after);
    assert_eq!(judgement.verdict, Verdict::Error);

    let mut court = Court::default();
    judge_end(
        &mut court,
        &Reading::Read(1),
        &Reading::Read(vec!["WARNING: x".to_owned()]),
    );
    let judgement = court.finish().0;
    assert_eq!(
        (judgement.verdict, judgement.findings.len()),
        (Verdict::Fail, 2)
    );
}

/// A guest that KVM has killed fails by KVM's complaint; without one there is no verdict.
#[test]
fn a_complaint_of_kvm_is_why_a_guest_does_not_get_on() {
    let stopped = |complaints: Vec<String>| {
        let mut court = Court::default();
        let found = judge_stop(&mut court, &Reading::Read(complaints));
        (found, court.finish().0.verdict)
    };
    let complaint = "failed SEAMCALL: SEAMCALL TDH_MEM_RANGE_BLOCK failed: 0xc0".to_owned();
    assert_eq!(stopped(vec![complaint]), (true, Verdict::Fail));
    assert!(!stopped(Vec::new()).0);
    let mut court = Court::default();
    assert!(!judge_stop(&mut court, &Reading::missing("not root")));
}

#[test]
fn a_count_that_has_fallen_is_no_verdict() {
    let mut before = before();
    before.calls = Reading::Read(done(7, 0));
    let after = sample(LEAVES, done(6, 0), &[], 100);
    let judgement = judged_as(&Prediction::Free, &before, &after);
    assert_eq!(judgement.verdict, Verdict::Error);
}

#[test]
fn linux_may_accept_memory_meanwhile() {
    let text = format!("{SPLIT}0x4400000..0x4600000 2M mapped 1\n");
    let calls = Calls {
        augmented: 1,
        accepted_2m: 1,
        ..done(1, 16)
    };
    assert_eq!(judged(&sample(&text, calls, &[BASE], 100)).findings, []);
    let text = format!("{SPLIT}0x4400000..0x4600000 2M pending 1\n");
    fails(
        &sample(&text, calls, &[BASE], 100),
        &["at 0x4400000..0x4600000: expected no change outside"],
    );
}

/// A piece of 64 KiB that Linux chose, at the start of the first leaf.
#[test]
fn a_piece_that_linux_shares_is_found_and_judged_as_its_conversion() {
    let judged = |after: &Sample, bytes| judged_as(&Prediction::Piece(bytes), &before(), after);
    let right = sample(SPLIT, done(1, 16), &[BASE], 100);
    assert_eq!(judged(&right, 8 << 10..=128 << 10).findings, []);
    let said = |after: &Sample, bytes| {
        let judgement = judged(after, bytes);
        assert_eq!(judgement.verdict, Verdict::Fail);
        let said: Vec<_> = judgement.findings.iter().map(ToString::to_string).collect();
        said.join("\n")
    };
    let small = said(&right, 8 << 10..=32 << 10);
    assert!(small.contains("found 64 KiB"), "{small}");
    let twice = sample(SPLIT, done(2, 16), &[BASE], 100);
    let twice = said(&twice, 8 << 10..=128 << 10);
    assert!(
        twice.contains("expected 1 DEMOTE, found 2 DEMOTE"),
        "{twice}"
    );
    let none = said(&sample(LEAVES, done(0, 0), &[], 100), 8 << 10..=128 << 10);
    assert!(none.contains("found 0 pieces"), "{none}");
    let two = "0x4010000..0x4200000 4K mapped 496\n0x4201000..0x4400000 4K mapped 511\n";
    let two = said(
        &sample(two, done(2, 17), &[BASE, BASE + (2 << 20)], 100),
        8 << 10..=128 << 10,
    );
    assert!(two.contains("found 2 pieces"), "{two}");
}

#[test]
fn without_an_s_ept_a_piece_splits_one_leaf_at_most() {
    let blind = |splits: &[u64]| Sample {
        sept: Reading::missing("none"),
        calls: Reading::missing("none"),
        ..sample(LEAVES, done(0, 0), splits, 100)
    };
    let judged = |after| judged_as(&Prediction::Piece(0..=1), &blind(&[]), after);
    let (one, two) = (blind(&[BASE]), blind(&[BASE, BASE + (2 << 20)]));
    assert_eq!(judged(&one).findings, []);
    let two = judged(&two);
    assert!(two.findings[0].to_string().contains("at most one split"));
}

/// On a TDX host the S-EPT and its module's counts are hidden.
#[test]
fn demotes_are_counted_by_kvms_calls_where_the_module_hides_them() {
    let hidden = |demotes: Reading<u64>, splits: &[u64]| Sample {
        sept: Reading::missing("none"),
        calls: Reading::missing("none"),
        demotes,
        ..sample(SPLIT, done(0, 0), splits, 100)
    };
    let before = hidden(Reading::Read(40), &[]);
    let judged =
        |demotes, splits: &[u64]| judged_as(&Prediction::Free, &before, &hidden(demotes, splits));
    assert_eq!(judged(Reading::Read(41), &[BASE]).findings, []);
    let lost = judged(Reading::Read(41), &[]);
    assert!(
        lost.findings[0]
            .to_string()
            .contains("expected 1 split events")
    );
    let invented = judged(Reading::Read(40), &[BASE]);
    assert_eq!(invented.verdict, Verdict::Fail);
    assert_eq!(judged(Reading::missing("no kprobes"), &[BASE]).findings, []);
    assert_eq!(judged(Reading::Read(3), &[]).verdict, Verdict::Error);
}

#[test]
fn a_complaint_of_the_host_counts_though_its_log_lost_others() {
    let lost = |rest: &[&str]| Reading::Incomplete {
        reason: "records were overwritten".to_owned(),
        rest: Some(rest.iter().map(|&line| line.to_owned()).collect()),
    };
    let mut after = sample(SPLIT, done(1, 16), &[BASE], 100);
    after.complaints = lost(&[]);
    assert_eq!(judged(&after).verdict, Verdict::Error);
    after.complaints = lost(&["KVM_BUG: x"]);
    fails(&after, &["KVM_BUG: x"]);
    let mut court = Court::default();
    assert!(!judge_stop(&mut court, &lost(&[])), "nothing tells why");
    assert!(judge_stop(&mut court, &lost(&["KVM_BUG: x"])));
    assert_eq!(court.finish().0.verdict, Verdict::Fail);
}
