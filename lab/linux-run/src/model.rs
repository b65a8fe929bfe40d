//! Expectation of each step, from the plan alone.

use std::collections::BTreeMap;

use tdxlab_plan::Side;
use tdxlab_plan::linux::{
    BufferId, LinuxGuest, LinuxOp, LinuxPlan, Load, Pages, Quotes, ReadFile, report_data,
};
use tdxlab_plan::{Generation, addr::PageLevel};

use crate::attest::Wanted;
use crate::{file, plug};

/// Expectation of a step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Expected {
    /// A guest of this size runs.
    Guest(LinuxGuest),
    /// A buffer is filled.
    Filled {
        /// Size of the buffer.
        bytes: u64,
        /// Bytes of it mapped with 2M pages; `None` where Linux decides.
        huge: Option<u64>,
    },
    /// A buffer holds this.
    Content {
        /// The fill that was last.
        generation: Generation,
        /// Expected state of each page.
        pages: Vec<PageState>,
    },
    /// It succeeds; no other expectation.
    Done,
    /// These pages of a buffer are not mapped any more.
    Hole {
        /// First page.
        first: u32,
        /// Number of pages.
        count: u32,
    },
    /// All of these processes end well.
    Processes(u16),
    /// A TDREPORT or a quote.
    Attested(Wanted),
    /// So many bytes more.
    Plugged(u64),
    /// The end of the guest, when so many bytes are plugged.
    EndedByPlug(u64),
    /// A file that can be read.
    File(ReadFile),
    /// The guest is off and QEMU gone.
    Off,
}

/// Expected content of a page of a buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PageState {
    /// The words of the last fill.
    Intact,
    /// Zeros: it was punched, or accepted again.
    Zero,
    /// Anything: a page that a TD shares with its host.
    Unknown,
}

#[derive(Debug)]
struct Buffer {
    generation: Generation,
    kind: Pages,
    pages: Vec<PageState>,
}

/// Follows a plan, step by step.
#[derive(Debug)]
pub(crate) struct Model {
    guest: LinuxGuest,
    td: bool,
    buffers: BTreeMap<BufferId, Buffer>,
}

impl Model {
    /// Before the first step. `td`: whether the guest is one.
    pub(crate) fn new(plan: &LinuxPlan, td: bool) -> Model {
        Model {
            guest: plan.guest.clone(),
            td,
            buffers: BTreeMap::new(),
        }
    }

    /// Expectation of the next step, or why it cannot be predicted.
    pub(crate) fn step(&mut self, op: &LinuxOp) -> Result<Expected, String> {
        Ok(match op {
            LinuxOp::Boot | LinuxOp::Settle | LinuxOp::AllAccepted => {
                Expected::Guest(self.guest.clone())
            }
            LinuxOp::Kexec => {
                self.buffers.clear();
                Expected::Guest(self.guest.clone())
            }
            LinuxOp::Fill {
                buffer,
                bytes,
                pages,
                generation,
            } => {
                let count =
                    usize::try_from(bytes / PageLevel::Size4K.bytes()).unwrap_or(usize::MAX);
                self.buffers.insert(
                    *buffer,
                    Buffer {
                        generation: *generation,
                        kind: *pages,
                        pages: vec![PageState::Intact; count],
                    },
                );
                let huge = match pages {
                    Pages::Small | Pages::Kernel => Some(0),
                    Pages::Hugetlb2M => Some(*bytes),
                    Pages::Transparent => None,
                };
                Expected::Filled {
                    bytes: *bytes,
                    huge,
                }
            }
            LinuxOp::Verify { buffer } => {
                let buffer = self.buffer(*buffer)?;
                Expected::Content {
                    generation: buffer.generation,
                    pages: buffer.pages.clone(),
                }
            }
            LinuxOp::Free { buffer } => {
                self.buffer(*buffer)?;
                self.buffers.remove(buffer);
                Expected::Done
            }
            LinuxOp::Punch {
                buffer,
                first,
                count,
            } => {
                if self.td {
                    return Err(
                        "a hole in a TD's private memory takes what Linux has accepted".to_owned(),
                    );
                }
                self.set(*buffer, *first, *count, PageState::Zero)?;
                Expected::Hole {
                    first: *first,
                    count: *count,
                }
            }
            LinuxOp::Convert {
                buffer,
                first,
                count,
                to,
            } => {
                if self.buffer(*buffer)?.kind != Pages::Kernel {
                    return Err("Linux converts its own pages only".to_owned());
                }
                // In a plain guest memory has one side, and Linux knows it.
                if self.td {
                    let state = match to {
                        Side::Shared => PageState::Unknown,
                        // ACCEPT zeroes the page (TDG.MEM.PAGE.ACCEPT).
                        Side::Private => PageState::Zero,
                    };
                    self.set(*buffer, *first, *count, state)?;
                }
                Expected::Done
            }
            LinuxOp::Load(Load::Touch { processes, .. } | Load::Fork { processes, .. }) => {
                Expected::Processes(*processes)
            }
            LinuxOp::Load(Load::Fragment { .. } | Load::Release) => Expected::Done,
            LinuxOp::Plug { bytes, ends } => match ends {
                false => Expected::Plugged(*bytes),
                true => Expected::EndedByPlug(*bytes),
            },
            LinuxOp::Report { .. } | LinuxOp::Quote { .. } if !self.td => {
                return Err("a plain guest has neither TDREPORT nor quote".to_owned());
            }
            LinuxOp::Report { nonce } => Expected::Attested(Wanted::Report(report_data(*nonce))),
            LinuxOp::Quote { nonce } => Expected::Attested(match self.guest.quotes {
                Quotes::Lab => Wanted::Answer(report_data(*nonce)),
                Quotes::Refused => Wanted::Refused(report_data(*nonce)),
                Quotes::None => Wanted::NoAnswer,
            }),
            LinuxOp::ReadFile(wanted) => Expected::File(wanted.clone()),
            LinuxOp::PowerOff => Expected::Off,
        })
    }

    fn buffer(&mut self, id: BufferId) -> Result<&mut Buffer, String> {
        let buffer = self.buffers.get_mut(&id);
        buffer.ok_or_else(|| format!("buffer {} is not filled", id.get()))
    }

    fn set(
        &mut self,
        id: BufferId,
        first: u32,
        count: u32,
        state: PageState,
    ) -> Result<(), String> {
        let buffer = self.buffer(id)?;
        let first = first as usize;
        let pages = buffer.pages.get_mut(first..first + count as usize);
        let pages = pages.ok_or_else(|| format!("buffer {} is smaller", id.get()))?;
        pages.fill(state);
        Ok(())
    }
}

impl Expected {
    /// In words, each with the way it is judged.
    pub(crate) fn text(&self) -> Vec<String> {
        let lines: &[String] = &match self {
            Expected::Guest(guest) => vec![
                format!("exactly: {} CPUs online", guest.vcpus),
                format!(
                    "by bounds: RAM of {} MiB, but for what firmware and kernel keep",
                    guest.mebibytes
                ),
                "exactly: no complaint in the guest's kernel log".to_owned(),
            ],
            Expected::Filled { bytes, huge } => {
                let huge = match huge {
                    Some(huge) => format!("exactly: {} MiB of it in 2M pages", huge >> 20),
                    None => "by bounds: as much of it in 2M pages as Linux has".to_owned(),
                };
                vec![
                    format!(
                        "exactly: {} KiB under the buffer, all of it held by the host",
                        bytes >> 10
                    ),
                    huge,
                ]
            }
            Expected::Content { generation, pages } => {
                let count = |state| pages.iter().filter(|&&page| page == state).count();
                let mut lines = vec![format!(
                    "exactly: {} pages intact (fill {})",
                    count(PageState::Intact),
                    generation.get()
                )];
                if count(PageState::Zero) > 0 {
                    lines.push(format!("exactly: {} pages zero", count(PageState::Zero)));
                }
                if count(PageState::Unknown) > 0 {
                    lines.push(format!("shown: {} shared pages", count(PageState::Unknown)));
                }
                lines
            }
            Expected::Done => vec!["exactly: the agent says that it is done".to_owned()],
            Expected::Hole { count, .. } => {
                vec![format!(
                    "exactly: the host holds nothing under {count} pages"
                )]
            }
            Expected::Processes(count) => vec![format!("exactly: {count} processes end well")],
            Expected::Attested(wanted) => wanted.text(),
            Expected::Plugged(bytes) => plug::text(*bytes, false),
            Expected::EndedByPlug(bytes) => plug::text(*bytes, true),
            Expected::File(wanted) => file::text(wanted),
            Expected::Off => vec![
                "exactly: QEMU ends by itself, with 0".to_owned(),
                "exactly: no complaint in the guest's kernel log".to_owned(),
            ],
        };
        lines.to_vec()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn model(td: bool) -> Model {
        Model {
            guest: LinuxGuest {
                mebibytes: 512,
                vcpus: 1,
                append: String::new(),
                agent: tdxlab_plan::linux::AgentBy::default(),
                disk: None,
                quotes: Quotes::None,
            },
            td,
            buffers: BTreeMap::new(),
        }
    }

    fn fill(pages: Pages) -> LinuxOp {
        LinuxOp::Fill {
            buffer: BufferId::new(0).unwrap(),
            bytes: 4 << 12,
            pages,
            generation: Generation::new(1).unwrap(),
        }
    }

    fn content(model: &mut Model) -> Vec<PageState> {
        let buffer = BufferId::new(0).unwrap();
        match model.step(&LinuxOp::Verify { buffer }).unwrap() {
            Expected::Content { pages, .. } => pages,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_hole_takes_its_pages_until_they_are_filled_again() {
        use PageState::{Intact, Zero};
        let mut model = model(false);
        let buffer = BufferId::new(0).unwrap();
        model.step(&fill(Pages::Small)).unwrap();
        let punch = LinuxOp::Punch {
            buffer,
            first: 1,
            count: 2,
        };
        model.step(&punch).unwrap();
        assert_eq!(content(&mut model), [Intact, Zero, Zero, Intact]);
        model.step(&fill(Pages::Small)).unwrap();
        assert_eq!(content(&mut model), [Intact; 4]);
        let beyond = LinuxOp::Punch {
            buffer,
            first: 3,
            count: 2,
        };
        assert!(model.step(&beyond).is_err());
    }

    #[test]
    fn a_conversion_costs_a_td_its_data_and_a_plain_guest_nothing() {
        use PageState::{Intact, Unknown, Zero};
        let buffer = BufferId::new(0).unwrap();
        let convert = |to| LinuxOp::Convert {
            buffer,
            first: 0,
            count: 1,
            to,
        };
        for (td, shared, private) in [(true, Unknown, Zero), (false, Intact, Intact)] {
            let mut model = model(td);
            model.step(&fill(Pages::Kernel)).unwrap();
            model.step(&convert(Side::Shared)).unwrap();
            assert_eq!(content(&mut model), [shared, Intact, Intact, Intact]);
            model.step(&convert(Side::Private)).unwrap();
            assert_eq!(content(&mut model), [private, Intact, Intact, Intact]);
        }
    }

    #[test]
    fn a_kexec_takes_all_buffers() {
        let mut model = model(false);
        model.step(&fill(Pages::Small)).unwrap();
        model.step(&LinuxOp::Kexec).unwrap();
        let buffer = BufferId::new(0).unwrap();
        assert!(model.step(&LinuxOp::Verify { buffer }).is_err());
    }
}
