//! What on a disk can start it: code for a BIOS in its first sector, a partition that UEFI firmware reads.
//!
//! SeaBIOS runs the first sector of any disk that is signed, and is never heard of again where the code in
//! it is only zeros, as beside a GPT. So it is looked at before a guest is started. Sources: UEFI
//! specification, chapters 5 (GPT) and 13.3 (file systems of firmware); Microsoft's fatgen103.

use std::io;

/// Bytes of a sector.
pub(crate) const SECTOR: usize = 512;

/// Type of an EFI system partition, C12A7328-F81F-11D2-BA4B-00A0C93EC93B, as GPT writes it.
const ESP: [u8; 16] = [
    0x28, 0x73, 0x2a, 0xc1, 0x1f, 0xf8, 0xd2, 0x11, 0xba, 0x4b, 0x00, 0xa0, 0xc9, 0x3e, 0xc9, 0x3b,
];

/// Type, in an MBR, of what stands for a GPT.
const PROTECTIVE: u8 = 0xee;

/// Types, in an MBR, of partitions that UEFI firmware can read: FAT, and the EFI system partition.
const READABLE: [u8; 9] = [0x01, 0x04, 0x06, 0x0b, 0x0c, 0x0e, 0x1b, 0x1c, 0xef];

/// Most entries of a GPT that are looked at.
const MOST_ENTRIES: u32 = 1024;

/// What a disk can be started by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Loaders {
    /// A BIOS: there is code in its first sector.
    pub bios: bool,
    /// UEFI: there is a file system that firmware reads. Whether a boot loader is on it is seen when it
    /// is started.
    pub uefi: bool,
}

/// Reads bytes of a disk from an offset on.
pub(crate) type Read<'a> = &'a mut dyn FnMut(u64, &mut [u8]) -> io::Result<()>;

/// Looks at a disk.
pub(crate) fn look(read: Read<'_>) -> io::Result<Loaders> {
    let mut first = [0; SECTOR];
    read(0, &mut first)?;
    if first[510..] != [0x55, 0xaa] {
        return Ok(Loaders {
            bios: false,
            uefi: false,
        });
    }
    if is_fat(&first) {
        return Ok(Loaders {
            bios: !only_says_no(&first),
            uefi: true,
        });
    }
    let types = [0, 1, 2, 3].map(|number| first[446 + 16 * number + 4]);
    Ok(Loaders {
        bios: first[..440].iter().any(|&byte| byte != 0),
        uefi: match types.contains(&PROTECTIVE) {
            true => has_esp(read)?,
            false => types.iter().any(|kind| READABLE.contains(kind)),
        },
    })
}

/// Whether the disk is one FAT file system, without partitions.
fn is_fat(first: &[u8; SECTOR]) -> bool {
    let jumps = matches!(first[0], 0xeb | 0xe9);
    jumps && (first[54..].starts_with(b"FAT") || first[82..].starts_with(b"FAT"))
}

/// Whether the code is only what formatting puts there. Sources: mkfs.fat, mformat.
fn only_says_no(first: &[u8; SECTOR]) -> bool {
    let says = |text: &[u8]| first.windows(text.len()).any(|part| part == text);
    says(b"not a bootable disk") || says(b"not bootable")
}

/// Whether a GPT has an EFI system partition.
fn has_esp(read: Read<'_>) -> io::Result<bool> {
    let mut header = [0; SECTOR];
    read(SECTOR as u64, &mut header)?;
    let number = |at: usize| u32::from_le_bytes(header[at..at + 4].try_into().expect("four bytes"));
    let (count, size) = (number(80).min(MOST_ENTRIES), number(84));
    let sector = u64::from(number(72)) | u64::from(number(76)) << 32;
    let Some(start) = sector.checked_mul(SECTOR as u64) else {
        return Ok(false);
    };
    if !header.starts_with(b"EFI PART") || !(128..=4096).contains(&size) {
        return Ok(false);
    }
    for entry in 0..u64::from(count) {
        let mut kind = [0; 16];
        let Some(at) = start.checked_add(entry * u64::from(size)) else {
            return Ok(false);
        };
        read(at, &mut kind)?;
        if kind == ESP {
            return Ok(true);
        }
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn looked(disk: &[u8]) -> io::Result<Loaders> {
        look(&mut |at, buffer| {
            let part = usize::try_from(at).ok().and_then(|at| disk.get(at..));
            let part = part.and_then(|part| part.get(..buffer.len()));
            let part = part.ok_or(io::ErrorKind::UnexpectedEof)?;
            buffer.copy_from_slice(part);
            Ok(())
        })
    }

    fn signed() -> Vec<u8> {
        let mut disk = vec![0; 40 * SECTOR];
        disk[510..512].copy_from_slice(&[0x55, 0xaa]);
        disk
    }

    /// A GPT with one partition of this type.
    fn gpt(kind: [u8; 16]) -> Vec<u8> {
        let mut disk = signed();
        disk[446 + 4] = PROTECTIVE;
        disk[512..520].copy_from_slice(b"EFI PART");
        disk[512 + 72] = 2;
        disk[512 + 80] = 128;
        disk[512 + 84] = 128;
        let third = 1024 + 2 * 128;
        disk[third..third + 16].copy_from_slice(&kind);
        disk
    }

    #[test]
    fn what_starts_a_disk_is_read_from_its_first_sectors() {
        let says = |disk: &[u8]| {
            let found = looked(disk).unwrap();
            (found.bios, found.uefi)
        };
        assert_eq!(says(&vec![0; 1 << 16]), (false, false));
        assert_eq!(says(&signed()), (false, false));
        assert_eq!(says(&gpt(ESP)), (false, true));
        assert_eq!(says(&gpt([7; 16])), (false, false));
        // A cloud image has both.
        let mut both = gpt(ESP);
        both[0] = 0xeb;
        assert_eq!(says(&both), (true, true));
        let mut table = signed();
        table[446 + 16 + 4] = 0xef;
        assert_eq!(says(&table), (false, true));
        table[446 + 16 + 4] = 0x83;
        table[..3].copy_from_slice(&[0xeb, 0x63, 0x90]);
        assert_eq!(says(&table), (true, false));
        let mut fat = signed();
        fat[0] = 0xeb;
        fat[82..87].copy_from_slice(b"FAT32");
        assert_eq!(says(&fat), (true, true));
        fat[120..147].copy_from_slice(b"This is not a bootable disk");
        assert_eq!(says(&fat), (false, true));
        assert!(looked(&[0; 100]).is_err());
    }

    proptest! {
        #[test]
        fn a_table_of_nonsense_ends(start in any::<u64>(), count in any::<u32>(), size in any::<u32>()) {
            let mut disk = gpt([7; 16]);
            disk[512 + 72..512 + 80].copy_from_slice(&start.to_le_bytes());
            disk[512 + 80..512 + 84].copy_from_slice(&count.to_le_bytes());
            disk[512 + 84..512 + 88].copy_from_slice(&size.to_le_bytes());
            let _ = looked(&disk);
        }
    }
}
