//! Sockets to QEMU and to what runs in a guest: no call blocks, and no peer keeps the lab busy.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;

/// Most bytes of one [`receive`], so that a peer that never stops sending does not keep the lab from
/// everything else. What is left stays readable.
const MAX_BYTES: u64 = 256 << 10;

/// Whether the other end of a socket is still open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub(crate) enum Peer {
    Open,
    Closed,
}

/// Appends what has arrived to `bytes`, even where it returns an error.
pub(crate) fn receive(socket: &UnixStream, bytes: &mut Vec<u8>) -> io::Result<Peer> {
    // Without room, `read_to_end` would take most messages in two pieces.
    bytes.reserve(4 << 10);
    match socket.take(MAX_BYTES).read_to_end(bytes) {
        Ok(count) if count as u64 == MAX_BYTES => Ok(Peer::Open),
        Ok(_) => Ok(Peer::Closed),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(Peer::Open),
        Err(error) if is_hang_up(&error) => Ok(Peer::Closed),
        Err(error) => Err(error),
    }
}

/// Sends all of `bytes`. A peer that does not read is the error `WouldBlock`.
pub(crate) fn send(mut socket: &UnixStream, bytes: &[u8]) -> io::Result<Peer> {
    match socket.write_all(bytes) {
        Ok(()) => Ok(Peer::Open),
        Err(error) if is_hang_up(&error) => Ok(Peer::Closed),
        Err(error) => Err(error),
    }
}

fn is_hang_up(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair() -> (UnixStream, UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        (ours, theirs)
    }

    #[test]
    fn what_was_sent_before_a_hang_up_is_received_with_it() {
        let (ours, mut theirs) = pair();
        let mut bytes = Vec::new();
        assert_eq!(receive(&ours, &mut bytes).unwrap(), Peer::Open);
        theirs.write_all(b"last words").unwrap();
        assert_eq!(send(&ours, b"not read").unwrap(), Peer::Open);
        drop(theirs);
        assert_eq!(receive(&ours, &mut bytes).unwrap(), Peer::Closed);
        assert_eq!(bytes, b"last words");
        // A hang-up is reported again, as something unread at the other end is but once.
        assert_eq!(receive(&ours, &mut bytes).unwrap(), Peer::Closed);
        assert_eq!(send(&ours, b"too late").unwrap(), Peer::Closed);
    }

    #[test]
    fn a_peer_that_never_stops_is_left_after_so_many_bytes() {
        let (ours, theirs) = pair();
        let flood =
            std::thread::spawn(move || while send(&theirs, &[0; 64 << 10]).is_ok_and(is_open) {});
        let mut bytes = Vec::new();
        for calls in 1..=64 {
            assert_eq!(receive(&ours, &mut bytes).unwrap(), Peer::Open);
            assert!(bytes.len() as u64 <= calls * MAX_BYTES);
        }
        drop(ours);
        flood.join().unwrap();
    }

    fn is_open(peer: Peer) -> bool {
        peer == Peer::Open
    }

    #[test]
    fn a_peer_that_does_not_read_is_an_error() {
        let (ours, _theirs) = pair();
        let error = (0..1000).find_map(|_| send(&ours, &[0; 64 << 10]).err());
        assert_eq!(error.unwrap().kind(), io::ErrorKind::WouldBlock);
    }
}
