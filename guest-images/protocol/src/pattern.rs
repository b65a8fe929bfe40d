//! The words with which a guest fills memory.
//!
//! Every 8-byte word names the address and the generation it was written for, so a misplaced word
//! shows where it belongs.
//!
//! ```text
//! bits 63:49  generation, 1..=32767 (0 never occurs, so no pattern word is zero)
//! bits 48:9   4K frame number of the address it was written to
//! bits 8:0    index of the word in its page
//! ```

pub use crate::generation::{Generation, OutOfRange};

use crate::addr::Gpa;
use crate::message::{Content, MAX_BAD_WORDS};

/// Words in a 4K page.
pub const WORDS: usize = 512;

/// The word at index `index` (taken modulo 512) of page `page`, written by `generation`.
pub const fn word(page: Gpa, index: usize, generation: Generation) -> u64 {
    ((generation.get() as u64) << 49)
        | ((page.gfn() & ((1 << 40) - 1)) << 9)
        | (index as u64 & 0x1ff)
}

/// Address and generation of a word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decoded {
    /// The fill that wrote it.
    pub generation: Generation,
    /// The page it was written to.
    pub page: Gpa,
    /// Its index in that page.
    pub index: usize,
}

/// Reads a word back; `None` where no fill can have written it.
pub const fn decode(word: u64) -> Option<Decoded> {
    match Generation::new((word >> 49) as u16) {
        Some(generation) => Some(Decoded {
            generation,
            page: Gpa::from_gfn((word >> 9) & ((1 << 40) - 1)),
            index: (word & 0x1ff) as usize,
        }),
        None => None,
    }
}

/// Classifies the words found at `page`.
pub fn classify(page: Gpa, words: &[u64; WORDS]) -> Content {
    let mut classifier = Classifier::new(page, words[0]);
    for &word in &words[1..] {
        classifier.push(word);
    }
    classifier.finish()
}

/// Classifies a page, word by word.
pub struct Classifier {
    page: Gpa,
    first: Kind,
    seen: u16,
    like_first: u16,
    /// The first word, then the first ones that are not like it.
    bad: heapless::Vec<(u16, u64), MAX_BAD_WORDS>,
}

impl Classifier {
    /// Starts with the first word of `page`.
    pub fn new(page: Gpa, first: u64) -> Classifier {
        let mut classifier = Classifier {
            page,
            first: Kind::of_first(first),
            seen: 0,
            like_first: 0,
            bad: heapless::Vec::new(),
        };
        classifier.push(first);
        classifier
    }

    /// By how much each word of the page is larger than the one before, if all are like the first.
    pub fn step(&self) -> u64 {
        match self.first {
            Kind::Written(_) => 1,
            Kind::Zero | Kind::Other(_) => 0,
        }
    }

    /// Takes the next word.
    pub fn push(&mut self, word: u64) {
        let same = self.first.matches(usize::from(self.seen), word);
        self.like_first += u16::from(same);
        if self.seen == 0 || !same {
            // Further bad words are only counted.
            let _ = self.bad.push((self.seen, word));
        }
        self.seen += 1;
    }

    /// The result, if all words are known to match the first.
    pub fn whole(mut self) -> Content {
        self.like_first = WORDS as u16;
        self.finish()
    }

    /// The result, after the last word.
    pub fn finish(self) -> Content {
        match self.first {
            _ if usize::from(self.like_first) != WORDS => self.torn(),
            Kind::Zero => Content::Zero,
            Kind::Written(by) if by.page == self.page => Content::Own(by.generation),
            Kind::Written(by) => Content::Foreign {
                generation: by.generation,
                distance: self.page.gfn().wrapping_sub(by.page.gfn()).cast_signed(),
            },
            Kind::Other(_) => self.torn(),
        }
    }

    fn torn(self) -> Content {
        Content::Torn {
            like_first: self.like_first,
            words: self.bad,
        }
    }
}

/// Expectation for all words, from the first.
#[derive(Clone, Copy)]
enum Kind {
    /// All zero.
    Zero,
    /// A page that a fill has written.
    Written(Decoded),
    /// This value everywhere; no fill writes such a page.
    Other(u64),
}

impl Kind {
    fn of_first(word: u64) -> Kind {
        match decode(word) {
            Some(by) if by.index == 0 => Kind::Written(by),
            _ if word == 0 => Kind::Zero,
            _ => Kind::Other(word),
        }
    }

    fn matches(self, index: usize, found: u64) -> bool {
        found
            == match self {
                Kind::Zero => 0,
                Kind::Written(by) => word(by.page, index, by.generation),
                Kind::Other(value) => value,
            }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn generation() -> impl Strategy<Value = Generation> {
        (1..=Generation::MAX.get()).prop_map(|number| Generation::new(number).unwrap())
    }

    /// Any page below 2^52.
    fn page() -> impl Strategy<Value = Gpa> {
        (0_u64..1 << 40).prop_map(Gpa::from_gfn)
    }

    fn written(page: Gpa, generation: Generation) -> [u64; WORDS] {
        core::array::from_fn(|index| word(page, index, generation))
    }

    proptest! {
        #[test]
        fn a_word_names_its_place_and_its_fill(
            page in page(), index in 0..WORDS, generation in generation(),
        ) {
            let word = word(page, index, generation);
            prop_assert_ne!(word, 0);
            prop_assert_eq!(decode(word), Some(Decoded { generation, page, index }));
        }

        #[test]
        fn every_word_that_decodes_encodes_to_itself(value: u64) {
            match decode(value) {
                Some(by) => prop_assert_eq!(word(by.page, by.index, by.generation), value),
                None => prop_assert_eq!(value >> 49, 0),
            }
        }

        #[test]
        fn a_whole_page_is_its_own_or_says_whose_it_is(
            here in page(), there in page(), generation in generation(),
        ) {
            prop_assert_eq!(classify(here, &written(here, generation)), Content::Own(generation));
            prop_assume!(here != there);
            let distance = here.gfn() as i64 - there.gfn() as i64;
            prop_assert_eq!(
                classify(here, &written(there, generation)),
                Content::Foreign { generation, distance }
            );
        }

        #[test]
        fn one_wrong_word_tears_a_page(
            page in page(), generation in generation(), at in 1..WORDS, wrong: u64,
        ) {
            let mut words = written(page, generation);
            prop_assume!(words[at] != wrong);
            words[at] = wrong;
            let torn = Content::Torn {
                like_first: 511,
                words: heapless::Vec::from_slice(&[(0, words[0]), (at as u16, wrong)]).unwrap(),
            };
            prop_assert_eq!(classify(page, &words), torn);
        }

        #[test]
        fn no_page_is_beyond_words(page in page(), words in any::<[[u64; 32]; 16]>()) {
            let words: [u64; WORDS] = core::array::from_fn(|index| words[index / 32][index % 32]);
            classify(page, &words);
        }
    }

    #[test]
    fn a_zero_page_is_zero_and_a_poisoned_one_is_torn_with_no_word_unlike_the_first() {
        let page = Gpa::new(0x1000);
        assert_eq!(classify(page, &[0; WORDS]), Content::Zero);
        assert_eq!(
            classify(page, &[0x5a5a; WORDS]),
            Content::Torn {
                like_first: 512,
                words: heapless::Vec::from_slice(&[(0, 0x5a5a)]).unwrap(),
            }
        );
    }

    #[test]
    fn two_generations_in_one_page_are_torn_and_the_first_bad_words_are_told() {
        let page = Gpa::new(0x7000);
        let [old, new] = [4, 5].map(|number| Generation::new(number).unwrap());
        let mut words = written(page, new);
        words[256..].copy_from_slice(&written(page, old)[256..]);
        let Content::Torn {
            like_first,
            words: bad,
        } = classify(page, &words)
        else {
            panic!("not torn");
        };
        assert_eq!(like_first, 256);
        assert!(bad.iter().map(|bad| bad.0).eq([0, 256, 257, 258]));
    }

    #[test]
    fn zero_and_too_large_numbers_are_no_generations() {
        assert_eq!(Generation::new(0), None);
        assert_eq!(Generation::try_from(0x8000), Err(OutOfRange(0x8000)));
        assert!(postcard::from_bytes::<Generation>(&[0]).is_err());
    }
}
