//! What /proc/meminfo says of this machine's memory.

/// Bytes that can be had without pushing others out: MemAvailable. `None` where it cannot be read.
pub fn available() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    field_kib(&text, "MemAvailable:")?.checked_mul(1024)
}

/// A number of KiB in the format of /proc/meminfo.
pub(crate) fn field_kib(text: &str, name: &str) -> Option<u64> {
    text.lines()
        .find_map(|line| line.strip_prefix(name))?
        .split_whitespace()
        .next()?
        .parse()
        .ok()
}
