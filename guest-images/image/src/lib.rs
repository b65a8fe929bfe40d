//! Programs of guests: the finished image of the micro guest, 64 KiB for QEMU's `-bios`, and the
//! agent of Linux guests.

use tdxlab_protocol::layout;

/// The image. The same bytes boot in real mode under TCG and KVM, and as a TD.
pub static IMAGE: &[u8; layout::IMAGE_BYTES as usize] =
    include_bytes!(concat!(env!("OUT_DIR"), "/micro.bin"));

/// The ELF file the image was made of, for a debugger: its symbols and lines are those of the copy
/// at [`layout::IMAGE_COPY`].
pub static ELF: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/micro.elf"));

/// The agent: a static program that is `/init` of a Linux guest.
pub static AGENT: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/agent"));

/// The kernel module through which the agent converts pages, as files to build it from: name and
/// content. Licensed under GPL-2.0-only.
pub static PAGES_MODULE: [(&str, &str); 2] = [
    ("Kbuild", include_str!("../../linux/module/Kbuild")),
    (
        "tdxlab_pages.c",
        include_str!("../../linux/module/tdxlab_pages.c"),
    ),
];
