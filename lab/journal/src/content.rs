//! Content of guest memory, page by page, found and expected.

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
    /// Expected content.
    pub expected: Content,
    /// Content found.
    pub found: PageClass,
    /// Whether that is right.
    pub right: bool,
}

/// Class of a page's content, relative to the expected content.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PageClass {
    /// The words of the expected fill.
    Intact {
        /// The fill it belongs to.
        generation: Generation,
    },
    /// All words are zero.
    Zero,
    /// Words for this page, of a fill that must not be visible (any more).
    Stale {
        /// The fill it belongs to.
        generation: Generation,
    },
    /// Words that were written to another page.
    Foreign {
        /// The fill that wrote it.
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

/// A word of a page, which names its fill and GPA.
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

/// The expected content in a finding.
pub fn wanted(content: Content) -> String {
    match content {
        Content::Filled(generation) => format!("intact (fill {})", generation.get()),
        Content::Zero => "zero".to_owned(),
        Content::Gone => "not accepted".to_owned(),
        Content::Raced => "a whole page of one fill, zero, or not accepted".to_owned(),
    }
}
