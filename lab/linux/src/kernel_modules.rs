//! Modules of the guest's kernel that an image needs.

use tdxlab_l1::kernel::Kernel;
use tdxlab_l1::modules::Module;

use crate::error::LinuxError;
use crate::image_options::{First, ImageOptions};
use crate::machine::AgentLine;

/// Modules without which the agent cannot be reached, and their options.
const NEEDED: [(&str, &str); 2] = [
    ("virtio_pci", "CONFIG_VIRTIO_PCI"),
    ("virtio_console", "CONFIG_VIRTIO_CONSOLE"),
];

/// Modules for a disk, where the kernel has them as such.
const OF_DISKS: [&str; 3] = ["virtio_blk", "ext4", "xfs"];

/// Name of the driver for TDREPORTs and quotes.
const REPORTS: &str = "tdx_guest";

/// Name of the driver that adds memory.
const PLUGS: &str = "virtio_mem";

/// The driver for TDREPORTs and quotes in an image (tdx_guest, CONFIG_TDX_GUEST_DRIVER).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReportDriver {
    /// The kernel has none.
    Absent,
    /// It is there when the agent is.
    AtBoot,
    /// The first request loads it.
    WithRequest,
}

/// Modules of an image, dependencies first.
pub(crate) struct Modules {
    /// The agent's line with them.
    pub(crate) line: AgentLine,
    pub(crate) loaded: Vec<Module>,
    /// Why memory cannot be plugged; `None` where it can.
    pub(crate) no_plug: Option<String>,
    pub(crate) reports: ReportDriver,
    /// What the first TDREPORT or quote loads.
    pub(crate) driver: Vec<Module>,
}

/// Chooses the modules of an image.
pub(crate) fn modules_of(kernel: &Kernel, options: &ImageOptions) -> Result<Modules, LinuxError> {
    let without = |line| Modules {
        line,
        loaded: Vec::new(),
        no_plug: None,
        reports: ReportDriver::AtBoot,
        driver: Vec::new(),
    };
    let Some(folder) = &kernel.modules else {
        // A kernel without modules has built in whatever it has.
        return Ok(without(AgentLine::VirtioSerial));
    };
    let missing = NEEDED.into_iter().find(|(module, _)| folder.lacks(module));
    if let Some((module, option)) = missing {
        if options.td {
            // A TD receives data on a serial line too slowly.
            return Err(LinuxError::Lacks {
                kernel: kernel.name.clone(),
                module,
                option,
            });
        }
        return Ok(without(AgentLine::Serial));
    }
    let extra = options.extra.iter().map(String::as_str);
    let disk = OF_DISKS
        .into_iter()
        .filter(|_| options.first == First::Root);
    let extra = extra.chain(disk);
    let names: Vec<&str> = NEEDED.into_iter().map(|(module, _)| module).collect();
    let plugs = options.plug.then_some(PLUGS);
    let at_boot = (options.td && !options.reports).then_some(REPORTS);
    let loaded = folder.in_order(names.into_iter().chain(at_boot).chain(plugs).chain(extra))?;
    let mut driver = match options.td && options.reports {
        true => folder.in_order([REPORTS])?,
        false => Vec::new(),
    };
    let is_file = driver.iter().any(|module| module.name == REPORTS);
    driver.retain(|module| !loaded.iter().any(|known| known.name == module.name));
    Ok(Modules {
        line: AgentLine::VirtioSerial,
        loaded,
        no_plug: folder
            .lacks(PLUGS)
            .then(|| format!("{} has no {PLUGS} (CONFIG_VIRTIO_MEM)", kernel.name)),
        reports: match folder.lacks(REPORTS) {
            true => ReportDriver::Absent,
            false if is_file => ReportDriver::WithRequest,
            false => ReportDriver::AtBoot,
        },
        driver,
    })
}

/// Whether the kernel cannot reach a disk.
pub(crate) fn lacks_disks(kernel: &Kernel) -> bool {
    let modules = kernel.modules.as_ref();
    modules.is_some_and(|folder| folder.lacks(OF_DISKS[0]))
}

/// Refuses a kernel that cannot reach a disk.
pub(crate) fn check_disks(kernel: &Kernel) -> Result<(), LinuxError> {
    match lacks_disks(kernel) {
        true => Err(LinuxError::Lacks {
            kernel: kernel.name.clone(),
            module: OF_DISKS[0],
            option: "CONFIG_VIRTIO_BLK",
        }),
        false => Ok(()),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::fs;
    use std::path::Path;

    use tdxlab_l1::KernelChoice;

    use super::*;

    /// A minimal kernel image: a header without payload.
    fn bz_image() -> Vec<u8> {
        let mut image = vec![0; 0x600];
        image[0x1fe..0x200].copy_from_slice(&[0x55, 0xaa]);
        image[0x202..0x206].copy_from_slice(b"HdrS");
        image
    }

    pub(crate) fn kernel(folder: &Path) -> Kernel {
        let path = folder.join("bzImage");
        fs::write(&path, bz_image()).unwrap();
        Kernel::find(&KernelChoice::Image(path), None, false).unwrap()
    }

    #[test]
    fn a_kernel_without_virtio_speaks_on_a_serial_line() {
        let folder = tempfile::tempdir().unwrap();
        let modules = folder.path().join("modules");
        fs::create_dir(&modules).unwrap();
        fs::write(
            modules.join("modules.builtin"),
            "kernel/drivers/virtio/virtio_pci.ko\n",
        )
        .unwrap();
        let kernel = kernel(folder.path());
        let modules = modules_of(&kernel, &ImageOptions::default()).unwrap();
        assert_eq!((modules.line, modules.loaded.len()), (AgentLine::Serial, 0));
        let td = ImageOptions {
            td: true,
            ..ImageOptions::default()
        };
        let error = modules_of(&kernel, &td).err().unwrap();
        assert!(
            error.to_string().contains("CONFIG_VIRTIO_CONSOLE"),
            "{error}"
        );
    }
}
