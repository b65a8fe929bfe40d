//! Does a step, and records what guest and host show.

#[cfg(test)]
mod played;

use std::collections::BTreeMap;
use std::time::Duration;

use tdxlab_journal::Reading;
use tdxlab_kernel::kmsg;
use tdxlab_linux::account::{self, MemInfo, Resource};
use tdxlab_linux::answer::Answer;
use tdxlab_linux::guest::Ready;
use tdxlab_linux::memory::Layout;
use tdxlab_linux::pusher::Pushed;
use tdxlab_linux::quotes::QuoteService;
use tdxlab_linux::{LinuxError, LinuxGuest};
use tdxlab_plan::linux::{BufferId, LinuxOp};
use tdxlab_protocol::addr::{Gpa, GpaRange, PageLevel};
use tdxlab_protocol::linux::{Ask, Extent, Failure, Finding, Outcome, Witness};

use super::complaints;
use crate::attest::{self, Attested};
use crate::file::{self, File};
use crate::guest_log::CopiedLog;
use crate::plug::{self, Plugged};

/// Observation of a step.
#[derive(Debug)]
pub(crate) enum Seen {
    /// The guest, as it accounts for itself.
    Guest(Box<GuestAccount>),
    /// A buffer was filled.
    Filled {
        /// The agent's result.
        outcome: Outcome,
        /// Pages that lie under the buffer.
        pages: u64,
        /// Pieces of guest memory under it.
        pieces: usize,
        /// The first piece that the host does not hold; `None` where it holds all of them.
        not_held: Option<GpaRange>,
        /// Whether the lab can read which memory the host holds.
        held_seen: bool,
    },
    /// A buffer was read.
    Verified {
        /// Pages that are not intact.
        findings: Vec<Finding>,
        /// Pages that are not intact, reported or not.
        wrong: u32,
        /// Pages that Linux has moved.
        moved: u32,
    },
    /// A hole was punched at these places.
    Hole {
        /// The punched ranges.
        ranges: Vec<GpaRange>,
        /// Parts of them that the host still holds.
        held: Vec<GpaRange>,
    },
    /// A TDREPORT or a quote was asked for.
    Attested(Attested),
    /// Memory was plugged.
    Plugged(Plugged),
    /// A file was read.
    File(File),
    /// It ended like this.
    Done(Outcome),
    /// The agent could not do it.
    Failed(Failure),
    /// The guest is off.
    Off {
        /// How long it took.
        after: Duration,
        /// Complaints in its kernel log since the last look.
        splats: Reading<Vec<String>>,
    },
}

/// The guest's account of itself, and the host's view of it.
#[derive(Debug)]
pub(crate) struct GuestAccount {
    /// Of a boot or a kexec.
    pub(crate) ready: Option<Ready>,
    /// CPUs online.
    pub(crate) vcpus: u16,
    /// Bytes of RAM in /proc/iomem.
    pub(crate) ram: u64,
    /// /proc/iomem.
    pub(crate) resources: Vec<Resource>,
    /// /proc/meminfo.
    pub(crate) memory: MemInfo,
    /// Complaints in the kernel log since the last look.
    pub(crate) splats: Reading<Vec<String>>,
    /// How the agent came, where qemu-ga brought it.
    pub(crate) pushed: Option<Pushed>,
    /// Whether qemu-ga reads the same /proc/iomem as the agent; `None` where it was not asked.
    pub(crate) same_iomem: Option<bool>,
    /// What the host holds of its memory; `None` if unknown.
    pub(crate) touched: Option<Held>,
}

/// What the host holds of a guest's memory.
#[derive(Debug)]
pub(crate) struct Held {
    /// Where it has its memory.
    pub(crate) memory: Layout,
    /// What is held of it, by address.
    pub(crate) ranges: Vec<GpaRange>,
}

/// Does steps on a guest.
pub(crate) struct Observer {
    guest: LinuxGuest,
    /// Physical extents of each buffer when it was filled.
    places: BTreeMap<BufferId, Vec<Extent>>,
    /// The log of its kernel, as far as it was read.
    log: CopiedLog,
    /// Complaints in it by which no step was judged yet.
    unjudged: Option<Reading<Vec<String>>>,
    /// The quote generation service, where the lab plays it.
    quotes: Option<QuoteService>,
}

impl Observer {
    /// On a guest that was started.
    pub(crate) fn new(guest: LinuxGuest, quotes: Option<QuoteService>) -> Observer {
        Observer {
            guest,
            quotes,
            places: BTreeMap::new(),
            log: CopiedLog::default(),
            unjudged: None,
        }
    }

    /// The guest.
    pub(crate) fn guest(&mut self) -> &mut LinuxGuest {
        &mut self.guest
    }

    /// The buffer, and the page of it, that an address belonged to when it was filled.
    pub(crate) fn owner(&self, gpa: Gpa) -> Option<(BufferId, u64)> {
        self.places.iter().find_map(|(id, extents)| {
            let mut page = 0;
            for extent in extents {
                let offset = gpa.gfn().checked_sub(extent.start.gfn());
                if let Some(offset) = offset.filter(|offset| *offset < u64::from(extent.pages)) {
                    return Some((*id, page + offset));
                }
                page += u64::from(extent.pages);
            }
            None
        })
    }

    /// Where pages of a buffer lay when it was filled, or all of it.
    pub(crate) fn places(&self, buffer: BufferId, pages: Option<(u32, u32)>) -> Vec<GpaRange> {
        let extents = self.places.get(&buffer).map_or(&[][..], Vec::as_slice);
        match pages {
            Some((first, count)) => part(extents, first, count),
            None => extents.iter().filter_map(range).collect(),
        }
    }

    /// Does a step.
    pub(crate) fn perform(&mut self, op: &LinuxOp) -> Result<Seen, LinuxError> {
        match *op {
            LinuxOp::Boot => {
                let ready = self.guest.wait_ready()?;
                self.account(Some(ready))
            }
            LinuxOp::Settle | LinuxOp::AllAccepted => self.account(None),
            LinuxOp::Kexec => {
                self.places.clear();
                // The log goes with the kernel.
                self.listen()?;
                match self.guest.kexec()? {
                    Ok(ready) => {
                        self.log = CopiedLog::default();
                        self.account(Some(ready))
                    }
                    Err(answer) => Ok(ended(answer)),
                }
            }
            LinuxOp::Fill {
                buffer,
                bytes,
                pages,
                generation,
            } => {
                let answer = self.guest.ask(Ask::Fill {
                    buffer,
                    bytes,
                    pages,
                    generation,
                })?;
                self.filled(buffer, answer)
            }
            LinuxOp::Verify { buffer } => {
                let answer = self.guest.ask(Ask::Verify { buffer })?;
                Ok(match answer.outcome {
                    Ok(Outcome::Verified { wrong, moved, .. }) => Seen::Verified {
                        findings: answer.findings,
                        wrong,
                        moved,
                    },
                    _ => ended(answer),
                })
            }
            LinuxOp::Free { buffer } => {
                self.places.remove(&buffer);
                Ok(ended(self.guest.ask(Ask::Free { buffer })?))
            }
            LinuxOp::Punch {
                buffer,
                first,
                count,
            } => self.punch(buffer, first, count),
            LinuxOp::Convert {
                buffer,
                first,
                count,
                to,
            } => {
                let answer = self.guest.ask(Ask::Convert {
                    buffer,
                    first,
                    count,
                    to,
                })?;
                Ok(ended(answer))
            }
            LinuxOp::Plug { bytes, ends } => {
                if ends {
                    // Afterwards there is nobody to ask.
                    self.listen()?;
                }
                plug::perform(&mut self.guest, bytes, ends).map(Seen::Plugged)
            }
            LinuxOp::ReadFile(ref wanted) => file::perform(&mut self.guest, wanted).map(Seen::File),
            LinuxOp::Report { nonce } | LinuxOp::Quote { nonce } => {
                let quote = matches!(op, LinuxOp::Quote { .. });
                let answer = self.guest.ask(attest::ask(quote, nonce))?;
                let logged = match quote && answer.outcome.is_err() {
                    true => self.said_of_quotes()?,
                    false => None,
                };
                Ok(Seen::Attested(Attested {
                    logged,
                    answer: answer.outcome.map(|_| answer.bytes),
                    served: self.quotes.as_ref().map_or(Vec::new(), QuoteService::take),
                }))
            }
            LinuxOp::Load(load) => Ok(ended(self.guest.ask(Ask::Load(load))?)),
            LinuxOp::PowerOff => {
                let splats = self.splats()?;
                let after = self.guest.power_off()?;
                Ok(Seen::Off { after, splats })
            }
        }
    }

    fn account(&mut self, ready: Option<Ready>) -> Result<Seen, LinuxError> {
        let vcpus = self.guest.hello().map_or(0, |hello| hello.vcpus);
        let iomem = self.read(Witness::IoMem)?;
        let again = match &ready {
            Some(_) => self.guest.read_file("/proc/iomem", iomem.len() + 1)?,
            None => None,
        };
        let resources = account::iomem(&iomem);
        let splats = self.splats()?;
        // Last, so that nothing is accepted between this and what the host's witnesses show.
        let memory = MemInfo::parse(&self.read(Witness::MemInfo)?);
        Ok(Seen::Guest(Box::new(GuestAccount {
            ready,
            vcpus,
            ram: account::system_ram(&resources),
            resources,
            memory,
            splats,
            pushed: self.guest.pushed().filter(|_| again.is_some()).cloned(),
            same_iomem: again.map(|again| again == iomem),
            touched: self.touched()?,
        })))
    }

    fn read(&mut self, which: Witness) -> Result<Vec<u8>, LinuxError> {
        self.guest.read(which)
    }

    /// Reads what the guest's kernel has said since the last look, and keeps what it complains of to be
    /// judged. What it said.
    pub(crate) fn listen(&mut self) -> Result<Vec<String>, LinuxError> {
        let said = self.read(Witness::KernelLog)?;
        let said = self.log.since(&said);
        let lines = said.left().cloned().unwrap_or_default();
        let complaints = said.map(|lines| {
            let complaints = lines.iter().filter_map(|line| complaints::of_guest(line));
            complaints.collect()
        });
        self.unjudged = Some(match self.unjudged.take() {
            Some(earlier) => kmsg::joined(earlier, complaints),
            None => complaints,
        });
        Ok(lines)
    }

    /// Complaints that were read and by which nothing was judged yet; `None` where nothing was read.
    pub(crate) fn unjudged(&mut self) -> Option<Reading<Vec<String>>> {
        self.unjudged.take()
    }

    /// Complaints of the guest's kernel by which nothing was judged yet, those until now among them.
    fn splats(&mut self) -> Result<Reading<Vec<String>>, LinuxError> {
        self.listen()?;
        Ok(self.unjudged().unwrap_or_else(|| Reading::Read(Vec::new())))
    }

    /// What the guest's kernel has said of quotes since the last look at its log, at last.
    fn said_of_quotes(&mut self) -> Result<Option<String>, LinuxError> {
        let mut said = self.listen()?.into_iter().rev();
        Ok(said.find(|line| line.contains("GetQuote")))
    }

    fn touched(&self) -> Result<Option<Held>, LinuxError> {
        let Some(memory) = self.guest.memory() else {
            return Ok(None);
        };
        let ranges = memory.touched().map_err(|source| LinuxError::System {
            doing: "looking at what the host holds of the guest's memory".to_owned(),
            source,
        })?;
        Ok(Some(Held {
            memory: memory.layout(),
            ranges,
        }))
    }

    fn filled(&mut self, buffer: BufferId, answer: Answer) -> Result<Seen, LinuxError> {
        let Ok(outcome) = answer.outcome else {
            return Ok(ended(answer));
        };
        let touched = self.touched()?;
        let ranges = answer.extents.iter().filter_map(range);
        let not_held = touched.as_ref().and_then(|held| held.lacks(ranges));
        let pages = answer
            .extents
            .iter()
            .map(|extent| u64::from(extent.pages))
            .sum();
        let pieces = answer.extents.len();
        self.places.insert(buffer, answer.extents);
        Ok(Seen::Filled {
            outcome,
            pages,
            pieces,
            not_held,
            held_seen: touched.is_some(),
        })
    }

    /// Punches under where the pages are now: Linux may have moved them.
    fn punch(&mut self, buffer: BufferId, first: u32, count: u32) -> Result<Seen, LinuxError> {
        let answer = self.guest.ask(Ask::Where { buffer })?;
        if answer.outcome.is_err() {
            return Ok(ended(answer));
        }
        let ranges = part(&answer.extents, first, count);
        let memory = self.guest.memory().ok_or_else(|| LinuxError::System {
            doing: "punching a hole".to_owned(),
            source: std::io::Error::other("the lab does not hold this guest's memory"),
        })?;
        for range in &ranges {
            memory.punch(*range).map_err(|error| LinuxError::System {
                doing: "punching a hole".to_owned(),
                source: std::io::Error::other(error),
            })?;
        }
        let touched = self.touched()?.map_or(Vec::new(), |held| held.ranges);
        let held = ranges
            .iter()
            .flat_map(|hole| touched.iter().filter_map(|held| held.intersect(*hole)))
            .filter(|held| !held.is_empty())
            .collect();
        Ok(Seen::Hole { ranges, held })
    }
}

impl Held {
    /// The first range that the host has not as a whole. It does not hold what was plugged, which lies
    /// above the memory that the guest was started with.
    fn lacks(&self, ranges: impl IntoIterator<Item = GpaRange>) -> Option<GpaRange> {
        let is_held = |range: GpaRange| self.ranges.iter().any(|held| held.contains_range(range));
        let mut ranges = ranges.into_iter();
        ranges.find(|range| range.start() < self.memory.end() && !is_held(*range))
    }
}

fn ended(answer: Answer) -> Seen {
    match answer.outcome {
        Ok(outcome) => Seen::Done(outcome),
        Err(failure) => Seen::Failed(failure),
    }
}

fn range(extent: &Extent) -> Option<GpaRange> {
    GpaRange::with_len(
        extent.start,
        u64::from(extent.pages) * PageLevel::Size4K.bytes(),
    )
}

/// Where some pages of a buffer lie.
fn part(extents: &[Extent], first: u32, count: u32) -> Vec<GpaRange> {
    let (wanted, mut at) = (u64::from(first)..u64::from(first) + u64::from(count), 0);
    let mut ranges = Vec::new();
    for extent in extents {
        let (begin, end) = (at, at + u64::from(extent.pages));
        let (from, to) = (wanted.start.max(begin), wanted.end.min(end));
        if from < to {
            let start = Gpa::from_gfn(extent.start.gfn() + from - begin);
            ranges.extend(GpaRange::with_len(
                start,
                (to - from) * PageLevel::Size4K.bytes(),
            ));
        }
        at = end;
    }
    ranges
}

#[cfg(test)]
mod tests {
    use tdxlab_linux::Board;

    use super::*;

    #[test]
    fn a_buffer_above_4_gib_is_looked_for_where_the_host_has_it() {
        let range = |start: u64, bytes| GpaRange::with_len(Gpa::new(start), bytes).unwrap();
        let memory = Layout::of(Board::Microvm, 6 << 10);
        // 3 GiB lie below the hole.
        let (offset, bytes) = ((3 << 30) + (64 << 20), 8 << 20);
        let held = Held {
            memory,
            ranges: memory.addresses(offset, offset + bytes).collect(),
        };
        let buffer = range((4 << 30) + (64 << 20), bytes);
        assert_eq!(held.lacks([buffer]), None);
        let plugged = range(8 << 30, bytes);
        assert_eq!(held.lacks([plugged]), None);
        for missing in [range(4 << 30, bytes), range(offset, bytes)] {
            assert_eq!(held.lacks([buffer, missing]), Some(missing));
        }
    }

    #[test]
    fn a_part_of_a_buffer_may_lie_in_several_places() {
        let extent = |start, pages| Extent {
            start: Gpa::new(start),
            pages,
        };
        let extents = [
            extent(0x10_0000, 4),
            extent(0x50_0000, 4),
            extent(0x20_0000, 4),
        ];
        let range = |start, bytes| GpaRange::with_len(Gpa::new(start), bytes).unwrap();
        assert_eq!(
            part(&extents, 3, 6),
            [
                range(0x10_3000, 0x1000),
                range(0x50_0000, 0x4000),
                range(0x20_0000, 0x1000)
            ]
        );
        assert_eq!(part(&extents, 4, 1), [range(0x50_0000, 0x1000)]);
    }
}
