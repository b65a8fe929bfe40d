//! The kernel modules an L1 needs, in the order in which they load.
//!
//! Dependencies are read from each module's own `.modinfo`. `modules.dep` has the same data, but
//! depmod writes it when a kernel is installed, so neither a package nor a build tree has it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use super::elf::{self, ModuleInfo, normal_name};
use super::error::L1Error;
use super::feature::{FEATURES, Vendor};
use super::unpack;

/// Largest module the lab takes, unpacked. The largest with debug information have some 100 MiB.
const LARGEST: u64 = 512 << 20;

/// Modules a Linux guest under test may need beside those of an L1: the last ones for a disk of its own.
const GUEST_MODULES: [&str; 5] = ["tdx_guest", "virtio_mem", "virtio_blk", "ext4", "xfs"];

/// A module ready to be loaded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Module {
    /// Name, normalised.
    pub name: String,
    /// The unpacked file.
    pub bytes: Vec<u8>,
    /// Where it was found.
    pub path: PathBuf,
}

/// A folder of modules: `lib/modules/RELEASE`, or a kernel's build tree.
#[derive(Clone, Debug)]
pub struct ModuleFolder {
    files: BTreeMap<String, PathBuf>,
    /// Built-in modules; `None` if the folder has no `modules.builtin`.
    built_in: Option<BTreeSet<String>>,
}

impl ModuleFolder {
    /// Lists the folder. `modules.order` is used where there is one, since a build tree has a
    /// hundred thousand other files.
    pub fn open(path: &Path) -> Result<ModuleFolder, L1Error> {
        let failed = |source| L1Error::Read {
            path: path.to_owned(),
            source,
        };
        let mut files = BTreeMap::new();
        let listed = listed(path);
        let found = if listed.is_empty() {
            walk(path).map_err(failed)?
        } else {
            listed
        };
        for file in found {
            if let Some(name) = module_name(&file) {
                files.entry(name).or_insert(file);
            }
        }
        let built_in = fs::read_to_string(path.join("modules.builtin"))
            .ok()
            .map(|list| {
                list.lines()
                    .filter_map(|line| module_name(Path::new(line)))
                    .collect()
            });
        Ok(ModuleFolder { files, built_in })
    }

    /// Whether the kernel has no such module, neither as a file nor built in.
    pub fn lacks(&self, name: &str) -> bool {
        let built_in = |built_in: &BTreeSet<String>| built_in.contains(name);
        !self.files.contains_key(name) && !self.built_in.as_ref().is_none_or(built_in)
    }

    /// The modules of all features, dependencies first.
    ///
    /// Fails if a module an L1 requires is missing, or if modules belong to a kernel other than
    /// `release`.
    pub(crate) fn needed(
        &self,
        kernel: &str,
        release: Option<&str>,
        vendor: Vendor,
    ) -> Result<Vec<Module>, L1Error> {
        let features = FEATURES.into_iter().chain([vendor.feature()]);
        let modules = self.collect(features.map(|feature| feature.module))?;
        for (module, info) in &modules {
            let built_for = info.vermagic.split_whitespace().next().unwrap_or_default();
            if let Some(release) = release.filter(|&release| release != built_for) {
                return Err(L1Error::OtherKernelsModules {
                    kernel: kernel.to_owned(),
                    release: release.to_owned(),
                    module: module.path.clone(),
                    built_for: built_for.to_owned(),
                });
            }
        }
        let lacking = FEATURES
            .into_iter()
            .chain([vendor.feature()])
            .find(|feature| feature.purpose.is_some() && self.lacks(feature.module));
        if let Some(feature) = lacking {
            return Err(L1Error::lacks(kernel, feature));
        }
        Ok(modules.into_iter().map(|(module, _)| module).collect())
    }

    /// All modules that an L1 on one of these CPUs, or a Linux guest, can need, as far as they
    /// exist.
    pub(crate) fn wanted(&self, vendors: &[Vendor]) -> Result<Vec<Module>, L1Error> {
        let features = FEATURES.iter().map(|feature| feature.module);
        let vendors = vendors.iter().map(|vendor| vendor.feature().module);
        self.in_order(features.chain(vendors).chain(GUEST_MODULES))
    }

    /// These modules and their dependencies, as far as they exist, dependencies first.
    pub fn in_order<'a>(
        &self,
        names: impl IntoIterator<Item = &'a str>,
    ) -> Result<Vec<Module>, L1Error> {
        let modules = self.collect(names)?;
        Ok(modules.into_iter().map(|(module, _)| module).collect())
    }

    fn collect<'a>(
        &self,
        names: impl IntoIterator<Item = &'a str>,
    ) -> Result<Vec<(Module, ModuleInfo)>, L1Error> {
        let mut order = Order {
            folder: self,
            done: BTreeSet::new(),
            modules: Vec::new(),
        };
        for name in names {
            order.add(name, &mut Vec::new())?;
        }
        Ok(order.modules)
    }
}

/// Collects modules, dependencies first.
struct Order<'a> {
    folder: &'a ModuleFolder,
    done: BTreeSet<String>,
    modules: Vec<(Module, ModuleInfo)>,
}

impl Order<'_> {
    /// Adds `name` unless it is there or no file has it (then it is built in, or the L1 reports it
    /// as missing). `above` are the modules that need it.
    fn add(&mut self, name: &str, above: &mut Vec<String>) -> Result<(), L1Error> {
        let Some(path) = self.folder.files.get(name) else {
            return Ok(());
        };
        if self.done.contains(name) || above.iter().any(|module| module == name) {
            return Ok(());
        }
        let broken = |what: &str| L1Error::BrokenModule {
            path: path.clone(),
            what: what.to_owned(),
        };
        let packed = fs::read(path).map_err(|source| L1Error::Read {
            path: path.clone(),
            source,
        })?;
        let bytes = unpack::unpack(&packed, LARGEST).map_err(|error| broken(&error.to_string()))?;
        let info =
            elf::module_info(&bytes).ok_or_else(|| broken("it has no module information"))?;
        above.push(name.to_owned());
        for dependency in &info.depends {
            self.add(dependency, above)?;
        }
        above.pop();
        self.done.insert(name.to_owned());
        self.modules.push((
            Module {
                name: name.to_owned(),
                bytes,
                path: path.clone(),
            },
            info,
        ));
        Ok(())
    }
}

/// Normal name of a module file, `None` for other files.
fn module_name(path: &Path) -> Option<String> {
    let file = path.file_name()?.to_str()?;
    let (name, packing) = file.split_once(".ko")?;
    matches!(packing, "" | ".xz" | ".zst" | ".gz").then(|| normal_name(name))
}

/// The files that `modules.order` names, as far as they are there, packed or not.
fn listed(folder: &Path) -> Vec<PathBuf> {
    let Ok(order) = fs::read_to_string(folder.join("modules.order")) else {
        return Vec::new();
    };
    // Since 6.2 the list of a build tree names objects.
    let stems = order
        .lines()
        .filter_map(|line| line.strip_suffix(".ko").or(line.strip_suffix(".o")));
    stems
        .flat_map(|stem| ["ko", "ko.xz", "ko.zst", "ko.gz"].map(|end| format!("{stem}.{end}")))
        .map(|file| folder.join(file))
        .filter(|file| file.is_file())
        .collect()
}

/// All files below `folder`, symbolic links to folders not followed.
fn walk(folder: &Path) -> std::io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                folders.push(entry.path());
            } else {
                files.push(entry.path());
            }
        }
    }
    files.sort();
    Ok(files)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// The smallest ELF object with a `.modinfo`.
    pub(crate) fn module(name: &str, release: &str, depends: &str) -> Vec<u8> {
        let info =
            format!("name={name}\0depends={depends}\0vermagic={release} SMP preempt mod_unload \0");
        let names = b"\0.modinfo\0.shstrtab\0";
        let (info_at, names_at) = (64_u64, 64 + info.len() as u64);
        let table_at = names_at + names.len() as u64;
        let mut file = b"\x7fELF\x02\x01\x01".to_vec();
        file.resize(16, 0);
        for half in [1_u16, 62] {
            file.extend(half.to_le_bytes());
        }
        file.extend(1_u32.to_le_bytes());
        for long in [0, 0, table_at] {
            file.extend(long.to_le_bytes());
        }
        file.extend(0_u32.to_le_bytes());
        for half in [64_u16, 0, 0, 64, 3, 2] {
            file.extend(half.to_le_bytes());
        }
        file.extend(info.as_bytes());
        file.extend(names);
        let sections = [
            (0_u32, 0_u32, 0, 0),
            (1, 1, info_at, info.len() as u64),
            (10, 3, names_at, names.len() as u64),
        ];
        for (name, kind, offset, size) in sections {
            file.extend(name.to_le_bytes());
            file.extend(kind.to_le_bytes());
            for long in [0, 0, offset, size] {
                file.extend(long.to_le_bytes());
            }
            file.extend([0; 24]);
        }
        file
    }

    /// A module folder of a kernel that has all an L1 needs.
    fn folder(release: &str, built_in: &str) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        let kernel = folder.path().join("kernel");
        fs::create_dir(&kernel).unwrap();
        for (file, depends) in [
            ("virtio_pci.ko", "virtio-ring,virtio"),
            ("virtio-ring.ko", "virtio"),
            ("virtio.ko", ""),
            ("9p.ko", "9pnet"),
            ("9pnet.ko", ""),
            ("9pnet_virtio.ko", "9pnet,virtio"),
            ("kvm-amd.ko", "kvm"),
            ("kvm.ko", "irqbypass"),
        ] {
            let name = file.strip_suffix(".ko").unwrap();
            fs::write(kernel.join(file), module(name, release, depends)).unwrap();
        }
        fs::write(folder.path().join("modules.builtin"), built_in).unwrap();
        folder
    }

    fn names(modules: &[Module]) -> Vec<&str> {
        modules.iter().map(|module| module.name.as_str()).collect()
    }

    #[test]
    fn each_module_comes_after_what_it_depends_on() {
        let folder = folder("6.1.0", "kernel/virt/lib/irqbypass.ko\n");
        let modules = ModuleFolder::open(folder.path()).unwrap();
        assert_eq!(
            names(&modules.needed("k", Some("6.1.0"), Vendor::Amd).unwrap()),
            [
                "virtio",
                "virtio_ring",
                "virtio_pci",
                "9pnet",
                "9pnet_virtio",
                "9p",
                "kvm",
                "kvm_amd"
            ]
        );
    }

    #[test]
    fn a_packed_module_is_found_and_unpacked() {
        use std::io::Write;
        let folder = folder("6.1.0", "");
        let plain = folder.path().join("kernel/9p.ko");
        let bytes = fs::read(&plain).unwrap();
        let file = fs::File::create(folder.path().join("kernel/9p.ko.gz")).unwrap();
        flate2::write::GzEncoder::new(file, flate2::Compression::fast())
            .write_all(&bytes)
            .unwrap();
        fs::remove_file(plain).unwrap();
        let modules = ModuleFolder::open(folder.path()).unwrap();
        let needed = modules.needed("k", None, Vendor::Amd).unwrap();
        assert_eq!(
            needed
                .iter()
                .find(|module| module.name == "9p")
                .unwrap()
                .bytes,
            bytes
        );
    }

    #[test]
    fn a_kernel_without_kvm_amd_is_named_before_it_boots() {
        let folder = folder("6.1.0", "");
        fs::remove_file(folder.path().join("kernel/kvm-amd.ko")).unwrap();
        let modules = ModuleFolder::open(folder.path()).unwrap();
        let error = modules
            .needed("linux-image-x", None, Vendor::Amd)
            .unwrap_err();
        assert!(
            matches!(
                error,
                L1Error::Lacks {
                    option: "CONFIG_KVM_AMD",
                    ..
                }
            ),
            "{error}"
        );
    }

    #[test]
    fn built_in_is_as_good_as_a_module() {
        let folder = folder("6.1.0", "kernel/arch/x86/kvm/kvm-amd.ko\n");
        fs::remove_file(folder.path().join("kernel/kvm-amd.ko")).unwrap();
        let modules = ModuleFolder::open(folder.path()).unwrap();
        assert!(!names(&modules.needed("k", None, Vendor::Amd).unwrap()).contains(&"kvm_amd"));
    }

    #[test]
    fn modules_of_another_kernel_are_refused() {
        let folder = folder("6.1.0", "");
        let modules = ModuleFolder::open(folder.path()).unwrap();
        let error = modules.needed("k", Some("7.3.4"), Vendor::Amd).unwrap_err();
        assert!(
            matches!(error, L1Error::OtherKernelsModules { .. }),
            "{error}"
        );
    }

    #[test]
    fn a_module_cut_short_is_an_error_that_names_it() {
        let folder = folder("6.1.0", "");
        let path = folder.path().join("kernel/9p.ko");
        let bytes = fs::read(&path).unwrap();
        fs::write(&path, &bytes[..bytes.len() - 100]).unwrap();
        let error = ModuleFolder::open(folder.path())
            .unwrap()
            .needed("k", None, Vendor::Amd)
            .unwrap_err();
        assert!(
            matches!(&error, L1Error::BrokenModule { path: p, .. } if *p == path),
            "{error}"
        );
    }

    #[test]
    fn modules_that_need_each_other_do_not_loop() {
        let folder = folder("6.1.0", "");
        let path = folder.path().join("kernel/virtio.ko");
        fs::write(path, module("virtio", "6.1.0", "virtio_pci")).unwrap();
        let modules = ModuleFolder::open(folder.path()).unwrap();
        assert_eq!(modules.needed("k", None, Vendor::Amd).unwrap().len(), 8);
    }

    #[test]
    fn a_build_tree_is_read_through_its_list() {
        let folder = folder("6.1.0", "");
        let order = "kernel/virtio_pci.o\nkernel/virtio-ring.o\nkernel/virtio.o\nkernel/9p.o\n\
                     kernel/9pnet.o\nkernel/9pnet_virtio.o\nkernel/kvm-amd.ko\nkernel/kvm.ko\n";
        fs::write(folder.path().join("modules.order"), order).unwrap();
        assert_eq!(listed(folder.path()).len(), 8);
    }
}
