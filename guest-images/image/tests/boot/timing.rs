//! Durations; printed, never judged. Run them with
//!
//! ```text
//! cargo test -p tdxlab-guest-image --test boot -- timing --nocapture --ignored
//! ```

use std::time::{Duration, Instant};

use tdxlab_protocol::addr::PageLevel;
use tdxlab_protocol::message::*;
use tdxlab_protocol::tdcall::reg;

use crate::host::{Lab, maps_on_fault, tdcalls};
use crate::qemu::Qemu;
use crate::{generation, pages};

const ROUNDS: usize = 15;

#[test]
#[ignore = "measures"]
fn timing_of_boot() {
    // The shortest guest there is: it writes 0 to the exit port at its first instruction.
    let mut bare = vec![0; 65536];
    bare[0xfff0..0xfff6].copy_from_slice(&[0x31, 0xc0, 0xe6, 0xf4, 0xf4, 0x90]);
    let [mut exits, mut hellos, mut readies] = [const { Vec::new() }; 3];
    for _ in 0..ROUNDS {
        let start = Instant::now();
        Qemu::start(&bare, "1").end();
        exits.push(start.elapsed());

        let start = Instant::now();
        let mut lab = Lab::start(1, maps_on_fault());
        lab.hello();
        hellos.push(start.elapsed());
        lab.configure(Windows::HostOwned);
        lab.reply();
        readies.push(start.elapsed());
    }
    let [exit, hello, ready] = [exits, hellos, readies].map(median);
    println!(
        "bare QEMU start to exit {exit:?}, start to hello {hello:?}, start to ready {ready:?}"
    );
    println!(
        "hello / bare = {:.2}",
        hello.as_secs_f64() / exit.as_secs_f64()
    );
}

#[test]
#[ignore = "measures"]
fn timing_of_tdcalls() {
    const CALLS: u32 = 4096;
    for vcpus in [1, 2] {
        let mut lab = Lab::ready(vcpus, tdcalls(|registers| registers[reg::RAX] = 0));
        let accept = Command::Accept {
            range: pages(0, u64::from(CALLS)),
            size: AcceptSize::Exactly(PageLevel::Size4K),
        };
        let tasks: Vec<Task> = (0..vcpus).map(|vcpu| crate::on(vcpu, accept)).collect();
        let times = (0..5).map(|_| {
            let start = Instant::now();
            lab.run(&tasks);
            start.elapsed() / CALLS
        });
        println!(
            "{vcpus} vCPUs: one TDCALL takes {:?}",
            median(times.collect())
        );
    }
}

#[test]
#[ignore = "measures"]
fn timing_of_memory() {
    const PAGES: u32 = 8192;
    let mut lab = Lab::ready(1, maps_on_fault());
    let (range, side) = (pages(0, u64::from(PAGES)), Side::Private);
    let fill = Command::Fill {
        range,
        generation: generation(1),
        side,
    };
    let verify = Command::Verify { range, side };
    for (name, command) in [("first fill", fill), ("fill", fill), ("verify", verify)] {
        let start = Instant::now();
        lab.one(command);
        println!("{name}: {:?} a page", start.elapsed() / PAGES);
    }
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}
