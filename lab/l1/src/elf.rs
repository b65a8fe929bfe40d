//! What the lab reads from ELF files: module information, the PVH entry of a kernel, and the
//! interpreter and libraries of a program.

use std::path::PathBuf;

use object::elf;
use object::read::elf::{Dyn, FileHeader, ProgramHeader, SectionHeader};

type Header = elf::FileHeader64<object::Endianness>;

/// Note type of the physical 32-bit entry point, `XEN_ELFNOTE_PHYS32_ENTRY`.
const PHYS32_ENTRY: elf::NoteType = elf::NoteType(18);

/// `.modinfo` of a kernel module.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ModuleInfo {
    /// Its name, as the kernel shows it.
    pub(crate) name: String,
    /// Modules it needs loaded first.
    pub(crate) depends: Vec<String>,
    /// The kernel it was built for: release, then build options.
    pub(crate) vermagic: String,
}

/// Reads `.modinfo`; `None` where `bytes` is no kernel module.
pub(crate) fn module_info(bytes: &[u8]) -> Option<ModuleInfo> {
    let header = Header::parse(bytes).ok()?;
    let endian = header.endian().ok()?;
    let (_, section) = header
        .sections(endian, bytes)
        .ok()?
        .section_by_name(endian, b".modinfo")?;
    let mut info = ModuleInfo::default();
    for field in section.data(endian, bytes).ok()?.split(|&byte| byte == 0) {
        let field = String::from_utf8_lossy(field);
        match field.split_once('=') {
            Some(("name", name)) => info.name = normal_name(name),
            Some(("vermagic", magic)) => info.vermagic = magic.trim().to_owned(),
            Some(("depends", list)) => {
                let names = list.split(',').filter(|name| !name.is_empty());
                info.depends = names.map(normal_name).collect();
            }
            _ => {}
        }
    }
    (!info.vermagic.is_empty()).then_some(info)
}

/// A module's name with the dashes of its file name as underscores.
pub(crate) fn normal_name(name: &str) -> String {
    name.replace('-', "_")
}

/// Whether `kernel` is an ELF kernel that QEMU can start by its PVH note.
pub(crate) fn has_pvh_entry(kernel: &[u8]) -> bool {
    let find = || {
        let header = Header::parse(kernel).ok()?;
        let endian = header.endian().ok()?;
        for segment in header.program_headers(endian, kernel).ok()? {
            let Some(mut notes) = segment.notes(endian, kernel).ok()? else {
                continue;
            };
            while let Ok(Some(note)) = notes.next() {
                if note.name() == b"Xen" && note.n_type(endian) == PHYS32_ENTRY {
                    return Some(());
                }
            }
        }
        None
    };
    find().is_some()
}

/// Files a program needs to run elsewhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Program {
    /// The program without what only debuggers and linkers read.
    pub(crate) loaded: Vec<u8>,
    /// Its dynamic linker; `None` for a static program.
    pub(crate) interpreter: Option<PathBuf>,
}

/// Reads a program; `None` where `bytes` is no 64-bit ELF program.
pub(crate) fn program(bytes: &[u8]) -> Option<Program> {
    let header = Header::parse(bytes).ok()?;
    let endian = header.endian().ok()?;
    let segments = header.program_headers(endian, bytes).ok()?;
    let mut end = size_of::<Header>() as u64;
    let mut interpreter = None;
    for segment in segments {
        let last = segment
            .p_offset(endian)
            .checked_add(segment.p_filesz(endian))?;
        end = end.max(last);
        if let Ok(Some(path)) = segment.interpreter(endian, bytes) {
            interpreter = Some(PathBuf::from(String::from_utf8_lossy(path).into_owned()));
        }
    }
    let headers = header.e_phoff(endian) + segments.len() as u64 * 56;
    let mut loaded = bytes.get(..end.max(headers) as usize)?.to_vec();
    // Without its section table the file is whole again: e_shoff, then e_shnum and e_shstrndx.
    loaded[40..48].fill(0);
    loaded[60..64].fill(0);
    Some(Program {
        loaded,
        interpreter,
    })
}

/// Most libraries that a program names; a bound on what a file can make the lab look for.
const MAX_LIBRARIES: usize = 256;

/// The libraries that a program or a library names (`DT_NEEDED`); `None` where `bytes` is no 64-bit
/// ELF file, or names no string table.
pub(crate) fn libraries(bytes: &[u8]) -> Option<Vec<String>> {
    let header = Header::parse(bytes).ok()?;
    let endian = header.endian().ok()?;
    let segments = header.program_headers(endian, bytes).ok()?;
    let dynamic = segments
        .iter()
        .find_map(|segment| segment.dynamic(endian, bytes).ok()?);
    let Some(dynamic) = dynamic else {
        return Some(Vec::new());
    };
    let value = |entry: &elf::Dyn64<object::Endianness>| entry.d_val(endian);
    let with = |tag| {
        dynamic
            .iter()
            .filter(move |entry| entry.d_tag(endian) == tag)
    };
    // An address where the file is loaded, and so an offset in one of its segments.
    let names = with(elf::DT_STRTAB).map(value).next()?;
    let names = segments.iter().find_map(|segment| {
        let offset = names.checked_sub(segment.p_vaddr(endian))?;
        let inside = segment.p_type(endian) == elf::PT_LOAD && offset < segment.p_filesz(endian);
        segment
            .p_offset(endian)
            .checked_add(offset)
            .filter(|_| inside)
    })?;
    let name = |entry| {
        let start = usize::try_from(names.checked_add(value(entry))?).ok()?;
        let text = bytes.get(start..)?.split(|&byte| byte == 0).next()?;
        Some(String::from_utf8_lossy(text).into_owned())
    };
    with(elf::DT_NEEDED).take(MAX_LIBRARIES).map(name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_running_test_is_a_program_that_shrinks() {
        let own = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        let program = program(&own).unwrap();
        assert!(program.loaded.len() < own.len());
        assert!(module_info(&own).is_none());
        assert!(!has_pvh_entry(&own));
        let names = libraries(&own).unwrap();
        assert!(names.contains(&"libc.so.6".to_owned()), "{names:?}");
    }

    #[test]
    fn a_program_without_its_sections_still_runs() {
        use std::os::unix::fs::PermissionsExt;
        let own = std::fs::read("/bin/true").unwrap();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("true");
        std::fs::write(&path, program(&own).unwrap().loaded).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        assert!(
            std::process::Command::new(&path)
                .status()
                .unwrap()
                .success()
        );
    }

    #[test]
    fn broken_files_are_no_modules_and_no_programs() {
        for bytes in [&b""[..], b"\x7fELF", &[0x7f; 200]] {
            assert!(module_info(bytes).is_none());
            assert!(program(bytes).is_none());
            assert!(libraries(bytes).is_none());
            assert!(!has_pvh_entry(bytes));
        }
    }
}
