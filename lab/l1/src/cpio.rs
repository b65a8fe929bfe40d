//! The archive format of an initramfs: cpio "newc".
//!
//! Source: `Documentation/driver-api/early-userspace/buffer-format.rst` of the kernel.

use std::io::{self, Write};

const REGULAR: u32 = 0o100_000;
const DIRECTORY: u32 = 0o040_000;
const CHARACTER: u32 = 0o020_000;
const LINK: u32 = 0o120_000;

/// Writes an archive, entry by entry. Paths have no leading slash; a folder precedes its entries.
pub struct Archive<W> {
    out: W,
    inode: u32,
}

impl<W: Write> Archive<W> {
    /// An archive that is written to `out`.
    pub fn new(out: W) -> Archive<W> {
        Archive { out, inode: 0 }
    }

    /// A folder with mode 0755.
    pub fn folder(&mut self, path: &str) -> io::Result<()> {
        self.entry(path, DIRECTORY | 0o755, (0, 0), &[])
    }

    /// A regular file with these permission bits.
    pub fn file(&mut self, path: &str, permissions: u32, content: &[u8]) -> io::Result<()> {
        self.entry(path, REGULAR | permissions, (0, 0), content)
    }

    /// A symbolic link.
    pub fn link(&mut self, path: &str, target: &str) -> io::Result<()> {
        self.entry(path, LINK | 0o777, (0, 0), target.as_bytes())
    }

    /// A character device node with mode 0600.
    pub fn character_device(&mut self, path: &str, major: u32, minor: u32) -> io::Result<()> {
        self.entry(path, CHARACTER | 0o600, (major, minor), &[])
    }

    /// Writes the end mark and hands back the writer.
    pub fn finish(mut self) -> io::Result<W> {
        self.entry("TRAILER!!!", 0, (0, 0), &[])?;
        Ok(self.out)
    }

    fn entry(
        &mut self,
        path: &str,
        mode: u32,
        device: (u32, u32),
        content: &[u8],
    ) -> io::Result<()> {
        let size = u32::try_from(content.len())
            .map_err(|_| io::Error::other(format!("{path}: too large for an initramfs")))?;
        self.inode += 1;
        let links = if mode & DIRECTORY == DIRECTORY { 2 } else { 1 };
        let fields = [
            self.inode,
            mode,
            0,
            0,
            links,
            0,
            size,
            0,
            0,
            device.0,
            device.1,
            path.len() as u32 + 1,
            0,
        ];
        let mut head = String::from("070701");
        for field in fields {
            head.push_str(&format!("{field:08X}"));
        }
        head.push_str(path);
        head.push('\0');
        self.out.write_all(head.as_bytes())?;
        self.pad(head.len())?;
        self.out.write_all(content)?;
        self.pad(content.len())
    }

    fn pad(&mut self, written: usize) -> io::Result<()> {
        self.out.write_all(&[0; 3][..written.wrapping_neg() % 4])
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[derive(Debug, PartialEq, Eq)]
    struct Entry {
        path: String,
        mode: u32,
        device: (u32, u32),
        content: Vec<u8>,
    }

    /// Reads an archive the way the kernel does, from the format's description alone.
    fn parse(mut bytes: &[u8]) -> Vec<Entry> {
        let total = bytes.len();
        let mut entries = Vec::new();
        loop {
            assert_eq!(&bytes[..6], b"070701");
            let field = |i: usize| {
                let hex = std::str::from_utf8(&bytes[6 + 8 * i..14 + 8 * i]).unwrap();
                u32::from_str_radix(hex, 16).unwrap()
            };
            let (mode, size, name_size) = (field(1), field(6) as usize, field(11) as usize);
            let device = (field(9), field(10));
            let name = &bytes[110..110 + name_size];
            assert_eq!(name.last(), Some(&0));
            let path = String::from_utf8(name[..name_size - 1].to_vec()).unwrap();
            let start = (110 + name_size).next_multiple_of(4);
            let content = bytes[start..start + size].to_vec();
            bytes = &bytes[(start + size).next_multiple_of(4)..];
            assert_eq!((total - bytes.len()) % 4, 0);
            if path == "TRAILER!!!" {
                assert!(bytes.is_empty());
                return entries;
            }
            entries.push(Entry {
                path,
                mode,
                device,
                content,
            });
        }
    }

    #[test]
    fn each_kind_of_entry_reads_back() {
        let mut archive = Archive::new(Vec::new());
        archive.folder("dev").unwrap();
        archive.character_device("dev/console", 5, 1).unwrap();
        archive.file("init", 0o755, b"#!").unwrap();
        archive.link("sh", "/init").unwrap();
        let entries = parse(&archive.finish().unwrap());
        let modes: Vec<_> = entries.iter().map(|e| (e.path.as_str(), e.mode)).collect();
        assert_eq!(
            modes,
            [
                ("dev", 0o40755),
                ("dev/console", 0o20600),
                ("init", 0o100755),
                ("sh", 0o120777)
            ]
        );
        assert_eq!(entries[3].content, b"/init");
        assert_eq!(entries[1].device, (5, 1));
        assert_eq!(entries[2].content, b"#!");
    }

    proptest! {
        #[test]
        fn any_files_read_back(
            files in prop::collection::vec(
                ("[a-z][a-z/._-]{0,40}", prop::collection::vec(any::<u8>(), 0..200)), 0..20)
        ) {
            let mut archive = Archive::new(Vec::new());
            for (path, content) in &files {
                archive.file(path, 0o644, content).unwrap();
            }
            let read: Vec<_> = parse(&archive.finish().unwrap())
                .into_iter()
                .map(|entry| (entry.path, entry.content))
                .collect();
            prop_assert_eq!(read, files);
        }
    }
}
