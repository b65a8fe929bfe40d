//! DEMOTEs that KVM makes for a guest, counted at the return of the kernel's own wrapper of the call: the
//! only witness of them where the TDX module hides what it does, which a real one always does.

use std::collections::BTreeSet;

use tdxlab_journal::Reading;
use tdxlab_kernel::returned::{Returned, Returns};
use tdxlab_kernel::splits::Splits;

/// The wrapper, in arch/x86/virt/vmx/tdx/tdx.c of kernels that split leaves of TDs.
const FUNCTION: &str = "tdh_mem_page_demote";

/// A count of them.
#[derive(Debug)]
pub(crate) struct Demotes {
    returns: Result<Returns, String>,
}

impl Demotes {
    /// Starts to count, for as long as `splits` are watched.
    pub(crate) fn watch<T>(splits: Result<&mut Splits, &mut Reading<T>>) -> Demotes {
        Demotes {
            returns: match splits {
                Ok(splits) => splits.probe_return(FUNCTION),
                Err(Reading::Missing { reason } | Reading::Incomplete { reason, .. }) => {
                    Err(reason.clone())
                }
                Err(Reading::Read(_)) => Err("there is no tracefs instance".to_owned()),
            },
        }
    }

    /// DEMOTEs that succeeded for these threads so far.
    pub(crate) fn read(&self, threads: &BTreeSet<u32>) -> Reading<u64> {
        let counted = self.returns.as_ref().map_err(Clone::clone);
        match counted.and_then(|returns| returns.read()) {
            Ok(all) => Reading::Read(of_threads(&all, threads)),
            Err(reason) => Reading::missing(format!("DEMOTEs are not seen: {reason}")),
        }
    }
}

/// Calls that succeeded: the wrapper returns the SEAMCALL's status.
fn of_threads(all: &[Returned], threads: &BTreeSet<u32>) -> u64 {
    let own = |returned: &&Returned| returned.value == 0 && threads.contains(&returned.thread);
    let own = all.iter().filter(own);
    own.map(|returned| returned.count).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_that_were_refused_and_those_of_others_do_not_count() {
        let row = |thread, value, count| Returned {
            thread,
            value,
            count,
        };
        let busy = 0x8000_0200_0000_0092;
        let all = [row(7, 0, 40), row(7, busy, 3), row(8, 0, 2), row(9, 0, 5)];
        assert_eq!(of_threads(&all, &[7, 8].into()), 42);
        assert_eq!(of_threads(&all, &[].into()), 0);
    }

    #[test]
    fn without_a_probe_nothing_is_seen_and_that_is_no_zero() {
        let mut why = Reading::<u64>::missing("no tracefs there");
        let demotes = Demotes::watch(Err(&mut why));
        let reading = demotes.read(&BTreeSet::new());
        let Reading::Missing { reason } = reading else {
            panic!("{reading:?}");
        };
        assert!(reason.contains("not seen: no tracefs"), "{reason}");
    }
}
