//! The L1 kernel's console: kept as evidence, and scanned for the end of an L1.

use tdxlab_qemu::head_tail::HeadTail;

/// Lines kept from the beginning and from the end.
const KEPT: (usize, usize) = (400, 1600);

/// Longest line; a longer one is split.
const LONGEST: usize = 4096;

/// State of the L1 according to a console line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    /// The kernel has panicked.
    Panic(String),
    /// The kernel has killed a process for lack of memory.
    OutOfMemory(String),
}

/// The console so far.
#[derive(Debug)]
pub struct Console {
    lines: HeadTail<String>,
    partial: Vec<u8>,
}

impl Console {
    /// A silent console.
    pub fn new() -> Console {
        Console {
            lines: HeadTail::new(KEPT.0, KEPT.1),
            partial: Vec::new(),
        }
    }

    /// Adds console output; returns the notices found in it.
    pub fn push(&mut self, bytes: &[u8]) -> Vec<Notice> {
        let mut notices = Vec::new();
        for &byte in bytes {
            if byte != b'\n' {
                self.partial.push(byte);
            }
            if byte == b'\n' || self.partial.len() >= LONGEST {
                let line = String::from_utf8_lossy(&self.partial).trim_end().to_owned();
                self.partial.clear();
                notices.extend(notice(&line));
                self.lines.push(line);
            }
        }
        notices
    }

    /// All lines that are kept.
    pub fn text(&self) -> String {
        let mut text = String::new();
        let mut add = |line: &str| {
            text.push_str(line);
            text.push('\n');
        };
        self.lines.head().for_each(|line| add(line));
        if self.lines.left_out() > 0 {
            add(&format!("... {} lines left out ...", self.lines.left_out()));
        }
        self.lines.tail().for_each(|line| add(line));
        if !self.partial.is_empty() {
            add(&String::from_utf8_lossy(&self.partial));
        }
        text
    }

    /// The last lines, for a message.
    pub fn last(&self, count: usize) -> Vec<String> {
        let text = self.text();
        let lines: Vec<_> = text.lines().filter(|line| !line.is_empty()).collect();
        lines[lines.len().saturating_sub(count)..]
            .iter()
            .map(|&line| line.to_owned())
            .collect()
    }
}

impl Default for Console {
    fn default() -> Console {
        Console::new()
    }
}

/// The notice in one line.
fn notice(line: &str) -> Option<Notice> {
    let text = without_time(line);
    if let Some(at) = text.find("Kernel panic - not syncing") {
        return Some(Notice::Panic(text[at..].to_owned()));
    }
    let killed = text.find("Out of memory: Killed process")?;
    Some(Notice::OutOfMemory(text[killed..].to_owned()))
}

/// The line without the time stamp of the kernel.
pub fn without_time(line: &str) -> &str {
    let stamped = line
        .strip_prefix('[')
        .and_then(|rest| rest.split_once("] "));
    match stamped {
        Some((time, text)) if time.trim().parse::<f64>().is_ok() => text,
        _ => line,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_seen_however_the_line_is_cut() {
        let text = b"[    1.5] x\r\n[    2.123456] Kernel panic - not syncing: VFS: no root\r\n";
        for cut in 0..text.len() {
            let mut console = Console::new();
            let mut notices = console.push(&text[..cut]);
            notices.extend(console.push(&text[cut..]));
            let line = "Kernel panic - not syncing: VFS: no root".to_owned();
            assert_eq!(notices, [Notice::Panic(line)]);
            assert_eq!(console.last(1).len(), 1);
        }
    }

    #[test]
    fn memory_running_out_is_seen() {
        let line = b"[   9.1] Out of memory: Killed process 80 (tdxlab) total-vm:1kB\n";
        let notices = Console::new().push(line);
        assert!(matches!(&notices[..], [Notice::OutOfMemory(text)] if text.contains("tdxlab")));
        assert!(
            Console::new()
                .push(b"we speak of a panic here\n")
                .is_empty()
        );
    }

    #[test]
    fn endless_noise_is_bounded() {
        let mut console = Console::new();
        for _ in 0..5000 {
            console.push(&[b'x'; 5000]);
        }
        assert!(console.text().len() < 10 << 20);
        assert!(console.text().contains("lines left out"));
    }
}
