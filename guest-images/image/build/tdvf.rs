//! The metadata by which a VMM learns how to load the image as a TD.
//!
//! Source: "Intel TDX Virtual Firmware Design Guide", section 11; what QEMU makes of it is in
//! `hw/i386/pc_sysfw_ovmf.c` and `hw/i386/tdvf.c`.
//!
//! ```text
//! end - 0x400   descriptor: signature, length, version, number of sections; then the sections
//! end - 0x48    entry of the GUID table: where the descriptor is
//! end - 0x32    length of the GUID table
//! end - 0x30    footer of the GUID table
//! end - 0x20    reserved
//! end - 0x10    reset vector
//! ```

use tdxlab_protocol::layout;

use crate::ROM_END;

/// Distance of the descriptor from the end of the image.
const DESCRIPTOR_FROM_END: u32 = 0x400;
/// Distance of the end of the GUID table from the end of the image.
const TABLE_END_FROM_END: usize = 0x20;

/// 96b582de-1fb2-45f7-baea-a366c55a082d: the table's footer.
const FOOTER: [u8; 16] = guid(0x96b582de, 0x1fb2, 0x45f7, 0xbaea_a366_c55a_082d);
/// e47a6535-984a-4798-865e-4685a7bf8ec2: the entry that leads to the descriptor.
const METADATA_OFFSET: [u8; 16] = guid(0xe47a6535, 0x984a, 0x4798, 0x865e_4685_a7bf_8ec2);

/// Kinds of sections.
const BFV: u32 = 0;
const TD_HOB: u32 = 2;
const TEMP_MEM: u32 = 3;
/// Attribute: the content is part of the measurement.
const MR_EXTEND: u32 = 1;

struct Section {
    raw_bytes: u64,
    start: u64,
    end: u64,
    kind: u32,
    attributes: u32,
}

const SECTIONS: [Section; 3] = [
    Section {
        raw_bytes: layout::IMAGE_BYTES,
        start: ROM_END - layout::IMAGE_BYTES,
        end: ROM_END,
        kind: BFV,
        attributes: MR_EXTEND,
    },
    Section {
        raw_bytes: 0,
        start: layout::RUNTIME_START,
        end: layout::MAILBOX_END,
        kind: TEMP_MEM,
        attributes: 0,
    },
    Section {
        raw_bytes: 0,
        start: layout::TD_HOB_START,
        end: layout::TD_HOB_END,
        kind: TD_HOB,
        attributes: 0,
    },
];

/// Writes the metadata into an image that has left room for it.
pub(crate) fn write(image: &mut [u8]) {
    let descriptor = descriptor();
    let start = image.len() - DESCRIPTOR_FROM_END as usize;
    place(image, start, &descriptor);
    let table = table();
    let start = image.len() - TABLE_END_FROM_END - table.len();
    place(image, start, &table);
}

fn place(image: &mut [u8], start: usize, bytes: &[u8]) {
    let room = &mut image[start..][..bytes.len()];
    assert!(
        room.iter().all(|byte| *byte == 0),
        "the image uses {start:#x}"
    );
    room.copy_from_slice(bytes);
}

fn descriptor() -> Vec<u8> {
    const VERSION: u32 = 1;
    let mut bytes = b"TDVF".to_vec();
    let length = 16 + 32 * SECTIONS.len() as u32;
    for number in [length, VERSION, SECTIONS.len() as u32] {
        bytes.extend(number.to_le_bytes());
    }
    for section in SECTIONS {
        // The image is one section, so that content starts at offset 0 where there is any.
        bytes.extend(0_u32.to_le_bytes());
        bytes.extend((section.raw_bytes as u32).to_le_bytes());
        bytes.extend(section.start.to_le_bytes());
        bytes.extend((section.end - section.start).to_le_bytes());
        bytes.extend(section.kind.to_le_bytes());
        bytes.extend(section.attributes.to_le_bytes());
    }
    bytes
}

/// The GUID table, which is read from its end.
fn table() -> Vec<u8> {
    const LENGTH_BYTES: usize = 2;
    let entry = size_of::<u32>() + LENGTH_BYTES + METADATA_OFFSET.len();
    let total = entry + LENGTH_BYTES + FOOTER.len();
    let mut bytes = DESCRIPTOR_FROM_END.to_le_bytes().to_vec();
    bytes.extend((entry as u16).to_le_bytes());
    bytes.extend(METADATA_OFFSET);
    bytes.extend((total as u16).to_le_bytes());
    bytes.extend(FOOTER);
    bytes
}

/// A GUID as it lies in memory: the first three parts little-endian, the rest as written.
const fn guid(first: u32, second: u16, third: u16, rest: u64) -> [u8; 16] {
    let [a, b, c, d] = first.to_le_bytes();
    let [e, f] = second.to_le_bytes();
    let [g, h] = third.to_le_bytes();
    let [i, j, k, l, m, n, o, p] = rest.to_be_bytes();
    [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p]
}
