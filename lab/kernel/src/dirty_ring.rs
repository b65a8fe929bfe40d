//! Pages that KVM's dirty log names: events `kvm:kvm_dirty_ring_push`, which give slot and offset.
//!
//! ```text
//!  qemu-system-x86-1234    [000] ...1.    12.345678: kvm_dirty_ring_push: ring 0: dirty 0x1 reset 0x0 slot 1 offset 0x200 (used 1)
//!  qemu-system-x86-1230    [000] .....    12.300000: slots: (kvm_set_memory_region+0x4/0x9f0 [kvm]) slot=0x1 flags=0x1 gpa=0x40000000 size=0x1000000
//! ```
//!
//! Where a slot lies is known from the call that switches its logging on: a probe shows its
//! `struct kvm_userspace_memory_region`. Source: include/trace/events/kvm.h, include/uapi/linux/kvm.h.

use std::collections::BTreeMap;
use std::path::Path;

use tdxlab_journal::Reading;
use tdxlab_plan::RangeSet;
use tdxlab_plan::addr::{Gpa, GpaRange, PageLevel};

use crate::instance::Instance;
use crate::trace_lines::{NoMark, TraceLines, lost, parse_context, parse_lost};

const EVENT: &str = "kvm_dirty_ring_push";

/// Name of the probe's events.
const SLOTS: &str = "slots";

/// The function that makes, changes and removes a slot. Before 6.14 the second takes a lock and calls
/// the first; since then there is only the second.
const FUNCTIONS: [&str; 2] = ["__kvm_set_memory_region", "kvm_set_memory_region"];

/// Fields of the second argument, in its registers and memory on x86-64.
const ARGUMENTS: &str = "slot=+0(%si):x32 flags=+4(%si):x32 gpa=+8(%si):x64 size=+16(%si):x64";

/// Bound on the pages of one reading. No scenario of the lab writes as many.
const MAX_PAGES: usize = 1 << 20;

/// Bound on the slots that are remembered.
const MAX_SLOTS: usize = 1 << 16;

/// The pages that are logged for some threads.
#[derive(Debug)]
pub struct DirtyRing {
    // Dropped in this order: the kernel removes no instance that is being read.
    lines: TraceLines,
    instance: Instance,
    slots: Slots,
}

/// Where the slots lie.
#[derive(Debug, Default)]
struct Slots(BTreeMap<u32, GpaRange>);

/// A line of the trace.
#[derive(Debug, PartialEq, Eq)]
enum Line {
    /// A page was logged.
    Push {
        slot: u32,
        offset: u64,
    },
    /// A slot is made, changed or, with no range, removed.
    Slot {
        slot: u32,
        range: Option<GpaRange>,
    },
    Lost(Option<u64>),
    Other,
}

impl DirtyRing {
    /// Begins to record. To be called before logging is switched on, which shows where the slots lie.
    ///
    /// # Errors
    ///
    /// There is no tracefs, event or probe to be had, or what is recorded does not come out; as text.
    pub fn follow(root: &Path, threads: &[u32]) -> Result<DirtyRing, String> {
        let mut instance = Instance::new(root)?;
        instance.follow(threads)?;
        instance.enable(&format!("kvm/{EVENT}"))?;
        instance.probe_entry(SLOTS, &FUNCTIONS, ARGUMENTS)?;
        let mut lines = TraceLines::open(instance.pipe());
        lines
            .saw(&instance.mark()?, |_| Ok(()))
            .map_err(NoMark::into_reason)?;
        Ok(DirtyRing {
            lines,
            instance,
            slots: Slots::default(),
        })
    }

    /// The pages of `memory` that were logged since the previous reading, each once.
    pub fn read(&mut self, memory: GpaRange) -> Reading<Vec<GpaRange>> {
        if let Err(reason) = self.instance.is_on(&format!("kvm/{EVENT}")) {
            return Reading::incomplete(reason);
        }
        self.slots.read(&mut self.lines, memory)
    }
}

impl Slots {
    fn read(&mut self, lines: &mut TraceLines, memory: GpaRange) -> Reading<Vec<GpaRange>> {
        let mut pages = RangeSet::default();
        let mut left = MAX_PAGES;
        let mut unknown = None;
        let read = lines.read(|line| {
            match parse_line(line)? {
                Line::Push { slot, offset } => match self.page(slot, offset)? {
                    Some(page) if memory.contains(page.start()) => {
                        left = left
                            .checked_sub(1)
                            .ok_or_else(|| format!("more than {MAX_PAGES} events of {EVENT}"))?;
                        pages.insert(page);
                    }
                    Some(_) => {}
                    None => unknown = Some(slot),
                },
                Line::Slot { slot, range: None } => drop(self.0.remove(&slot)),
                Line::Slot { .. } if self.0.len() >= MAX_SLOTS => {
                    return Err(format!("more than {MAX_SLOTS} slots"));
                }
                Line::Slot {
                    slot,
                    range: Some(range),
                } => drop(self.0.insert(slot, range)),
                Line::Lost(count) => return Err(lost(count)),
                Line::Other => {}
            }
            Ok(())
        });
        match (read, unknown) {
            (Reading::Read(()), Some(slot)) => Reading::missing(format!(
                "{}: pages of slot {slot} are logged, and no call of {} has shown where it lies",
                lines.path().display(),
                FUNCTIONS.join(" or ")
            )),
            (read, _) => read.map(|()| pages.iter().collect()),
        }
    }

    /// The page at `offset` of a slot; `None` if it is not known where that lies.
    fn page(&self, slot: u32, offset: u64) -> Result<Option<GpaRange>, String> {
        let Some(range) = self.0.get(&slot) else {
            return Ok(None);
        };
        let bytes = offset.checked_mul(PageLevel::Size4K.bytes());
        bytes
            .and_then(|bytes| range.start().checked_add(bytes))
            .filter(|page| range.contains(*page))
            .map(|page| Some(page.page(PageLevel::Size4K)))
            .ok_or_else(|| {
                let (start, end) = (range.start(), range.end());
                format!("page {offset:#x} of slot {slot} is outside of it, {start}..{end}")
            })
    }
}

fn parse_line(line: &str) -> Result<Line, String> {
    let line = line.trim_end();
    if line.is_empty() || line.starts_with('#') {
        return Ok(Line::Other);
    }
    if let Some(lost) = parse_lost(line) {
        return Ok(Line::Lost(lost));
    }
    let (_, event) = parse_context(line).ok_or_else(|| format!("no trace line: {line:?}"))?;
    let parsed = match event.split_once(':') {
        Some((EVENT, fields)) => parse_push(fields),
        Some((SLOTS, fields)) => parse_slot(fields),
        _ => return Ok(Line::Other),
    };
    parsed.ok_or_else(|| format!("not understood: {line:?}"))
}

/// `ring %d: dirty 0x%x reset 0x%x slot %u offset 0x%llx (used %u)`.
fn parse_push(fields: &str) -> Option<Line> {
    let (_, fields) = fields.split_once(" slot ")?;
    let (slot, fields) = fields.split_once(" offset ")?;
    let offset = fields.split_whitespace().next()?;
    Some(Line::Push {
        slot: slot.parse().ok()?,
        offset: hex(offset)?,
    })
}

/// `(FUNCTION+0x4/0x9f0 [kvm]) slot=0x%x flags=0x%x gpa=0x%llx size=0x%llx`.
fn parse_slot(fields: &str) -> Option<Line> {
    let field = |name: &str| {
        let fields = fields.split_whitespace();
        let value = fields.filter_map(|field| field.split_once('='));
        value
            .into_iter()
            .find(|(found, _)| *found == name)
            .and_then(|(_, value)| hex(value))
    };
    let size = field("size")?;
    let range = GpaRange::with_len(Gpa::new(field("gpa")?), size)?;
    Some(Line::Slot {
        slot: field("slot")?.try_into().ok()?,
        range: Some(range).filter(|range| !range.is_empty()),
    })
}

fn hex(text: &str) -> Option<u64> {
    u64::from_str_radix(text.strip_prefix("0x")?, 16).ok()
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use proptest::prelude::*;

    use super::*;

    const PUSH: &str = " qemu-system-x86-1234    [000] ...1.    12.345678: kvm_dirty_ring_push: ring 0: dirty 0x1 reset 0x0 slot 1 offset 0x200 (used 1)";
    const SLOT: &str = " qemu-system-x86-1230    [000] .....    12.300000: slots: (kvm_set_memory_region+0x4/0x9f0 [kvm]) slot=0x1 flags=0x1 gpa=0x40000000 size=0x1000000";

    /// All memory there is.
    const ALL: u64 = 1 << 46;

    fn range(start: u64, bytes: u64) -> GpaRange {
        GpaRange::with_len(Gpa::new(start), bytes).unwrap()
    }

    fn read(text: &str) -> Reading<Vec<GpaRange>> {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(text.as_bytes()).unwrap();
        let mut lines = TraceLines::open(file.path().to_owned());
        Slots::default().read(&mut lines, range(0, ALL))
    }

    fn push(offset: u64) -> String {
        PUSH.replace("0x200", &format!("{offset:#x}"))
    }

    #[test]
    fn pages_are_named_by_what_their_slot_was_when_logging_began() {
        let text = [
            SLOT.to_owned(),
            push(0x201),
            push(0x200),
            push(0x201),
            push(0xfff),
        ];
        assert_eq!(
            read(&(text.join("\n") + "\n")),
            Reading::Read(vec![range(0x4020_0000, 0x2000), range(0x40ff_f000, 0x1000)])
        );
    }

    #[test]
    fn pages_outside_of_test_memory_are_left_out() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        writeln!(file, "{SLOT}\n{PUSH}").unwrap();
        let mut lines = TraceLines::open(file.path().to_owned());
        let none = Slots::default().read(&mut lines, range(0x4100_0000, 0x10_0000));
        assert_eq!(none, Reading::Read(Vec::new()));
    }

    #[rstest::rstest]
    #[case::unknown_slot(format!("{PUSH}\n"), "no call of")]
    #[case::slot_is_gone(
        format!("{SLOT}\n{}\n{PUSH}\n", SLOT.replace("size=0x1000000", "size=0x0")),
        "no call of"
    )]
    #[case::outside(format!("{SLOT}\n{}\n", push(0x1000)), "outside of it")]
    #[case::far_outside(format!("{SLOT}\n{}\n", push(u64::MAX)), "outside of it")]
    #[case::lost(format!("{SLOT}\nCPU:0 [LOST 3 EVENTS]\n{PUSH}\n"), "lost 3 events")]
    #[case::no_number(format!("{SLOT}\n{}\n", PUSH.replace("0x200", "many")), "not understood")]
    #[case::fault(
        format!("{}\n", SLOT.replace("gpa=0x40000000", "gpa=(fault)")),
        "not understood"
    )]
    fn what_is_not_sure_is_no_reading(#[case] text: String, #[case] says: &str) {
        match read(&text) {
            Reading::Missing { reason } | Reading::Incomplete { reason, .. } => {
                assert!(reason.contains(says), "{reason}");
            }
            Reading::Read(pages) => panic!("{pages:?}"),
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "\\PC{0,200}") {
            let _ = parse_line(&text);
        }

        #[test]
        fn any_mutation_of_a_line_is_read_or_refused(
            of in prop_oneof![Just(PUSH), Just(SLOT)], at in 0..PUSH.len(), byte in 0u8..128,
        ) {
            let mut line = of.as_bytes().to_vec();
            line[at] = byte;
            let _ = parse_line(&String::from_utf8_lossy(&line));
        }
    }
}
