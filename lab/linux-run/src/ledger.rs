//! Keeps what the host's witnesses have shown, and predicts what a step does to leaves.

use std::ops::RangeInclusive;

use tdxlab_journal::Reading;
use tdxlab_linux::LinuxGuest;
use tdxlab_linux::image::ReportDriver;
use tdxlab_plan::Side;
use tdxlab_plan::addr::{Gpa, GpaRange};
use tdxlab_plan::linux::{BufferId, LinuxOp, Pages};

use crate::host::{HostWitnesses, Sample};
use crate::leaves::{Blocks, Change, blocks_of, gone};

/// What a step must do to the leaves of a TD.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Prediction {
    /// Linux decides; laws hold.
    Free,
    /// These ranges go to another side, and their blocks are not known before.
    Converts(Vec<GpaRange>, Side),
    /// Linux takes this much memory in one piece, wherever it likes, and shares it.
    Piece(RangeInclusive<u64>),
    /// All is known.
    Exact(Vec<GpaRange>, Side, Box<Change>),
}

/// Witnesses, the last sample, and the blocks that are known.
pub(crate) struct Ledger {
    witnesses: Option<HostWitnesses>,
    td: bool,
    blocks: Blocks,
    last: Option<Sample>,
    /// Buffers of the kernel's own pages.
    of_kernel: Vec<BufferId>,
    /// The driver for TDREPORTs and quotes, and whether it was loaded since the boot.
    reports: (ReportDriver, bool),
    /// The piece that Linux shares for quotes.
    quotes: QuotePiece,
}

/// What is known of the piece that Linux shares for quotes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum QuotePiece {
    Unknown,
    /// The step under way takes it.
    Now,
    Here(Gpa),
}

/// The buffer that Linux shares with the VMM for quotes. Source: `GET_QUOTE_BUF_SIZE` in
/// drivers/virt/coco/tdx-guest/tdx-guest.c, 8K and later 128K.
const QUOTE_BUFFER: RangeInclusive<u64> = 8 << 10..=128 << 10;

impl Ledger {
    /// Before QEMU starts. `kvm`: whether there is a KVM to look at.
    pub(crate) fn open(kvm: bool, td: bool, reports: ReportDriver) -> Ledger {
        Ledger {
            witnesses: kvm.then(HostWitnesses::open),
            td,
            blocks: Blocks::default(),
            last: None,
            of_kernel: Vec::new(),
            reports: (reports, false),
            quotes: QuotePiece::Unknown,
        }
    }

    /// What a step must do. `places` gives the GPAs of pages of a buffer.
    pub(crate) fn predict(
        &mut self,
        op: &LinuxOp,
        places: &dyn Fn(BufferId, Option<(u32, u32)>) -> Vec<GpaRange>,
    ) -> Prediction {
        if !self.td {
            return Prediction::Free;
        }
        match *op {
            LinuxOp::Convert {
                buffer,
                first,
                count,
                to,
            } => {
                let ranges = places(buffer, Some((first, count)));
                self.learn(&ranges);
                self.converts(ranges, to)
            }
            // The module converts back what is still shared.
            LinuxOp::Free { buffer } if self.of_kernel.contains(&buffer) => {
                let all = places(buffer, None);
                let shared = all.iter().flat_map(|range| self.blocks.shared(*range));
                let prediction = self.converts(shared.collect(), Side::Private);
                for range in all {
                    self.blocks.forget(range);
                }
                self.of_kernel.retain(|known| *known != buffer);
                prediction
            }
            LinuxOp::Boot | LinuxOp::Kexec => {
                self.blocks.clear();
                self.of_kernel.clear();
                self.reports.1 = false;
                self.quotes = QuotePiece::Unknown;
                Prediction::Free
            }
            LinuxOp::Report { .. } | LinuxOp::Quote { .. } => match &mut self.reports {
                (ReportDriver::WithRequest, loaded @ false) => {
                    *loaded = true;
                    self.quotes = QuotePiece::Now;
                    Prediction::Piece(QUOTE_BUFFER)
                }
                // The buffer is there.
                _ => self.converts(Vec::new(), Side::Shared),
            },
            LinuxOp::Fill {
                buffer,
                pages: Pages::Kernel,
                ..
            } => {
                self.of_kernel.push(buffer);
                Prediction::Free
            }
            _ => Prediction::Free,
        }
    }

    fn learn(&mut self, ranges: &[GpaRange]) {
        let sept = self.last.as_ref().map(|sample| &sample.sept);
        if let Some(Reading::Read(sept)) = sept {
            for range in ranges {
                self.blocks.learn(sept, *range);
            }
        }
    }

    fn converts(&mut self, ranges: Vec<GpaRange>, to: Side) -> Prediction {
        let sept = self.last.as_ref().and_then(|sample| sample.sept.value());
        if sept.is_none() {
            return Prediction::Converts(ranges, to);
        }
        let mut change = Box::new(Change::default());
        for range in &ranges {
            if self.blocks.convert(*range, to, &mut change).is_none() {
                return Prediction::Converts(ranges, to);
            }
        }
        Prediction::Exact(ranges, to, change)
    }

    /// Reads the witnesses after a step: what they showed before, and now.
    pub(crate) fn sample(&mut self, guest: &mut LinuxGuest) -> Option<(Option<Sample>, Sample)> {
        let now = self.witnesses.as_mut()?.sample(guest);
        let before = self.last.replace(now.clone());
        if self.quotes == QuotePiece::Now {
            let then = before.as_ref().and_then(|sample| sample.sept.value());
            let pieces = then
                .zip(now.sept.value())
                .map(|(then, now)| gone(then, now));
            self.quotes = match pieces.as_deref() {
                Some([piece]) => QuotePiece::Here(piece.start()),
                _ => QuotePiece::Unknown,
            };
        }
        Some((before, now))
    }

    /// Where Linux has put the buffer for quotes, or why that is not known.
    pub(crate) fn quote_buffer(&self) -> Result<Gpa, String> {
        match self.quotes {
            QuotePiece::Here(at) => Ok(at),
            QuotePiece::Unknown | QuotePiece::Now => {
                Err("Linux does not say where its buffer is, and no S-EPT shows it".to_owned())
            }
        }
    }

    /// After QEMU's end: how many VMs are left, and complaints of the host's kernel.
    pub(crate) fn end(&mut self) -> Option<(Reading<u64>, Reading<Vec<String>>)> {
        Some(self.witnesses.as_mut()?.end())
    }

    /// Complaints of the host's kernel since the last look, where a guest did not get on.
    pub(crate) fn complaints(&mut self) -> Option<Reading<Vec<String>>> {
        Some(self.witnesses.as_mut()?.complaints())
    }
}

impl Prediction {
    /// In words, each with the way it is judged.
    pub(crate) fn text(&self) -> Vec<String> {
        let laws = "must hold: KVM's leaves are those of the S-EPT; each leaf is split at most once, \
                    with one event, and only for a conversion or a smaller ACCEPT";
        let mut lines = match self {
            Prediction::Free => Vec::new(),
            Prediction::Converts(ranges, _) => {
                let blocks: usize = ranges.iter().map(|range| blocks_of(*range).count()).sum();
                vec![format!(
                    "must hold: splits of some of the {blocks} leaves under it, and of no other"
                )]
            }
            Prediction::Piece(bytes) => vec![format!(
                "must hold: Linux shares one piece of {} to {} KiB, naturally aligned, as a conversion of \
                 it does exactly",
                bytes.start() >> 10,
                bytes.end() >> 10
            )],
            Prediction::Exact(_, _, change) => {
                let mut lines = vec![format!("exactly: {}", change.work.text())];
                for (at, block) in change.blocks.iter().take(4) {
                    let how = if change.splits.contains(at) {
                        ", split now"
                    } else {
                        ""
                    };
                    lines.push(format!("exactly: {} under {at}{how}", block.text()));
                }
                lines.push(format!(
                    "exactly: pages_2m {:+}, private pages_4k {:+}",
                    change.leaves_2m, change.leaves_4k
                ));
                lines
            }
        };
        lines.push(laws.to_owned());
        lines
    }
}
