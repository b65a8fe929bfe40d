//! Values of drawn variables that the seed did not draw. A file is right if it is right whatever is drawn,
//! so when it is checked, each value of a list and both ends of a range are put in the place of what the
//! seed draws, one after the other.

use std::collections::BTreeMap;

/// A value to take for a drawn variable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Pick {
    /// Where the variable is defined: the first byte.
    place: usize,
    /// Which of its values: of a range 0 for the first, 1 for the last.
    which: usize,
}

/// The drawn variables of a file.
#[derive(Debug, Default)]
pub(super) struct Picks {
    now: Option<Pick>,
    /// How many values are to be tried, by the place of the definition.
    met: BTreeMap<usize, usize>,
}

impl Picks {
    /// Notes a variable with its number of values; whether it is met for the first time.
    pub(super) fn meet(&mut self, place: usize, values: usize) -> bool {
        self.met.insert(place, values).is_none()
    }

    /// Which value to take for the variable that is defined at `place`, if not what is drawn.
    pub(super) fn wanted(&self, place: usize) -> Option<usize> {
        let pick = self.now.filter(|pick| pick.place == place)?;
        Some(pick.which)
    }

    /// Takes this value from now on, or what is drawn.
    pub(super) fn take(&mut self, pick: Option<Pick>) {
        self.now = pick;
    }

    /// Every value of every variable that was met.
    pub(super) fn all(&self) -> Vec<Pick> {
        let values =
            |(&place, &many): (&usize, &usize)| (0..many).map(move |which| Pick { place, which });
        self.met.iter().flat_map(values).collect()
    }
}
