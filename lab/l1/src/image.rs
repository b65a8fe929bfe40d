//! Kernel images: detection, release, and the ELF kernel inside a bzImage.
//!
//! Source: `Documentation/arch/x86/boot.rst` of the kernel.

use memchr::memmem;

use super::{elf, unpack};

/// Bound on an unpacked kernel; one with every option and debug information stays below it.
const LARGEST: u64 = 1 << 30;

/// A kernel image that QEMU can boot.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Image<'a> {
    /// Its release, as `uname -r` prints it; `None` where the image does not say.
    pub(crate) release: Option<String>,
    /// What a bzImage packs.
    payload: Option<&'a [u8]>,
}

impl Image<'_> {
    /// Whether there may be a kernel inside.
    pub(crate) fn is_packed(&self) -> bool {
        self.payload.is_some()
    }

    /// The ELF kernel inside, where it can be unpacked and started by its PVH note. Starting it spares
    /// an emulated CPU from unpacking the kernel: seconds.
    pub(crate) fn unpacked(&self) -> Option<Vec<u8>> {
        let kernel = unpack::unpack(self.payload?, LARGEST).ok()?;
        elf::has_pvh_entry(&kernel).then_some(kernel)
    }
}

/// Reads an image; the error names the type of the file instead.
pub(crate) fn read(bytes: &[u8]) -> Result<Image<'_>, String> {
    if bytes.get(0x202..0x206) == Some(b"HdrS") && bytes.get(0x1fe..0x200) == Some(&[0x55, 0xaa]) {
        return Ok(Image {
            release: release(bytes),
            payload: payload(bytes),
        });
    }
    if elf::has_pvh_entry(bytes) {
        return Ok(Image {
            release: banner_release(bytes),
            payload: None,
        });
    }
    Err(match bytes {
        [] => "it is empty",
        [0x7f, b'E', b'L', b'F', ..] => "it is an ELF file without a PVH entry (CONFIG_PVH)",
        [0x1f, 0x8b, ..] => "it is gzip data",
        [b'M', b'Z', ..] => "it is an EFI program without a Linux boot header",
        [b'!', b'<', b'a', b'r', b'c', b'h', b'>', ..] => "it is an archive, perhaps a package",
        [b'#', b'!', ..] => "it is a script",
        _ => "it has no Linux boot header",
    }
    .to_owned())
}

/// Little-endian number at `offset`.
fn number<const N: usize>(bytes: &[u8], offset: usize) -> Option<usize> {
    let field = bytes.get(offset..offset + N)?;
    Some(
        field
            .iter()
            .rev()
            .fold(0, |value, &byte| (value << 8) | usize::from(byte)),
    )
}

/// The version string that the boot header points to, up to its first space.
fn release(bytes: &[u8]) -> Option<String> {
    let start = number::<2>(bytes, 0x20e).filter(|&pointer| pointer != 0)? + 0x200;
    let text: Vec<u8> = bytes
        .get(start..)?
        .iter()
        .copied()
        .take(256)
        .take_while(|&b| b != 0)
        .collect();
    first_word(&text)
}

/// The release in the banner of an unpacked kernel.
fn banner_release(bytes: &[u8]) -> Option<String> {
    const BANNER: &[u8] = b"Linux version ";
    let mut rest = bytes;
    loop {
        let start = memmem::find(rest, BANNER)? + BANNER.len();
        rest = &rest[start..];
        // The first place may be the format string of the banner.
        if rest.first().is_some_and(u8::is_ascii_digit) {
            return first_word(&rest[..rest.len().min(128)]);
        }
    }
}

fn first_word(text: &[u8]) -> Option<String> {
    let word = text
        .split(|byte| byte.is_ascii_whitespace() || *byte == 0)
        .next()?;
    let word = String::from_utf8(word.to_vec()).ok()?;
    (!word.is_empty()).then_some(word)
}

/// The packed kernel inside a bzImage.
fn payload(bytes: &[u8]) -> Option<&[u8]> {
    if number::<2>(bytes, 0x206)? < 0x208 {
        return None;
    }
    let sectors = match *bytes.get(0x1f1)? {
        0 => 4,
        sectors => usize::from(sectors),
    };
    let start = ((sectors + 1) * 512).checked_add(number::<4>(bytes, 0x248)?)?;
    bytes.get(start..start.checked_add(number::<4>(bytes, 0x24c)?)?)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A boot header that names `release` and holds `payload`.
    pub(crate) fn bz_image(release: &str, payload: &[u8]) -> Vec<u8> {
        let mut image = vec![0; 0x600];
        image[0x1f1] = 1;
        image[0x1fe..0x200].copy_from_slice(&[0x55, 0xaa]);
        image[0x202..0x206].copy_from_slice(b"HdrS");
        image[0x206..0x208].copy_from_slice(&0x20f_u16.to_le_bytes());
        image[0x20e..0x210].copy_from_slice(&0x100_u16.to_le_bytes());
        image[0x248..0x24c].copy_from_slice(&0x200_u32.to_le_bytes());
        image[0x24c..0x250].copy_from_slice(&(payload.len() as u32).to_le_bytes());
        let text = format!("{release} (someone@somewhere) #1 SMP");
        image[0x300..0x300 + text.len()].copy_from_slice(text.as_bytes());
        image.extend_from_slice(payload);
        image
    }

    #[test]
    fn a_bz_image_names_its_release() {
        let bytes = bz_image("6.1.0-56-amd64", b"packed in an unknown way");
        let image = read(&bytes).unwrap();
        assert_eq!(image.release.as_deref(), Some("6.1.0-56-amd64"));
        assert_eq!(image.unpacked(), None);
    }

    #[test]
    fn the_payload_lies_where_the_header_says() {
        assert_eq!(payload(&bz_image("6.1", b"kernel")), Some(&b"kernel"[..]));
    }

    #[test]
    fn what_is_no_kernel_is_told_apart() {
        let says = |bytes: &[u8]| read(bytes).unwrap_err();
        assert_eq!(says(b""), "it is empty");
        assert_eq!(says(b"#!/bin/sh\n"), "it is a script");
        assert!(says(b"!<arch>\ndebian-binary").contains("package"));
        assert!(says(&std::fs::read("/bin/true").unwrap()).contains("PVH"));
        assert!(says(&[0; 4096]).contains("no Linux boot header"));
    }

    #[test]
    fn a_broken_header_is_no_panic() {
        let mut image = bz_image("6.1", b"kernel");
        for offset in 0x1f1..0x260 {
            for value in [0, 0x7f, 0xff] {
                let was = std::mem::replace(&mut image[offset], value);
                let _ = read(&image);
                image[offset] = was;
            }
        }
        for length in 0..0x310 {
            let _ = read(&image[..length]);
        }
    }
}
