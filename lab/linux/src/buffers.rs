//! The agent's buffers as the lab knows them, to check answers against.

use std::collections::BTreeMap;

use tdxlab_protocol::addr::Gpa;
use tdxlab_protocol::linux::{Ask, BufferId};
use tdxlab_protocol::pattern::Generation;

use crate::answer::{Answer, Known};

/// Buffers that the agent holds.
#[derive(Debug, Default)]
pub(crate) struct Buffers(BTreeMap<BufferId, Held>);

#[derive(Clone, Copy, Debug)]
struct Held {
    pages: u32,
    generation: Generation,
}

impl Buffers {
    /// What to check an answer to `ask` against. `limit`: the end of guest memory.
    pub(crate) fn known(&self, ask: &Ask, limit: Gpa) -> Known {
        let (pages, generation) = match ask {
            Ask::Fill {
                bytes, generation, ..
            } => (u32::try_from(bytes / 4096).ok(), Some(*generation)),
            Ask::Where { buffer } | Ask::Verify { buffer } => {
                let held = self.0.get(buffer);
                (
                    held.map(|held| held.pages),
                    held.map(|held| held.generation),
                )
            }
            _ => (None, None),
        };
        Known {
            limit,
            pages,
            generation,
        }
    }

    /// Notes what a request has changed.
    pub(crate) fn remember(&mut self, ask: &Ask, answer: &Answer) {
        match *ask {
            Ask::Fill {
                buffer,
                bytes,
                generation,
                ..
            } if answer.outcome.is_ok() => {
                let pages = u32::try_from(bytes / 4096).unwrap_or(u32::MAX);
                self.0.insert(buffer, Held { pages, generation });
            }
            Ask::Free { buffer } if answer.outcome.is_ok() => {
                self.0.remove(&buffer);
            }
            _ => {}
        }
    }

    /// All are gone.
    pub(crate) fn clear(&mut self) {
        self.0.clear();
    }
}
