//! Texts of others, cut to what a message can bear.

/// Most characters that a message quotes of one text.
pub const QUOTED: usize = 240;

/// The first `most` characters of a text, and that there were more.
pub fn cut(text: &str, most: usize) -> String {
    match text.char_indices().nth(most) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text.to_owned(),
    }
}

/// As much of a text as a message quotes.
pub fn quoted(text: &str) -> String {
    cut(text, QUOTED)
}
