//! Stages in the wrong order, forgotten, or given up half way.

use tdxlab_protocol::addr::{GpaRange, Side};
use tdxlab_protocol::tdcall::vmcall;
use tdxlab_softkvm::policy::{AcceptStage, ConversionStage, HoleStage};

use super::faults;

faults! {
    "hole-split-after-zap": "the split of a hole comes after the zap, which took the leaf already"
    ("RFC v5 patch 43 on a base where invalidate-start zaps", rows 11, under "headtail",
     seen by Splits Content Debugfs)
    HoleSplitLate {} {
        fn hole_stages(&mut self) -> &'static [HoleStage] {
            use HoleStage::{InvalidateBegin, InvalidateEnd, Split, Truncate, Zap};
            &[InvalidateBegin, Zap, Split, Truncate, InvalidateEnd]
        }
    }

    "conversion-split-after-zap": "the split of a conversion comes after the zap"
    ("RFC v5 patch 43", rows 11, under "v5", seen by Splits Content Debugfs)
    ConversionSplitLate {} {
        fn conversion_stages(&mut self) -> &'static [ConversionStage] {
            use ConversionStage::{SetAttributes, Split, Zap};
            &[Zap, Split, SetAttributes]
        }
    }

    "hole-without-zap": "a hole frees the pages but leaves them mapped"
    ("backend freed while the S-EPT maps it, v3 review", rows 14, under "headtail",
     seen by Debugfs Exits)
    HoleWithoutZap {} {
        fn hole_stages(&mut self) -> &'static [HoleStage] {
            use HoleStage::{InvalidateBegin, InvalidateEnd, Split, Truncate};
            &[InvalidateBegin, Split, Truncate, InvalidateEnd]
        }
    }

    "hole-without-truncate": "a hole unmaps the pages but keeps them"
    ("kvm_gmem_punch_hole() without truncate_inode_pages_range()", under "headtail",
     seen by Populated)
    HoleWithoutTruncate {} {
        fn hole_stages(&mut self) -> &'static [HoleStage] {
            use HoleStage::{InvalidateBegin, InvalidateEnd, Split, Zap};
            &[InvalidateBegin, Split, Zap, InvalidateEnd]
        }
    }

    "conversion-without-zap": "a conversion sets the attribute and leaves private pages mapped"
    ("v3 attribute path: an error read as success skips the zap", rows 12, under "v5",
     seen by Debugfs)
    ConversionWithoutZap {} {
        fn conversion_stages(&mut self) -> &'static [ConversionStage] {
            &[ConversionStage::Split, ConversionStage::SetAttributes]
        }
    }

    "attributes-not-set": "a conversion zaps but forgets the attribute"
    ("conversion given up half way, v3 patch 15", under "v5", seen by Debugfs Status)
    AttributesNotSet {} {
        fn conversion_stages(&mut self) -> &'static [ConversionStage] {
            &[ConversionStage::Split, ConversionStage::Zap]
        }
    }

    "shared-attribute-sticks": "a conversion back to private leaves the shared attribute"
    ("conversion given up half way, v3 patch 15", under "v5", seen by Debugfs Status)
    AttributeSticks {} {
        fn attribute_range(&mut self, to: Side, range: GpaRange) -> GpaRange {
            match to {
                Side::Shared => range,
                Side::Private => GpaRange::default(),
            }
        }
    }

    "conversion-fails-after-zap": "a conversion fails after the zap: the memory is gone, the attribute as it was"
    ("error after the point of no return, v3 review", rows 13, under "v3", seen by MapGpa)
    ConversionFailsAfterZap { zapped: bool } {
        fn conversion_stages(&mut self) -> &'static [ConversionStage] {
            self.zapped = true;
            &[ConversionStage::Split, ConversionStage::Zap]
        }
        fn map_gpa_status(&mut self, status: u64) -> u64 {
            if std::mem::take(&mut self.zapped) { vmcall::INVALID_OPERAND } else { status }
        }
    }

    "conversion-unnoticed-by-a-fault": "a fault maps the private page it looked up before the page became shared"
    ("guest converted between exit and handling, v3 review", rows 25, under "v5", seen by Debugfs)
    ConversionUnnoticed {} {
        fn conversion_invalidates(&mut self) -> bool {
            false
        }
    }

    "inhibit-without-split": "an ACCEPT below the leaf sets the inhibit bit and splits nothing"
    ("inhibit bit set before the split, RFC v5 review", rows 20, under "v5", seen by Td Exits)
    InhibitWithoutSplit {} {
        fn accept_stages(&mut self) -> &'static [AcceptStage] {
            &[AcceptStage::Inhibit]
        }
    }
}
