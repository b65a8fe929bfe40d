//! 512 words, most of them zero most of the time.

/// Words in a table or page.
pub const WORDS: usize = 512;

/// Words in a row.
const ROW: usize = 8;

/// Most rows kept without the others.
const FEW: usize = 4;

/// 512 words that take little room while most of them are zero.
///
/// A 16 TiB guest with scattered pages has thousands of tables with one or two entries each; kept
/// in full they would take more memory than everything else together.
#[derive(Clone, Debug)]
pub enum SparsePage {
    /// A few rows of them.
    Few(Box<Few>),
    /// All of them.
    All(Box<[u64; WORDS]>),
}

/// The rows that have held a word; all others are zero. Every walk of every table comes by here, so
/// a word is found without a search.
#[derive(Clone, Debug)]
pub struct Few {
    /// A bit for each row that is here.
    used: u64,
    /// Where each of these is.
    places: [u8; WORDS / ROW],
    rows: [[u64; ROW]; FEW],
}

impl Few {
    #[inline]
    fn row(&self, row: usize) -> Option<&[u64; ROW]> {
        let here = self.used & 1 << row != 0;
        here.then(|| &self.rows[usize::from(self.places[row])])
    }

    /// The row to write to; `None` where there is no room for one more.
    fn row_mut(&mut self, row: usize) -> Option<&mut [u64; ROW]> {
        if self.used & 1 << row == 0 {
            let free = self.used.count_ones() as usize;
            if free == FEW {
                return None;
            }
            self.used |= 1 << row;
            self.places[row] = free as u8;
        }
        Some(&mut self.rows[usize::from(self.places[row])])
    }

    fn all(&self) -> Box<[u64; WORDS]> {
        let mut all = Box::new([0; WORDS]);
        for (row, words) in all.chunks_exact_mut(ROW).enumerate() {
            if let Some(here) = self.row(row) {
                words.copy_from_slice(here);
            }
        }
        all
    }

    fn next_set(&self, from: usize) -> Option<(usize, u64)> {
        let mut later = self.used.checked_shr((from / ROW) as u32)? << (from / ROW);
        while later != 0 {
            let row = later.trailing_zeros() as usize;
            let words = self.row(row)?;
            let first = if row == from / ROW { from % ROW } else { 0 };
            if let Some(at) = (first..ROW).find(|&at| words[at] != 0) {
                return Some((row * ROW + at, words[at]));
            }
            later &= later - 1;
        }
        None
    }
}

impl Default for SparsePage {
    fn default() -> Self {
        SparsePage::Few(Box::new(Few {
            used: 0,
            places: [0; WORDS / ROW],
            rows: [[0; ROW]; FEW],
        }))
    }
}

impl SparsePage {
    /// The word at `index`.
    #[inline]
    pub fn get(&self, index: usize) -> u64 {
        match self {
            SparsePage::Few(few) => few.row(index / ROW).map_or(0, |row| row[index % ROW]),
            SparsePage::All(all) => all[index],
        }
    }

    /// Sets the word at `index`.
    pub fn set(&mut self, index: usize, word: u64) {
        match self {
            SparsePage::All(all) => all[index] = word,
            SparsePage::Few(few) => match few.row_mut(index / ROW) {
                Some(row) => row[index % ROW] = word,
                None => {
                    let mut all = few.all();
                    all[index] = word;
                    *self = SparsePage::All(all);
                }
            },
        }
    }

    /// The first word that is not zero, at `from` or after it, with its index.
    pub fn next_set(&self, from: usize) -> Option<(usize, u64)> {
        match self {
            SparsePage::Few(few) => few.next_set(from),
            SparsePage::All(all) => (from..WORDS)
                .find(|&at| all[at] != 0)
                .map(|at| (at, all[at])),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_becomes_an_array_and_loses_nothing() {
        let mut words = SparsePage::default();
        for index in (0..WORDS).rev().step_by(7) {
            words.set(index, index as u64 + 1);
        }
        assert!(matches!(words, SparsePage::All(_)));
        for index in 0..WORDS {
            let expected = if (WORDS - 1 - index).is_multiple_of(7) {
                index as u64 + 1
            } else {
                0
            };
            assert_eq!(words.get(index), expected);
        }
    }

    #[test]
    fn words_of_a_few_rows_take_no_more_room() {
        let mut words = SparsePage::default();
        for index in [0, 7, 8, 9, 300, 511] {
            words.set(index, index as u64 + 1);
        }
        assert!(matches!(words, SparsePage::Few(_)));
        let mut from = 0;
        let found = std::iter::from_fn(|| {
            let (at, word) = words.next_set(from)?;
            from = at + 1;
            Some((at, word))
        });
        assert_eq!(
            found.collect::<Vec<_>>(),
            [(0, 1), (7, 8), (8, 9), (9, 10), (300, 301), (511, 512)]
        );
        assert_eq!((words.get(1), words.get(301), words.get(8)), (0, 0, 9));
    }

    #[test]
    fn zeros_are_skipped() {
        let mut words = SparsePage::default();
        words.set(3, 1);
        words.set(500, 2);
        words.set(3, 0);
        assert_eq!(words.next_set(0), Some((500, 2)));
        assert_eq!(words.next_set(501), None);
        assert_eq!(words.next_set(WORDS), None);
        assert_eq!(words.get(3), 0);
    }
}
