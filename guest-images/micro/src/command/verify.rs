//! Reads memory back and classifies each page.

use tdxlab_protocol::addr::{Gpa, GpaRange, PageLevel};
use tdxlab_protocol::message::{Content, Run, Side};
use tdxlab_protocol::pattern::{Classifier, WORDS};

use super::results::Results;
use crate::td::VeInfo;
use crate::window::{self, Instruction};

pub(super) fn run(range: GpaRange, side: Side, results: &mut Results) {
    for start in range.pages(PageLevel::Size4K) {
        // Any #VE means that the page cannot be read; the host knows why.
        let content = read(start, side).unwrap_or(Content::NotAccepted);
        let run = Run::Content {
            start,
            count: 1,
            content,
        };
        results.push(run, PageLevel::Size4K);
    }
}

/// Classifies a page. A uniform page takes one fast pass; only a torn one is read word by word.
fn read(page: Gpa, side: Side) -> Result<Content, VeInfo> {
    let first = window::load(page, side, Instruction::Next)?;
    let classifier = Classifier::new(page, first);
    let matching = window::matching(page, side, first, classifier.step())?;
    if matching == WORDS {
        return Ok(classifier.whole());
    }
    let mut classifier = classifier;
    for index in 1..WORDS {
        let word = page.as_u64() + index as u64 * 8;
        classifier.push(window::load(Gpa::new(word), side, Instruction::Next)?);
    }
    Ok(classifier.finish())
}
