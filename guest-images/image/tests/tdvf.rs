//! Reads the finished image as QEMU does when it loads a TD, and checks every rule of QEMU, KVM and
//! the processor. The parser is independent of the builder.
//!
//! Sources: QEMU `hw/i386/pc_sysfw_ovmf.c` and `hw/i386/tdvf.c`, Linux `Documentation/virt/kvm/x86/
//! intel-tdx.rst`, the TDX module's initial vCPU state.

use tdxlab_guest_image::IMAGE;
use tdxlab_protocol::layout;

const FOOTER: &str = "96b582de-1fb2-45f7-baea-a366c55a082d";
const METADATA: &str = "e47a6535-984a-4798-865e-4685a7bf8ec2";
const TOP: u64 = 0x1_0000_0000;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Section {
    data_offset: u32,
    raw_bytes: u32,
    start: u64,
    bytes: u64,
    kind: u32,
    attributes: u32,
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(bytes[at..at + 2].try_into().unwrap())
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
}

/// A GUID in its usual spelling.
fn guid_at(bytes: &[u8], at: usize) -> String {
    let tail: String = bytes[at + 8..at + 16]
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    format!(
        "{:08x}-{:04x}-{:04x}-{}-{}",
        u32_at(bytes, at),
        u16_at(bytes, at + 4),
        u16_at(bytes, at + 6),
        &tail[..4],
        &tail[4..],
    )
}

/// The entries of the GUID table, from its end downwards: name and data.
fn guid_table(image: &[u8]) -> Result<Vec<(String, &[u8])>, String> {
    let end = image.len() - 0x20;
    if guid_at(image, end - 16) != FOOTER {
        return Err("no footer".to_owned());
    }
    let total = usize::from(u16_at(image, end - 18));
    let start = end
        .checked_sub(total)
        .ok_or("table longer than the image")?;
    let mut entries = Vec::new();
    let mut end = end - 18;
    while end > start {
        let Some(header) = end.checked_sub(18).filter(|header| *header >= start) else {
            return Err(format!("no room for an entry before {end:#x}"));
        };
        let length = usize::from(u16_at(image, header));
        if length < 18 || end - start < length {
            return Err(format!("entry of {length} bytes before {end:#x}"));
        }
        entries.push((guid_at(image, header + 2), &image[end - length..header]));
        end -= length;
    }
    Ok(entries)
}

/// The sections, after the checks that QEMU makes.
fn sections(image: &[u8]) -> Result<Vec<Section>, String> {
    let entries = guid_table(image)?;
    let data = entries
        .iter()
        .find_map(|(name, data)| (name == METADATA).then_some(*data))
        .ok_or("no metadata entry")?;
    if data.len() != 4 {
        return Err(format!("metadata entry of {} bytes", data.len()));
    }
    let from_end = u32_at(data, 0) as usize;
    let start = image
        .len()
        .checked_sub(from_end)
        .ok_or("metadata before the image")?;
    let descriptor = image
        .get(start..start + 16)
        .ok_or("metadata beyond the image")?;
    if &descriptor[..4] != b"TDVF" {
        return Err("signature".to_owned());
    }
    let (length, version, count) = (
        u32_at(descriptor, 4),
        u32_at(descriptor, 8),
        u32_at(descriptor, 12),
    );
    if version != 1 {
        return Err(format!("version {version}"));
    }
    if count < 2 {
        return Err(format!("{count} sections"));
    }
    if length != 16 + 32 * count {
        return Err(format!("length {length} for {count} sections"));
    }
    let all = image
        .get(start + 16..start + length as usize)
        .ok_or("sections beyond the image")?;
    let sections = all.chunks(32).map(|section| Section {
        data_offset: u32_at(section, 0),
        raw_bytes: u32_at(section, 4),
        start: u64_at(section, 8),
        bytes: u64_at(section, 16),
        kind: u32_at(section, 24),
        attributes: u32_at(section, 28),
    });
    sections.map(check).collect()
}

fn check(section: Section) -> Result<Section, String> {
    let Section {
        data_offset,
        raw_bytes,
        start,
        bytes,
        kind,
        attributes,
    } = section;
    let wrong = |what: &str| Err(format!("{what}: {section:x?}"));
    if start % 4096 != 0 || bytes % 4096 != 0 || bytes == 0 {
        return wrong("not whole pages");
    }
    if bytes < u64::from(raw_bytes) {
        return wrong("more data than memory");
    }
    match kind {
        0 | 1 if raw_bytes == 0 => wrong("no data"),
        // KVM copies as much as the memory is large, from a page-aligned source.
        0 | 1 if u64::from(raw_bytes) != bytes || data_offset % 4096 != 0 => wrong("source"),
        2 | 3 if raw_bytes != 0 => wrong("data"),
        0..=3 if attributes & !1 != 0 => wrong("attributes"),
        0..=3 => Ok(section),
        _ => wrong("kind"),
    }
}

#[test]
fn the_image_is_whole_and_not_of_a_size_that_confuses() {
    assert_eq!(IMAGE.len() % 0x1_0000, 0);
    // QEMU's own option ROM area is as large; sizes are how a runner tells guest_memfds apart.
    assert_ne!(IMAGE.len(), 0x2_0000);
    assert_eq!(IMAGE.len(), 64 * 1024);
}

#[test]
fn the_guid_table_holds_the_metadata_entry_and_nothing_else() {
    let entries = guid_table(IMAGE).unwrap();
    let names: Vec<&str> = entries.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, [METADATA]);
}

#[test]
fn the_image_itself_is_loaded_and_measured() {
    let sections = sections(IMAGE).unwrap();
    let firmware: Vec<_> = sections
        .iter()
        .filter(|section| section.kind == 0)
        .collect();
    let expected = Section {
        data_offset: 0,
        raw_bytes: 0x1_0000,
        start: TOP - 0x1_0000,
        bytes: 0x1_0000,
        kind: 0,
        attributes: 1,
    };
    assert_eq!(firmware, [&expected]);
}

#[test]
fn there_is_one_hob_where_the_guest_looks_for_it() {
    let sections = sections(IMAGE).unwrap();
    let hobs: Vec<_> = sections
        .iter()
        .filter(|section| section.kind == 2)
        .collect();
    let [hob] = hobs[..] else {
        panic!("{} HOB sections", hobs.len());
    };
    assert_eq!(
        (hob.start, hob.start + hob.bytes),
        (layout::TD_HOB_START, layout::TD_HOB_END)
    );
    // Handoff table, some pieces of memory and the end fit.
    assert!(hob.bytes >= 56 + 16 * 48 + 8);
}

#[test]
fn all_memory_the_guest_uses_at_first_is_there_without_accepting() {
    let sections = sections(IMAGE).unwrap();
    let covered = |start, end| {
        sections
            .iter()
            .any(|section| section.start <= start && end <= section.start + section.bytes)
    };
    assert!(covered(layout::RUNTIME_START, layout::RUNTIME_END));
    assert!(covered(layout::MAILBOX_START, layout::MAILBOX_END));
    assert!(covered(TOP - layout::IMAGE_BYTES, TOP));
}

#[test]
fn sections_do_not_overlap_and_ram_starts_above_the_legacy_area() {
    let mut sections = sections(IMAGE).unwrap();
    sections.sort_by_key(|section| section.start);
    for pair in sections.windows(2) {
        assert!(pair[0].start + pair[0].bytes <= pair[1].start, "{pair:x?}");
    }
    for section in sections.iter().filter(|section| section.kind >= 2) {
        assert!(section.start >= 0x10_0000, "{section:x?}");
        // Each lies in one piece of RAM, even of the smallest guest.
        assert!(section.start + section.bytes <= 0x400_0000, "{section:x?}");
    }
}

#[test]
fn the_reset_vector_tells_protected_from_real_mode() {
    let vector = &IMAGE[0xfff0..];
    // mov eax, cr0; test al, 1; jz +5: the same in both modes.
    assert_eq!(vector[..7], [0x0f, 0x20, 0xc0, 0xa8, 0x01, 0x74, 0x05]);
    // Not taken in protected mode: a near jump with 32 bits.
    assert_eq!(vector[7], 0xe9);
    let next = TOP + 12 - 16;
    let target = next.wrapping_add_signed(i64::from(u32_at(vector, 8).cast_signed()));
    assert!(
        (TOP - 0x1_0000..TOP - 0x10).contains(&target),
        "{target:#x}"
    );
    // It begins with cli and a load of the descriptor table by its linear address.
    let entry = (target - (TOP - 0x1_0000)) as usize;
    assert_eq!(IMAGE[entry..entry + 4], [0xfa, 0x0f, 0x01, 0x15]);
    check_descriptor_table(u64::from(u32_at(IMAGE, entry + 4)));

    // Taken in real mode: a near jump with 16 bits inside the segment.
    assert_eq!(vector[12], 0xe9);
    let target = 0xffff_u16.wrapping_add(u16_at(vector, 13));
    let entry = usize::from(target);
    // It begins with cli and a 32-bit load of the descriptor table through CS.
    let load = [&[0xfa_u8][..], &[0x2e, 0x66, 0x0f, 0x01, 0x16]].concat();
    let other_order = [&[0xfa_u8][..], &[0x66, 0x2e, 0x0f, 0x01, 0x16]].concat();
    let found = &IMAGE[entry..entry + 6];
    assert!(found == load || found == other_order, "{found:02x?}");
    let pointer = usize::from(u16_at(IMAGE, entry + 6));
    check_descriptor_table(TOP - 0x1_0000 + pointer as u64);
}

/// The table at the linear address in a GDT pointer lies in the ROM, is flat, and has its accessed
/// bits set: a processor that sets one in ROM never gets ahead.
fn check_descriptor_table(pointer: u64) {
    let pointer = (pointer - (TOP - 0x1_0000)) as usize;
    let limit = usize::from(u16_at(IMAGE, pointer));
    let start = (u64::from(u32_at(IMAGE, pointer + 2)) - (TOP - 0x1_0000)) as usize;
    let table: Vec<u64> = (0..=limit / 8)
        .map(|number| u64_at(IMAGE, start + number * 8))
        .collect();
    assert_eq!(table[0], 0);
    for descriptor in &table[1..] {
        assert_ne!(descriptor & 1 << 40, 0, "accessed bit of {descriptor:#x}");
        assert_eq!(
            descriptor & 0x000f_0000_0000_ffff,
            0x000f_0000_0000_ffff,
            "limit"
        );
        assert_eq!(descriptor & 0xff00_00ff_ffff_0000, 0, "base");
    }
}

#[test]
fn a_processor_started_by_sipi_finds_code_at_its_page() {
    // SIPI vector 0xff is the alias of the last page; it begins with cli.
    assert_eq!(IMAGE[0xf000], 0xfa);
}

#[test]
fn the_parser_refuses_what_qemu_refuses() {
    let broken = |at: usize, bytes: &[u8]| {
        let mut image = IMAGE.to_vec();
        image[at..at + bytes.len()].copy_from_slice(bytes);
        sections(&image).unwrap_err()
    };
    let end = IMAGE.len();
    let descriptor = end - u32_at(guid_table(IMAGE).unwrap()[0].1, 0) as usize;
    let section = |number: usize, field: usize| descriptor + 16 + 32 * number + field;
    assert_eq!(broken(end - 0x30, &[0]), "no footer");
    assert_eq!(broken(end - 0x42, &[0]), "no metadata entry");
    assert_eq!(broken(descriptor, b"x"), "signature");
    assert_eq!(broken(descriptor + 4, &[0]), "length 0 for 3 sections");
    assert_eq!(broken(descriptor + 8, &[2]), "version 2");
    assert_eq!(broken(descriptor + 12, &[1]), "1 sections");
    assert!(broken(section(0, 4), &[0; 4]).starts_with("no data"));
    assert!(broken(section(1, 4), &[1]).starts_with("data"));
    assert!(broken(section(1, 8), &[1]).starts_with("not whole pages"));
    assert!(broken(section(1, 24), &[4]).starts_with("kind"));
    assert!(broken(section(0, 16), &[0, 0x20]).starts_with("source"));
}
