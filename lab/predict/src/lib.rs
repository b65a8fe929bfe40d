//! Predicts each step from rules on ranges.
//!
//! Invariant: this crate names `tdxlab-plan` and no other crate of the lab. It never simulates page
//! tables and cannot know the software KVM: the two share address types only, which is what makes
//! their agreement evidence.
//!
//! | file | rules of |
//! |---|---|
//! | `accept` | TDG.MEM.PAGE.ACCEPT and KVM's handling of its exits |
//! | `access` | loads, stores, ATTR.RD, prefault |
//! | `convert` | MapGPA and implicit conversions |
//! | `hole` | punched holes and allocation |
//! | `verify` | expected content of memory |
//! | `race`, `footprint`, `uncertain` | parallel steps, and the knowledge left after them |
//! | `state`, `runs`, `pages`, `slots`, `folio` | knowledge between steps, as runs |
//! | `others` | pinned pages, memory slots that go, conversions that the VMM does not serve |
//! | `zero_step` | the module's filter against zero-stepping |
//! | `entries` | entries a range operation may visit |
//! | `plain` | plain VMs, without any of this |

mod accept;
mod access;
mod attributes;
mod convert;
mod entries;
mod expect;
mod folio;
mod footprint;
mod hole;
mod map;
mod others;
mod pages;
mod plain;
mod race;
mod runs;
mod slots;
mod state;
mod status;
mod tally;
#[cfg(test)]
mod tests;
mod uncertain;
mod unjudgeable;
mod verify;
mod zero_step;

pub use expect::Mismatch;
pub use unjudgeable::Unjudgeable;

use tdxlab_plan::addr::{GpaRange, PageLevel, Side};
use tdxlab_plan::{Action, Design, Expect, Expectation, Guest, OnVe, Op, RegionState, TdxModule};

use access::Access;
use plain::Plain;
use state::State;
use tally::Tally;

/// Tracks the expected state of one guest's memory, step by step.
#[derive(Clone, Debug)]
pub struct Predictor {
    design: Design,
    rules: Rules,
}

/// Rules of its memory.
#[derive(Clone, Debug)]
enum Rules {
    /// The private and shared memory of a TD.
    Td(Box<State>),
    /// The ordinary memory of a plain VM.
    Plain(Plain),
}

/// Mapped and populated pages before the first step, without the page of the positive control.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Baseline {
    /// Number of 4K leaves.
    pub pages_4k: u64,
    /// Number of 2M leaves.
    pub pages_2m: u64,
    /// 4K pages of the guest_memfd.
    pub populated: u64,
}

impl Predictor {
    /// For a guest that has just been booted under a design; on no TDX module in particular.
    pub fn new(design: &Design, guest: &Guest) -> Predictor {
        Predictor {
            design: *design,
            rules: match guest.backing {
                None => Rules::Td(Box::new(State::new(design, guest))),
                Some(backing) => Rules::Plain(Plain::new(design, guest, backing)),
            },
        }
    }

    /// The same on this TDX module; `None` where nobody knows which.
    #[must_use]
    pub fn on_module(mut self, module: Option<TdxModule>) -> Predictor {
        if let Rules::Td(state) = &mut self.rules {
            state.module = module;
        }
        self
    }

    /// The same with a VMM that has KVM map what a guest has converted.
    #[must_use]
    pub fn whose_vmm_maps_conversions(mut self, maps: bool) -> Predictor {
        if let Rules::Td(state) = &mut self.rules {
            state.maps_conversions = maps;
        }
        self
    }

    /// The design whose rules apply.
    pub fn design(&self) -> &Design {
        &self.design
    }

    /// Mapped and populated pages now. Before the first step that is the initial image.
    pub fn baseline(&self) -> Baseline {
        match &self.rules {
            Rules::Td(state) => {
                let (pages_4k, pages_2m) = state.mapped();
                Baseline {
                    pages_4k,
                    pages_2m,
                    populated: state.folios.populated(),
                }
            }
            // Only read before the first step: its memory is untouched.
            Rules::Plain(_) => Baseline::default(),
        }
    }

    /// Predicts the next step. An error leaves the state unchanged.
    pub fn step(&mut self, action: &Action) -> Result<Expectation, Unjudgeable> {
        let state = match &mut self.rules {
            Rules::Td(state) => state,
            Rules::Plain(plain) => return plain.step(action),
        };
        if !state.alive {
            return Err(Unjudgeable {
                why: "the TD is dead after the previous step".to_owned(),
                advice: "end the scenario with the step that kills the TD".to_owned(),
            });
        }
        let mut tally = Tally::default();
        match action {
            Action::One(op) => state.operate(&mut tally, op)?,
            Action::Parallel(branches) => state.race(&mut tally, branches)?,
        }
        let uncertain = state.uncertain.close();
        let outside = state.folios.populated();
        let populated = state.uncertain.populated(outside, state.memory.pages_4k());
        Ok(tally.finish(populated, uncertain))
    }

    /// State of `window` as runs in address order, at most `most` of them. Unmapped memory is left
    /// out.
    pub fn state_map(&self, window: GpaRange, most: usize) -> Vec<(GpaRange, RegionState)> {
        match &self.rules {
            Rules::Td(state) => state.map(window, most),
            Rules::Plain(plain) => plain.map(window, most),
        }
    }

    /// State of `window`, if it is uniform.
    pub fn state_all_over(&self, window: GpaRange) -> Option<RegionState> {
        match &self.rules {
            Rules::Td(state) => state.mapped_all_over(window),
            Rules::Plain(plain) => plain.mapped_all_over(window),
        }
    }

    /// Every value of the author that contradicts the predictor.
    pub fn check_expect(expected: &Expectation, expect: &Expect) -> Vec<Mismatch> {
        expect::mismatches(expected, expect)
    }
}

impl State {
    /// One operation.
    fn operate(&mut self, tally: &mut Tally, op: &Op) -> Result<(), Unjudgeable> {
        if self.may_die(op) {
            return Err(Unjudgeable {
                why: "whether this access kills the TD depends on how a race went".to_owned(),
                advice: "set `sept_ve_disable: false`, or stay clear of memory that was raced over"
                    .to_owned(),
            });
        }
        self.stays_clear(op)?;
        self.leaves_noted(op)?;
        let exits = tally.access_exits;
        match *op {
            Op::Accept { range, size, .. } => self.accept(tally, range, size)?,
            Op::Release { range, level, .. } => self.release(tally, range, level)?,
            Op::Touch {
                range,
                stride,
                side,
                on_ve,
                same_rip,
                vcpu,
                ..
            } => {
                let access = Access {
                    stride,
                    on_ve,
                    fill: None,
                };
                match side {
                    Side::Private if same_rip => {
                        return self.access_by_one_instruction(tally, range, access, vcpu);
                    }
                    Side::Private => self.access(tally, range, access),
                    Side::Shared => self.access_shared(tally, range, access),
                }
            }
            Op::Fill {
                range,
                generation,
                side,
                ..
            } => {
                let access = Access {
                    stride: PageLevel::Size4K,
                    on_ve: OnVe::Skip,
                    fill: Some(generation),
                };
                match side {
                    Side::Private => self.access(tally, range, access),
                    Side::Shared => self.access_shared(tally, range, access),
                }
            }
            Op::Verify {
                range, gone, side, ..
            } => self.verify(tally, range, gone, side)?,
            Op::Convert { range, to, .. } => self.convert(tally, range, to),
            Op::Probe { range, stride, .. } => self.probe(tally, range, stride),
            Op::Punch { range } => self.punch(tally, range),
            Op::Prefault { range } => {
                self.prefault(tally, range);
                tally.errnos.push(0);
            }
            Op::Allocate { range } => self.allocate(tally, range),
            Op::Pin { range } => self.pin(tally, range)?,
            Op::Unpin { range } => self.unpin(tally, range)?,
            Op::Slot { range, change } => self.change_slot(tally, range, change)?,
            Op::Conversions { range, answer } => self.answer(tally, range, answer),
            Op::SetAttributes { range, to } => self.set_attributes(tally, range, to)?,
            Op::DirtyLog { .. } => self.log_dirty_pages(tally),
            Op::Stop | Op::Cont => {
                return Err(Unjudgeable {
                    why: "that is done to plain VMs only".to_owned(),
                    advice: "say with `backing` what is behind the memory of a plain VM".to_owned(),
                });
            }
        }
        if let (Some(Side::Private), Some(vcpu)) = (op.accesses(), op.vcpu())
            && tally.access_exits > exits
        {
            self.steps_on(vcpu);
        }
        Ok(())
    }
}
