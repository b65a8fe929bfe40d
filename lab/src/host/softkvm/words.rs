//! 512 words, most of them zero most of the time.

/// Words in a table or page.
pub(crate) const WORDS: usize = 512;

/// Most non-zero words kept as a list.
const FEW: usize = 8;

/// 512 words that take little room while few of them are not zero.
///
/// A 16 TiB guest with scattered pages has thousands of tables with one or two entries each; kept
/// in full they would take more memory than everything else together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Words {
    /// The non-zero words by index, in index order.
    Few(Vec<(u16, u64)>),
    /// All of them.
    All(Box<[u64; WORDS]>),
}

impl Default for Words {
    fn default() -> Self {
        Words::Few(Vec::new())
    }
}

impl Words {
    /// The word at `index`.
    pub(crate) fn get(&self, index: usize) -> u64 {
        match self {
            Words::Few(few) => few
                .iter()
                .find(|(at, _)| usize::from(*at) == index)
                .map_or(0, |(_, word)| *word),
            Words::All(all) => all[index],
        }
    }

    /// Sets the word at `index`.
    pub(crate) fn set(&mut self, index: usize, word: u64) {
        match self {
            Words::All(all) => all[index] = word,
            Words::Few(few) => match few.binary_search_by_key(&index, |(at, _)| usize::from(*at)) {
                Ok(found) if word == 0 => {
                    few.remove(found);
                }
                Ok(found) => few[found].1 = word,
                Err(_) if word == 0 => {}
                Err(place) if few.len() < FEW => few.insert(place, (index as u16, word)),
                Err(_) => {
                    let mut all = Box::new([0; WORDS]);
                    for &(at, old) in few.iter() {
                        all[usize::from(at)] = old;
                    }
                    all[index] = word;
                    *self = Words::All(all);
                }
            },
        }
    }

    /// The first word that is not zero, at `from` or after it, with its index.
    pub(crate) fn next_set(&self, from: usize) -> Option<(usize, u64)> {
        match self {
            Words::Few(few) => few
                .iter()
                .map(|&(at, word)| (usize::from(at), word))
                .find(|&(at, _)| at >= from),
            Words::All(all) => (from..WORDS)
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
        let mut words = Words::default();
        for index in (0..WORDS).rev().step_by(7) {
            words.set(index, index as u64 + 1);
        }
        assert!(matches!(words, Words::All(_)));
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
    fn zeros_are_skipped() {
        let mut words = Words::default();
        words.set(3, 1);
        words.set(500, 2);
        words.set(3, 0);
        assert_eq!(words.next_set(0), Some((500, 2)));
        assert_eq!(words.next_set(501), None);
        assert_eq!(words.get(3), 0);
    }
}
