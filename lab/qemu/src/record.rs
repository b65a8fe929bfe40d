//! Transcript of a monitor or of an agent, bounded.

use std::time::Instant;

use serde::Serialize;

use crate::head_tail::HeadTail;

/// Messages kept from the beginning and from the end.
const KEPT: (usize, usize) = (64, 448);

/// Longest message that is kept whole, in characters.
const MAX_CHARS: usize = 8 << 10;

/// Sender of a message.
#[derive(Clone, Copy, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Direction {
    Sent,
    Received,
}

/// One message.
#[derive(Clone, Debug, Serialize)]
struct Exchange {
    /// Since the conversation began.
    micros: u64,
    direction: Direction,
    /// The message; a JSON string if it is not JSON or was cut.
    message: serde_json::Value,
}

/// The messages of a conversation with the time of each.
#[derive(Debug)]
pub(crate) struct Record {
    began: Instant,
    exchanges: HeadTail<(u64, Direction, String)>,
}

impl Record {
    pub(crate) fn new() -> Record {
        Record {
            began: Instant::now(),
            exchanges: HeadTail::new(KEPT.0, KEPT.1),
        }
    }

    pub(crate) fn note(&mut self, direction: Direction, text: &str) {
        let micros = u64::try_from(self.began.elapsed().as_micros()).unwrap_or(u64::MAX);
        let text = text.chars().take(MAX_CHARS).collect();
        self.exchanges.push((micros, direction, text));
    }

    pub(crate) fn to_json_lines(&self) -> String {
        let mut lines = String::new();
        for entry in self.exchanges.head() {
            lines.push_str(&line(entry));
        }
        if self.exchanges.left_out() > 0 {
            lines.push_str(&format!("{{\"left_out\":{}}}\n", self.exchanges.left_out()));
        }
        for entry in self.exchanges.tail() {
            lines.push_str(&line(entry));
        }
        lines
    }
}

fn line((micros, direction, text): &(u64, Direction, String)) -> String {
    let exchange = Exchange {
        micros: *micros,
        direction: *direction,
        message: serde_json::from_str(text).unwrap_or_else(|_| text.as_str().into()),
    };
    // Numbers, names and JSON values always serialize.
    serde_json::to_string(&exchange).unwrap_or_default() + "\n"
}
