//! Boots the image in QEMU with TCG and does the host's part by hand.
//!
//! | module | tests |
//! |---|---|
//! | `commands` | each command makes the right calls to the host and reports the results |
//! | `ve` | the guest's handling of pending pages |
//! | `content` | results of verify on memory that the host has tampered with |
//! | `several` | several vCPUs, and no stale translations |
//! | `unhappy` | wrong requests, noise, death and panics |
//! | `td` | the image started as a TD is |
//! | `timing` | durations; printed, never judged |

mod commands;
mod content;
mod host;
mod qemu;
mod several;
mod td;
mod timing;
mod unhappy;
mod ve;

use tdxlab_protocol::addr::{Gpa, GpaRange};
use tdxlab_protocol::message::{Access, Command, Content, Run, Task, VcpuId};
use tdxlab_protocol::pattern::Generation;

/// Where test memory starts.
const BASE: u64 = 1 << 30;

/// The range of `count` pages from page `first` of test memory.
fn pages(first: u64, count: u64) -> GpaRange {
    GpaRange::with_len(page(first), count * 4096).expect("a small range")
}

/// Page `number` of test memory.
fn page(number: u64) -> Gpa {
    Gpa::new(BASE + number * 4096)
}

fn generation(number: u16) -> Generation {
    Generation::new(number).expect("a small number")
}

fn on(vcpu: u16, command: Command) -> Task {
    Task {
        vcpu: VcpuId(vcpu),
        command,
    }
}

/// Equal accesses from page `first` of test memory.
fn accesses(first: u64, count: u32, outcome: Access) -> Run {
    Run::Access {
        start: page(first),
        count,
        outcome,
    }
}

/// Equal pages from page `first` of test memory.
fn contents(first: u64, count: u32, content: Content) -> Run {
    Run::Content {
        start: page(first),
        count,
        content,
    }
}
