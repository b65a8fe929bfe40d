//! Conversions that end the VMM, since KVM refuses the hole that it punches for them.

use tdxlab_protocol::addr::PageLevel;
use tdxlab_protocol::message::Side;

use crate::design::Design;
use crate::op::Op;
use crate::range_set::RangeSet;

/// What is shared in a guest, where holes are coarse. The default allows every conversion.
///
/// The VMM punches a hole for each conversion to shared. Where KVM takes holes of whole 2M only,
/// converting less ends the VMM: `ram_block_discard_guest_memfd_range()` of QEMU fails with EINVAL.
#[derive(Clone, Debug, Default)]
pub struct ConversionHoles {
    /// Alignment of holes; `None` where every conversion is possible.
    alignment: Option<PageLevel>,
    shared: RangeSet,
}

impl ConversionHoles {
    /// Of a guest whose memory is private, under `design`.
    pub fn of(design: &Design) -> ConversionHoles {
        let coarse = !design.in_place() && design.hole_alignment != PageLevel::Size4K;
        ConversionHoles {
            alignment: coarse.then_some(design.hole_alignment),
            shared: RangeSet::default(),
        }
    }

    /// Whether the VMM lives on when `op` is done next. Takes it for done if so.
    pub fn allow(&mut self, op: &Op) -> bool {
        let Some(alignment) = self.alignment else {
            return true;
        };
        match *op {
            Op::Convert {
                range,
                to: Side::Shared,
                ..
            } => {
                let whole =
                    range.start().is_aligned(alignment) && range.end().is_aligned(alignment);
                if whole {
                    self.shared.insert(range);
                }
                whole
            }
            // Each page that is private still is converted by itself.
            Op::Touch {
                range,
                side: Side::Shared,
                ..
            }
            | Op::Fill {
                range,
                side: Side::Shared,
                ..
            }
            | Op::Verify {
                range,
                side: Side::Shared,
                ..
            } => self.shared.covers(range),
            Op::Convert { range, .. }
            | Op::Accept { range, .. }
            | Op::Touch { range, .. }
            | Op::Fill { range, .. }
            | Op::Verify { range, .. } => {
                self.shared.remove(range);
                true
            }
            _ => true,
        }
    }
}
