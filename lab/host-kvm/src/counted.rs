//! What a real KVM has counted of a VM since it was made: VM exits and TLB flushes.
//!
//! Source: `kvm_vm_stats_desc` and `kvm_vcpu_stats_desc` in arch/x86/kvm/x86.c. debugfs has the sum
//! over all vCPUs of those that each vCPU has of its own.

use tdxlab_journal::Cost;
use tdxlab_kernel::debugfs::VmFolder;

/// VM exits of all vCPUs, interrupts of the host among them.
const EXITS: &str = "exits";
/// Flushes of all vCPUs' translations. A TD's private memory is not among them: KVM has the module
/// raise the epoch there (`tdx_track()`).
const FLUSHES: &str = "remote_tlb_flush";

/// The counts at one time; `None` for one that cannot be read.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counted {
    exits: Option<u64>,
    kicks: Option<u64>,
}

impl Counted {
    /// Those of a plain VM.
    pub(crate) fn of_plain(folder: &Result<VmFolder, String>) -> Counted {
        Counted {
            exits: number(folder, EXITS),
            kicks: number(folder, FLUSHES),
        }
    }

    /// Those of a TD, whose TRACKs are counted elsewhere.
    pub(crate) fn of_td(folder: &Result<VmFolder, String>, tracks: Option<u64>) -> Counted {
        Counted {
            exits: number(folder, EXITS),
            kicks: tracks,
        }
    }

    /// What was added since `before`. A count that went down is none.
    pub(crate) fn since(self, before: Counted) -> Cost {
        let grown = |after: Option<u64>, before: Option<u64>| after?.checked_sub(before?);
        Cost {
            exits: grown(self.exits, before.exits),
            kicks: grown(self.kicks, before.kicks),
            ..Cost::default()
        }
    }
}

fn number(folder: &Result<VmFolder, String>, name: &str) -> Option<u64> {
    folder.as_ref().ok()?.number(name).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_those_of_the_time_between() {
        let place = tempfile::tempdir().unwrap();
        let folder = VmFolder::new(place.path(), 7, 12);
        std::fs::create_dir_all(folder.path()).unwrap();
        let write = |name: &str, text: &str| {
            std::fs::write(folder.path().join(name), text).unwrap();
        };
        write(EXITS, "100\n");
        let folder_read = Ok(folder.clone());
        let before = Counted::of_plain(&folder_read);
        write(EXITS, "142\n");
        write(FLUSHES, "3\n");
        let after = Counted::of_plain(&folder_read);
        let cost = after.since(before);
        // What could not be read before has not grown from 0.
        assert_eq!((cost.exits, cost.kicks), (Some(42), None));
        assert_eq!(before.since(after).exits, None);
        assert!(
            Counted::of_td(&Err("gone".into()), None)
                .since(before)
                .is_unseen()
        );
        let tracked =
            Counted::of_td(&folder_read, Some(9)).since(Counted::of_td(&folder_read, Some(4)));
        assert_eq!((tracked.exits, tracked.kicks), (Some(0), Some(5)));
    }
}
