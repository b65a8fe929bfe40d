//! Measures operations per second on `sim`. Run with `cargo run --release --example
//! sim_throughput`.

use std::time::{Duration, Instant};

use tdxlab::addr::{Gpa, GpaRange, PageLevel};
use tdxlab::host::{BootOptions, Host, Session};
use tdxlab::host_soft::sim::SimHost;
use tdxlab::plan::{Generation, Gone, Guest, LOW_BASE, Op, Side, Size, VcpuId};

const MEMORY: u64 = 1 << 30;
const PAGES_4K: u64 = MEMORY >> 12;
const PAGES_2M: u64 = MEMORY >> 21;
const CPU: VcpuId = VcpuId(0);

fn guest() -> Guest {
    let memory = all();
    Guest::over(memory)
}

fn boot() -> Box<dyn Session> {
    let options = BootOptions {
        design: "headtail".to_owned(),
        module: None,
        seed: 0,
        folder: std::path::PathBuf::new(),
        patience: Duration::from_secs(60),
        fresh: true,
    };
    match SimHost::in_memory().boot(&guest(), &options) {
        Ok(session) => session,
        Err(error) => panic!("sim does not boot: {error}"),
    }
}

fn all() -> GpaRange {
    range(LOW_BASE, MEMORY)
}

fn range(start: Gpa, bytes: u64) -> GpaRange {
    GpaRange::with_len(start, bytes).unwrap_or_default()
}

/// Does the operations and prints how many `what` a second that makes.
fn measure(session: &mut dyn Session, what: &str, count: u64, ops: &[Op]) {
    let started = Instant::now();
    for op in ops {
        let reads = match op {
            Op::Verify { range, .. } => vec![*range],
            _ => Vec::new(),
        };
        if let Err(error) = session.perform(op, &reads) {
            panic!("{what}: {error}");
        }
    }
    let took = started.elapsed();
    let rate = count as f64 / took.as_secs_f64();
    println!("{what:<44} {rate:>14.0} /s   ({count} in {took:?})");
}

fn main() {
    let range = all();
    let accept = |size| Op::Accept {
        range,
        size,
        vcpu: CPU,
    };
    let fill = Op::Fill {
        range,
        generation: Generation::MAX,
        side: Side::Private,
        vcpu: CPU,
    };
    let verify = Op::Verify {
        range,
        gone: Gone::Skip,
        side: Side::Private,
        vcpu: CPU,
    };
    let hole = |range| Op::Punch { range };

    let mut session = boot();
    let session = session.as_mut();
    measure(
        session,
        "ACCEPT 2M, empty",
        PAGES_2M,
        &[accept(Size::Size2M)],
    );
    measure(
        session,
        "fill 4K pages, 2M leaves",
        PAGES_4K,
        std::slice::from_ref(&fill),
    );
    measure(
        session,
        "verify 4K pages, 2M leaves",
        PAGES_4K,
        std::slice::from_ref(&verify),
    );
    let cuts: Vec<Op> = range
        .pages(PageLevel::Size2M)
        .map(|gpa| hole(self::range(gpa, 4096)))
        .collect();
    measure(session, "split and zap one page", PAGES_2M, &cuts);
    measure(session, "zap 4K pages", PAGES_4K, &[hole(range)]);
    measure(
        session,
        "ACCEPT 4K, empty",
        PAGES_4K,
        &[accept(Size::Size4K)],
    );
    measure(
        session,
        "ACCEPT 4K, accepted",
        PAGES_4K,
        &[accept(Size::Size4K)],
    );
    measure(session, "fill 4K pages, 4K leaves", PAGES_4K, &[fill]);
    measure(session, "verify 4K pages, 4K leaves", PAGES_4K, &[verify]);

    let mut session = boot();
    let session = session.as_mut();
    let small: Vec<Op> = (0..20_000)
        .flat_map(|_| {
            let range = self::range(LOW_BASE, 2 << 20);
            [
                Op::Accept {
                    range,
                    size: Size::Size2M,
                    vcpu: CPU,
                },
                hole(range),
            ]
        })
        .collect();
    measure(session, "small steps (ACCEPT 2M, hole)", 40_000, &small);
    let small = self::range(LOW_BASE, 64 << 20);
    let started = Instant::now();
    let mut splits = 0;
    for _ in 0..200 {
        let mut session = boot();
        let accept = Op::Accept {
            range: small,
            size: Size::Size2M,
            vcpu: CPU,
        };
        let cuts = small
            .pages(PageLevel::Size2M)
            .map(|gpa| hole(self::range(gpa, 4096)));
        for op in std::iter::once(accept).chain(cuts) {
            if let Err(error) = session.perform(&op, &[]) {
                panic!("split: {error}");
            }
        }
        splits += 32;
    }
    println!(
        "split in a fresh guest: {:?} each",
        started.elapsed() / splits
    );

    let started = Instant::now();
    for _ in 0..20_000 {
        boot().sample();
    }
    println!("boot: {:?} each", started.elapsed() / 20_000);
}
