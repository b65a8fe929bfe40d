//! What guest memory holds, page by page, beside what it must hold.

use std::fmt;

use serde::{Deserialize, Serialize};
use tdxlab_plan::{Content, Generation};
use tdxlab_protocol::addr::GpaRange;
use tdxlab_protocol::pattern;

/// Neighbouring pages that hold the same kind of thing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContentSpan {
    /// The pages.
    pub range: GpaRange,
    /// What they must hold.
    pub expected: Content,
    /// What they hold.
    pub found: PageClass,
    /// Whether that is right.
    pub right: bool,
}

/// What a page holds, seen from what it should hold.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PageClass {
    /// The words of the fill that had to be there.
    Intact {
        /// Which fill.
        generation: Generation,
    },
    /// All words are zero.
    Zero,
    /// Its own words, of a fill whose words must not be there (any more).
    Stale {
        /// Which fill.
        generation: Generation,
    },
    /// Words that were written to another page.
    Foreign {
        /// By which fill.
        generation: Generation,
        /// The pages they belong to.
        owner: GpaRange,
    },
    /// Words of different kinds in one page.
    Torn {
        /// How many are of the first word's kind.
        like_first: u16,
        /// First words that differ, as (index, value).
        words: Vec<(u16, u64)>,
    },
    /// Reading raised #VE.
    NotAccepted,
}

impl fmt::Display for PageClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PageClass::Intact { generation } => write!(f, "intact (fill {})", generation.get()),
            PageClass::Zero => f.write_str("zero"),
            PageClass::Stale { generation } => write!(f, "stale (fill {})", generation.get()),
            PageClass::Foreign { generation, owner } => {
                write!(f, "data of {owner} (fill {})", generation.get())
            }
            PageClass::Torn { like_first, words } => {
                write!(f, "torn: {like_first} of {} words alike", pattern::WORDS)?;
                for (index, word) in words {
                    write!(f, "; word {index} is {}", Word(*word))?;
                }
                Ok(())
            }
            PageClass::NotAccepted => f.write_str("not accepted"),
        }
    }
}

/// A word and what it says of itself.
struct Word(u64);

impl fmt::Display for Word {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match pattern::decode(self.0) {
            Some(word) => write!(
                f,
                "word {} of {} (fill {})",
                word.index,
                word.page,
                word.generation.get()
            ),
            None => write!(f, "{:#018x}", self.0),
        }
    }
}

/// The content, as a finding words it.
pub fn wanted(content: Content) -> String {
    match content {
        Content::Filled(generation) => format!("intact (fill {})", generation.get()),
        Content::Zero => "zero".to_owned(),
        Content::Gone => "not accepted".to_owned(),
        Content::Raced => "a whole page of one fill, zero, or not accepted".to_owned(),
    }
}
