//! Random conversions of a buffer: single pages, parts, whole leaves, there and back.

use rand_chacha::ChaCha8Rng;
use tdxlab_plan::Side;

use crate::variant::below;

/// Pages of a 2M leaf.
const LEAF: usize = 512;

/// One conversion: first page, number of pages, and where they go.
pub(super) type Conversion = (u32, u32, Side);

/// Draws a conversion that `shared`, the side of each page, allows, and updates it. All pages of a
/// conversion are on the other side before: Linux refuses to accept what is accepted.
pub(super) fn draw(random: &mut ChaCha8Rng, shared: &mut [bool]) -> Conversion {
    let mut number = |end: usize| below(random, end as u64) as usize;
    let leaves = shared.len() / LEAF;
    // Leaves as a whole are rare among random ranges, and are what KVM must not split.
    let (first, count) = match leaves > 0 && number(10) < 6 {
        true => {
            let leaf = number(leaves) * LEAF;
            let pages = &shared[leaf..leaf + LEAF];
            match pages.iter().position(|page| *page != pages[0]) {
                None => (leaf, LEAF),
                // One side of it goes to the other, run by run, until the leaf is whole again.
                Some(_) => {
                    let first = pages.iter().position(|&page| page).unwrap_or_default();
                    let run = pages[first..].iter().take_while(|&&page| page);
                    (leaf + first, run.count())
                }
            }
        }
        false => {
            let first = number(shared.len());
            let side = shared[first];
            let run = shared[first..].iter().take_while(|&&page| page == side);
            let run = run.count();
            let count = match number(3) {
                0 => 1,
                1 => 1 + number(run),
                _ => run.min(LEAF),
            };
            (first, count)
        }
    };
    let side = shared[first];
    shared[first..first + count].fill(!side);
    let to = match side {
        true => Side::Private,
        false => Side::Shared,
    };
    (first as u32, count as u32, to)
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;

    #[test]
    fn a_walk_takes_leaves_as_a_whole_and_in_part_and_always_changes_sides() {
        let mut random = ChaCha8Rng::seed_from_u64(1);
        let mut shared = vec![false; 1024];
        let (mut whole, mut single, mut back) = (0, 0, 0);
        for _ in 0..200 {
            let before = shared.clone();
            let (first, count, to) = draw(&mut random, &mut shared);
            let range = first as usize..(first + count) as usize;
            let side = to == Side::Shared;
            assert!(before[range.clone()].iter().all(|page| *page != side));
            assert!(shared[range].iter().all(|page| *page == side));
            whole += u32::from(count >= 512);
            single += u32::from(count == 1);
            back += u32::from(!side);
        }
        assert!(
            whole > 8 && single > 20 && back > 50,
            "{whole} {single} {back}"
        );
    }
}
