//! Memory owned by the agent, filled and verified.

use tdxlab_protocol::addr::{Gpa, PageLevel, Side};
use tdxlab_protocol::linux::{
    Extent, Failure, Finding, LinuxReply, MAX_EXTENTS, MAX_FINDINGS, MOST_FINDINGS, Outcome, Pages,
};
use tdxlab_protocol::message::Content;
use tdxlab_protocol::pattern::{self, Generation, WORDS};

use crate::failure::refuse;
use crate::line::Line;
use crate::memory::{Mapping, Words, check_room};
use crate::pages::KernelPages;

const PAGE: u64 = PageLevel::Size4K.bytes();

/// Pages that are made present, looked up and written at a time: 2M.
const STRETCH: u32 = PageLevel::Size2M.pages_4k() as u32;

/// Memory filled with words.
pub(crate) struct Buffer {
    memory: Memory,
    pages: Pages,
    /// Where each page lay when it was filled, as far as it was.
    filled_at: Vec<Gpa>,
    generation: Option<Generation>,
}

enum Memory {
    Mapped(Mapping),
    Kernel(KernelPages),
}

impl Memory {
    fn bytes(&self) -> u64 {
        match self {
            Memory::Mapped(mapping) => mapping.bytes(),
            Memory::Kernel(pages) => pages.bytes(),
        }
    }

    fn places(&self, first: u32, count: u32) -> Result<Vec<Option<Gpa>>, Failure> {
        match self {
            Memory::Mapped(mapping) => mapping.places(first, count),
            Memory::Kernel(pages) => Ok(pages.places(first, count)),
        }
    }

    fn read(&self, page: u32, into: &mut Words) -> Result<(), Failure> {
        match self {
            Memory::Mapped(mapping) => {
                mapping.read(page, into);
                Ok(())
            }
            Memory::Kernel(pages) => pages.read(page, into),
        }
    }

    fn write(&mut self, page: u32, words: &Words) -> Result<(), Failure> {
        match self {
            Memory::Mapped(mapping) => {
                mapping.write(page, words);
                Ok(())
            }
            Memory::Kernel(pages) => pages.write(page, words),
        }
    }
}

impl Buffer {
    /// An unfilled buffer.
    pub(crate) fn new(bytes: u64, pages: Pages) -> Result<Buffer, Failure> {
        if u32::try_from(bytes / PAGE).is_err() {
            return Err(refuse("a buffer has less than 16 TiB"));
        }
        let memory = match pages {
            Pages::Kernel => Memory::Kernel(KernelPages::new(bytes)?),
            Pages::Hugetlb2M => Memory::Mapped(Mapping::new(bytes, pages)?),
            Pages::Small | Pages::Transparent => {
                check_room(bytes)?;
                Memory::Mapped(Mapping::new(bytes, pages)?)
            }
        };
        Ok(Buffer {
            memory,
            pages,
            filled_at: Vec::new(),
            generation: None,
        })
    }

    /// Whether it has this size and kind.
    pub(crate) fn is(&self, bytes: u64, pages: Pages) -> bool {
        self.memory.bytes() == bytes && self.pages == pages
    }

    /// How many pages it has.
    fn len(&self) -> u32 {
        (self.memory.bytes() / PAGE) as u32
    }

    /// The stretches it consists of: first page and number of pages.
    fn stretches(&self) -> impl Iterator<Item = (u32, u32)> + use<> {
        let pages = self.len();
        (0..pages)
            .step_by(STRETCH as usize)
            .map(move |first| (first, STRETCH.min(pages - first)))
    }

    /// Writes every word. Gives the bytes that Linux maps with 2M pages.
    pub(crate) fn fill(
        &mut self,
        generation: Generation,
        mut progress: impl FnMut(u64),
    ) -> Result<u64, Failure> {
        self.filled_at.clear();
        self.generation = Some(generation);
        let mut words = [0; WORDS];
        for (first, count) in self.stretches() {
            if let Memory::Mapped(mapping) = &self.memory {
                mapping.populate(first, count)?;
            }
            for (page, place) in (first..).zip(self.memory.places(first, count)?) {
                let place = place.ok_or_else(|| refuse("a page that was present is gone"))?;
                for (index, word) in words.iter_mut().enumerate() {
                    *word = pattern::word(place, index, generation);
                }
                self.memory.write(page, &words)?;
                self.filled_at.push(place);
            }
            progress(u64::from(first + count) * PAGE);
        }
        Ok(match &self.memory {
            Memory::Mapped(mapping) => mapping.huge_bytes(),
            Memory::Kernel(_) => 0,
        })
    }

    /// Reads every word, and sends the findings.
    pub(crate) fn verify(&self, id: u32, line: &mut Line) -> Result<Outcome, Failure> {
        let generation = self
            .generation
            .filter(|_| self.filled_at.len() == self.len() as usize);
        let generation = generation.ok_or_else(|| refuse("the buffer was never filled"))?;
        let mut findings = Sender {
            id,
            batch: heapless::Vec::new(),
            sent: 0,
            last: None,
        };
        let (mut wrong, mut moved) = (0, 0);
        let mut words = [0; WORDS];
        for (first, count) in self.stretches() {
            for (page, place) in (first..).zip(self.memory.places(first, count)?) {
                let filled_at = self.filled_at[page as usize];
                // A page that is missing now reads as whatever Linux maps there.
                let at = place.unwrap_or(filled_at);
                moved += u32::from(at != filled_at);
                self.memory.read(page, &mut words)?;
                if is_intact(filled_at, generation, &words) {
                    continue;
                }
                wrong += 1;
                let content = pattern::classify(filled_at, &words);
                findings.push(
                    Finding {
                        page,
                        count: 1,
                        at,
                        filled_at,
                        content,
                    },
                    line,
                );
            }
            line.progress(id, u64::from(first + count) * PAGE);
        }
        findings.finish(line);
        Ok(Outcome::Verified {
            bytes: self.memory.bytes(),
            wrong,
            moved,
        })
    }

    /// Converts pages to the shared or to the private side.
    pub(crate) fn convert(&mut self, first: u32, count: u32, to: Side) -> Result<(), Failure> {
        match &mut self.memory {
            Memory::Kernel(pages) => pages.convert(first, count, to),
            Memory::Mapped(_) => Err(refuse("only pages of the kernel can be converted")),
        }
    }

    /// Sends its current physical extents.
    pub(crate) fn send_extents(&self, id: u32, line: &mut Line) -> Result<(), Failure> {
        let mut batch = heapless::Vec::<Extent, MAX_EXTENTS>::new();
        for (first, count) in self.stretches() {
            for place in self.memory.places(first, count)? {
                let start = place.ok_or_else(|| refuse("nothing lies under a page"))?;
                if let Some(last) = batch.last_mut()
                    && last.start.gfn() + u64::from(last.pages) == start.gfn()
                {
                    last.pages += 1;
                    continue;
                }
                if batch.is_full() {
                    line.send(&LinuxReply::Extents {
                        id,
                        extents: std::mem::take(&mut batch),
                    });
                }
                let _room = batch.push(Extent { start, pages: 1 });
            }
        }
        line.send(&LinuxReply::Extents { id, extents: batch });
        Ok(())
    }
}

/// Whether a page holds what its fill wrote.
fn is_intact(filled_at: Gpa, generation: Generation, words: &Words) -> bool {
    let first = pattern::word(filled_at, 0, generation);
    // Each word of a page is the one before plus one; see `pattern::word`.
    words
        .iter()
        .zip(first..)
        .all(|(&word, wanted)| word == wanted)
}

/// Sends findings in batches, equal ones merged, up to the lab's limit.
struct Sender {
    id: u32,
    batch: heapless::Vec<Finding, MAX_FINDINGS>,
    sent: u32,
    last: Option<Finding>,
}

impl Sender {
    fn push(&mut self, next: Finding, line: &mut Line) {
        if let Some(last) = &mut self.last {
            let follows =
                |start: Gpa, place: Gpa, count: u32| start.gfn() + u64::from(count) == place.gfn();
            if last.page + last.count == next.page
                && follows(last.at, next.at, last.count)
                && follows(last.filled_at, next.filled_at, last.count)
                && last.content == next.content
                && !matches!(next.content, Content::Torn { .. })
            {
                last.count += 1;
                return;
            }
        }
        let done = self.last.replace(next);
        self.keep(done, line);
    }

    fn keep(&mut self, finding: Option<Finding>, line: &mut Line) {
        let Some(finding) = finding else { return };
        if self.sent == MOST_FINDINGS {
            return;
        }
        self.sent += 1;
        if self.batch.is_full() {
            self.flush(line);
        }
        let _room = self.batch.push(finding);
    }

    fn flush(&mut self, line: &mut Line) {
        let findings = std::mem::take(&mut self.batch);
        line.send(&LinuxReply::Findings {
            id: self.id,
            findings,
        });
    }

    fn finish(mut self, line: &mut Line) {
        let last = self.last.take();
        self.keep(last, line);
        if !self.batch.is_empty() {
            self.flush(line);
        }
    }
}
