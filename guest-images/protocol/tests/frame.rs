//! Messages round-trip, and the line resynchronises after any input.

mod common;

use common::{largest_reply, largest_request, linux, reply, request};
use proptest::collection::vec;
use proptest::prelude::*;
use tdxlab_protocol::frame::{self, Decoder, FrameError, MAX_FRAME, Message};
use tdxlab_protocol::linux::{LinuxReply, LinuxRequest};
use tdxlab_protocol::message::{Reply, Request};

fn frame_of(message: &impl Message) -> Vec<u8> {
    let mut buffer = frame::EMPTY_FRAME;
    frame::encode(message, &mut buffer)
        .expect("the message fits")
        .to_vec()
}

/// Everything a new decoder makes of `line`.
fn decode_all<M: Message>(mut line: &[u8]) -> Vec<Result<M, FrameError>> {
    let mut decoder = Decoder::new();
    core::iter::from_fn(|| decoder.feed(&mut line)).collect()
}

/// The messages a new decoder finds in `line`, whatever else it finds.
fn messages<M: Message>(line: &[u8]) -> Vec<M> {
    decode_all(line).into_iter().flatten().collect()
}

proptest! {
    #[test]
    fn requests_come_back_as_they_were_sent(request in request()) {
        prop_assert_eq!(decode_all::<Request>(&frame_of(&request)), [Ok(request)]);
    }

    #[test]
    fn replies_come_back_as_they_were_sent(reply in reply()) {
        prop_assert_eq!(decode_all::<Reply>(&frame_of(&reply)), [Ok(reply)]);
    }

    #[test]
    fn messages_of_linux_guests_come_back_as_they_were_sent(
        request in linux::request(), reply in linux::reply(),
    ) {
        prop_assert_eq!(decode_all::<LinuxRequest>(&frame_of(&request)), [Ok(request)]);
        prop_assert_eq!(decode_all::<LinuxReply>(&frame_of(&reply)), [Ok(reply)]);
    }

    #[test]
    fn garbage_around_frames_costs_no_frame(
        replies in vec(reply(), 1..4),
        garbage in vec(vec(any::<u8>(), 0..3000), 4),
    ) {
        let mut line = Vec::new();
        for (reply, garbage) in replies.iter().zip(&garbage) {
            line.extend_from_slice(garbage);
            line.extend_from_slice(&frame_of(reply));
        }
        line.extend_from_slice(garbage.last().unwrap());
        prop_assert_eq!(messages::<Reply>(&line), replies);
    }

    #[test]
    fn garbage_inside_a_frame_costs_that_frame_only(
        first in reply(), second in reply(), third in reply(),
        at in any::<prop::sample::Index>(), garbage in vec(any::<u8>(), 1..100),
    ) {
        let mut hit = frame_of(&second);
        // Garbage that only adds empty frames before or after leaves the frame whole.
        let at = 2 + at.index(hit.len() - 3);
        hit.splice(at..at, garbage);
        let line = [frame_of(&first), hit, frame_of(&third)].concat();
        prop_assert_eq!(messages::<Reply>(&line), [first, third]);
    }

    #[test]
    fn a_changed_byte_never_makes_another_message(
        reply in reply(), at in any::<prop::sample::Index>(), change in 1..=u8::MAX,
    ) {
        let mut line = frame_of(&reply);
        let at = at.index(line.len());
        line[at] ^= change;
        for found in messages::<Reply>(&line) {
            prop_assert_eq!(found, reply.clone());
        }
    }

    #[test]
    fn a_frame_cut_anywhere_is_an_error_and_the_next_one_arrives(
        cut in request(), next in request(),
    ) {
        let whole = frame_of(&cut);
        let next_frame = frame_of(&next);
        for length in 0..whole.len() - 1 {
            let results = decode_all::<Request>(&[&whole[..length], &next_frame].concat());
            let (last, before) = results.split_last().unwrap();
            prop_assert_eq!(last, &Ok(next.clone()));
            prop_assert!(before.iter().all(Result::is_err), "cut at {} gave {:?}", length, before);
            prop_assert_eq!(before.len(), usize::from(length > 1), "cut at {}", length);
        }
    }

    #[test]
    fn a_frame_that_lost_its_head_anywhere_is_an_error(lost in reply(), next in reply()) {
        let whole = frame_of(&lost);
        for length in 2..whole.len() {
            let line = [&whole[length..], &frame_of(&next)].concat();
            prop_assert_eq!(messages::<Reply>(&line), [next.clone()]);
        }
    }
}

#[test]
fn the_largest_messages_fit() {
    for length in [
        frame_of(&largest_request()).len(),
        frame_of(&largest_reply()).len(),
        frame_of(&linux::largest_request()).len(),
    ] {
        assert!(length <= MAX_FRAME, "{length} > {MAX_FRAME}");
    }
    for reply in linux::largest_replies() {
        assert_eq!(messages::<LinuxReply>(&frame_of(&reply)), [reply]);
    }
    assert_eq!(
        messages::<Reply>(&frame_of(&largest_reply())),
        [largest_reply()]
    );
}

#[test]
fn each_fault_has_its_error() {
    let frame = frame_of(&Request::PowerOff { code: 7 });
    let inside = &frame[1..frame.len() - 1];
    let mut plain = vec![0; 64];
    let length = cobs::decode(inside, &mut plain).unwrap().frame_size();
    plain.truncate(length);
    let line = |plain: &[u8]| {
        let mut line = vec![0; plain.len() + 16];
        let length = cobs::encode(plain, &mut line);
        line.truncate(length);
        line.push(0);
        decode_all::<Request>(&line).pop().unwrap().unwrap_err()
    };

    assert_eq!(line(&[1, 2, 3]), FrameError::Length { said: 0, found: 0 });

    let mut short = plain.clone();
    short.remove(2);
    assert_eq!(line(&short), FrameError::Length { said: 2, found: 1 });

    let mut wrong = plain.clone();
    *wrong.last_mut().unwrap() ^= 1;
    assert!(matches!(line(&wrong), FrameError::Checksum { .. }));

    let too_long = [vec![7; MAX_FRAME + 1], vec![0]].concat();
    assert_eq!(decode_all::<Request>(&too_long), [Err(FrameError::TooLong)]);
    assert_eq!(
        decode_all::<Request>(&[200, 1, 2, 0]),
        [Err(FrameError::Cobs)]
    );

    // Whole frames with the message of the other direction and with a byte after the message.
    let reply = frame_of(&Reply::Ready { vcpus: 300 });
    assert_eq!(decode_all::<Request>(&reply), [Err(FrameError::Payload)]);
    let longer = [&[3, 0], &plain[2..4], &[0]].concat();
    let checksum = crc::Crc::<u32>::new(&crc::CRC_32_ISO_HDLC).checksum(&longer);
    let longer = [&longer[..], &checksum.to_le_bytes()].concat();
    assert_eq!(line(&longer), FrameError::Payload);
}

#[test]
fn the_bytes_of_the_last_frame_can_be_shown() {
    let mut decoder = Decoder::<Reply>::new();
    assert!(
        decoder
            .feed(&mut &b"\xc8boot noise\0"[..])
            .unwrap()
            .is_err()
    );
    assert_eq!(decoder.frame(), b"\xc8boot noise");
}
