//! The TDVF metadata of a firmware image, which tells a VMM how to load it as a TD. The builder of
//! the image writes it, the lab reads it.
//!
//! Source: "Intel TDX Virtual Firmware Design Guide", section 11; QEMU's reader is in
//! `hw/i386/pc_sysfw_ovmf.c` and `hw/i386/tdvf.c`.
//!
//! ```text
//! anywhere      descriptor: signature, length, version, number of sections; then the sections
//! end - ...     GUID table, read from its end; one entry says where the descriptor is
//! end - 0x32    length of the GUID table
//! end - 0x30    footer of the GUID table
//! ```
//!
//! All numbers are little-endian.

/// 96b582de-1fb2-45f7-baea-a366c55a082d: footer of the GUID table.
pub const FOOTER: [u8; 16] = guid(0x96b582de, 0x1fb2, 0x45f7, 0xbaea_a366_c55a_082d);

/// e47a6535-984a-4798-865e-4685a7bf8ec2: entry of the GUID table that leads to the descriptor.
pub const METADATA: [u8; 16] = guid(0xe47a6535, 0x984a, 0x4798, 0x865e_4685_a7bf_8ec2);

/// Distance of the footer from the end of the image.
pub const FOOTER_FROM_END: usize = 0x30;

/// First word of the descriptor.
pub const SIGNATURE: [u8; 4] = *b"TDVF";

/// The only version of the descriptor.
pub const VERSION: u32 = 1;

/// Bytes of the descriptor in front of the sections.
pub const DESCRIPTOR_BYTES: usize = 16;

/// Bytes of a section's entry.
pub const SECTION_BYTES: usize = 32;

/// Attribute of a section: its content is part of the measurement.
pub const MR_EXTEND: u32 = 1;

/// Type of a section.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SectionKind {
    /// Code, copied from the image.
    Bfv,
    /// Variables, copied from the image.
    Cfv,
    /// Where QEMU writes the hand-off block.
    TdHob,
    /// Zero pages.
    TempMem,
}

/// A section's entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Section {
    /// Offset of its content in the image.
    pub data_offset: u32,
    /// Bytes of content in the image.
    pub data_bytes: u32,
    /// First GPA.
    pub start: u64,
    /// Bytes of memory.
    pub bytes: u64,
    /// Type of the section.
    pub kind: SectionKind,
    /// [`MR_EXTEND`] or 0.
    pub attributes: u32,
}

impl Section {
    /// The entry as stored in the image.
    pub fn to_bytes(self) -> [u8; SECTION_BYTES] {
        let kind: u32 = match self.kind {
            SectionKind::Bfv => 0,
            SectionKind::Cfv => 1,
            SectionKind::TdHob => 2,
            SectionKind::TempMem => 3,
        };
        let mut bytes = [0; SECTION_BYTES];
        bytes[0..4].copy_from_slice(&self.data_offset.to_le_bytes());
        bytes[4..8].copy_from_slice(&self.data_bytes.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.start.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.bytes.to_le_bytes());
        bytes[24..28].copy_from_slice(&kind.to_le_bytes());
        bytes[28..32].copy_from_slice(&self.attributes.to_le_bytes());
        bytes
    }

    /// The entry in these bytes.
    ///
    /// # Errors
    ///
    /// The number of a kind of section that QEMU does not load.
    pub fn from_bytes(bytes: &[u8; SECTION_BYTES]) -> Result<Section, u32> {
        let small = |at: usize| {
            bytes[at..]
                .first_chunk()
                .map_or(0, |b| u32::from_le_bytes(*b))
        };
        let large = |at: usize| {
            bytes[at..]
                .first_chunk()
                .map_or(0, |b| u64::from_le_bytes(*b))
        };
        Ok(Section {
            data_offset: small(0),
            data_bytes: small(4),
            start: large(8),
            bytes: large(16),
            kind: match small(24) {
                0 => SectionKind::Bfv,
                1 => SectionKind::Cfv,
                2 => SectionKind::TdHob,
                3 => SectionKind::TempMem,
                other => return Err(other),
            },
            attributes: small(28),
        })
    }
}

/// A GUID as it lies in memory: the first three parts little-endian, the rest as written.
const fn guid(first: u32, second: u16, third: u16, rest: u64) -> [u8; 16] {
    let [a, b, c, d] = first.to_le_bytes();
    let [e, f] = second.to_le_bytes();
    let [g, h] = third.to_le_bytes();
    let [i, j, k, l, m, n, o, p] = rest.to_be_bytes();
    [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p]
}
