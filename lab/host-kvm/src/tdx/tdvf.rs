//! The TDVF metadata of an image: read to know which pages QEMU adds before the TD runs, and
//! extended by a plan's ranges of the initial image. Rejects whatever QEMU rejects.

use tdxlab_protocol::addr::{Gpa, GpaRange, PageLevel};
pub use tdxlab_protocol::tdvf::SectionKind;
use tdxlab_protocol::tdvf::{
    self, DESCRIPTOR_BYTES, FOOTER, FOOTER_FROM_END, METADATA, SECTION_BYTES, SIGNATURE,
};

/// Memory that is added before the TD runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Section {
    /// Type of the section.
    pub kind: SectionKind,
    /// GPA range of the section.
    pub range: GpaRange,
    /// Offset of its content in the image.
    pub data_offset: u32,
    /// Bytes of content.
    pub data_bytes: u32,
}

/// The sections of an image.
///
/// # Errors
///
/// What QEMU would refuse, in words.
pub fn sections(image: &[u8]) -> Result<Vec<Section>, String> {
    let descriptor = descriptor(image)?;
    let count = count(image, descriptor)?;
    (0..count)
        .map(|number| {
            section(
                image,
                descriptor + DESCRIPTOR_BYTES + number * SECTION_BYTES,
            )
        })
        .collect()
}

/// The image with these ranges as zero pages of the initial image.
///
/// # Errors
///
/// There is no room for so many sections behind those there are, or a range is not made of pages.
pub fn with_ranges(image: &[u8], ranges: &[GpaRange]) -> Result<Vec<u8>, String> {
    let mut image = image.to_vec();
    if ranges.is_empty() {
        return Ok(image);
    }
    let descriptor = descriptor(&image)?;
    let old = count(&image, descriptor)?;
    let start = descriptor + DESCRIPTOR_BYTES + old * SECTION_BYTES;
    let room = image
        .get_mut(start..start + ranges.len() * SECTION_BYTES)
        .filter(|room| room.iter().all(|&byte| byte == 0))
        .ok_or_else(|| {
            format!(
                "the guest image has no room for {} more ranges",
                ranges.len()
            )
        })?;
    for (range, section) in ranges.iter().zip(room.chunks_exact_mut(SECTION_BYTES)) {
        if !range.is_aligned(PageLevel::Size4K) || range.is_empty() {
            return Err(format!("{range} is not made of 4K pages"));
        }
        let zeroed = tdvf::Section {
            data_offset: 0,
            data_bytes: 0,
            start: range.start().as_u64(),
            bytes: range.bytes(),
            kind: SectionKind::TempMem,
            attributes: 0,
        };
        section.copy_from_slice(&zeroed.to_bytes());
    }
    let new = old + ranges.len();
    let length = (DESCRIPTOR_BYTES + new * SECTION_BYTES) as u32;
    image[descriptor + 4..descriptor + 8].copy_from_slice(&length.to_le_bytes());
    image[descriptor + 12..descriptor + 16].copy_from_slice(&(new as u32).to_le_bytes());
    Ok(image)
}

fn u16_at(image: &[u8], at: usize) -> Option<usize> {
    let bytes = image.get(at..at + 2)?;
    Some(usize::from(u16::from_le_bytes(bytes.try_into().ok()?)))
}

fn u32_at(image: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(image.get(at..at + 4)?.try_into().ok()?))
}

/// Offset of the descriptor, found through the GUID table, which is read downwards.
fn descriptor(image: &[u8]) -> Result<usize, String> {
    let no_table = || "no GUID table at the end of the image".to_owned();
    let footer = image
        .len()
        .checked_sub(FOOTER_FROM_END)
        .ok_or_else(no_table)?;
    if image.get(footer..footer + 16) != Some(&FOOTER) {
        return Err(no_table());
    }
    let mut end = footer - 2;
    let total = u16_at(image, end).ok_or_else(no_table)?;
    let start = (footer + 16).checked_sub(total).ok_or_else(no_table)?;
    while end >= start + 18 {
        let guid = &image[end - 16..end];
        let length = u16_at(image, end - 18).unwrap_or_default();
        if length < 18 || end - start < length {
            return Err("a broken entry in the GUID table".to_owned());
        }
        if guid == METADATA {
            let from_end = u32_at(image, end - length).unwrap_or_default() as usize;
            let at = image
                .len()
                .checked_sub(from_end)
                .filter(|&at| at < image.len());
            let at = at.ok_or("the TDVF descriptor lies outside the image")?;
            return match image.get(at..at + SIGNATURE.len()) {
                Some(signature) if signature == SIGNATURE => Ok(at),
                _ => Err("Invalid TDVF signature in metadata".to_owned()),
            };
        }
        end -= length;
    }
    Err("no TDVF entry in the GUID table".to_owned())
}

fn count(image: &[u8], descriptor: usize) -> Result<usize, String> {
    let field = |at| u32_at(image, descriptor + at).ok_or("the TDVF descriptor is cut");
    let (length, version, count) = (field(4)?, field(8)?, field(12)?);
    let expected = u64::from(count) * SECTION_BYTES as u64 + DESCRIPTOR_BYTES as u64;
    if version != tdvf::VERSION {
        return Err(format!("TDVF version {version}"));
    }
    if count < 2 || u64::from(length) != expected {
        return Err(format!("{count} TDVF sections in {length} bytes"));
    }
    if descriptor as u64 + expected > image.len() as u64 {
        return Err("TDVF sections reach past the image".to_owned());
    }
    Ok(count as usize)
}

fn section(image: &[u8], at: usize) -> Result<Section, String> {
    let entry = image.get(at..).and_then(<[u8]>::first_chunk);
    let entry = entry.ok_or("a TDVF section is cut")?;
    let tdvf::Section {
        data_offset,
        data_bytes,
        start,
        bytes,
        kind,
        ..
    } = tdvf::Section::from_bytes(entry)
        .map_err(|kind| format!("unsupported TDVF section type {kind}"))?;
    let range = GpaRange::with_len(Gpa::new(start), bytes);
    let range = range.filter(|range| range.is_aligned(PageLevel::Size4K));
    let range = range.ok_or_else(|| format!("TDVF section at {start:#x} is not made of pages"))?;
    let has_content = matches!(kind, SectionKind::Bfv | SectionKind::Cfv);
    if has_content != (data_bytes != 0) || u64::from(data_bytes) > bytes {
        return Err(format!(
            "TDVF section at {start:#x} has {data_bytes} bytes of content"
        ));
    }
    Ok(Section {
        kind,
        range,
        data_offset,
        data_bytes,
    })
}

#[cfg(test)]
mod tests {
    use tdxlab_protocol::layout;

    use super::*;

    const IMAGE: &[u8] = tdxlab_guest_image::IMAGE;

    fn range(start: u64, end: u64) -> GpaRange {
        GpaRange::new(Gpa::new(start), Gpa::new(end)).unwrap()
    }

    #[test]
    fn the_image_has_what_the_guest_needs() {
        let sections = sections(IMAGE).unwrap();
        let kinds: Vec<_> = sections.iter().map(|section| section.kind).collect();
        assert_eq!(
            kinds,
            [SectionKind::Bfv, SectionKind::TempMem, SectionKind::TdHob]
        );
        assert_eq!(
            sections[0].range,
            range((4 << 30) - layout::IMAGE_BYTES, 4 << 30)
        );
        assert_eq!(
            sections[1].range,
            range(layout::RUNTIME_START, layout::MAILBOX_END)
        );
        assert_eq!(
            sections[2].range,
            range(layout::TD_HOB_START, layout::TD_HOB_END)
        );
        assert!(
            sections
                .iter()
                .all(|section| section.data_offset % 4096 == 0)
        );
    }

    #[test]
    fn ranges_are_added_behind() {
        let more = [
            range(1 << 30, (1 << 30) + 0x1000),
            range(0x5000_0000, 0x5020_0000),
        ];
        let image = with_ranges(IMAGE, &more).unwrap();
        let found = sections(&image).unwrap();
        assert_eq!(found.len(), 5);
        assert_eq!(found[..3], sections(IMAGE).unwrap()[..]);
        assert!(
            found[3..]
                .iter()
                .all(|section| section.kind == SectionKind::TempMem)
        );
        assert_eq!(found[3].range, more[0]);
        assert_eq!(found[4].range, more[1]);
        // Only the descriptor and the padding behind it have changed.
        let changed = IMAGE.iter().zip(&image).filter(|(a, b)| a != b).count();
        assert!(changed < 100, "{changed}");
        let many = vec![more[0]; 64];
        assert!(with_ranges(IMAGE, &many).is_err());
        assert!(with_ranges(IMAGE, &[range(1, 4097)]).is_err());
    }

    #[test]
    fn what_is_no_metadata_is_named() {
        assert!(sections(&[]).is_err());
        assert!(sections(&[0; 65536]).unwrap_err().contains("GUID"));
        // A bit flipped anywhere at the end of the image is an error or another list, no panic.
        for at in IMAGE.len() - 0x400..IMAGE.len() {
            for bit in 0..8 {
                let mut image = IMAGE.to_vec();
                image[at] ^= 1 << bit;
                let _ = sections(&image);
                let _ = with_ranges(&image, &[range(1 << 30, (1 << 30) + 4096)]);
            }
        }
    }
}
