//! Bounded record of an unbounded stream: its beginning and its end.

use std::collections::VecDeque;

/// The first and the last entries of a stream, and how much fell out in between.
///
/// The beginning shows how it started, the end how it failed. A QEMU or guest that never stops
/// printing uses no more memory than that.
#[derive(Clone, Debug)]
pub struct HeadTail<T> {
    head: Vec<T>,
    tail: VecDeque<T>,
    head_room: usize,
    tail_room: usize,
    left_out: u64,
}

impl<T> HeadTail<T> {
    /// Keeps the first `head` and the last `tail` entries.
    pub const fn new(head: usize, tail: usize) -> HeadTail<T> {
        HeadTail {
            head: Vec::new(),
            tail: VecDeque::new(),
            head_room: head,
            tail_room: tail,
            left_out: 0,
        }
    }

    /// Adds an entry.
    pub fn push(&mut self, entry: T) {
        if self.head.len() < self.head_room {
            self.head.push(entry);
            return;
        }
        if self.tail.len() == self.tail_room {
            self.tail.pop_front();
            self.left_out += 1;
        }
        self.tail.push_back(entry);
    }

    /// The entries from the beginning.
    pub fn head(&self) -> impl Iterator<Item = &T> {
        self.head.iter()
    }

    /// The entries at the end, where the beginning does not reach that far.
    pub fn tail(&self) -> impl Iterator<Item = &T> {
        self.tail.iter()
    }

    /// How many entries between the two are gone.
    pub const fn left_out(&self) -> u64 {
        self.left_out
    }
}

impl HeadTail<u8> {
    /// Adds bytes.
    pub fn extend(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.push(byte);
        }
    }

    /// All bytes kept, with a line in place of those dropped.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = self.head.clone();
        if self.left_out > 0 {
            bytes.extend(format!("\n[{} bytes left out]\n", self.left_out).bytes());
        }
        bytes.extend(&self.tail);
        bytes
    }

    /// The last line that is not blank, as text.
    pub fn last_line(&self) -> Option<String> {
        let bytes = self.to_bytes();
        String::from_utf8_lossy(&bytes)
            .lines()
            .rev()
            .map(str::trim)
            .find(|line| !line.is_empty())
            .map(str::to_owned)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_beginning_and_the_end_are_kept() {
        let mut excerpt = HeadTail::new(2, 3);
        for n in 0..10 {
            excerpt.push(n);
        }
        assert!(excerpt.head().eq(&[0, 1]));
        assert!(excerpt.tail().eq(&[7, 8, 9]));
        assert_eq!(excerpt.left_out(), 5);
    }

    #[test]
    fn the_last_line_is_found_behind_blank_ones() {
        let mut excerpt = HeadTail::new(4, 64);
        excerpt.extend(b"first\nqemu: no such thing\n\n  \n");
        assert_eq!(excerpt.last_line().unwrap(), "qemu: no such thing");
        assert_eq!(HeadTail::<u8>::new(1, 1).last_line(), None);
    }
}
