//! The part of a file that a diagnostic shows.
//!
//! A line can be as long as the file, and miette pads and underlines by column with a width that has 16
//! bits: behind column 65,535 it panics. So of a long line only what is around the place is shown.

use std::ops::Range;
use std::sync::Arc;

use miette::{MietteError, MietteSpanContents, SourceCode, SourceSpan, SpanContents};

/// Longest line that is shown whole, in bytes.
const LONGEST_LINE: usize = 400;
/// Bytes of a longer line that are shown on either side of the place.
const AROUND: usize = 60;
/// Most bytes that are underlined.
const LONGEST_SPAN: usize = 200;
/// Longest message, in characters. Messages quote what is wrong.
const LONGEST_MESSAGE: usize = 600;

/// The text of a file, to be shown.
#[derive(Clone, Debug)]
pub(super) struct Excerpt(Arc<str>);

impl Excerpt {
    /// `text` with what would steer a terminal replaced. Byte offsets are unchanged.
    pub(super) fn of(text: &str) -> Excerpt {
        if !text.contains(is_unseen) {
            return Excerpt(text.into());
        }
        let letters = text.chars().map(|letter| match letter.len_utf8() {
            _ if !is_unseen(letter) => letter,
            1 => '?',
            2 => '¿',
            _ => '\u{fffd}',
        });
        Excerpt(letters.collect::<String>().into())
    }

    /// The bytes to show of a long line for what is at `place`.
    fn around(&self, place: Range<usize>) -> Range<usize> {
        let bytes = self.0.as_bytes();
        let end = place.end.min(bytes.len());
        let from = place.start.min(end);
        let line_break = |byte: &u8| *byte == b'\n';
        let line_start = bytes[..from].iter().rposition(line_break);
        let line_end = bytes[end..].iter().position(line_break);
        let mut start = from
            .saturating_sub(AROUND)
            .max(line_start.map_or(0, |at| at + 1));
        let mut stop = (end + AROUND).min(line_end.map_or(bytes.len(), |at| end + at));
        while !self.0.is_char_boundary(start) {
            start -= 1;
        }
        while !self.0.is_char_boundary(stop) {
            stop += 1;
        }
        start..stop
    }
}

impl SourceCode for Excerpt {
    fn read_span<'a>(
        &'a self,
        span: &SourceSpan,
        before: usize,
        after: usize,
    ) -> Result<Box<dyn SpanContents<'a> + 'a>, MietteError> {
        let whole = self.0.read_span(span, before, after)?;
        let mut lines = whole.data().split(|byte| *byte == b'\n');
        // Without lines around it, it is read for the number of its line and column.
        if before + after == 0 || lines.all(|line| line.len() <= LONGEST_LINE) {
            return Ok(whole);
        }
        let place = self.0.read_span(span, 0, 0)?;
        let shown = self.around(span.offset()..span.offset() + span.len());
        let data = &self.0.as_bytes()[shown.clone()];
        let span = (shown.start, shown.len()).into();
        let (line, column) = (place.line(), place.column());
        Ok(Box::new(MietteSpanContents::new(
            data,
            span,
            line,
            column,
            place.line_count(),
        )))
    }
}

/// `span`, cut to what can be underlined.
pub(super) fn underlined(text: &str, span: SourceSpan) -> SourceSpan {
    if span.len() <= LONGEST_SPAN {
        return span;
    }
    let start = span.offset();
    let mut end = start + LONGEST_SPAN;
    while end > start && !text.is_char_boundary(end) {
        end -= 1;
    }
    (start, end - start).into()
}

/// `words` without what would steer a terminal, and not longer than can be read.
pub(super) fn readable(words: &str) -> String {
    let mut said = String::with_capacity(words.len().min(LONGEST_MESSAGE));
    for (index, letter) in words.chars().enumerate() {
        if index == LONGEST_MESSAGE {
            said.push('…');
            break;
        }
        match is_unseen(letter) {
            true => said.extend(letter.escape_unicode()),
            false => said.push(letter),
        }
    }
    said
}

/// Whether it may change how a line is shown, or where it ends.
fn is_unseen(letter: char) -> bool {
    let line = matches!(letter, '\n' | '\r' | '\t');
    letter.is_control() && !line || matches!(letter, '\u{2028}' | '\u{2029}' | '\u{feff}')
}
