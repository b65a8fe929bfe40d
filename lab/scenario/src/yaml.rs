//! The only place that knows how YAML is read.
//!
//! `serde_yaml` gives typed values without positions, so the events of `saphyr-parser` are kept
//! beside them as a tree of [`Node`]s. The tree is built first and rejects whatever could make the
//! typed pass expensive (anchors, deep nesting, sheer size).

use std::borrow::Cow;
use std::collections::HashMap;
use std::ops::Range;

use saphyr_parser::{Event, Parser, ScalarStyle, ScanError, Span};
use serde::de::DeserializeOwned;

use super::error::Problem;

/// Largest file, in bytes.
pub(super) const MAX_BYTES: usize = 1 << 20;
/// Most keys and values in a file.
const MAX_NODES: usize = 100_000;
/// Deepest nesting.
const MAX_DEPTH: usize = 24;

/// A value of the file and where it stands.
#[derive(Clone, Debug)]
pub(super) struct Node {
    /// Bytes of the file. Of a mapping or list: of its first line, to have something to underline.
    pub(super) span: Range<usize>,
    /// Line, counted from 1.
    pub(super) line: u32,
    /// A comment follows on its line, and it is not in quotes: it may have been meant to go on.
    pub(super) comment: bool,
    pub(super) content: Content,
}

#[derive(Clone, Debug)]
pub(super) enum Content {
    /// Empty, or `null`.
    Empty,
    /// A single value, without its quotes.
    Scalar(String),
    /// A list.
    List(Vec<Node>),
    /// Keys and values, in the order of the file.
    Mapping(Vec<Entry>),
}

/// A key and its value.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) key: String,
    pub(super) key_span: Range<usize>,
    pub(super) value: Node,
}

impl Node {
    /// The value of `key`; this node if it is missing, so that there is always a position.
    pub(super) fn key(&self, key: &str) -> &Node {
        self.entry(key).map_or(self, |entry| &entry.value)
    }

    /// The entry of `key`.
    pub(super) fn entry(&self, key: &str) -> Option<&Entry> {
        self.entries().iter().find(|entry| entry.key == key)
    }

    /// Where `key` stands; all of this node if it is missing.
    pub(super) fn place_of(&self, key: &str) -> Range<usize> {
        self.entry(key)
            .map_or(self.span.clone(), |entry| entry.key_span.clone())
    }

    /// All entries; none where this is no mapping.
    pub(super) fn entries(&self) -> &[Entry] {
        match &self.content {
            Content::Mapping(entries) => entries,
            _ => &[],
        }
    }

    /// The `index`th value of a list; this node if it is missing.
    pub(super) fn item(&self, index: usize) -> &Node {
        self.items().get(index).unwrap_or(self)
    }

    /// All values of a list; none where this is no list.
    pub(super) fn items(&self) -> &[Node] {
        match &self.content {
            Content::List(items) => items,
            _ => &[],
        }
    }

    /// The text of a single value.
    pub(super) fn text(&self) -> Option<&str> {
        match &self.content {
            Content::Scalar(text) => Some(text),
            _ => None,
        }
    }

    /// Position in `source` of the bytes `at` of a single value: exact if the value is written
    /// without escapes, else the whole value.
    pub(super) fn part(&self, source: &str, at: &Range<usize>) -> Range<usize> {
        let (Some(text), Some(written)) = (self.text(), source.get(self.span.clone())) else {
            return self.span.clone();
        };
        match written.find(text) {
            Some(skip) if at.end <= text.len() && !at.is_empty() => {
                let start = self.span.start + skip;
                start + at.start..start + at.end
            }
            _ => self.span.clone(),
        }
    }
}

/// The text with the tabs between keys and values replaced by blanks: YAML allows them (1.2.2,
/// section 6.2), `saphyr-parser` does not. Byte offsets are unchanged.
pub(super) fn without_tabs(text: &str) -> Cow<'_, str> {
    if !text.contains(":\t") && !text.contains(": \t") {
        return Cow::Borrowed(text);
    }
    let mut plain = String::with_capacity(text.len());
    // Column of the key of the current block scalar, whose content is copied unchanged.
    let mut block = None;
    for line in text.split_inclusive('\n') {
        let indent = line.len() - line.trim_start_matches(' ').len();
        if block.is_some_and(|column| indent > column || line.trim().is_empty()) {
            plain.push_str(line);
            continue;
        }
        block = block_scalar(line);
        push_without_tabs(&mut plain, line);
    }
    Cow::Owned(plain)
}

/// Adds a line outside of a block scalar, with tabs after colons replaced by blanks. Quoted text
/// and comments are copied unchanged.
fn push_without_tabs(plain: &mut String, line: &str) {
    let mut quote = None;
    let mut before = ' ';
    let mut rest = line.chars();
    while let Some(letter) = rest.next() {
        plain.push(letter);
        match (quote, letter) {
            (Some('"'), '\\') => plain.extend(rest.next()),
            (Some(open), letter) if letter == open => quote = None,
            (Some(_), _) => {}
            (None, '#') if before.is_whitespace() => {
                plain.push_str(rest.as_str());
                return;
            }
            (None, '"' | '\'') if before.is_whitespace() || "[{,:-".contains(before) => {
                quote = Some(letter);
            }
            (None, ':') => {
                let value = rest.as_str().trim_start_matches([' ', '\t']);
                let blanks = rest.as_str().len() - value.len();
                plain.extend(std::iter::repeat_n(' ', blanks));
                rest = value.chars();
            }
            _ => {}
        }
        before = letter;
    }
}

/// Column of the key, if the line starts a block scalar, which continues while lines are indented
/// deeper.
fn block_scalar(line: &str) -> Option<usize> {
    let mut key = line.trim_start_matches(' ');
    while let Some(item) = key.strip_prefix("- ") {
        key = item.trim_start_matches(' ');
    }
    let (_, value) = key.split_once(':')?;
    let value = value.trim_start_matches([' ', '\t']);
    value
        .starts_with(['|', '>'])
        .then_some(line.len() - key.len())
}

/// Refuses letters that YAML does not allow, and those that only older versions of it take for the end of
/// a line: `saphyr-parser` reads 1.2, `serde_yaml` 1.1, so a comment for one would be steps for the other.
fn check_letters(text: &str) -> Result<(), Problem> {
    let Some((at, letter)) = text.char_indices().find(|(_, letter)| is_refused(*letter)) else {
        return Ok(());
    };
    let (what, help) = match letter {
        '\u{85}' | '\u{2028}' | '\u{2029}' => (
            "a line break to some readers of YAML and none to others",
            "end the line by a line feed, or remove it",
        ),
        '\u{feff}' => (
            "a byte order mark, inside of the file",
            "remove it: it can only be the first letter of a file",
        ),
        _ => ("which YAML does not allow", "remove it"),
    };
    let message = format!("the letter U+{:04X}, {what}", u32::from(letter));
    Err(Problem::new(at..at + letter.len_utf8(), message, "here").help(help))
}

fn is_refused(letter: char) -> bool {
    let odd = matches!(
        letter,
        '\u{2028}' | '\u{2029}' | '\u{feff}' | '\u{fffe}' | '\u{ffff}'
    );
    odd || letter.is_control() && !matches!(letter, '\n' | '\r' | '\t')
}

/// Reads the places of `text`. Doubled keys are put into `problems`, and the first of each stands.
pub(super) fn tree(text: &str, problems: &mut Vec<Problem>) -> Result<Node, Problem> {
    check_letters(text)?;
    let text = without_tabs(text);
    let mut builder = Builder::new(&text, problems);
    for event in Parser::new_from_str(&text) {
        let (event, span) = event.map_err(|error| builder.syntax(&error))?;
        builder.take(event, span)?;
    }
    builder.root.take().ok_or_else(|| {
        Problem::new(0..0, "the file is empty", "nothing here")
            .help("a scenario starts with `scenario: folder/name`")
    })
}

/// Refuses a file that is too large to read.
pub(super) fn check_size(text: &str) -> Result<(), Problem> {
    if text.len() <= MAX_BYTES {
        return Ok(());
    }
    let message = format!("the file has {} bytes", text.len());
    Err(Problem::new(0..0, message, "").help("at most 1 MiB"))
}

/// Reads `text` as a `T`.
pub(super) fn typed<T: DeserializeOwned>(text: &str) -> Result<T, Problem> {
    serde_yaml::from_str(&without_tabs(text)).map_err(|error| {
        let at = error
            .location()
            .map_or(0, |location| location.index().min(text.len()));
        Problem::new(
            at..at,
            format!("cannot read the file: {error}"),
            "about here",
        )
    })
}

/// A mapping or list that is still open.
struct Open {
    node: Node,
    key: Option<(String, Range<usize>)>,
    /// Keys that have a value, and on which line.
    lines: HashMap<String, u32>,
}

/// Makes a tree of events.
struct Builder<'a> {
    text: &'a str,
    /// Byte offset of every character, and of the end.
    offsets: Vec<usize>,
    problems: &'a mut Vec<Problem>,
    open: Vec<Open>,
    root: Option<Node>,
    documents: usize,
    nodes: usize,
}

impl<'a> Builder<'a> {
    fn new(text: &'a str, problems: &'a mut Vec<Problem>) -> Builder<'a> {
        let offsets = text.char_indices().map(|(at, _)| at).chain([text.len()]);
        Builder {
            text,
            offsets: offsets.collect(),
            problems,
            open: Vec::new(),
            root: None,
            documents: 0,
            nodes: 0,
        }
    }

    fn byte(&self, index: usize) -> usize {
        self.offsets.get(index).copied().unwrap_or(self.text.len())
    }

    /// The bytes of `span`, cut to its first line and without the blanks at its end.
    fn bytes(&self, span: Span) -> Range<usize> {
        let start = self.byte(span.start.index());
        let end = self.byte(span.end.index()).max(start);
        let line = self.text[start..end].lines().next().unwrap_or_default();
        start..start + line.trim_end().len()
    }

    /// Whether a value without quotes is followed by a comment on its last line.
    fn comment_follows(&self, event: &Event<'_>, span: Span) -> bool {
        let plain = matches!(event, Event::Scalar(_, ScalarStyle::Plain, ..));
        let rest = &self.text[self.byte(span.end.index())..];
        plain && rest.trim_start_matches([' ', '\t']).starts_with('#')
    }

    fn syntax(&self, error: &ScanError) -> Problem {
        let at = self.byte(error.marker().index());
        Problem::new(at..at, format!("not YAML: {}", error.info()), "here")
    }

    fn take(&mut self, event: Event<'_>, span: Span) -> Result<(), Problem> {
        let bytes = self.bytes(span);
        let comment = self.comment_follows(&event, span);
        let node = |content| Node {
            span: bytes.clone(),
            line: u32::try_from(span.start.line()).unwrap_or(u32::MAX),
            comment,
            content,
        };
        match event {
            Event::Nothing | Event::StreamStart | Event::StreamEnd | Event::DocumentEnd => Ok(()),
            Event::DocumentStart(_) => {
                self.documents += 1;
                match self.documents {
                    1 => Ok(()),
                    _ => Err(Problem::new(bytes, "a second document", "starts here")
                        .help("a file holds one scenario; put the other into a file of its own")),
                }
            }
            Event::Alias(_) => Err(no_anchors(bytes)),
            Event::Scalar(_, _, anchor, _)
            | Event::SequenceStart(anchor, _)
            | Event::MappingStart(anchor, _)
                if anchor != 0 =>
            {
                Err(no_anchors(bytes))
            }
            Event::Scalar(.., Some(tag))
            | Event::SequenceStart(_, Some(tag))
            | Event::MappingStart(_, Some(tag)) => {
                Err(Problem::new(bytes, format!("the tag `{tag}`"), "has a tag")
                    .help("scenarios use plain YAML; remove the tag"))
            }
            Event::Scalar(text, style, ..) => {
                let plain = style == ScalarStyle::Plain;
                let empty = plain && matches!(&*text, "" | "~" | "null" | "Null" | "NULL");
                self.close(node(match empty {
                    true => Content::Empty,
                    false => Content::Scalar(text.into_owned()),
                }))
            }
            Event::SequenceStart(..) => self.push(node(Content::List(Vec::new()))),
            Event::MappingStart(..) => self.push(node(Content::Mapping(Vec::new()))),
            Event::SequenceEnd | Event::MappingEnd => match self.open.pop() {
                Some(mut open) => {
                    self.widen(&mut open.node, &bytes);
                    self.close(open.node)
                }
                None => Ok(()),
            },
        }
    }

    fn push(&mut self, node: Node) -> Result<(), Problem> {
        if self.open.len() == MAX_DEPTH {
            return Err(Problem::new(
                node.span,
                format!("more than {MAX_DEPTH} levels of nesting"),
                "too deep",
            ));
        }
        self.open.push(Open {
            node,
            key: None,
            lines: HashMap::new(),
        });
        Ok(())
    }

    /// Gives a mapping or list something to underline.
    fn widen(&self, node: &mut Node, end: &Range<usize>) {
        let first = match &node.content {
            Content::Mapping(entries) => entries.first().map(|entry| entry.key_span.clone()),
            Content::List(items) => items.first().map(|item| item.span.clone()),
            _ => None,
        };
        node.span = first.unwrap_or(node.span.start..end.end.max(node.span.start));
    }

    /// Puts a complete node where it belongs.
    fn close(&mut self, node: Node) -> Result<(), Problem> {
        self.nodes += 1;
        if self.nodes > MAX_NODES {
            return Err(Problem::new(
                node.span,
                format!("more than {MAX_NODES} keys and values"),
                "too many",
            )
            .help("`matrix` and `repeat` make many steps of few lines"));
        }
        let Some(parent) = self.open.last_mut() else {
            self.root = Some(node);
            return Ok(());
        };
        match &mut parent.node.content {
            Content::List(items) => items.push(node),
            Content::Mapping(entries) => match parent.key.take() {
                None => match node.content {
                    Content::Scalar(key) => parent.key = Some((key, node.span)),
                    _ => {
                        return Err(Problem::new(node.span, "a key must be a word", "no word"));
                    }
                },
                Some((key, key_span)) => match parent.lines.get(&key) {
                    Some(line) => {
                        let message = format!("`{key}` is there twice");
                        let help = format!("it already has a value on line {line}");
                        let problem = Problem::new(key_span, message, "again").help(help);
                        self.problems.push(problem);
                    }
                    None => {
                        parent.lines.insert(key.clone(), node.line);
                        entries.push(Entry {
                            key,
                            key_span,
                            value: node,
                        });
                    }
                },
            },
            Content::Empty | Content::Scalar(_) => {}
        }
        Ok(())
    }
}

fn no_anchors(span: Range<usize>) -> Problem {
    Problem::new(
        span,
        "anchors and aliases are not part of the language",
        "refused",
    )
    .help("`matrix`, `cases` and `repeat` say things once")
}
