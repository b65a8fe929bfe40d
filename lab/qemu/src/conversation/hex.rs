//! Bytes in messages.

/// Bytes for a message: the first of them in hexadecimal.
pub(super) fn hex(bytes: &[u8]) -> String {
    const ROOM: usize = 64;
    let mut text = String::new();
    for byte in bytes.iter().take(ROOM) {
        text.push_str(&format!("{byte:02x} "));
    }
    if bytes.len() > ROOM {
        text.push_str(&format!("... ({} bytes)", bytes.len()));
    }
    text.trim_end().to_owned()
}
