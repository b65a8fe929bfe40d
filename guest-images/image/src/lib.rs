//! The finished image of the micro guest: 64 KiB to pass to QEMU with `-bios`.

use tdxlab_protocol::layout;

/// The image. The same bytes boot in real mode under TCG and KVM, and as a TD.
pub static IMAGE: &[u8; layout::IMAGE_BYTES as usize] =
    include_bytes!(concat!(env!("OUT_DIR"), "/micro.bin"));

/// The ELF file the image was made of, for a debugger: its symbols and lines are those of the copy
/// at [`layout::IMAGE_COPY`].
pub static ELF: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/micro.elf"));
