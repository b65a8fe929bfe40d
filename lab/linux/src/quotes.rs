//! Plays the quote generation service that QEMU asks when a TD asks it for a quote, so that the way of a
//! report to the VMM and of an answer back can be judged without one.
//!
//! What it answers is no quote: bytes that follow from the TDREPORT they answer, so that any other
//! bytes, or those of another report, are told from them.
//!
//! Source of the messages: QEMU's target/i386/kvm/tdx-quote-generator.c, version 1.1; all numbers but the
//! length in front are little-endian.
//!
//! ```text
//! length (big-endian) | major minor | type | size | error | report size | id list size | report
//! length (big-endian) | major minor | type | size | error | selected id size | quote size | quote
//! ```

use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, poll};
use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use sha2::{Digest, Sha256};
use tdxlab_protocol::linux::REPORT_BYTES;

/// Size of an answer: more than a page, and less than the 8 KiB that older kernels have room for.
pub const ANSWER: usize = 6000;

/// Bytes of a message between its length and what it carries.
const HEAD: usize = 24;

/// How long a client may take for its request.
const PATIENCE: Duration = Duration::from_secs(10);

/// Interval of checks whether the service is to end, in milliseconds.
const TICK: u8 = 100;

const MAJOR_MINOR: [u8; 4] = [1, 0, 1, 0];
const REQUEST: u32 = 0;
const RESPONSE: u32 = 1;

/// QGS_MSG_ERROR_UNEXPECTED of Intel's qgs_msg_lib.h.
const UNEXPECTED: u32 = 0x1_2001;

/// What the service does with a TDREPORT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    /// Answers with [`answer_to`] it.
    Answer,
    /// Answers with an error, and no quote.
    Refuse,
}

/// What the service was asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Served {
    /// A TDREPORT, answered by the service's [`Policy`].
    Report(Box<[u8; REPORT_BYTES]>),
    /// Something else, in words; not answered.
    Other(String),
}

/// A running service. Dropping it ends it.
#[derive(Debug)]
pub struct QuoteService {
    name: String,
    served: Arc<Mutex<Vec<Served>>>,
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

/// The bytes that answer a TDREPORT.
pub fn answer_to(report: &[u8; REPORT_BYTES]) -> Vec<u8> {
    let block = |number: u32| {
        let mut hash = Sha256::new();
        hash.update(report);
        hash.update(number.to_le_bytes());
        hash.finalize()
    };
    let mut bytes: Vec<u8> = (0..).flat_map(block).take(ANSWER).collect();
    bytes[..16].copy_from_slice(b"tdxlab: no quote");
    bytes
}

impl QuoteService {
    /// Starts it on an abstract socket, which goes with the process.
    ///
    /// # Errors
    ///
    /// The system gives no socket or thread.
    pub fn start(policy: Policy) -> io::Result<QuoteService> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("tdxlab-quotes-{}-{number}", std::process::id());
        let listener = UnixListener::bind_addr(&SocketAddr::from_abstract_name(&name)?)?;
        listener.set_nonblocking(true)?;
        let (served, over) = (
            Arc::<Mutex<Vec<_>>>::default(),
            Arc::<AtomicBool>::default(),
        );
        let (to, ends) = (Arc::clone(&served), Arc::clone(&over));
        let thread = thread::Builder::new()
            .name("quotes".to_owned())
            .spawn(move || serve(&listener, policy, &to, &ends))?;
        Ok(QuoteService {
            name,
            served,
            over,
            thread: Some(thread),
        })
    }

    /// Abstract name of its socket.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What it was asked since the last look.
    pub fn take(&self) -> Vec<Served> {
        let mut served = self.served.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut served)
    }
}

impl Drop for QuoteService {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn serve(listener: &UnixListener, policy: Policy, served: &Mutex<Vec<Served>>, over: &AtomicBool) {
    while !over.load(Ordering::Relaxed) {
        let mut fds = [PollFd::new(listener.as_fd(), PollFlags::POLLIN)];
        if poll(&mut fds, TICK).is_err() {
            continue;
        }
        let Ok((mut client, _)) = listener.accept() else {
            continue;
        };
        // Any user of the machine can find an abstract socket.
        let own = getsockopt(&client, PeerCredentials)
            .is_ok_and(|peer| peer.uid() == nix::unistd::geteuid().as_raw());
        if own {
            let one = asked(&mut client)
                .unwrap_or_else(|error| Served::Other(format!("a request cut short: {error}")));
            let answer = match (&one, policy) {
                (Served::Report(report), Policy::Answer) => response(0, &answer_to(report)),
                (Served::Report(_), Policy::Refuse) => response(UNEXPECTED, &[]),
                (Served::Other(_), _) => Vec::new(),
            };
            // Before the guest has its answer and is asked about it.
            served
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push(one);
            // A QEMU that does not read it tells the guest so.
            let _ = client.write_all(&answer);
        }
    }
}

/// Reads a request.
fn asked(client: &mut UnixStream) -> io::Result<Served> {
    client.set_nonblocking(false)?;
    client.set_read_timeout(Some(PATIENCE))?;
    client.set_write_timeout(Some(PATIENCE))?;
    let mut length = [0; 4];
    client.read_exact(&mut length)?;
    let length = u32::from_be_bytes(length);
    if length as usize != HEAD + REPORT_BYTES {
        return Ok(Served::Other(format!("a message of {length} bytes")));
    }
    let mut message = vec![0; length as usize];
    client.read_exact(&mut message)?;
    let Some(report) = request(&message) else {
        let head = &message[..HEAD];
        return Ok(Served::Other(format!("no GET_QUOTE_REQ: {head:x?}")));
    };
    Ok(Served::Report(Box::new(report)))
}

/// The TDREPORT of a GET_QUOTE_REQ.
fn request(message: &[u8]) -> Option<[u8; REPORT_BYTES]> {
    let (head, report) = message.split_at_checked(HEAD)?;
    let number = |at: usize| u32::from_le_bytes(head[at..at + 4].try_into().expect("four bytes"));
    let right = head[..4] == MAJOR_MINOR
        && number(4) == REQUEST
        && number(8) as usize == message.len()
        && number(16) as usize == REPORT_BYTES
        && number(20) == 0;
    right.then(|| report.try_into().ok()).flatten()
}

/// A GET_QUOTE_RESP, with its length in front.
fn response(error: u32, quote: &[u8]) -> Vec<u8> {
    let size = u32::try_from(HEAD + quote.len()).expect("a short answer");
    let mut message = size.to_be_bytes().to_vec();
    message.extend(MAJOR_MINOR);
    let quote_size = size - HEAD as u32;
    for number in [RESPONSE, size, error, 0, quote_size] {
        message.extend(number.to_le_bytes());
    }
    message.extend(quote);
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What QEMU sends for a TDREPORT.
    fn request_for(report: &[u8; REPORT_BYTES]) -> Vec<u8> {
        let mut message = response(0, report);
        message[8..12].copy_from_slice(&REQUEST.to_le_bytes());
        let (first, second) = (20..24, 24..28);
        message[first].copy_from_slice(&(REPORT_BYTES as u32).to_le_bytes());
        message[second].copy_from_slice(&0u32.to_le_bytes());
        message
    }

    fn ask(service: &QuoteService, message: &[u8]) -> Vec<u8> {
        let address = SocketAddr::from_abstract_name(service.name()).unwrap();
        let mut line = UnixStream::connect_addr(&address).unwrap();
        line.write_all(message).unwrap();
        line.shutdown(std::net::Shutdown::Write).unwrap();
        let mut said = Vec::new();
        let _ = line.read_to_end(&mut said);
        said
    }

    #[test]
    fn a_report_is_answered_with_what_follows_from_it() {
        let service = QuoteService::start(Policy::Answer).unwrap();
        let report = [7; REPORT_BYTES];
        let said = ask(&service, &request_for(&report));
        assert_eq!(said[..4], (24 + ANSWER as u32).to_be_bytes());
        assert_eq!(said[28..], answer_to(&report));
        assert_ne!(answer_to(&report), answer_to(&[8; REPORT_BYTES]));
        assert_eq!(service.take(), [Served::Report(Box::new(report))]);
        assert_eq!(service.take(), []);
    }

    #[test]
    fn a_service_that_refuses_says_so_in_its_header() {
        let service = QuoteService::start(Policy::Refuse).unwrap();
        let said = ask(&service, &request_for(&[7; REPORT_BYTES]));
        assert_eq!((said.len(), &said[..4]), (28, &24_u32.to_be_bytes()[..]));
        assert_eq!(said[16..20], UNEXPECTED.to_le_bytes());
        assert!(matches!(service.take()[..], [Served::Report(_)]));
    }

    #[test]
    fn what_is_no_request_gets_no_answer_and_is_told() {
        let service = QuoteService::start(Policy::Answer).unwrap();
        let mut other = request_for(&[7; REPORT_BYTES]);
        other[4] = 2;
        for message in [&other[..], &other[..30], &[0, 0, 0, 1, 0], &[255; 8]] {
            assert_eq!(ask(&service, message), [0; 0]);
            let served = loop {
                match service.take() {
                    none if none.is_empty() => thread::yield_now(),
                    served => break served,
                }
            };
            assert!(matches!(served[..], [Served::Other(_)]), "{served:?}");
        }
    }
}
