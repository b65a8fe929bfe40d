//! Use of stale translations.

use tdxlab_softkvm::policy::{Kick, Why};

use super::faults;

faults! {
    "zap-without-flush": "a zap leaves old translations in the TLBs of vCPUs"
    ("kick after TRACK, tdx_sept_remove_private_spte()", rows 44, under "headtail",
     seen by Access Exits)
    ZapWithoutFlush {} {
        fn kick(&mut self, why: Why) -> Kick {
            if why == Why::Zap { Kick::Pretend } else { Kick::Flush }
        }
    }

    "split-without-flush": "a split and the zaps that follow it leave the old huge translation"
    ("kick after TRACK, tdx_sept_split_private_spte() of v3 patch 8", rows 44, under "headtail",
     seen by Access Exits)
    SplitWithoutFlush { split: bool } {
        fn kick(&mut self, why: Why) -> Kick {
            if why == Why::RangeSplit {
                self.split = true;
            }
            if self.split { Kick::Pretend } else { Kick::Flush }
        }
    }

    "shared-zap-without-flush": "a conversion to private leaves shared translations in TLBs"
    ("kvm_flush_remote_tlbs() after a shared zap", under "v5", seen by Debugfs)
    SharedZapWithoutFlush {} {
        fn kick(&mut self, why: Why) -> Kick {
            if why == Why::SharedZap { Kick::Pretend } else { Kick::Flush }
        }
    }

    "release-without-flush": "a page that the guest gave back can still be reached through TLBs"
    ("TDG.MEM.PAGE.RELEASE makes the page pending", under "headtail", seen by Access)
    ReleaseWithoutFlush {} {
        fn release_flushes(&mut self) -> bool {
            false
        }
    }
}
