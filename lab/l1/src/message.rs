//! Messages of an L1 to the lab: typed, in frames, over any byte stream.
//!
//! A frame ([`codec`]) holds `run id (u64) | number (u32) | postcard message`; numbers are little
//! endian. The run id is random for every L1, so that leftovers of an older one are not taken for
//! an answer. Frames are numbered from 0, so that a lost one is detected. The last message is
//! [`Message::Done`]; an L1 that ends without it has not answered.

use std::io::{self, Write};

use serde::{Deserialize, Serialize};
use tdxlab_protocol::codec::{self, DELIMITER};

/// Most payload bytes in one message.
pub(crate) const CHUNK: usize = 32 << 10;

/// Longest frame a reader waits for.
const LONGEST: usize = 2 * CHUNK;

/// A message of an L1.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Message {
    /// The first word: the L1's own process runs and has found this line.
    Hello {
        /// Kernel release.
        release: String,
        /// Which line it is, as the L1 calls it.
        line: String,
    },
    /// It begins with this.
    Stage(Stage),
    /// Something is missing, and the L1 continues without it.
    Note(String),
    /// Heartbeat, sent every second from a separate thread.
    Alive,
    /// The command has written this.
    Output {
        /// The output stream.
        stream: Stream,
        /// The output.
        bytes: Vec<u8>,
    },
    /// The command has ended.
    Ended(Ended),
    /// A file of the report, its content in the [`Message::Data`] that follow.
    File {
        /// Path below the report folder.
        path: String,
        /// Size in bytes.
        size: u64,
    },
    /// A symbolic link of the report to something beside it, such as the newest of several runs.
    Link {
        /// Path below the report folder.
        path: String,
        /// Name of its target, in the same folder.
        target: String,
    },
    /// Content of the file last named.
    Data(Vec<u8>),
    /// The report is complete.
    ReportEnd {
        /// How many files it has.
        files: u64,
        /// How many bytes they have together.
        bytes: u64,
    },
    /// The L1 cannot do its part.
    Failed {
        /// The stage that failed.
        stage: Stage,
        /// The cause.
        cause: Cause,
        /// Last lines of its kernel log.
        log: Vec<String>,
    },
    /// The last message.
    Done,
}

/// Stage of an L1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) enum Stage {
    /// Loading modules.
    Modules,
    /// Mounting the host's files and the layer above them.
    Files,
    /// Looking for a working KVM.
    Kvm,
    /// Running the command.
    Command,
    /// Sending the report.
    Report,
}

impl Stage {
    /// The activity, for messages.
    pub(crate) const fn doing(self) -> &'static str {
        match self {
            Stage::Modules => "loading modules",
            Stage::Files => "mounting the host's files",
            Stage::Kvm => "looking for /dev/kvm",
            Stage::Command => "running the command",
            Stage::Report => "sending the report",
        }
    }
}

/// Which output of a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Stream {
    /// Standard output.
    Out,
    /// Standard error.
    Err,
}

/// How a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ended {
    /// It exited with this code.
    Code(i32),
    /// It was killed by this signal.
    Signal(i32),
}

/// Why an L1 cannot do its part.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Cause {
    /// A module did not load.
    Module {
        /// Name of the module.
        name: String,
        /// errno of finit_module.
        errno: i32,
    },
    /// The kernel lacks something that no module brought.
    Lacks {
        /// Name of the module that would bring it.
        module: String,
    },
    /// The command is not there, or cannot be run.
    Command {
        /// Name of the program as given.
        program: String,
        /// errno of exec.
        errno: i32,
    },
    /// A system call failed.
    System {
        /// The operation that failed.
        doing: String,
        /// Its errno; 0 if there is none.
        errno: i32,
        /// Error text.
        text: String,
    },
}

/// Writes messages as frames.
pub(crate) struct Sender<W> {
    line: W,
    id: u64,
    number: u32,
}

impl<W: Write> Sender<W> {
    /// A sender of run `id`.
    pub(crate) fn new(line: W, id: u64) -> Sender<W> {
        Sender {
            line,
            id,
            number: 0,
        }
    }

    /// Sends one message.
    pub(crate) fn send(&mut self, message: &Message) -> io::Result<()> {
        let mut body = self.id.to_le_bytes().to_vec();
        body.extend(self.number.to_le_bytes());
        let body = postcard::to_extend(message, body).map_err(io::Error::other)?;
        self.number += 1;
        let mut encoded = vec![DELIMITER; codec::max_encoded(body.len()) + 1];
        let length = codec::encode(&body, &mut encoded).expect("there is room for it");
        encoded.truncate(length + 1);
        encoded[length] = DELIMITER;
        self.line.write_all(&encoded)
    }
}

/// Decodes frames.
#[derive(Debug)]
pub(crate) struct Receiver {
    id: u64,
    number: u32,
    partial: Vec<u8>,
}

/// A line that carries something else than the frames of one L1.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum LineError {
    #[error("a frame of {0} bytes is broken")]
    Broken(usize),
    #[error("a frame belongs to another run")]
    OtherRun,
    #[error("frame {expected} is missing, {found} came instead")]
    Lost { expected: u32, found: u32 },
    #[error("a frame does not end")]
    Endless,
}

impl Receiver {
    /// A receiver of run `id`.
    pub(crate) fn new(id: u64) -> Receiver {
        Receiver {
            id,
            number: 0,
            partial: Vec::new(),
        }
    }

    /// Adds bytes and passes each complete message to `each`.
    pub(crate) fn push(
        &mut self,
        bytes: &[u8],
        mut each: impl FnMut(Message),
    ) -> Result<(), LineError> {
        let mut rest = bytes;
        while let Some(end) = rest.iter().position(|&byte| byte == DELIMITER) {
            self.partial.extend(&rest[..end]);
            rest = &rest[end + 1..];
            let frame = std::mem::take(&mut self.partial);
            each(self.message(&frame)?);
        }
        self.partial.extend(rest);
        if self.partial.len() > LONGEST {
            return Err(LineError::Endless);
        }
        Ok(())
    }

    fn message(&mut self, encoded: &[u8]) -> Result<Message, LineError> {
        let broken = || LineError::Broken(encoded.len());
        let mut plain = vec![0; encoded.len()];
        let frame = codec::decode(encoded, &mut plain).map_err(|_| broken())?;
        if frame.said != frame.found {
            return Err(broken());
        }
        let rest = frame.body;
        let (id, rest) = rest.split_first_chunk::<8>().ok_or_else(broken)?;
        let (number, content) = rest.split_first_chunk::<4>().ok_or_else(broken)?;
        if u64::from_le_bytes(*id) != self.id {
            return Err(LineError::OtherRun);
        }
        let found = u32::from_le_bytes(*number);
        if found != self.number {
            return Err(LineError::Lost {
                expected: self.number,
                found,
            });
        }
        self.number += 1;
        postcard::from_bytes(content).map_err(|_| broken())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sent(messages: &[Message]) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut sender = Sender::new(&mut bytes, 7);
        for message in messages {
            sender.send(message).unwrap();
        }
        bytes
    }

    fn received(receiver: &mut Receiver, bytes: &[u8]) -> Result<Vec<Message>, LineError> {
        let mut messages = Vec::new();
        receiver.push(bytes, |message| messages.push(message))?;
        Ok(messages)
    }

    fn output(bytes: Vec<u8>) -> Message {
        Message::Output {
            stream: Stream::Out,
            bytes,
        }
    }

    #[test]
    fn another_runs_frames_are_refused() {
        let bytes = sent(&[Message::Done]);
        assert_eq!(
            received(&mut Receiver::new(8), &bytes),
            Err(LineError::OtherRun)
        );
    }

    #[test]
    fn a_lost_frame_is_seen() {
        let first = sent(&[Message::Alive]);
        let all = sent(&[
            Message::Alive,
            Message::Ended(Ended::Code(0)),
            Message::Done,
        ]);
        let second = all[first.len()..].to_vec();
        let mut receiver = Receiver::new(7);
        assert_eq!(
            received(&mut receiver, &second),
            Err(LineError::Lost {
                expected: 0,
                found: 1
            })
        );
    }

    #[test]
    fn noise_is_bounded() {
        let mut receiver = Receiver::new(7);
        assert_eq!(
            received(&mut receiver, &vec![1; LONGEST + 1]),
            Err(LineError::Endless)
        );
    }

    proptest! {
        #[test]
        fn frames_survive_any_cut_of_the_line(
            contents in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 1..8),
            piece in 1_usize..50,
        ) {
            let messages: Vec<_> = contents.into_iter().map(output).collect();
            let mut receiver = Receiver::new(7);
            let mut read = Vec::new();
            for part in sent(&messages).chunks(piece) {
                read.extend(received(&mut receiver, part).unwrap());
            }
            prop_assert_eq!(read, messages);
        }

        #[test]
        fn one_flipped_bit_never_yields_another_message(
            content in prop::collection::vec(any::<u8>(), 0..100),
            at in any::<prop::sample::Index>(),
            bit in 0..8_u8,
        ) {
            let message = output(content);
            let mut bytes = sent(std::slice::from_ref(&message));
            let at = at.index(bytes.len());
            bytes[at] ^= 1 << bit;
            let mut seen = Vec::new();
            let _ = Receiver::new(7).push(&bytes, |message| seen.push(message));
            prop_assert!(seen.is_empty() || seen == [message]);
        }

        #[test]
        fn any_bytes_are_read_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..500)) {
            let _ = Receiver::new(7).push(&bytes, drop);
        }
    }
}
