//! `verify`: the ranges the guest reads, and the expected content of every page.

use tdxlab_plan::addr::{GpaRange, Side};
use tdxlab_plan::{Content, Gone, ReadPlan};

use super::access::Access;
use super::pages::{pages_of, range_of};
use super::runs::Pages;
use super::state::State;
use super::tally::Tally;
use crate::unjudgeable::Unjudgeable;

impl State {
    /// Plans the reads of a `verify` and their side effects: touching a missing page maps it.
    pub(super) fn verify(
        &mut self,
        tally: &mut Tally,
        range: GpaRange,
        gone: Gone,
        side: Side,
    ) -> Result<(), Unjudgeable> {
        let pages = pages_of(range);
        match side {
            Side::Private => self.verify_private(tally, pages, gone),
            Side::Shared => self.verify_shared(tally, pages)?,
        }
        if tally.reads.is_empty() {
            return Err(Unjudgeable {
                why: format!("no page of {range} is known to hold anything"),
                advice: "verify memory that was accepted or filled, or touch what is gone with \
                         `gone: ends` or `gone: every`"
                    .to_owned(),
            });
        }
        Ok(())
    }

    /// Accepted pages must hold their fill; the others must raise #VE where they are read at all.
    /// Pages whose attribute is shared are left alone: reading would convert them.
    fn verify_private(&mut self, tally: &mut Tally, pages: Pages, gone: Gone) {
        let mut missing: Vec<Pages> = Vec::new();
        let mut at = pages.start;
        while at < pages.end {
            let view = self.view(at..pages.end);
            let here = at..at + view.pages;
            at = here.end;
            if view.region.uncertain {
                self.verify_uncertain(tally, here, gone);
            } else if view.shared.attribute {
            } else if view.sept.is_accepted() {
                self.read_filled(tally, here);
            } else {
                match missing.last_mut() {
                    Some(last) if last.end == here.start => last.end = here.end,
                    _ => missing.push(here),
                }
            }
        }
        for extent in missing {
            for part in reads_of_gone(extent, gone) {
                tally.reads.push(read(&part, Content::Gone));
                self.read_gone(tally, part);
            }
        }
        tally.reads.sort_by_key(|read| read.range);
    }

    /// Of an uncertain region, steady pages are as sure as any; the others are read where pages that are
    /// gone are.
    fn verify_uncertain(&mut self, tally: &mut Tally, pages: Pages, gone: Gone) {
        if gone != Gone::Skip {
            self.stir(tally, &pages);
            self.reach(&pages);
        }
        for (part, is_steady) in self.steady.stretches(pages) {
            if is_steady {
                self.read_filled(tally, part);
            } else if gone != Gone::Skip {
                tally.reads.push(read(&part, Content::Raced));
            }
        }
    }

    /// Accepted pages, which hold their fill or are zero.
    fn read_filled(&self, tally: &mut Tally, pages: Pages) {
        for (stretch, filled) in self.filled.stretches(pages) {
            let content = filled.map_or(Content::Zero, Content::Filled);
            push_read(&mut tally.reads, &stretch, content);
        }
    }

    fn read_gone(&mut self, tally: &mut Tally, pages: Pages) {
        let mut at = pages.start;
        while at < pages.end && !tally.died {
            let (_, number) = self.access_here(tally, at..pages.end, Access::READ);
            at += number;
        }
    }

    /// Shared pages hold the guest's fill. If user space keeps shared memory elsewhere, unfilled
    /// pages are new and zero; with in-place conversion of private memory their content is unknown.
    fn verify_shared(&mut self, tally: &mut Tally, pages: Pages) -> Result<(), Unjudgeable> {
        let stretches: Vec<_> = self.shared.stretches(pages).collect();
        // After a race even the attribute is in doubt.
        let is_new =
            |stretch: &Pages| !self.design.in_place() && self.uncertain_regions(stretch).is_empty();
        let mut known = stretches.iter().filter(|(_, page)| page.attribute);
        if let Some((stretch, _)) =
            known.find(|(stretch, page)| page.filled.is_none() && !is_new(stretch))
        {
            return Err(Unjudgeable {
                why: format!("{} is shared and was never filled", range_of(stretch)),
                advice:
                    "fill shared memory before verifying it: what a conversion leaves in it is \
                         not defined"
                        .to_owned(),
            });
        }
        for (stretch, page) in stretches {
            match page.filled {
                Some(generation) => {
                    push_read(&mut tally.reads, &stretch, Content::Filled(generation));
                    // A slot that came back maps nothing yet.
                    self.access_shared_here(tally, stretch, page, Some(generation));
                }
                None if page.attribute => {
                    push_read(&mut tally.reads, &stretch, Content::Zero);
                    self.access_shared_here(tally, stretch, page, None);
                }
                None => {}
            }
        }
        Ok(())
    }
}

/// Which pages of an extent that is gone are read.
fn reads_of_gone(extent: Pages, gone: Gone) -> Vec<Pages> {
    let first = extent.start..extent.start + 1;
    let last = extent.end - 1..extent.end;
    match gone {
        Gone::Skip => Vec::new(),
        Gone::Every => vec![extent],
        Gone::Ends if first == last => vec![first],
        Gone::Ends => vec![first, last],
    }
}

fn read(pages: &Pages, content: Content) -> ReadPlan {
    ReadPlan {
        range: range_of(pages),
        content,
    }
}

fn push_read(reads: &mut Vec<ReadPlan>, pages: &Pages, content: Content) {
    let next = read(pages, content);
    match reads.last_mut() {
        Some(last) if last.content == content && last.range.end() == next.range.start() => {
            last.range = GpaRange::new(last.range.start(), next.range.end())
                .expect("the later range follows");
        }
        _ => reads.push(next),
    }
}

#[cfg(test)]
mod tests {
    use tdxlab_plan::addr::{Gpa, PageLevel};
    use tdxlab_plan::{Action, Design, Guest, LOW_BASE, Op, VcpuId};

    use super::*;
    use crate::Predictor;

    /// User space that keeps shared memory elsewhere hands out new pages, which are zero.
    #[test]
    fn shared_memory_of_its_own_starts_as_zero() {
        let memory = GpaRange::with_len(LOW_BASE, 8 << 20).unwrap();
        let half = GpaRange::with_len(Gpa::new(LOW_BASE.as_u64()), 2 << 20).unwrap();
        let design = Design::named("stock").unwrap();
        let mut predictor = Predictor::new(design, &Guest::over(memory));
        let mut step = |op| predictor.step(&Action::One(op)).unwrap();
        step(Op::Convert {
            range: half,
            to: Side::Shared,
            vcpu: VcpuId(0),
        });
        let verify = Op::Verify {
            range: half,
            gone: Gone::Skip,
            side: Side::Shared,
            vcpu: VcpuId(0),
        };
        let first = step(verify.clone());
        assert_eq!(first.reads.len(), 1);
        assert_eq!(first.reads[0].content, Content::Zero);
        let pages = half.bytes() / PageLevel::Size4K.bytes();
        assert_eq!(first.pages.pages_4k.single(), Some(pages as i64));
        assert_eq!(step(verify).pages.pages_4k.single(), Some(0));
    }
}
