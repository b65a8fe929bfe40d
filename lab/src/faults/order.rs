//! Stages in the wrong order, forgotten, or given up half way.

use super::faults;
use crate::addr::GpaRange;
use crate::host::softkvm::policy::{AcceptStage, ConversionStage, HoleStage};

faults! {
    "hole-split-after-zap": "the split of a hole comes after the zap, which took the leaf already"
    ("RFC v5 patch 43 on a base where invalidate-start zaps", under "headtail",
     seen by Splits Content Debugfs)
    HoleSplitLate {} {
        fn hole_stages(&mut self) -> &'static [HoleStage] {
            use HoleStage::{InvalidateBegin, InvalidateEnd, Split, Truncate, Zap};
            &[InvalidateBegin, Zap, Split, Truncate, InvalidateEnd]
        }
    }

    "conversion-split-after-zap": "the split of a conversion comes after the zap"
    ("RFC v5 patch 43", under "v5", seen by Splits Content Debugfs)
    ConversionSplitLate {} {
        fn conversion_stages(&mut self) -> &'static [ConversionStage] {
            use ConversionStage::{SetAttributes, Split, Zap};
            &[Zap, Split, SetAttributes]
        }
    }

    "hole-without-zap": "a hole frees the pages but leaves them mapped"
    ("backend freed while the S-EPT maps it, v3 review", under "headtail",
     seen by Debugfs Exits)
    HoleWithoutZap {} {
        fn hole_stages(&mut self) -> &'static [HoleStage] {
            use HoleStage::{InvalidateBegin, InvalidateEnd, Split, Truncate};
            &[InvalidateBegin, Split, Truncate, InvalidateEnd]
        }
    }

    "hole-without-truncate": "a hole unmaps the pages but keeps them"
    ("guest_memfd keeps memory it was told to give back", under "headtail", seen by Populated)
    HoleWithoutTruncate {} {
        fn hole_stages(&mut self) -> &'static [HoleStage] {
            use HoleStage::{InvalidateBegin, InvalidateEnd, Split, Zap};
            &[InvalidateBegin, Split, Zap, InvalidateEnd]
        }
    }

    "conversion-without-zap": "a conversion sets the attribute and leaves private pages mapped"
    ("v3 attribute path: an error read as success skips the zap", under "v5",
     seen by Debugfs)
    ConversionWithoutZap {} {
        fn conversion_stages(&mut self) -> &'static [ConversionStage] {
            &[ConversionStage::Split, ConversionStage::SetAttributes]
        }
    }

    "attributes-not-set": "a conversion zaps but forgets the attribute"
    ("conversion given up half way", under "v5", seen by Debugfs Status)
    AttributesNotSet {} {
        fn conversion_stages(&mut self) -> &'static [ConversionStage] {
            &[ConversionStage::Split, ConversionStage::Zap]
        }
    }

    "shared-attribute-sticks": "a conversion back to private leaves the shared attribute"
    ("conversion given up half way", under "v5", seen by Debugfs Status)
    AttributeSticks { conversions: u64 } {
        fn conversion_stages(&mut self) -> &'static [ConversionStage] {
            self.conversions += 1;
            &[ConversionStage::Split, ConversionStage::Zap, ConversionStage::SetAttributes]
        }
        fn attribute_range(&mut self, range: GpaRange) -> GpaRange {
            // Called once for each conversion to shared, and then again for the way back.
            if self.conversions > 0 {
                self.conversions -= 1;
                range
            } else {
                GpaRange::default()
            }
        }
    }

    "inhibit-without-split": "an ACCEPT below the leaf sets the inhibit bit and splits nothing"
    ("inhibit bit set before the split, RFC v5 review", under "v5", seen by Td Exits)
    InhibitWithoutSplit {} {
        fn accept_stages(&mut self) -> &'static [AcceptStage] {
            &[AcceptStage::Inhibit]
        }
    }
}
