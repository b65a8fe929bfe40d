//! Wrong decisions of the host, and their effects: the guest reads what really happened.

use tdxlab_journal::Killer;
use tdxlab_protocol::message::Content;
use tdxlab_softkvm::policy::{HeadAndTail, Kick, LevelLimits, Why};
use tdxlab_softkvm::{Pfn, Policy, SeptEntry, State};

use super::*;
use crate::SoftwareHost;

fn bench(design: &str, policy: impl Policy + Copy + Sync + 'static) -> Bench {
    let host = SimHost::in_memory().with_policy(move || Box::new(policy));
    Bench::on(&host, &guest(64 * M), design)
        .given(accept(0, 4 * M, Size::Size2M))
        .given(fill(0, 4 * M, 1))
}

fn content(start: u64, end: u64, content: Content) -> Run {
    Run::Content {
        start: gpa(start),
        count: ((end - start) >> 12) as u32,
        content,
    }
}

fn own() -> Content {
    Content::Own(Generation::new(1).unwrap())
}

#[test]
fn without_a_kick_the_guest_still_sees_the_page_that_was_taken() {
    #[derive(Clone, Copy)]
    struct Stale;
    impl Policy for Stale {
        fn kick(&mut self, _: Why) -> Kick {
            Kick::Pretend
        }
    }
    let mut bench = bench("headtail", Stale);
    bench.perform(&punch(0, 2 * M));
    assert_eq!(bench.verify(0, 2 * M), [content(0, 2 * M, own())]);
}

#[test]
fn a_child_with_the_wrong_frame_shows_another_pages_data() {
    #[derive(Clone, Copy)]
    struct NextFrame;
    impl Policy for NextFrame {
        fn demoted_child(&mut self, state: State, first: Pfn, index: u64) -> SeptEntry {
            SeptEntry::leaf(state, PageLevel::Size4K, first.add((index + 1) % 512))
        }
    }
    let mut bench = bench("headtail", NextFrame);
    bench.perform(&punch(0, 4 * K));
    assert_eq!(
        bench.verify(4 * K, 2 * M - 4 * K),
        [content(
            4 * K,
            2 * M - 4 * K,
            Content::Foreign {
                generation: Generation::new(1).unwrap(),
                distance: -1
            }
        )]
    );
}

#[test]
fn a_tail_that_is_not_split_goes_with_the_hole() {
    #[derive(Clone, Copy)]
    struct NoTail;
    impl Policy for NoTail {
        fn head_and_tail(&mut self, range: GpaRange, _: u64) -> HeadAndTail {
            HeadAndTail {
                tail: None,
                ..HeadAndTail::of(range)
            }
        }
    }
    let mut bench = bench("headtail", NoTail);
    let (_, change) = bench.observe(&punch(M, 3 * M));
    assert_eq!(
        (change.splits, change.pages_2m, change.pages_4k),
        (1, -2, 256)
    );
    assert_eq!(
        bench.verify(0, 4 * M),
        [
            content(0, M, own()),
            content(M, 4 * M, Content::NotAccepted)
        ],
        "the data after the hole is lost"
    );
}

#[test]
fn a_page_that_is_not_zeroed_shows_what_its_frame_held() {
    #[derive(Clone, Copy)]
    struct Unzeroed;
    impl Policy for Unzeroed {
        fn accept_zeroes(
            &mut self,
            _: PageLevel,
            pages: std::ops::Range<u64>,
        ) -> std::ops::Range<u64> {
            pages.start..pages.start
        }
    }
    let mut bench = bench("v5", Unzeroed);
    bench.perform(&punch(0, 2 * M));
    bench.perform(&accept(0, 2 * M, Size::Size2M));
    assert_eq!(bench.verify(0, 2 * M), [content(0, 2 * M, own())]);
}

#[test]
fn a_fault_that_does_not_retry_leaves_a_freed_page_mapped() {
    #[derive(Clone, Copy)]
    struct NoRetry;
    impl Policy for NoRetry {
        fn fault_retries(&mut self, _: bool) -> bool {
            false
        }
    }
    let seen = (0..200).any(|seed| {
        let mut bench = bench("headtail", NoRetry);
        let accepts = vec![accept(0, 4 * K, Size::Size4K); 16];
        let hole = [punch(0, 4 * M)];
        bench
            .session
            .perform_parallel(&[&accepts[..], &hole[..]], seed)
            .unwrap();
        bench.change();
        let counters = bench.before.debugfs.value().unwrap();
        let populated = *bench.before.populated.value().unwrap();
        counters.pages_4k + 512 * counters.pages_2m > populated
    });
    assert!(seen, "no order of 200 let the fault in");
}

#[test]
fn a_guest_that_exits_for_ever_counts_as_dead() {
    #[derive(Clone, Copy)]
    struct NeverSplits;
    impl Policy for NeverSplits {
        fn accept_split_root(&mut self) -> Side {
            Side::Shared
        }
    }
    let mut bench = bench("v5", NeverSplits).given(prefault(8 * M, 10 * M));
    let observed = bench
        .session
        .perform(&accept(8 * M, 10 * M, Size::Size4K), &[])
        .unwrap();
    let death = observed.death.unwrap();
    assert_eq!(death.by, Killer::ExitsForEver);
    assert!(death.text.contains("at 0x40800000"), "{}", death.text);
}

#[test]
fn a_promotion_ends_in_a_kvm_bug() {
    #[derive(Clone, Copy)]
    struct Promotes;
    impl Policy for Promotes {
        fn fault_level(&mut self, limits: &LevelLimits) -> PageLevel {
            LevelLimits {
                table: false,
                inhibited: false,
                ..*limits
            }
            .level()
        }
    }
    let mut bench = bench("v5", Promotes)
        .given(convert(0, 4 * K, Side::Shared))
        .given(convert(0, 2 * M, Side::Shared))
        .given(convert(0, 2 * M, Side::Private));
    let observed = bench.perform(&touch(0, 4 * K, Side::Private, OnVe::Skip));
    let death = observed.death.expect("death");
    assert_eq!(death.by, Killer::KvmBug);
    assert!(death.text.contains("TDH_MEM_PAGE_AUG"), "{death:?}");
}
