//! Holes that were punched behind this library's back: found by what is populated.

use crate::kvm;
use crate::sept::{PAGE, REGION};
use crate::tdcall::ask_for_flush;
use crate::vm::Vm;

/// Makes a page FREE that somebody has punched.
pub(crate) fn forget_if_gone(vm: &mut Vm, gpa: u64) {
    let Some((gmem, offset)) = vm.gmem(gpa) else {
        return;
    };
    if vm.sept.state(gpa).is_some() && kvm::populated(gmem, offset, PAGE) == Ok(0) {
        vm.sept.free(gpa);
        if vm.hide_private(gpa) {
            ask_for_flush(vm);
        }
    }
}

/// Makes all pages FREE that somebody has punched. The guest's own memory cannot be punched: it is
/// shared here.
pub(crate) fn look_for_holes(vm: &mut Vm) {
    let mut hidden = false;
    for region in vm.sept.regions() {
        if region < POOL_END {
            continue;
        }
        let Some((gmem, offset)) = vm.gmem(region) else {
            continue;
        };
        let mut gone = Vec::new();
        holes(
            &|at, bytes| kvm::populated(gmem, offset + at, bytes).ok(),
            0,
            REGION,
            &mut gone,
        );
        for (start, end) in gone {
            for gpa in vm.sept.pages(region + start, region + end) {
                vm.sept.free(gpa);
                hidden |= vm.hide_private(gpa);
            }
        }
    }
    if hidden {
        ask_for_flush(vm);
    }
}

/// End of what this library keeps shared at the bottom of memory.
const POOL_END: u64 = crate::windows::POOL_START + crate::windows::POOL_BYTES;

/// Lists the unpopulated parts of `bytes` bytes from `at`, by halving.
fn holes(
    populated: &impl Fn(u64, u64) -> Option<u64>,
    at: u64,
    bytes: u64,
    found: &mut Vec<(u64, u64)>,
) {
    match populated(at, bytes) {
        Some(0) => found.push((at, at + bytes)),
        Some(pages) if pages * PAGE < bytes => {
            let half = bytes / 2;
            holes(populated, at, half, found);
            holes(populated, at + half, half, found);
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holes_are_found_by_halving() {
        let gone = [3_u64, 4, 5, 511];
        let populated = |at: u64, bytes: u64| {
            let pages = at / PAGE..(at + bytes) / PAGE;
            Some(pages.filter(|page| !gone.contains(page)).count() as u64)
        };
        let mut found = Vec::new();
        holes(&populated, 0, REGION, &mut found);
        let pages: Vec<u64> = found
            .iter()
            .flat_map(|&(start, end)| start / PAGE..end / PAGE)
            .collect();
        assert_eq!(pages, gone);
    }

    #[test]
    fn memory_that_cannot_be_asked_about_has_no_holes() {
        let mut found = Vec::new();
        holes(&|_, _| None, 0, REGION, &mut found);
        assert!(found.is_empty());
    }
}
