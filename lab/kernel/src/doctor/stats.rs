//! KVM's statistics of a VM of this process, in the kernel's binary form: a header, a list of
//! descriptors, and the values.
//!
//! Source: "4.133 KVM_GET_STATS_FD" in Documentation/virt/kvm/api.rst.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd};
use std::os::unix::fs::FileExt;

/// `_IO(KVMIO, 0xce)`.
const KVM_GET_STATS_FD: libc::c_ulong = 0xaece;

/// Most bytes that header and descriptors may have; the kernel's have some 10 KiB.
const MOST: usize = 1 << 20;

/// Bytes of a descriptor before its name.
const DESCRIPTOR: usize = 16;

/// The value of one statistic of the VM behind `vm`; `None` if it has none of that name.
pub(super) fn read(vm: &impl AsRawFd, name: &str) -> io::Result<Option<u64>> {
    // SAFETY: the ioctl takes no argument and returns a new file descriptor.
    let fd = unsafe { libc::ioctl(vm.as_raw_fd(), KVM_GET_STATS_FD, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made it for us.
    let file = unsafe { File::from_raw_fd(fd) };
    value(&file, name)
}

fn value(file: &impl FileExt, name: &str) -> io::Result<Option<u64>> {
    let mut header = [0; 24];
    file.read_exact_at(&mut header, 0)?;
    let [_flags, name_size, count, _id, descriptors, values] =
        std::array::from_fn(|field| number(&header, 4 * field));
    let size = DESCRIPTOR + name_size;
    let all = size
        .checked_mul(count)
        .filter(|&all| all <= MOST)
        .ok_or_else(nonsense)?;
    let mut list = vec![0; all];
    file.read_exact_at(&mut list, descriptors as u64)?;
    for descriptor in list.chunks_exact(size) {
        let text = &descriptor[DESCRIPTOR..];
        let end = text
            .iter()
            .position(|&byte| byte == 0)
            .unwrap_or(text.len());
        if &text[..end] == name.as_bytes() {
            // Flags, exponent and number of values take the first eight bytes.
            let offset = values as u64 + number(descriptor, 8) as u64;
            let mut value = [0; 8];
            file.read_exact_at(&mut value, offset)?;
            return Ok(Some(u64::from_ne_bytes(value)));
        }
    }
    Ok(None)
}

fn number(bytes: &[u8], at: usize) -> usize {
    let field = bytes[at..at + 4].try_into().expect("four bytes");
    u32::from_ne_bytes(field) as usize
}

fn nonsense() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "statistics that cannot be")
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn file(count: u32, names: &[&str]) -> tempfile::NamedTempFile {
        let mut bytes = Vec::new();
        for field in [0, 48, count, 24, 72, 72 + 64 * names.len() as u32] {
            bytes.extend(u32::to_ne_bytes(field));
        }
        bytes.resize(72, b'i');
        for (index, name) in names.iter().enumerate() {
            bytes.extend([0; 8]);
            bytes.extend(u32::to_ne_bytes(8 * index as u32));
            bytes.extend([0; 4]);
            let mut text = name.as_bytes().to_vec();
            text.resize(48, 0);
            bytes.extend(text);
        }
        for index in 0..names.len() {
            bytes.extend(u64::to_ne_bytes(100 + index as u64));
        }
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(&bytes).unwrap();
        file
    }

    #[test]
    fn a_statistic_is_found_by_its_name() {
        let file = file(3, &["pages_4k", "pages_2m", "pages_1g"]);
        assert_eq!(value(file.as_file(), "pages_2m").unwrap(), Some(101));
        assert_eq!(value(file.as_file(), "pages").unwrap(), None);
    }

    #[test]
    fn what_cannot_be_is_an_error() {
        for count in [9, u32::MAX] {
            let file = file(count, &["pages_4k"]);
            assert!(value(file.as_file(), "pages_2m").is_err(), "{count}");
        }
    }
}
