//! Random and mutated input: no panic, no hang, no allocation.
//!
//! A smaller run is part of `cargo test`. All ten million inputs:
//!
//! ```text
//! cargo test --release -p tdxlab-protocol --test fuzz -- --ignored
//! ```
//!
//! `TDXLAB_FUZZ_SEED` repeats a run; the seed is printed.

mod common;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::TestRunner;
use rand::rngs::SmallRng;
use rand::{Rng, RngCore, SeedableRng};
use tdxlab_protocol::frame::{self, Decoder, Message};
use tdxlab_protocol::linux::{LinuxReply, LinuxRequest};
use tdxlab_protocol::message::{Reply, Request};

/// Counts the allocations of each thread.
struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

// SAFETY: every call is passed on to the system allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: the caller keeps the contract of `alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller keeps the contract of `dealloc`.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

/// Inputs longer than a frame occur, but rarely: most faults sit in the first bytes.
const MAX_INPUT: usize = 4096;

#[test]
fn a_hundred_thousand_inputs() {
    fuzz(100_000);
}

#[test]
#[ignore = "ten million inputs; see the head of this file"]
fn ten_million_inputs() {
    fuzz(10_000_000);
}

fn fuzz(inputs: u64) {
    let seed = match std::env::var("TDXLAB_FUZZ_SEED") {
        Ok(seed) => seed.parse().expect("TDXLAB_FUZZ_SEED is a number"),
        Err(_) => rand::random(),
    };
    println!("TDXLAB_FUZZ_SEED={seed}");
    let mut rng = SmallRng::seed_from_u64(seed);
    let requests = corpus(common::request(), [common::largest_request()]);
    let replies = corpus(common::reply(), [common::largest_reply()]);
    let linux_requests = corpus(common::linux::request(), [common::linux::largest_request()]);
    let linux_replies = corpus(common::linux::reply(), common::linux::largest_replies());
    let mut lab_side = Decoder::<Reply>::new();
    let mut guest_side = Decoder::<Request>::new();
    let mut lab_side_of_linux = Decoder::<LinuxReply>::new();
    let mut linux_side = Decoder::<LinuxRequest>::new();
    let mut input = Vec::with_capacity(MAX_INPUT);
    let mut found = 0;

    let before = ALLOCATIONS.get();
    for number in 0..inputs {
        let corpus = match number % 4 {
            0 => &replies,
            1 => &requests,
            2 => &linux_replies,
            _ => &linux_requests,
        };
        prepare(&mut rng, corpus, &mut input);
        found += match number % 4 {
            0 => drain(&mut lab_side, &input),
            1 => drain(&mut guest_side, &input),
            2 => drain(&mut lab_side_of_linux, &input),
            _ => drain(&mut linux_side, &input),
        };
    }
    assert_eq!(ALLOCATIONS.get(), before, "decoding allocated");
    // Some mutations leave a frame whole; none at all would mean that the corpus is not used.
    assert!(found > inputs / 100, "only {found} messages were found");
}

/// Frames of messages, to be mutated.
fn corpus<M: Message>(
    any: impl Strategy<Value = M>,
    largest: impl IntoIterator<Item = M>,
) -> Vec<Vec<u8>> {
    let mut runner = TestRunner::deterministic();
    let mut buffer = frame::EMPTY_FRAME;
    let mut frames: Vec<Vec<u8>> = (0..256)
        .map(|_| any.new_tree(&mut runner).unwrap().current())
        .map(|message| frame::encode(&message, &mut buffer).unwrap().to_vec())
        .collect();
    for message in largest {
        frames.push(frame::encode(&message, &mut buffer).unwrap().to_vec());
    }
    frames
}

/// Makes the next input: noise, or a frame that was cut, spliced, repeated or changed. Never
/// allocates, as `input` has room for the longest.
fn prepare(rng: &mut SmallRng, corpus: &[Vec<u8>], input: &mut Vec<u8>) {
    input.clear();
    if rng.random_ratio(1, 4) {
        let length = 1 << rng.random_range(0..=7);
        input.resize(rng.random_range(0..=length), 0);
        rng.fill_bytes(input);
        return;
    }
    if rng.random_ratio(1, 1000) {
        input.resize(rng.random_range(0..=MAX_INPUT), 0xff);
    }
    for _ in 0..rng.random_range(1..=2) {
        let frame = &corpus[rng.random_range(0..corpus.len())];
        let from = if rng.random() {
            0
        } else {
            rng.random_range(0..frame.len())
        };
        let to = if rng.random() {
            frame.len()
        } else {
            rng.random_range(from..=frame.len())
        };
        let room = MAX_INPUT - input.len();
        let piece = &frame[from..to];
        input.extend_from_slice(&piece[..piece.len().min(room)]);
    }
    for _ in 0..rng.random_range(0..=3) {
        if !input.is_empty() {
            let at = rng.random_range(0..input.len());
            input[at] = rng.random();
        }
    }
}

/// Feeds one input and counts the messages in it. The decoder keeps its state for the next input,
/// as on a line.
fn drain<M: Message>(decoder: &mut Decoder<M>, mut input: &[u8]) -> u64 {
    let mut ends = input.iter().filter(|&&byte| byte == 0).count();
    let mut messages = 0;
    while let Some(result) = decoder.feed(&mut input) {
        assert_ne!(ends, 0, "more frames than delimiters");
        ends -= 1;
        messages += u64::from(result.is_ok());
    }
    assert!(input.is_empty(), "not all was taken");
    messages
}
