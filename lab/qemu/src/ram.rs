//! The guest's memory, and the options that make it.

use std::os::fd::RawFd;

use tdxlab_protocol::addr::PageLevel;

/// The guest's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ram {
    /// Its size in MiB.
    pub mebibytes: u64,
    /// Its backing.
    pub backing: RamBacking,
}

/// Backing of guest memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RamBacking {
    /// A shared memfd of ordinary pages, which the lab can take with `pidfd_getfd`.
    Memfd,
    /// Two files and two memory slots: ordinary pages for the guest itself, then test memory with
    /// its own page size.
    Parted {
        /// Size of the first.
        own_mebibytes: u64,
        /// Pages of the test memory.
        test: TestPages,
    },
}

/// Pages of test memory in a separate slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TestPages {
    /// A memfd of 4K pages, whatever the machine's setting of transparent huge pages.
    Small,
    /// An inherited file of the right size. It is mapped at a multiple of 2M, without which
    /// transparent huge pages are never mapped as such; a `memory-backend-memfd` has no such
    /// property.
    Transparent(RawFd),
    /// A memfd of pages of this size from the hugetlb pool.
    Hugetlb(PageLevel),
}

/// Name of the only memory, which is also that of QEMU's block.
pub const RAM_ID: &str = "ram";

impl Ram {
    /// Options and their values.
    pub(super) fn arguments(&self) -> Vec<(&'static str, String)> {
        let all = self.mebibytes;
        match self.backing {
            RamBacking::Memfd => vec![("-object", memfd(RAM_ID, all))],
            RamBacking::Parted {
                own_mebibytes,
                test,
            } => vec![
                ("-object", memfd("own", own_mebibytes)),
                ("-object", test.object(all.saturating_sub(own_mebibytes))),
                ("-numa", "node,memdev=own".to_owned()),
                ("-numa", "node,memdev=test".to_owned()),
            ],
        }
    }

    /// Whether it is a single backend, which the machine option must name.
    pub(super) fn is_whole(&self) -> bool {
        self.backing == RamBacking::Memfd
    }

    /// Whether QEMU must not get transparent huge pages, not even where it asks for them, as it
    /// does for all memory.
    pub(super) fn only_small_pages(&self) -> bool {
        matches!(
            self.backing,
            RamBacking::Parted {
                test: TestPages::Small,
                ..
            }
        )
    }
}

impl TestPages {
    fn object(self, mebibytes: u64) -> String {
        match self {
            TestPages::Small => memfd("test", mebibytes),
            TestPages::Transparent(fd) => format!(
                "memory-backend-file,id=test,size={mebibytes}M,mem-path=/proc/self/fd/{fd},\
                 align=2M,share=on"
            ),
            // Pages are taken from the pool when they are touched, but promised at once: a QEMU
            // that gets none does not start, where else the guest's first touch would be its end.
            TestPages::Hugetlb(page) => format!(
                "{},hugetlb=on,hugetlbsize={page},reserve=on",
                memfd("test", mebibytes)
            ),
        }
    }
}

fn memfd(id: &str, mebibytes: u64) -> String {
    format!("memory-backend-memfd,id={id},size={mebibytes}M,share=on")
}
