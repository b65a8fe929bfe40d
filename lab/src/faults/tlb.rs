//! Translations used after they are gone.

use super::faults;
use crate::host::softkvm::policy::{Kick, Why};

faults! {
    "zap-without-flush": "a zap leaves old translations in the TLBs of vCPUs"
    ("missed flush", under "headtail", seen by Access Exits)
    ZapWithoutFlush {} {
        fn kick(&mut self, why: Why) -> Kick {
            if why == Why::Zap { Kick::Pretend } else { Kick::Flush }
        }
    }

    "split-without-flush": "a split and the zaps that follow it leave the old huge translation"
    ("missed flush", under "headtail", seen by Access Exits)
    SplitWithoutFlush { split: bool } {
        fn kick(&mut self, why: Why) -> Kick {
            if why == Why::RangeSplit {
                self.split = true;
            }
            if self.split { Kick::Pretend } else { Kick::Flush }
        }
    }

    "shared-zap-without-flush": "a conversion to private leaves shared translations in TLBs"
    ("missed flush", under "v5", seen by Debugfs)
    SharedZapWithoutFlush {} {
        fn kick(&mut self, why: Why) -> Kick {
            if why == Why::SharedZap { Kick::Pretend } else { Kick::Flush }
        }
    }
}
