//! Conversations with a scripted qemu-ga, sound and hostile.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

use proptest::prelude::*;
use qapi::Empty;

use super::commands::{
    guest_exec_status, guest_file_open, guest_file_read, guest_info, guest_ping,
};
use super::*;

/// The lab's end, in sync, and the guest's.
fn in_sync() -> (Qga, UnixStream) {
    let (lab, guest) = UnixStream::pair().unwrap();
    let mut qga = Qga::new(lab).unwrap();
    qga.sync().unwrap();
    say(&guest, b"\xff{\"return\": 1}\n");
    qga.receive().unwrap();
    assert!(qga.is_in_sync());
    read(&guest);
    (qga, guest)
}

fn say(mut guest: &UnixStream, bytes: &[u8]) {
    guest.write_all(bytes).unwrap();
}

fn read(mut guest: &UnixStream) -> Vec<u8> {
    let mut buffer = vec![0; 1 << 20];
    let count = guest.read(&mut buffer).unwrap();
    buffer.truncate(count);
    buffer
}

/// The answer that these bytes give to a command.
fn answered<C: Command>(command: &C, bytes: &[u8]) -> Result<Option<C::Ok>, QgaError> {
    let (mut qga, guest) = in_sync();
    let ticket = qga.send(command).unwrap();
    say(&guest, bytes);
    qga.receive()?;
    qga.answer(&ticket)
}

#[test]
fn what_an_earlier_conversation_left_is_thrown_away() {
    let (lab, guest) = UnixStream::pair().unwrap();
    let mut qga = Qga::new(lab).unwrap();
    qga.sync().unwrap();
    qga.sync().unwrap();
    let sent = read(&guest);
    assert_eq!(sent[0], MARK);
    let text = String::from_utf8_lossy(&sent[1..]);
    assert!(
        text.contains(r#"{"execute":"guest-sync-delimited","arguments":{"id":1}}"#),
        "{text}"
    );
    say(
        &guest,
        b"half a line {\"return\": 2}\n\xff{\"return\": 1}\n{\"return\": {}}\n",
    );
    qga.receive().unwrap();
    assert!(!qga.is_in_sync());
    say(&guest, b"\xff{\"retu");
    qga.receive().unwrap();
    say(&guest, b"rn\": 2}\n");
    qga.receive().unwrap();
    assert!(qga.is_in_sync());
    // The next answer is the next command's.
    let ticket = qga.send(&guest_ping {}).unwrap();
    say(&guest, b"{\"return\": {}}\n");
    qga.receive().unwrap();
    let Some(Empty {}) = qga.answer(&ticket).unwrap() else {
        panic!("no answer")
    };
}

#[test]
fn an_answer_comes_in_any_pieces() {
    let (mut qga, guest) = in_sync();
    let open = guest_file_open {
        path: "/tmp/agent".to_owned(),
        mode: Some("w".to_owned()),
    };
    let ticket = qga.send(&open).unwrap();
    assert_eq!(
        read(&guest),
        b"{\"execute\":\"guest-file-open\",\"arguments\":{\"mode\":\"w\",\"path\":\"/tmp/agent\"}}\n"
    );
    for byte in b"{\"return\": 1000}\r\n" {
        assert_eq!(qga.answer(&ticket).unwrap(), None);
        say(&guest, &[*byte]);
        qga.receive().unwrap();
    }
    assert_eq!(qga.answer(&ticket).unwrap(), Some(1000));
    assert_eq!(qga.answer(&ticket).unwrap(), None);
}

#[test]
fn a_refusal_has_its_class_and_its_words_on_one_line() {
    let error = answered(
        &guest_ping {},
        b"{\"error\": {\"class\": \"CommandNotFound\", \"desc\": \"Command guest-ping\\u001b[2J has\\nbeen disabled\"}}\n",
    );
    let error = error.unwrap_err();
    assert_eq!(
        error.to_string(),
        "guest-ping was refused: Command guest-ping [2J has been disabled (CommandNotFound)"
    );
}

#[test]
fn what_is_no_answer_is_an_error_with_its_words() {
    for (bytes, says) in [
        (&b"not json\n"[..], "a line that is no answer"),
        (b"[1, 2]\n", "a line that is no answer"),
        (b"{}\n", "says nothing"),
        (
            b"{\"return\": {}, \"error\": {\"class\": \"a\", \"desc\": \"b\"}}\n",
            "says nothing",
        ),
        (
            b"{\"return\": {}}\n{\"return\": {}}\n",
            "an answer to nothing",
        ),
        (b"\xff{\"return\": 1}\n", "a line that is no answer"),
        (b"{\"error\": {\"class\": 3}}\n", "a line that is no answer"),
    ] {
        let error = answered(&guest_ping {}, bytes).unwrap_err().to_string();
        assert!(error.contains(says), "{error}");
    }
}

#[test]
fn an_answer_of_another_shape_is_an_error() {
    let read = guest_file_read {
        handle: 1,
        count: Some(4),
    };
    for (bytes, says) in [
        (
            &b"{\"return\": {\"count\": 4, \"buf-b64\": \"!!!!\", \"eof\": true}}\n"[..],
            "base64",
        ),
        (
            b"{\"return\": {\"count\": 4, \"buf-b64\": 7, \"eof\": true}}\n",
            "string",
        ),
        (b"{\"return\": 1}\n", "guest-file-read"),
        (
            b"{\"return\": {\"count\": 99999999999999999999, \"buf-b64\": \"\", \"eof\": true}}\n",
            "guest-file-read",
        ),
    ] {
        let error = answered(&read, bytes).unwrap_err().to_string();
        assert!(error.contains(says), "{error}");
    }
    let status = answered(
        &guest_exec_status { pid: 7 },
        b"{\"return\": {\"exited\": true, \"exitcode\": 3, \"err-data\": \"bm8=\"}}\n",
    );
    let status = status.unwrap().unwrap();
    assert_eq!(
        (status.exitcode, status.err_data),
        (Some(3), Some(b"no".to_vec()))
    );
}

#[test]
fn a_guest_that_never_ends_its_line_is_stopped() {
    let (mut qga, guest) = in_sync();
    let _ticket = qga.send(&guest_info {}).unwrap();
    let flood = std::thread::spawn(move || {
        let chunk = [b'x'; 64 << 10];
        while (&guest).write_all(&chunk).is_ok() {}
    });
    let error = loop {
        if let Err(error) = qga.receive() {
            break error;
        }
    };
    assert!(matches!(error, QgaError::TooLong(MAX_ANSWER)), "{error}");
    drop(qga);
    flood.join().unwrap();
}

#[test]
fn a_line_without_a_mark_is_read_only_so_far() {
    let (lab, guest) = UnixStream::pair().unwrap();
    let mut qga = Qga::new(lab).unwrap();
    qga.sync().unwrap();
    let flood = std::thread::spawn(move || {
        let chunk = [b'\n'; 64 << 10];
        while (&guest).write_all(&chunk).is_ok() {}
    });
    let error = loop {
        if let Err(error) = qga.receive() {
            break error;
        }
    };
    assert!(matches!(error, QgaError::TooLong(MAX_LEFT)), "{error}");
    drop(qga);
    flood.join().unwrap();
}

#[test]
fn one_command_at_a_time_and_none_before_the_sync() {
    let (lab, _guest) = UnixStream::pair().unwrap();
    let mut qga = Qga::new(lab).unwrap();
    assert!(matches!(qga.send(&guest_ping {}), Err(QgaError::Busy(_))));
    let (mut qga, _guest) = in_sync();
    qga.send(&guest_ping {}).unwrap();
    assert!(matches!(qga.send(&guest_ping {}), Err(QgaError::Busy(_))));
}

#[test]
fn a_line_that_is_full_or_closed_is_an_error_and_no_panic() {
    let (mut qga, guest) = in_sync();
    let path = "x".repeat(8 << 20);
    let long = guest_file_open { path, mode: None };
    let error = qga.send(&long).unwrap_err();
    assert!(error.to_string().contains("does not read"), "{error}");
    drop(guest);
    assert!(matches!(qga.receive(), Err(QgaError::Closed)));

    let (mut qga, guest) = in_sync();
    say(&guest, b"");
    drop(guest);
    let _ = qga.send(&guest_ping {}).unwrap();
    assert!(matches!(qga.receive(), Err(QgaError::Closed)));
}

proptest! {
    #[test]
    fn no_bytes_are_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        let _ = answered(&guest_info {}, &bytes);
        let (lab, guest) = UnixStream::pair().unwrap();
        let mut qga = Qga::new(lab).unwrap();
        qga.sync().unwrap();
        say(&guest, &bytes);
        let _ = qga.receive();
    }

    #[test]
    fn no_json_is_a_panic(value in "[a-z0-9\"{}:,\\[\\] -]{0,60}") {
        let line = format!("{{\"return\": {value}}}\n");
        let _ = answered(&guest_exec_status { pid: 1 }, line.as_bytes());
        let _ = answered(&guest_info {}, line.as_bytes());
    }
}
