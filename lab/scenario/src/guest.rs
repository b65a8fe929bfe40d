//! The guest of a scenario: base of test memory, memory slots, image pages.

use std::ops::Range;

use tdxlab_plan as plan;
use tdxlab_plan::addr::{Gpa, GpaRange, PageLevel};
use tdxlab_plan::limits::{LOW_END, MAX_IMAGE, MAX_SLOTS, MAX_VCPUS, WINDOW_BYTES};
use tdxlab_plan::{Backing, HIGH_BASE, LOW_BASE};

use super::expr::Bytes;
use super::model;
use super::read::{self, Reader};
use super::yaml::Node;

/// Makes the guest of a plan.
pub(super) fn guest(
    reader: &mut Reader<'_>,
    guest: &model::Guest,
    node: &Node,
) -> Option<plan::Guest> {
    let memory = memory(reader, guest, node);
    let vcpus = vcpus(reader, guest, node);
    let ve_node = node.key("sept_ve_disable");
    let sept_ve_disable = reader.get_or(guest.sept_ve_disable.as_ref(), ve_node, false);
    let memory = memory?;
    let slots = slots(reader, guest, node.key("slots"), memory);
    let image = image(reader, guest, node.key("image"), memory);
    let backing = backing(reader, guest, node, memory);
    Some(plan::Guest {
        memory,
        vcpus: vcpus?,
        sept_ve_disable: sept_ve_disable?,
        slots: slots?,
        image: image?,
        backing: backing?,
    })
}

/// Backing of a plain VM, which cannot have keys that only a TD has.
fn backing(
    reader: &mut Reader<'_>,
    guest: &model::Guest,
    node: &Node,
    memory: GpaRange,
) -> Option<Option<Backing>> {
    let Some(backing) = &guest.backing else {
        return Some(None);
    };
    let backing = reader.get(backing, node.key("backing"))?;
    for key in ["sept_ve_disable", "slots", "image"] {
        if let Some(entry) = node.entry(key) {
            let message = format!("a plain VM has no `{key}`");
            let help = "remove it, or remove `backing` to have a TD".to_owned();
            reader.push(read::at(&entry.key_span, message, "only a TD has it", help));
            return None;
        }
    }
    let unit = backing.leaf().max(PageLevel::Size2M);
    if !memory.is_aligned(unit) {
        reader.wrong(
            node.key("memory"),
            format!(
                "{} of test memory cannot be made of {}",
                Bytes(memory.bytes()),
                backing.name()
            ),
            "not whole pages",
            format!("`{}` would be", Bytes(round_up(memory.bytes(), unit))),
        );
        return None;
    }
    Some(Some(backing))
}

fn memory(reader: &mut Reader<'_>, guest: &model::Guest, node: &Node) -> Option<GpaRange> {
    let node = node.key("memory");
    let bytes = reader.get(&guest.memory, node)?;
    let base = match LOW_BASE.checked_add(bytes) {
        Some(end) if end.as_u64() <= LOW_END => LOW_BASE,
        _ => HIGH_BASE,
    };
    let most = WINDOW_BYTES - HIGH_BASE.as_u64();
    if bytes == 0 || bytes > most {
        reader.wrong(
            node,
            format!("a guest cannot have {} of test memory", Bytes(bytes)),
            "out of bounds",
            format!("from 4K to {}", Bytes(most)),
        );
        return None;
    }
    if !bytes.is_multiple_of(PageLevel::Size4K.bytes()) {
        reader.wrong(
            node,
            format!("{} of test memory are not whole pages", Bytes(bytes)),
            "not a multiple of 4K",
            format!("`{}` would be", Bytes(round_up(bytes, PageLevel::Size4K))),
        );
        return None;
    }
    GpaRange::with_len(base, bytes)
}

fn vcpus(reader: &mut Reader<'_>, guest: &model::Guest, node: &Node) -> Option<u16> {
    let node = node.key("vcpus");
    let vcpus = reader.get_or(guest.vcpus.as_ref(), node, 1)?;
    match u16::try_from(vcpus) {
        Ok(few) if few > 0 && u32::from(few) <= MAX_VCPUS => Some(few),
        _ => {
            reader.wrong(
                node,
                format!("a guest cannot have {vcpus} vCPUs"),
                "out of bounds",
                format!("from 1 to {MAX_VCPUS}"),
            );
            None
        }
    }
}

fn slots(
    reader: &mut Reader<'_>,
    guest: &model::Guest,
    node: &Node,
    memory: GpaRange,
) -> Option<Vec<plan::Slot>> {
    let Some(slots) = &guest.slots else {
        return Some(vec![plan::Slot {
            range: memory,
            gmem_offset: 0,
        }]);
    };
    if slots.0.len() > MAX_SLOTS {
        let message = format!("{} memory slots", slots.0.len());
        reader.wrong(node, message, "too many", format!("at most {MAX_SLOTS}"));
        return None;
    }
    let mut made: Vec<plan::Slot> = Vec::new();
    let mut files: Vec<Range<u64>> = Vec::new();
    for (index, slot) in slots.0.iter().enumerate() {
        let node = node.item(index);
        let range = extent(
            reader,
            &slot.range,
            node.key("range"),
            memory,
            PageLevel::Size4K,
        );
        let offset = reader.get(&slot.gmem, node.key("gmem"));
        let (range, gmem_offset) = (range?, offset?);
        let begins = made.last().map_or(memory.start(), |slot| slot.range.end());
        if range.start() != begins {
            reader.wrong(
                node.key("range"),
                "slots must follow each other without gap or overlap".to_owned(),
                "starts elsewhere",
                format!("it has to start at {}", offset_of(memory, begins)),
            );
            return None;
        }
        let file = gmem_offset..gmem_offset.saturating_add(range.bytes());
        let aligned = gmem_offset.is_multiple_of(PageLevel::Size4K.bytes());
        if !aligned || file.end > WINDOW_BYTES {
            reader.wrong(
                node.key("gmem"),
                format!(
                    "a slot cannot start at offset {} of the guest_memfd",
                    Bytes(gmem_offset)
                ),
                if aligned {
                    "out of bounds"
                } else {
                    "not a multiple of 4K"
                },
                "offsets are multiples of 4K, and the slot has to end below 32T".to_owned(),
            );
            return None;
        }
        if let Some(other) = files
            .iter()
            .find(|other| other.start < file.end && file.start < other.end)
        {
            reader.wrong(
                node.key("gmem"),
                "two slots cannot be bound to the same part of the guest_memfd".to_owned(),
                "overlaps another slot",
                format!("{}..{} is taken", Bytes(other.start), Bytes(other.end)),
            );
            return None;
        }
        files.push(file);
        made.push(plan::Slot { range, gmem_offset });
    }
    if made
        .last()
        .is_none_or(|slot| slot.range.end() != memory.end())
    {
        reader.wrong(
            node.item(made.len().saturating_sub(1)).key("range"),
            "the slots do not reach the end of test memory".to_owned(),
            "last slot",
            format!("it has to end at {}", Bytes(memory.bytes())),
        );
        return None;
    }
    Some(made)
}

fn image(
    reader: &mut Reader<'_>,
    guest: &model::Guest,
    node: &Node,
    memory: GpaRange,
) -> Option<Vec<GpaRange>> {
    let mut made: Vec<GpaRange> = Vec::new();
    for (index, range) in guest.image.iter().flat_map(|list| &list.0).enumerate() {
        let node = node.item(index);
        let range = extent(reader, range, node, memory, PageLevel::Size4K)?;
        if let Some(other) = made.iter().find(|other| other.overlaps(range)) {
            let taken = format!(
                "{}..{} is part of the image already",
                offset_of(memory, other.start()),
                offset_of(memory, other.end())
            );
            let message = "a page cannot be added twice".to_owned();
            reader.wrong(node, message, "overlaps another range", taken);
            return None;
        }
        made.push(range);
        let bytes: u64 = made.iter().map(|range| range.bytes()).sum();
        if bytes > MAX_IMAGE {
            let message = format!("{} of initial image", Bytes(bytes));
            reader.wrong(
                node,
                message,
                "too much",
                format!("at most {}", Bytes(MAX_IMAGE)),
            );
            return None;
        }
    }
    made.sort();
    Some(made)
}

/// Reads a range of test memory whose ends must be multiples of `level`.
pub(super) fn extent(
    reader: &mut Reader<'_>,
    scalar: &super::scalar::Scalar<super::scalar::Extent>,
    node: &Node,
    memory: GpaRange,
    level: PageLevel,
) -> Option<GpaRange> {
    let range = reader.get(scalar, node)?;
    aligned(reader, &range, node, level)?;
    inside(reader, range, node, memory)
}

/// Whether both ends of `range` are multiples of `level`; reports it if not.
pub(super) fn aligned(
    reader: &mut Reader<'_>,
    range: &Range<u64>,
    node: &Node,
    level: PageLevel,
) -> Option<()> {
    let step = level.bytes();
    let (at, which) = match (
        range.start.is_multiple_of(step),
        range.end.is_multiple_of(step),
    ) {
        (true, true) => return Some(()),
        (false, _) => (range.start, "start"),
        (true, false) => (range.end, "end"),
    };
    let (below, above) = (at / step * step, round_up(at, level));
    reader.wrong(
        node,
        format!(
            "the {which} of the range, {}, is not a multiple of {level}",
            Bytes(at)
        ),
        "not aligned",
        format!("{} or {} would be", Bytes(below), Bytes(above)),
    );
    None
}

/// The addresses of `range`, which must end inside the guest; reports it if not.
pub(super) fn inside(
    reader: &mut Reader<'_>,
    range: Range<u64>,
    node: &Node,
    memory: GpaRange,
) -> Option<GpaRange> {
    if range.end > memory.bytes() {
        reader.wrong(
            node,
            format!(
                "the range ends at {}, but the guest has {} of test memory",
                Bytes(range.end),
                Bytes(memory.bytes())
            ),
            "out of the guest",
            "ranges are offsets into test memory; end it earlier, or give the guest more"
                .to_owned(),
        );
        return None;
    }
    place(memory, range)
}

/// The addresses of offsets into `memory`.
pub(super) fn place(memory: GpaRange, range: Range<u64>) -> Option<GpaRange> {
    let start = memory.start().checked_add(range.start)?;
    GpaRange::new(start, memory.start().checked_add(range.end)?)
}

/// The offset of an address in `memory`.
fn offset_of(memory: GpaRange, gpa: Gpa) -> Bytes {
    Bytes(gpa.checked_sub(memory.start()).unwrap_or_default())
}

fn round_up(bytes: u64, level: PageLevel) -> u64 {
    bytes.div_ceil(level.bytes()) * level.bytes()
}
