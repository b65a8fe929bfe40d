//! Parallel operations: every order is possible, and equal seeds give equal orders.

use tdxlab_protocol::message::Content;

use super::*;

fn on(vcpu: u16, op: Op) -> Op {
    match op {
        Op::Accept { range, size, .. } => Op::Accept {
            range,
            size,
            vcpu: VcpuId(vcpu),
        },
        Op::Touch {
            range,
            stride,
            access,
            side,
            on_ve,
            ..
        } => Op::Touch {
            range,
            stride,
            access,
            side,
            on_ve,
            same_rip: false,
            vcpu: VcpuId(vcpu),
        },
        other => other,
    }
}

fn without_time(mut results: Vec<Vec<Observed>>) -> Vec<Vec<Observed>> {
    for observed in results.iter_mut().flatten() {
        observed.micros = 0;
    }
    results
}

fn race(design: &str, seed: u64, branches: &[&[Op]]) -> (Vec<Vec<Observed>>, Bench) {
    let mut bench = Bench::new(design)
        .given(accept(0, 4 * M, Size::Linux))
        .given(fill(0, 4 * M, 1));
    let results = bench.session.perform_parallel(branches, seed).unwrap();
    (without_time(results), bench)
}

#[test]
fn the_same_seed_gives_the_same_run_and_seeds_differ() {
    let accepts = [accept(4 * M, 8 * M, Size::Size4K)];
    let others = [on(1, accept(4 * M, 8 * M, Size::Size2M))];
    let holes = [punch(2 * M, 6 * M), punch(4 * M, 8 * M)];
    let branches: [&[Op]; 3] = [&accepts, &others, &holes];
    let (first, _) = race("headtail", 11, &branches);
    let (again, _) = race("headtail", 11, &branches);
    assert_eq!(first, again);
    assert!(
        (0..20).any(|seed| race("headtail", seed, &branches).0 != first),
        "twenty seeds, one order"
    );
}

/// 4K and 2M leaves that the S-EPT has.
fn mapped(bench: &mut Bench) -> (u64, u64) {
    let evidence = bench.session.evidence();
    let (_, text) = evidence
        .iter()
        .find(|(name, _)| name == "sept.txt")
        .unwrap();
    let mut pages = (0, 0);
    for line in String::from_utf8_lossy(text).lines() {
        let mut words = line.split(' ');
        let (start, end) = words.next().unwrap().split_once("..").unwrap();
        let number = |text: &str| u64::from_str_radix(&text[2..], 16).unwrap();
        let bytes = number(end) - number(start);
        match words.next() {
            Some("4K") => pages.0 += bytes >> 12,
            Some("2M") => pages.1 += bytes >> 21,
            _ => {}
        }
    }
    pages
}

/// Counters equal the pages that find mapped, and the hole shows neither old nor other data.
#[test]
fn holes_against_accesses_never_leave_a_page_mapped_that_was_freed() {
    for seed in 0..200 {
        let guest = [
            touch(2 * M, 4 * M, Side::Private, OnVe::Accept),
            accept(2 * M, 4 * M, Size::Size4K),
        ];
        let hole = [punch(2 * M, 4 * M)];
        let (results, mut bench) = race("headtail", seed, &[&guest, &hole]);
        assert!(results.iter().flatten().all(|seen| seen.death.is_none()));
        let counters = *{
            bench.change();
            bench.before.debugfs.value().unwrap()
        };
        let populated = *bench.before.populated.value().unwrap();
        assert_eq!(
            (counters.pages_4k, counters.pages_2m),
            mapped(&mut bench),
            "seed {seed}"
        );
        assert!(
            counters.pages_4k + 512 * counters.pages_2m <= populated,
            "seed {seed}: {counters:?} mapped of {populated} populated"
        );
        for run in bench.verify(0, 4 * M) {
            let Run::Content { content, start, .. } = run else {
                panic!("{run:?}");
            };
            let legal = match content {
                Content::Own(generation) => generation.get() == 1,
                Content::Zero | Content::NotAccepted => start >= gpa(2 * M),
                Content::Foreign { .. } | Content::Torn { .. } => false,
            };
            assert!(legal, "seed {seed}: {content:?} at {start}");
        }
    }
}

#[test]
fn two_vcpus_that_accept_one_region_at_different_sizes_both_come_to_an_end() {
    for seed in 0..50 {
        let small = [accept(8 * M, 10 * M, Size::Size4K)];
        let large = [on(1, accept(8 * M, 10 * M, Size::Size2M))];
        let (results, mut bench) = race("v5", seed, &[&small, &large]);
        let legal = [
            0,
            0x0000_0b0a_0000_0000,
            0x0000_0b0a_0000_0001,
            0xc000_0b0b_0000_0001,
        ];
        for (_, status) in results.iter().flatten().flat_map(statuses) {
            assert!(legal.contains(&status), "seed {seed}: {status:#x}");
        }
        assert_eq!(
            bench.verify(8 * M, 10 * M),
            [Run::Content {
                start: gpa(8 * M),
                count: 512,
                content: Content::Zero
            }]
        );
    }
}

#[test]
fn a_death_ends_every_branch() {
    let deadly = Guest {
        sept_ve_disable: true,
        ..guest(64 * M)
    };
    let mut bench = Bench::with(&deadly, "v5");
    let first = [
        touch(0, 4 * K, Side::Private, OnVe::Skip),
        accept(4 * M, 8 * M, Size::Size4K),
    ];
    let second = [on(1, accept(8 * M, 16 * M, Size::Size4K))];
    let results = bench
        .session
        .perform_parallel(&[&first, &second], 3)
        .unwrap();
    assert_eq!((results[0].len(), results[1].len()), (2, 1));
    assert!(results.iter().flatten().all(|seen| seen.death.is_some()));
}
