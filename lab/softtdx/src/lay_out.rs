//! The build folder: KVM's sources with the edits, the extracted code, and the kernel side.
//!
//! ```text
//! work/arch/x86/kvm/            the tree's own, edited
//!                  /softtdx/    kernel/ of this crate
//!                  /softtdx/taken.inc    functions of vmx/tdx.c
//! work/virt/kvm/                the tree's own, edited
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::Path;

use crate::edit;
use crate::edits::{EDITS, TAILS};
use crate::error::{BuildError, Differs, Misfit, system};
use crate::extract;
use crate::names::{TAKEN, TAKEN_IF_THERE, TDX};
use crate::sources;

/// The parts of a kernel's source that are built.
const PARTS: [&str; 2] = ["arch/x86/kvm", "virt/kvm"];

/// Longest file that is read whole; the longest of KVM has half a megabyte.
const LONGEST: u64 = 8 << 20;

/// Lays it out in `work`. Unchanged files are not written, so that make rebuilds only what depends
/// on a change.
///
/// # Errors
///
/// The tree is not a kernel's, has no TDX code, or lacks an anchor; a file cannot be read or
/// written.
pub fn lay_out(tree: &Path, work: &Path) -> Result<(), BuildError> {
    check(tree)?;
    let edited: BTreeSet<&str> = EDITS.iter().map(|edit| edit.file).collect();
    for part in PARTS {
        copy(&tree.join(part), &work.join(part), part, &edited)
            .map_err(system(format!("copying {}", tree.join(part).display())))?;
    }
    // All that differs is reported at once: each attempt of a developer costs a build.
    let mut misfits = Vec::new();
    let mut texts = BTreeMap::new();
    for edit in EDITS {
        let text = match texts.remove(edit.file) {
            Some(text) => text,
            None => read(tree, edit.file)?,
        };
        let text = match edit::apply(&text, edit) {
            Ok(edited) => edited,
            Err(BuildError::Anchor(misfit)) => {
                misfits.push(Misfit::Anchor(misfit));
                text
            }
            Err(error) => return Err(error),
        };
        texts.insert(edit.file, text);
    }
    for (file, tail) in TAILS {
        let text = texts.entry(file).or_default();
        text.push_str(tail);
    }
    let softtdx = work.join("arch/x86/kvm/softtdx");
    for folder in [&softtdx, &work.join("include/trace")] {
        fs::create_dir_all(folder).map_err(system("making the build folder"))?;
    }
    let taken = match extract::take(&texts[TDX], TDX, TAKEN, TAKEN_IF_THERE) {
        Ok(taken) => taken,
        Err(BuildError::NotFound(misfit)) => {
            misfits.push(Misfit::NotFound(misfit));
            String::new()
        }
        Err(error) => return Err(error),
    };
    if !misfits.is_empty() {
        return Err(BuildError::Differs(Differs(misfits)));
    }
    write(&softtdx.join("taken.inc"), &taken)?;
    for (name, text) in sources::FILES {
        write(&softtdx.join(name), text)?;
    }
    for (file, text) in &texts {
        write(&work.join(file), text)?;
    }
    Ok(())
}

fn check(tree: &Path) -> Result<(), BuildError> {
    for file in ["arch/x86/kvm/x86.c", "virt/kvm/kvm_main.c"] {
        if !tree.join(file).is_file() {
            return Err(BuildError::NoKernel {
                tree: tree.to_owned(),
                file,
            });
        }
    }
    if tree.join(TDX).is_file() {
        return Ok(());
    }
    Err(BuildError::NoTdx {
        tree: tree.to_owned(),
    })
}

fn read(tree: &Path, file: &str) -> Result<String, BuildError> {
    let path = tree.join(file);
    let doing = || format!("reading {}", path.display());
    let length = fs::metadata(&path).map_err(system(doing()))?.len();
    if length > LONGEST {
        let error = io::Error::other("this is too long for a source file");
        return Err(system(doing())(error));
    }
    fs::read_to_string(&path).map_err(system(doing()))
}

fn write(path: &Path, text: &str) -> Result<(), BuildError> {
    put(path, text.as_bytes()).map_err(system(format!("writing {}", path.display())))
}

/// Writes a file unless it has this content already.
fn put(path: &Path, content: &[u8]) -> io::Result<()> {
    match fs::read(path) {
        Ok(there) if there == content => Ok(()),
        _ => fs::write(path, content),
    }
}

/// Copies sources only, without objects of a build in the tree, and without the `edited` files,
/// which are written later. `place` is the folder below the tree.
fn copy(from: &Path, to: &Path, place: &str, edited: &BTreeSet<&str>) -> io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let (name, kind) = (entry.file_name(), entry.file_type()?);
        let (source, target) = (entry.path(), to.join(&name));
        let name = name.to_string_lossy();
        let place = format!("{place}/{name}");
        if kind.is_dir() {
            copy(&source, &target, &place, edited)?;
        } else if kind.is_file() && is_source(&name) && !edited.contains(place.as_str()) {
            put(&target, &fs::read(source)?)?;
        }
    }
    Ok(())
}

fn is_source(name: &str) -> bool {
    let ends = [".c", ".h", ".S"];
    !name.ends_with(".mod.c")
        && (ends.iter().any(|end| name.ends_with(end))
            || ["Makefile", "Kconfig", "Kbuild"]
                .iter()
                .any(|start| name.starts_with(start)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_sources_are_taken() {
        for name in ["x86.c", "svm.h", "vmenter.S", "Makefile", "Makefile.kvm"] {
            assert!(is_source(name), "{name}");
        }
        for name in [
            "x86.o",
            "kvm.mod.c",
            "kvm.ko",
            ".x86.o.cmd",
            "Module.symvers",
        ] {
            assert!(!is_source(name), "{name}");
        }
    }

    #[test]
    fn what_is_no_kernel_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let error = lay_out(folder.path(), &folder.path().join("work")).unwrap_err();
        assert!(error.to_string().contains("no kernel source"), "{error}");
        for file in ["arch/x86/kvm/x86.c", "virt/kvm/kvm_main.c"] {
            let path = folder.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "").unwrap();
        }
        let error = lay_out(folder.path(), &folder.path().join("work")).unwrap_err();
        assert!(error.to_string().contains("Linux 6.16"), "{error}");
    }

    #[test]
    fn all_that_differs_is_told_at_once() {
        let folder = tempfile::tempdir().unwrap();
        let tree = folder.path().join("tree");
        for edit in EDITS {
            let path = tree.join(edit.file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "").unwrap();
        }
        fs::write(tree.join("arch/x86/kvm/x86.c"), "").unwrap();
        let error = lay_out(&tree, &folder.path().join("work")).unwrap_err();
        let text = error.to_string();
        assert!(
            text.contains("svm.c: there is no function svm_init()"),
            "{text}"
        );
        assert!(text.contains("tdp_mmu.c: the file does not have"), "{text}");
        assert!(text.contains(", no TDX_BUG_ON, no"), "{text}");
    }
}
