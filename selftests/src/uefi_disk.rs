//! A disk that UEFI firmware starts, as an installed system has it: a GPT, an EFI system partition, and on
//! it systemd's boot loader by the name that firmware looks for on removable media.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Cursor, Seek, SeekFrom, Write};
use std::path::Path;

use gpt::disk::LogicalBlockSize;
use gpt::mbr::ProtectiveMBR;
use gpt::{GptConfig, partition_types};
use tdxlab::l1::package::cache_folder;
use tdxlab::l1::{L1Error, package_file};

const MIB: usize = 1 << 20;

/// What is on the disk.
#[derive(Debug)]
pub struct System {
    /// A kernel with an EFI stub.
    pub kernel: Vec<u8>,
    /// Its initramfs.
    pub initramfs: Vec<u8>,
    /// Its command line.
    pub append: String,
}

/// Debian's build of systemd's boot loader: from the cache, or downloaded.
///
/// # Errors
///
/// It cannot be had.
pub fn loader() -> Result<Vec<u8>, L1Error> {
    let path = "usr/lib/systemd/boot/efi/systemd-bootx64.efi";
    let file = package_file::file(&cache_folder()?, "systemd-boot-efi", path)?;
    std::fs::read(&file).map_err(|source| L1Error::Cache {
        folder: file,
        source,
    })
}

/// Writes a disk image with `system` and its boot loader.
///
/// # Errors
///
/// The file cannot be written.
pub fn write(path: &Path, loader: &[u8], system: &System) -> io::Result<()> {
    let partition = file_system(loader, system)?;
    // Room for the table, and its copy at the end.
    let bytes = partition.len() + 2 * MIB;
    let mut disk = File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .open(path)?;
    disk.set_len(bytes as u64)?;
    let sectors = u32::try_from(bytes / 512 - 1).map_err(io::Error::other)?;
    let protective = ProtectiveMBR::with_lb_size(sectors);
    protective
        .overwrite_lba0(&mut disk)
        .map_err(io::Error::other)?;
    let table = GptConfig::new().writable(true);
    let table = table.logical_block_size(LogicalBlockSize::Lb512);
    let mut table = table
        .create_from_device(disk, None)
        .map_err(io::Error::other)?;
    table
        .update_partitions(BTreeMap::new())
        .map_err(io::Error::other)?;
    let size = partition.len() as u64;
    let number = table.add_partition("ESP", size, partition_types::EFI, 0, None);
    let number = number.map_err(io::Error::other)?;
    let start = table.partitions()[&number].first_lba * 512;
    let mut disk = table.write().map_err(io::Error::other)?;
    disk.seek(SeekFrom::Start(start))?;
    disk.write_all(&partition)
}

/// A FAT file system with these files.
fn file_system(loader: &[u8], system: &System) -> io::Result<Vec<u8>> {
    let options = format!(
        "title lab\nlinux /vmlinuz\ninitrd /initrd\noptions {}\n",
        system.append
    );
    let files = [
        ("EFI/BOOT/BOOTX64.EFI", loader),
        ("loader/loader.conf", b"timeout 0\ndefault lab.conf\n"),
        ("loader/entries/lab.conf", options.as_bytes()),
        ("vmlinuz", &system.kernel),
        ("initrd", &system.initramfs),
    ];
    let used: usize = files.iter().map(|(_, content)| content.len()).sum();
    let bytes = (used + used / 16 + 16 * MIB).next_multiple_of(MIB);
    let mut image = Cursor::new(vec![0; bytes]);
    fatfs::format_volume(&mut image, fatfs::FormatVolumeOptions::new())?;
    {
        let volume = fatfs::FileSystem::new(&mut image, fatfs::FsOptions::new())?;
        let root = volume.root_dir();
        for folder in ["EFI", "EFI/BOOT", "loader", "loader/entries"] {
            root.create_dir(folder)?;
        }
        for (name, content) in files {
            root.create_file(name)?.write_all(content)?;
        }
    }
    Ok(image.into_inner())
}
