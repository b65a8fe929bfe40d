//! Split events: lines of `kvmmmu:kvm_mmu_split_huge_page` as tracefs prints them.
//!
//! ```text
//!  qemu-system-x86-1234    [001] d..1.  1234.567890: kvm_mmu_split_huge_page: gfn 40000 spte 86000000408000f3 level 2 errno 0
//! ```
//!
//! Source of the line: `print_trace_line()` and `trace_print_context()` in kernel/trace; of its
//! end: the event's definition in arch/x86/kvm/mmu/mmutrace.h. Where the ring buffer was too small
//! the kernel says `CPU:1 [LOST 12 EVENTS]`, and the remaining lines prove nothing.

use std::path::PathBuf;

use tdxlab_journal::{Reading, SplitEvent};
use tdxlab_plan::addr::Gpa;
use tdxlab_qemu::head_tail::HeadTail;

use crate::instance::Instance;
use crate::trace_lines::{Mark, NoMark, TraceLines, lost, parse_context, parse_lost};

/// Where tracefs usually is.
pub const ROOT: &str = "/sys/kernel/tracing";

/// The event that is read.
pub const SPLIT_EVENT: &str = "kvm_mmu_split_huge_page";

/// Bound on the events of one reading. No scenario of the lab splits as many leaves.
pub const MAX_EVENTS: usize = 1 << 18;

/// Lines of other events that are kept: the first and the last.
const OTHERS: usize = 50_000;

/// Largest frame number: 52 bits of address.
const MAX_GFN: u64 = 1 << 40;

/// A line of a trace file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Line {
    /// A split event.
    Split(SplitEvent),
    /// Events were lost here; how many, where the kernel knows.
    Lost(Option<u64>),
    /// Another event, a comment or a blank line.
    Other,
}

/// Parses a line.
///
/// # Errors
///
/// It is not a line of a trace file, or a split event with impossible content; as text.
pub fn parse_line(line: &str) -> Result<Line, String> {
    let line = line.trim_end();
    if line.is_empty() || line.starts_with('#') {
        return Ok(Line::Other);
    }
    if let Some(lost) = parse_lost(line) {
        return Ok(Line::Lost(lost));
    }
    let (tid, event) = parse_context(line).ok_or_else(|| format!("no trace line: {line:?}"))?;
    let Some(fields) = event
        .strip_prefix(SPLIT_EVENT)
        .and_then(|rest| rest.strip_prefix(':'))
    else {
        return Ok(Line::Other);
    };
    parse_split(tid, fields)
        .map(Line::Split)
        .ok_or_else(|| format!("no {SPLIT_EVENT} event: {line:?}"))
}

/// `gfn %llx spte %llx level %d errno %d`; fields that a later kernel appends are let be.
fn parse_split(tid: u32, fields: &str) -> Option<SplitEvent> {
    let mut words = fields.split_whitespace();
    let mut field = |name| (words.next()? == name).then(|| words.next())?;
    let hex = |text: &str| u64::from_str_radix(text, 16).ok();

    let gfn = field("gfn").and_then(hex).filter(|&gfn| gfn < MAX_GFN)?;
    field("spte").and_then(hex)?;
    let level: u8 = field("level")?.parse().ok()?;
    let errno: i32 = field("errno")?.parse().ok()?;
    // A leaf of level 1 cannot be split, but rejecting such an event is up to the judge.
    let plausible = (1..=5).contains(&level) && (-4095..=0).contains(&errno);
    plausible.then_some(SplitEvent {
        gpa: Gpa::from_gfn(gfn),
        level,
        errno,
        tid,
    })
}

/// Reads the events of a trace file from where the previous reading ended: the `trace_pipe` of a
/// tracefs instance, or an ordinary file that grows.
#[derive(Debug)]
pub struct TraceReader {
    lines: TraceLines,
    /// Other lines of the trace.
    others: HeadTail<String>,
}

impl TraceReader {
    /// Opens a trace file. That it cannot be opened shows in every reading.
    pub fn open(path: PathBuf) -> TraceReader {
        TraceReader {
            lines: TraceLines::open(path),
            others: HeadTail::new(OTHERS, OTHERS),
        }
    }

    /// The lines of other events that have been read so far; `None` where there were none.
    pub fn others(&self) -> Option<String> {
        let mut text = String::new();
        for line in self.others.head().chain(self.others.tail()) {
            text.push_str(line);
            text.push('\n');
        }
        Some(text).filter(|text| !text.is_empty())
    }

    /// The positive control of all events: a mark that is written into `instance`, whose trace this
    /// is, comes out as this thread's. Splits before it are dropped.
    ///
    /// # Errors
    ///
    /// The mark is missing or another's, or the trace cannot be read.
    pub(crate) fn control(&mut self, instance: &Instance) -> Result<(), NoMark> {
        let mark = instance.mark().map_err(NoMark::Lost)?;
        self.saw(&mark)
    }

    fn saw(&mut self, mark: &Mark) -> Result<(), NoMark> {
        let others = &mut self.others;
        self.lines
            .saw(mark, |line| split_in(line, others).map(|_| ()))
    }

    /// The split events since the previous reading. Spoilt where any were lost or a line cannot be
    /// understood: a smaller count would be a lie.
    pub fn splits(&mut self) -> Reading<Vec<SplitEvent>> {
        let mut events = Vec::new();
        let others = &mut self.others;
        let read = self.lines.read(|line| {
            let Some(event) = split_in(line, others)? else {
                return Ok(());
            };
            if events.len() == MAX_EVENTS {
                return Err(format!("more than {MAX_EVENTS} events"));
            }
            events.push(event);
            Ok(())
        });
        read.map(|()| events)
    }
}

/// The split event of a line; a line of another event is added to `others`.
fn split_in(line: &str, others: &mut HeadTail<String>) -> Result<Option<SplitEvent>, String> {
    match parse_line(line)? {
        Line::Split(event) => return Ok(Some(event)),
        Line::Lost(count) => return Err(lost(count)),
        Line::Other if line.is_empty() || line.starts_with('#') => {}
        Line::Other => others.push(line.to_owned()),
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use proptest::prelude::*;
    use rstest::rstest;

    use super::*;

    const SPLIT: &str = " qemu-system-x86-1234    [001] d..1.  1234.567890: kvm_mmu_split_huge_page: gfn 40200 spte 86000000408000f3 level 2 errno 0";

    fn split(gfn: u64, errno: i32, tid: u32) -> Line {
        Line::Split(SplitEvent {
            gpa: Gpa::from_gfn(gfn),
            level: 2,
            errno,
            tid,
        })
    }

    #[rstest]
    #[case::plain(SPLIT, split(0x40200, 0, 1234))]
    #[case::name_with_brackets(
        "          a-[1] b-77      [000] .....     1.000001: kvm_mmu_split_huge_page: gfn 0 spte 0 level 2 errno -12",
        split(0, -12, 77)
    )]
    #[case::thread_group(
        "           <...>-9       (   1234) [012] d..1. 12345.678901: kvm_mmu_split_huge_page: gfn ff spte 1 level 2 errno 0",
        split(0xff, 0, 9)
    )]
    #[case::old_flags(
        "             sh-9     [002] d..1 12345.678901: kvm_mmu_split_huge_page: gfn ff spte 1 level 2 errno 0",
        split(0xff, 0, 9)
    )]
    #[case::another_event(
        "             sh-9     [002] d..1. 12345.678901: kvm_tdp_mmu_spte_changed: as id 0 gfn 1 level 1 old_spte 0 new_spte 1",
        Line::Other
    )]
    #[case::header("# tracer: nop", Line::Other)]
    #[case::lost("CPU:3 [LOST 12 EVENTS]", Line::Lost(Some(12)))]
    #[case::lost_unknown("CPU:3 [LOST EVENTS]", Line::Lost(None))]
    fn lines_of_the_kernel(#[case] line: &str, #[case] expected: Line) {
        assert_eq!(parse_line(line), Ok(expected));
    }

    #[rstest]
    #[case::words("hello")]
    #[case::cut("             sh-9     [002] d..1. 12345.678901: kvm_mmu_split_huge_page: gfn 40")]
    #[case::bad_number(
        "             sh-9     [002] d..1. 12345.678901: kvm_mmu_split_huge_page: gfn 4x spte 1 level 2 errno 0"
    )]
    #[case::level_of_nothing(
        "             sh-9     [002] d..1. 12345.678901: kvm_mmu_split_huge_page: gfn 4 spte 1 level 0 errno 0"
    )]
    #[case::positive_errno(
        "             sh-9     [002] d..1. 12345.678901: kvm_mmu_split_huge_page: gfn 4 spte 1 level 2 errno 12"
    )]
    #[case::gfn_past_the_address_space(
        "             sh-9     [002] d..1. 12345.678901: kvm_mmu_split_huge_page: gfn 10000000000 spte 1 level 2 errno 0"
    )]
    fn other_lines_are_refused(#[case] line: &str) {
        assert!(parse_line(line).is_err());
    }

    fn reader(content: &str) -> (tempfile::NamedTempFile, TraceReader) {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(content.as_bytes()).unwrap();
        let reader = TraceReader::open(file.path().to_owned());
        (file, reader)
    }

    #[test]
    fn each_reading_goes_on_where_the_last_one_ended() {
        let (mut file, mut reader) = reader(&format!("{SPLIT}\n{}", &SPLIT[..30]));
        assert_eq!(reader.splits().value().unwrap().len(), 1);
        assert_eq!(reader.splits(), Reading::Read(Vec::new()));
        writeln!(file, "{}\n{SPLIT}", &SPLIT[30..]).unwrap();
        assert_eq!(reader.splits().value().unwrap().len(), 2);
    }

    #[test]
    fn lost_events_spoil_the_reading_and_leave_the_next_one_clean() {
        let (mut file, mut reader) = reader(&format!("{SPLIT}\nCPU:1 [LOST 9 EVENTS]\n"));
        let Reading::Incomplete { reason, .. } = reader.splits() else {
            panic!("a count with lost events is no count");
        };
        assert!(
            reason.ends_with("the ring buffer lost 9 events"),
            "{reason}"
        );
        writeln!(file, "{SPLIT}").unwrap();
        assert_eq!(reader.splits().value().unwrap().len(), 1);
    }

    #[test]
    fn other_events_are_kept_and_comments_are_not() {
        let other = "  sh-9     [002] d..1.  5.678901: kvm_tdp_mmu_spte_changed: as id 0 gfn 1";
        let (_file, mut reader) = reader(&format!("# tracer: nop\n\n{other}\n{SPLIT}\n"));
        assert_eq!(reader.others(), None);
        assert_eq!(reader.splits().value().unwrap().len(), 1);
        assert_eq!(reader.others().unwrap(), format!("{other}\n"));
    }

    fn mark(thread: u32) -> Mark {
        let text = "tdxlab 1 42".to_owned();
        Mark { text, thread }
    }

    #[test]
    fn a_mark_that_comes_out_shows_that_events_would() {
        let line = "  tdxlab-9     [002] .....  5.678901: tracing_mark_write: tdxlab 1 42";
        let (mut file, mut reader) = reader(&format!("{line}\n"));
        assert_eq!(reader.saw(&mark(9)), Ok(()));
        assert_eq!(reader.others(), None, "the mark is nobody's evidence");
        let dead = reader.saw(&mark(9)).unwrap_err().into_reason();
        assert!(dead.contains("did not come out"), "{dead}");
        writeln!(file, "CPU:1 [LOST 9 EVENTS]\n{line}").unwrap();
        let lost = reader.saw(&mark(9)).unwrap_err().into_reason();
        assert!(lost.contains("lost 9"), "{lost}");
    }

    /// The trace has the numbers of the first PID namespace, whoever reads it.
    #[test]
    fn a_mark_that_comes_out_as_of_another_thread_shows_that_events_are_nobodys() {
        let line = "  tdxlab-90211 [002] .....  5.678901: tracing_mark_write: tdxlab 1 42";
        let (_file, mut reader) = reader(&format!("{line}\n"));
        let Err(NoMark::Elsewhere(reason)) = reader.saw(&mark(9)) else {
            panic!("90211 is not 9");
        };
        for says in ["PID namespace", "thread 9 ", "thread 90211", "--pid=host"] {
            assert!(reason.contains(says), "{reason}");
        }
    }

    #[test]
    fn a_file_that_is_not_there_is_missing() {
        let mut reader = TraceReader::open("/nonexistent/trace_pipe".into());
        assert!(reader.splits().value().is_none());
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "\\PC{0,200}") {
            let _ = parse_line(&text);
        }

        #[test]
        fn any_mutation_of_a_line_is_read_or_refused(at in 0..SPLIT.len(), byte in 0u8..128) {
            let mut line = SPLIT.as_bytes().to_vec();
            line[at] = byte;
            let _ = parse_line(&String::from_utf8_lossy(&line));
        }

        #[test]
        fn what_is_printed_is_read_back(
            comm in "[ -~]{1,15}", tid in 1u32..4_000_000, gfn in 0..MAX_GFN, errno in -4095i32..=0,
        ) {
            let line = format!(
                "{comm:>16}-{tid:<7} [003] d..1. {:5}.{:06}: kvm_mmu_split_huge_page: gfn {gfn:x} spte {:x} level 2 errno {errno}",
                7, 8, u64::MAX
            );
            // A name that looks like a comment or a context cannot be told apart; it must be
            // rejected, not taken for another thread's.
            prop_assume!(!comm.contains(['[', '#', ':']));
            prop_assert_eq!(parse_line(&line), Ok(split(gfn, errno, tid)));
        }
    }
}
