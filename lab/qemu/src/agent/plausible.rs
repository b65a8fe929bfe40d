//! Whether an answer is plausible.
//!
//! This does not judge the host: a status that is wrong but possible passes. An answer is rejected
//! if no guest that does its task from the first address to the last can give it, whatever the host
//! does.

use tdxlab_protocol::addr::{Gpa, GpaRange, PageLevel};
use tdxlab_protocol::message::{AcceptSize, Access, Command, Content, Counts, OnVe, Run, Side};
use tdxlab_protocol::pattern::WORDS;
use tdxlab_protocol::tdcall::{status, vmcall};

/// A task as its results come in.
#[derive(Debug)]
pub struct AnswerCheck {
    command: Command,
    /// Where the next result must start.
    next: Gpa,
    /// For ACCEPT as Linux does it: the level that was refused last at `next`.
    refused: Option<PageLevel>,
    /// No further reply may follow.
    over: bool,
    /// TDCALLs seen in results.
    calls: u64,
}

impl AnswerCheck {
    /// The beginning of a task.
    pub fn new(command: Command) -> AnswerCheck {
        AnswerCheck {
            next: range(&command).start(),
            refused: None,
            over: false,
            calls: 0,
            command,
        }
    }

    /// Takes the next result in.
    ///
    /// # Errors
    ///
    /// Why it cannot be.
    pub fn follow(&mut self, run: &Run) -> Result<(), String> {
        if self.over {
            return Err("a result after the last one".into());
        }
        match (self.command, run) {
            (
                Command::Accept { size, .. },
                &Run::Accept {
                    start,
                    level,
                    count,
                    status,
                },
            ) => {
                check_status(status)?;
                self.calls += u64::from(count);
                match size {
                    AcceptSize::Exactly(asked) if asked == level => {
                        self.advance(start, level, count)
                    }
                    AcceptSize::Exactly(asked) => {
                        Err(format!("an ACCEPT of {level} where {asked} was asked for"))
                    }
                    AcceptSize::Linux => self.follow_linux(start, level, count, status),
                }
            }
            (
                Command::Release { level: asked, .. },
                &Run::Accept {
                    start,
                    level,
                    count,
                    status,
                },
            ) => {
                check_status(status)?;
                self.calls += u64::from(count);
                if asked == level {
                    self.advance(start, level, count)
                } else {
                    Err(format!("a RELEASE of {level} where {asked} was asked for"))
                }
            }
            (
                Command::Touch {
                    stride,
                    side,
                    on_ve,
                    ..
                },
                Run::Access {
                    start,
                    count,
                    outcome,
                },
            ) => {
                check_access(outcome, side, on_ve)?;
                self.advance(*start, stride, *count)
            }
            (
                Command::Fill { side, .. },
                Run::Access {
                    start,
                    count,
                    outcome,
                },
            ) => {
                check_access(outcome, side, OnVe::Skip)?;
                self.advance(*start, PageLevel::Size4K, *count)
            }
            (
                Command::Verify { .. },
                Run::Content {
                    start,
                    count,
                    content,
                },
            ) => {
                check_content(content, *count)?;
                self.advance(*start, PageLevel::Size4K, *count)
            }
            (Command::Convert { range, .. }, &Run::MapGpa { status, calls, .. }) => {
                if calls == 0 {
                    return Err("a MapGPA that was never called".into());
                }
                check_map_gpa_status(status)?;
                self.calls += u64::from(calls);
                self.next = range.end();
                self.over = true;
                Ok(())
            }
            (
                Command::Probe { stride, .. },
                &Run::Probe {
                    start,
                    count,
                    status,
                    level,
                    ..
                },
            ) => {
                check_status(status)?;
                if status == status::SUCCESS && PageLevel::from_tdx(level).is_none() {
                    return Err(format!("an entry of level {level}"));
                }
                self.calls += u64::from(count);
                self.advance(start, stride, count)
            }
            _ => Err("a result of another command".into()),
        }
    }

    /// The end of the task.
    ///
    /// # Errors
    ///
    /// Why it cannot be over.
    pub fn finish(&self, counts: &Counts) -> Result<(), String> {
        let end = range(&self.command).end();
        if !self.over && self.next < end {
            return Err(format!("nothing about {} to {end}", self.next));
        }
        if counts.tdcalls < self.calls {
            return Err(format!(
                "{} TDCALLs counted, {} reported",
                counts.tdcalls, self.calls
            ));
        }
        Ok(())
    }

    /// `count` results, one every `stride`.
    fn advance(&mut self, start: Gpa, stride: PageLevel, count: u32) -> Result<(), String> {
        if start != self.next {
            return Err(format!("a result for {start} where {} is next", self.next));
        }
        if count == 0 {
            return Err("a result about nothing".into());
        }
        let end = range(&self.command).end();
        self.next = u64::from(count)
            .checked_mul(stride.bytes())
            .and_then(|bytes| start.checked_add(bytes))
            .filter(|&next| next <= end)
            .ok_or_else(|| format!("{count} results of {stride} from {start} pass {end}"))?;
        Ok(())
    }

    /// At each position the largest size that fits, then the next smaller; a refused 4K is the end.
    fn follow_linux(
        &mut self,
        start: Gpa,
        level: PageLevel,
        count: u32,
        status: u64,
    ) -> Result<(), String> {
        let end = range(&self.command).end();
        let left = end.checked_sub(start).unwrap_or(0);
        let largest = PageLevel::ALL
            .into_iter()
            .rev()
            .filter(|&level| self.refused.is_none_or(|refused| level < refused))
            .find(|level| start.is_aligned(*level) && level.bytes() <= left);
        if start == self.next && largest != Some(level) {
            return Err(format!("an ACCEPT of {level} where another size is next"));
        }
        if status != status::SUCCESS {
            let next = self.next;
            self.advance(start, level, count)?;
            if count != 1 {
                return Err(format!("{count} refused ACCEPTs in a row"));
            }
            self.next = next;
            self.refused = Some(level);
            self.over = level == PageLevel::Size4K;
            return Ok(());
        }
        self.advance(start, level, count)?;
        self.refused = None;
        // Within a run, no position may be one at which a larger size would have been tried.
        let passed_over = PageLevel::ALL
            .into_iter()
            .filter(|&larger| larger > level)
            .filter_map(|larger| {
                let second = start.checked_add(level.bytes())?;
                let position = second.align_up(larger)?;
                let fits = larger.bytes() <= end.checked_sub(position)?;
                (position < self.next && fits).then_some(larger)
            })
            .next();
        match passed_over {
            Some(larger) => Err(format!("a run of {level} where {larger} is tried first")),
            None => Ok(()),
        }
    }
}

fn range(command: &Command) -> GpaRange {
    match *command {
        Command::Accept { range, .. }
        | Command::Touch { range, .. }
        | Command::Fill { range, .. }
        | Command::Verify { range, .. }
        | Command::Convert { range, .. }
        | Command::Probe { range, .. }
        | Command::Release { range, .. } => range,
    }
}

/// Bits 59:48 of a completion status are reserved, a success has no detail, and the detail of the
/// two codes about sizes is a level.
fn check_status(status: u64) -> Result<(), String> {
    const RESERVED: u64 = 0x0fff_0000_0000_0000;
    let detail = status & !status::CLASS_MASK;
    let possible = match status & status::CLASS_MASK {
        status::SUCCESS => detail == 0,
        status::PAGE_ALREADY_ACCEPTED | status::PAGE_SIZE_MISMATCH => detail <= 2,
        class => class & RESERVED == 0,
    };
    if possible {
        Ok(())
    } else {
        Err(format!("status {status:#018x} does not exist"))
    }
}

/// R10 of TDG.VP.VMCALL: 0, RETRY, or an error with bit 63.
fn check_map_gpa_status(status: u64) -> Result<(), String> {
    let possible = status <= vmcall::RETRY || status >= vmcall::INVALID_OPERAND;
    if possible {
        Ok(())
    } else {
        Err(format!("MapGPA status {status:#018x} does not exist"))
    }
}

fn check_access(outcome: &Access, side: Side, on_ve: OnVe) -> Result<(), String> {
    match outcome {
        Access::Done | Access::StrangeVe { .. } => Ok(()),
        Access::Ve if side == Side::Private => Ok(()),
        Access::Ve => Err("a #VE for a shared page".into()),
        Access::Accepted if on_ve == OnVe::Accept => Ok(()),
        Access::AcceptFailed { status } if on_ve == OnVe::Accept => {
            if *status == status::SUCCESS {
                return Err("an ACCEPT that failed with success".into());
            }
            check_status(*status)
        }
        Access::Accepted | Access::AcceptFailed { .. } => {
            Err("an ACCEPT that nobody asked for".into())
        }
    }
}

fn check_content(content: &Content, count: u32) -> Result<(), String> {
    match content {
        Content::Own(_) | Content::Zero | Content::NotAccepted => Ok(()),
        Content::Foreign { distance: 0, .. } => Err("a page that is foreign to itself".into()),
        Content::Foreign { .. } => Ok(()),
        Content::Torn { .. } if count != 1 => Err("torn pages that are all alike".into()),
        Content::Torn { like_first, words } => {
            let indexes = || words.iter().map(|(index, _)| usize::from(*index));
            let ascending = indexes().zip(indexes().skip(1)).all(|(a, b)| a < b);
            let inside = indexes().all(|index| index < WORDS);
            let some = (1..=WORDS).contains(&usize::from(*like_first));
            if ascending && inside && some && !words.is_empty() {
                Ok(())
            } else {
                Err("a torn page whose words cannot be".into())
            }
        }
    }
}
