//! Collects the agent's answer to one request, within bounds, and checks that it is plausible.
//!
//! This does not judge the guest: content that is wrong but possible passes. An answer is rejected
//! if no agent can give it, whatever the host does to its memory.

use std::io;

use tdxlab_protocol::addr::{Gpa, PageLevel};
use tdxlab_protocol::linux::{
    Ask, Extent, Failure, Finding, LinuxReply, Load, MOST_FINDINGS, Outcome, REPORT_BYTES, Witness,
};
use tdxlab_protocol::message::Content;
use tdxlab_protocol::pattern::{Generation, WORDS};
use tdxlab_qemu::cut::quoted;

const PAGE: u64 = PageLevel::Size4K.bytes();

/// Most bytes of a quote.
const MOST_QUOTE: usize = 64 << 10;

/// What the lab knows of guest and buffer, to check answers against.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Known {
    /// Where the guest's memory ends.
    pub limit: Gpa,
    /// 4K pages of the buffer that the request is about; `None` for requests about none.
    pub pages: Option<u32>,
    /// The generation it was filled with last.
    pub generation: Option<Generation>,
}

/// Answer to a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Physical extents of the buffer.
    pub extents: Vec<Extent>,
    /// Pages that are not intact.
    pub findings: Vec<Finding>,
    /// The data of a read.
    pub bytes: Vec<u8>,
    /// The result.
    pub outcome: Result<Outcome, Failure>,
}

/// Collects the parts of an answer.
#[derive(Debug)]
pub struct Collector {
    id: u32,
    ask: Ask,
    known: Known,
    extents: Vec<Extent>,
    /// Number of pages in `extents`.
    pages: u64,
    findings: Vec<Finding>,
    /// Number of pages in `findings`.
    wrong: u64,
    bytes: Vec<u8>,
    progress: u64,
    greeted: bool,
    outcome: Option<Result<Outcome, Failure>>,
}

impl Collector {
    /// Waits for the answer to `ask`, which was sent with number `id`.
    pub fn new(id: u32, ask: Ask, known: Known) -> Collector {
        Collector {
            id,
            ask,
            known,
            extents: Vec::new(),
            pages: 0,
            findings: Vec::new(),
            wrong: 0,
            bytes: Vec::new(),
            progress: 0,
            greeted: false,
            outcome: None,
        }
    }

    /// Whether the answer is complete.
    pub fn is_over(&self) -> bool {
        self.outcome.is_some()
    }

    /// The answer; `None` while it is not over.
    pub fn into_answer(self) -> Option<Answer> {
        Some(Answer {
            extents: self.extents,
            findings: self.findings,
            bytes: self.bytes,
            outcome: self.outcome?,
        })
    }

    /// Takes a reply in.
    ///
    /// # Errors
    ///
    /// Why it cannot be, with the reply.
    pub fn take(&mut self, reply: LinuxReply) -> Result<(), String> {
        let shown = quoted(&format!("{reply:?}"));
        self.follow(reply).map_err(|why| format!("{why}: {shown}"))
    }

    fn follow(&mut self, reply: LinuxReply) -> Result<(), String> {
        if self.outcome.is_some() {
            return Err("a reply after the last one".to_owned());
        }
        if reply.id().is_some_and(|id| id != self.id) {
            return Err(format!("an answer to another request than {}", self.id));
        }
        match reply {
            LinuxReply::Hello(_) if self.ask == Ask::Hello && !self.greeted => {
                self.greeted = true;
                Ok(())
            }
            LinuxReply::Progress { bytes, .. } if bytes < self.progress => {
                Err("progress that goes back".to_owned())
            }
            LinuxReply::Progress { bytes, .. } => {
                self.progress = bytes;
                Ok(())
            }
            LinuxReply::Extents { extents, .. } => extents
                .into_iter()
                .try_for_each(|extent| self.extent(extent)),
            LinuxReply::Findings { findings, .. } => findings
                .into_iter()
                .try_for_each(|finding| self.finding(finding)),
            LinuxReply::Bytes { bytes, .. } => self.more_bytes(&bytes),
            LinuxReply::Done { outcome, .. } => {
                self.end(outcome)?;
                self.outcome = Some(Ok(outcome));
                Ok(())
            }
            LinuxReply::Failed { failure, .. } => {
                // Linux has no errno above this (MAX_ERRNO).
                if !(0..4096).contains(&failure.errno) {
                    return Err("an errno that is none".to_owned());
                }
                self.outcome = Some(Err(failure));
                Ok(())
            }
            LinuxReply::Hello(_) | LinuxReply::Panic { .. } => {
                Err("what does not belong here".to_owned())
            }
        }
    }

    fn buffer(&self) -> Result<u64, String> {
        let pages = self.known.pages.map(u64::from);
        pages.ok_or_else(|| "pages of a buffer that was not asked about".to_owned())
    }

    /// Whether pages lie in the guest's memory.
    fn in_memory(&self, start: Gpa, pages: u32) -> Result<(), String> {
        let end = start.checked_add(u64::from(pages) * PAGE);
        if !start.as_u64().is_multiple_of(PAGE) || end.is_none_or(|end| end > self.known.limit) {
            return Err(format!(
                "memory that the guest does not have (end {})",
                self.known.limit
            ));
        }
        Ok(())
    }

    fn extent(&mut self, extent: Extent) -> Result<(), String> {
        if !matches!(self.ask, Ask::Fill { .. } | Ask::Where { .. }) {
            return Err("extents that were not asked for".to_owned());
        }
        if extent.pages == 0 {
            return Err("an extent without pages".to_owned());
        }
        self.in_memory(extent.start, extent.pages)?;
        self.pages += u64::from(extent.pages);
        if self.pages > self.buffer()? {
            return Err("more pages than the buffer has".to_owned());
        }
        self.extents.push(extent);
        Ok(())
    }

    fn finding(&mut self, finding: Finding) -> Result<(), String> {
        if !matches!(self.ask, Ask::Verify { .. }) {
            return Err("findings that were not asked for".to_owned());
        }
        let end = u64::from(finding.page) + u64::from(finding.count);
        if finding.count == 0 || end > self.buffer()? {
            return Err("pages that the buffer does not have".to_owned());
        }
        let before = self
            .findings
            .last()
            .map_or(0, |last| last.page + last.count);
        if finding.page < before {
            return Err("findings that go back".to_owned());
        }
        if self.findings.len() == MOST_FINDINGS as usize {
            return Err(format!("more than {MOST_FINDINGS} findings"));
        }
        self.in_memory(finding.at, finding.count)?;
        self.in_memory(finding.filled_at, finding.count)?;
        check_content(&finding, self.known.generation)?;
        self.wrong += u64::from(finding.count);
        self.findings.push(finding);
        Ok(())
    }

    fn more_bytes(&mut self, bytes: &[u8]) -> Result<(), String> {
        let most = match self.ask {
            Ask::Read(which) => which.most_bytes(),
            Ask::ReadFile { most, .. } => most as usize,
            Ask::Report { .. } => REPORT_BYTES,
            Ask::Quote { .. } => MOST_QUOTE,
            _ => return Err("bytes that were not asked for".to_owned()),
        };
        if bytes.is_empty() || self.bytes.len() + bytes.len() > most {
            return Err(format!("no bytes, or more than {most} of them"));
        }
        self.bytes.extend_from_slice(bytes);
        Ok(())
    }

    /// Whether a request can end like this.
    fn end(&self, outcome: Outcome) -> Result<(), String> {
        let whole = || match self.buffer()? {
            pages if pages == self.pages => Ok(()),
            pages => Err(format!("{} of {pages} pages, and done", self.pages)),
        };
        match (&self.ask, outcome) {
            (Ask::Hello, Outcome::Done) if self.greeted => Ok(()),
            (
                Ask::Fill { bytes, .. },
                Outcome::Filled {
                    bytes: filled,
                    huge,
                },
            ) => {
                if filled != *bytes
                    || huge > filled
                    || !huge.is_multiple_of(PageLevel::Size2M.bytes())
                {
                    return Err("a fill that was not asked for".to_owned());
                }
                whole()
            }
            (Ask::Where { .. }, Outcome::Done) => whole(),
            (
                Ask::Verify { .. },
                Outcome::Verified {
                    bytes,
                    wrong,
                    moved,
                },
            ) => {
                let pages = self.buffer()?;
                let all = self.findings.len() < MOST_FINDINGS as usize;
                if bytes != pages * PAGE
                    || u64::from(moved) > pages
                    || u64::from(wrong) > pages
                    || u64::from(wrong) < self.wrong
                    || (all && u64::from(wrong) != self.wrong)
                {
                    return Err(format!("{} wrong pages reported, and done", self.wrong));
                }
                Ok(())
            }
            (Ask::Read(which), Outcome::Read { bytes, cut }) => {
                let full = self.bytes.len() == which.most_bytes();
                self.read(bytes, cut && !full)
            }
            (Ask::ReadFile { most, .. }, Outcome::Read { bytes, cut }) => {
                let full = self.bytes.len() == *most as usize;
                self.read(bytes, cut && !full)
            }
            (Ask::Report { .. } | Ask::Quote { .. }, Outcome::Read { bytes, cut }) => {
                self.read(bytes, cut)
            }
            (
                Ask::Load(Load::Touch { bytes, processes } | Load::Fork { bytes, processes }),
                Outcome::Loaded {
                    bytes: written,
                    failed,
                },
            ) => {
                let most = bytes.saturating_mul(u64::from(*processes));
                match written <= most && failed <= *processes {
                    true => Ok(()),
                    false => Err("more than was asked for".to_owned()),
                }
            }
            (
                Ask::Load(Load::Fragment { bytes }),
                Outcome::Loaded {
                    bytes: taken,
                    failed: 0,
                },
            ) if taken == *bytes => Ok(()),
            (
                Ask::Free { .. }
                | Ask::Convert { .. }
                | Ask::Load(Load::Release)
                | Ask::Kexec { .. }
                | Ask::PowerOff,
                Outcome::Done,
            ) => Ok(()),
            _ => Err("another end than this request can have".to_owned()),
        }
    }

    fn read(&self, bytes: u64, cut: bool) -> Result<(), String> {
        match bytes == self.bytes.len() as u64 && !cut {
            true => Ok(()),
            false => Err(format!("{} bytes sent, and done", self.bytes.len())),
        }
    }
}

/// Whether a page can hold this and not be intact.
fn check_content(finding: &Finding, generation: Option<Generation>) -> Result<(), String> {
    match &finding.content {
        Content::Own(found) if Some(*found) == generation => {
            Err("an intact page among those that are not".to_owned())
        }
        Content::Own(_) | Content::Zero => Ok(()),
        Content::Foreign { distance: 0, .. } => Err("a page foreign to itself".to_owned()),
        Content::Foreign { distance, .. } => {
            let gfn = finding.filled_at.gfn().cast_signed().checked_sub(*distance);
            match gfn.is_some_and(|gfn| (0..1 << 40).contains(&gfn)) {
                true => Ok(()),
                false => Err("words that name no page".to_owned()),
            }
        }
        Content::Torn { like_first, words } => {
            let index = words.iter().map(|&(index, _)| index);
            let ordered = index.clone().zip(index.clone().skip(1)).all(|(a, b)| a < b);
            let within = words.first().is_some_and(|word| word.0 == 0)
                && words.iter().all(|&(index, _)| usize::from(index) < WORDS);
            match finding.count == 1
                && ordered
                && within
                && (1..=WORDS).contains(&usize::from(*like_first))
            {
                true => Ok(()),
                false => Err("a torn page that cannot be".to_owned()),
            }
        }
        Content::NotAccepted => Err("a page that the agent has read and not read".to_owned()),
    }
}

/// A failure of the agent in words.
pub fn words(failure: &Failure) -> String {
    match failure.errno {
        0 => failure.doing.to_string(),
        errno => format!("{}: {}", failure.doing, io::Error::from_raw_os_error(errno)),
    }
}

/// Text of a request, for a message.
pub fn describe(ask: &Ask) -> String {
    let mebibytes = |bytes: &u64| match bytes % (1 << 20) {
        0 => format!("{} MiB", bytes >> 20),
        _ => format!("{} KiB", bytes >> 10),
    };
    match ask {
        Ask::Hello => "greeting".to_owned(),
        Ask::Fill { buffer, bytes, .. } => {
            format!("filling buffer {} of {}", buffer.get(), mebibytes(bytes))
        }
        Ask::Where { buffer } => format!("looking up buffer {}", buffer.get()),
        Ask::Verify { buffer } => format!("verifying buffer {}", buffer.get()),
        Ask::Free { buffer } => format!("freeing buffer {}", buffer.get()),
        Ask::Convert {
            buffer,
            first,
            count,
            to,
        } => format!(
            "converting {count} pages of buffer {} from page {first} to {}",
            buffer.get(),
            format!("{to:?}").to_lowercase()
        ),
        Ask::Load(Load::Touch { bytes, processes }) => {
            format!("touching {} with {processes} processes", mebibytes(bytes))
        }
        Ask::Load(Load::Fork { bytes, processes }) => {
            format!("forking {processes} times over {}", mebibytes(bytes))
        }
        Ask::Load(Load::Fragment { bytes }) => format!("fragmenting {}", mebibytes(bytes)),
        Ask::Load(Load::Release) => "releasing fragments".to_owned(),
        Ask::Read(Witness::KernelLog) => "reading the kernel log".to_owned(),
        Ask::Read(which) => format!("reading {}", which.name()),
        Ask::ReadFile { path, .. } => format!("reading {path}"),
        Ask::Report { .. } => "taking a TDREPORT".to_owned(),
        Ask::Quote { .. } => "asking for a quote".to_owned(),
        Ask::Kexec { .. } => "starting a kernel by kexec".to_owned(),
        Ask::PowerOff => "powering off".to_owned(),
    }
}
