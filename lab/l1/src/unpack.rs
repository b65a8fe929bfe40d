//! Packed data: kernel modules, kernel payloads and package members, identified by their first
//! bytes, not by name.

use std::io::{self, Read};

/// How bytes are packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Packing {
    /// Not at all, or in a way the lab does not know.
    Plain,
    /// gzip.
    Gzip,
    /// xz.
    Xz,
    /// Zstandard.
    Zstd,
}

impl Packing {
    /// The packing, from the first bytes of a file.
    pub(crate) fn of(bytes: &[u8]) -> Packing {
        match bytes {
            [0x1f, 0x8b, ..] => Packing::Gzip,
            [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Packing::Xz,
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Packing::Zstd,
            _ => Packing::Plain,
        }
    }
}

/// A reader of the unpacked bytes of `packed`, which must include those passed to [`Packing::of`].
///
/// Bytes after the end of the packed stream are left alone: kernels carry their unpacked size
/// there.
pub(crate) fn reader<'a, R: Read + 'a>(
    packing: Packing,
    packed: R,
) -> io::Result<Box<dyn Read + 'a>> {
    Ok(match packing {
        Packing::Plain => Box::new(packed),
        Packing::Gzip => Box::new(flate2::read::GzDecoder::new(packed)),
        Packing::Xz => Box::new(lzma_rust2::XzReader::new(packed, false)),
        Packing::Zstd => {
            Box::new(ruzstd::decoding::StreamingDecoder::new(packed).map_err(io::Error::other)?)
        }
    })
}

/// All bytes of `packed`, unpacked; an error where there are more than `limit` of them.
pub(crate) fn unpack(packed: &[u8], limit: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    reader(Packing::of(packed), packed)?
        .take(limit + 1)
        .read_to_end(&mut bytes)?;
    if bytes.len() as u64 > limit {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!("unpacks to more than {limit} bytes"),
        ));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    /// "lab\n" as `xz --check=crc32` and `zstd` pack it.
    const XZ: &[u8] = include_bytes!("testdata/lab.xz");
    const ZSTD: &[u8] = include_bytes!("testdata/lab.zst");

    #[test]
    fn every_packing_is_recognised_and_undone() {
        assert_eq!(unpack(b"lab\n", 100).unwrap(), b"lab\n");
        assert_eq!(unpack(&gzip(b"lab\n"), 100).unwrap(), b"lab\n");
        assert_eq!(unpack(XZ, 100).unwrap(), b"lab\n");
        assert_eq!(unpack(ZSTD, 100).unwrap(), b"lab\n");
    }

    #[test]
    fn what_follows_the_packed_stream_is_left_alone() {
        for packed in [gzip(b"lab\n"), XZ.to_vec(), ZSTD.to_vec()] {
            let trailed = [packed.as_slice(), &[4, 0, 0, 0]].concat();
            assert_eq!(unpack(&trailed, 100).unwrap(), b"lab\n");
        }
    }

    #[test]
    fn a_cut_stream_is_an_error_and_not_less_data() {
        for packed in [gzip(b"lab\n"), XZ.to_vec(), ZSTD.to_vec()] {
            for length in 6..packed.len() {
                let cut = unpack(&packed[..length], 100);
                assert!(cut.is_err(), "{length} of {} bytes", packed.len());
            }
        }
    }

    #[test]
    fn a_bomb_stops_at_the_limit() {
        assert!(unpack(&gzip(&[0; 4096]), 4095).is_err());
        assert_eq!(unpack(&gzip(&[0; 4096]), 4096).unwrap().len(), 4096);
    }
}
