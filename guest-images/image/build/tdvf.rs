//! The TDVF metadata, which tells a VMM how to load the image as a TD, in the space reserved by the
//! image.
//!
//! ```text
//! end - 0x400   descriptor and sections
//! end - 0x48    the only entry of the GUID table: where the descriptor is
//! end - 0x20    reserved
//! end - 0x10    reset vector
//! ```

use tdxlab_protocol::layout;
use tdxlab_protocol::tdvf::{
    DESCRIPTOR_BYTES, FOOTER, FOOTER_FROM_END, METADATA, MR_EXTEND, SECTION_BYTES, SIGNATURE,
    Section, SectionKind, VERSION,
};

use crate::ROM_END;

/// Distance of the descriptor from the end of the image.
const DESCRIPTOR_FROM_END: u32 = 0x400;

/// The image is one section, so that content starts at offset 0 where there is any.
const SECTIONS: [Section; 3] = [
    Section {
        data_offset: 0,
        data_bytes: layout::IMAGE_BYTES as u32,
        start: ROM_END - layout::IMAGE_BYTES,
        bytes: layout::IMAGE_BYTES,
        kind: SectionKind::Bfv,
        attributes: MR_EXTEND,
    },
    Section {
        data_offset: 0,
        data_bytes: 0,
        start: layout::RUNTIME_START,
        bytes: layout::MAILBOX_END - layout::RUNTIME_START,
        kind: SectionKind::TempMem,
        attributes: 0,
    },
    Section {
        data_offset: 0,
        data_bytes: 0,
        start: layout::TD_HOB_START,
        bytes: layout::TD_HOB_END - layout::TD_HOB_START,
        kind: SectionKind::TdHob,
        attributes: 0,
    },
];

/// Writes the metadata into an image that has left room for it.
pub(crate) fn write(image: &mut [u8]) {
    let descriptor = descriptor();
    let start = image.len() - DESCRIPTOR_FROM_END as usize;
    place(image, start, &descriptor);
    let table = table();
    let end = image.len() - FOOTER_FROM_END + FOOTER.len();
    let start = end - table.len();
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
    let mut bytes = SIGNATURE.to_vec();
    let length = DESCRIPTOR_BYTES + SECTION_BYTES * SECTIONS.len();
    for number in [length as u32, VERSION, SECTIONS.len() as u32] {
        bytes.extend(number.to_le_bytes());
    }
    bytes.extend(SECTIONS.into_iter().flat_map(Section::to_bytes));
    bytes
}

/// The GUID table, which is read from its end.
fn table() -> Vec<u8> {
    const LENGTH_BYTES: usize = 2;
    let entry = size_of::<u32>() + LENGTH_BYTES + METADATA.len();
    let total = entry + LENGTH_BYTES + FOOTER.len();
    let mut bytes = DESCRIPTOR_FROM_END.to_le_bytes().to_vec();
    bytes.extend((entry as u16).to_le_bytes());
    bytes.extend(METADATA);
    bytes.extend((total as u16).to_le_bytes());
    bytes.extend(FOOTER);
    bytes
}
