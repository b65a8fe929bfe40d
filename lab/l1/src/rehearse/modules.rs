//! KVM's two modules for a rehearsal: built from a kernel's own KVM, with its TDX code over the
//! software TDX module; see [`tdxlab_softtdx`].

use std::fs::{self, File};
use std::num::NonZero;
use std::path::{Path, PathBuf};
use std::thread::available_parallelism;

use tdxlab_softtdx::{BuildRequest, OUTSIDE_OF_TREE, build, fingerprint};

use super::error::{RehearsalError, system};
use super::root::Root;

/// The modules, as their files are called.
pub(super) const MODULES: [&str; 2] = ["kvm.ko", "kvm-amd.ko"];

/// Whether a file of a kernel's is a module of KVM, packed or not. These are rebuilt; the other vendor's
/// would not match them.
pub(super) fn is_kvm(name: &str) -> bool {
    let modules = ["kvm.ko", "kvm-amd.ko", "kvm-intel.ko"];
    modules.iter().any(|module| name.starts_with(module))
}

/// Folder in the root of the parts of the kernel source that are built: KVM, and its selftests.
pub(super) const SOURCE: &str = "usr/src/kvm-source";

/// What of the kernel's source its KVM selftests are built from: themselves, and what `make headers` takes.
const OF_SELFTESTS: [&str; 20] = [
    "Makefile",
    "arch/x86/Makefile",
    "arch/x86/entry/syscalls",
    "arch/x86/include/asm/Kbuild",
    "arch/x86/include/uapi",
    "include/asm-generic",
    "include/uapi",
    "scripts",
    "tools/arch/x86",
    "tools/build",
    "tools/include",
    "tools/lib",
    "tools/scripts",
    "tools/testing/selftests/cgroup/lib",
    "tools/testing/selftests/kselftest.h",
    "tools/testing/selftests/kvm",
    "tools/testing/selftests/lib.mk",
    "tools/testing/selftests/rseq",
    "tools/testing/selftests/vfio/lib",
    "usr/include",
];

/// File that identifies the sources of the modules beside it.
const STAMP: &str = "softtdx.stamp";

/// Source of the modules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tree<'a> {
    /// The distribution's kernel source.
    Distribution,
    /// A kernel developer's tree.
    Own(&'a Path),
}

/// Unpacks what of the kernel's source is built; removes the packed source.
pub(crate) fn unpack_source(root: &Root) -> Result<(), RehearsalError> {
    let source = root.entry("usr/src", "linux-source-", ".tar.xz");
    let source = source.ok_or_else(|| missing("source"))?;
    let tree = source.trim_end_matches(".tar.xz");
    // Where a package's script chooses between several of a kind.
    root.link("mawk", "usr/bin/awk")?;
    let parts = ["arch/x86/kvm", "virt/kvm"].iter().chain(&OF_SELFTESTS);
    let parts: Vec<String> = parts.map(|part| format!("{tree}/{part}")).collect();
    let script = format!(
        "mkdir -p /{SOURCE}\n\
         tar -xJf /usr/src/{source} -C /{SOURCE} --strip-components=1 {}\n\
         rm /usr/src/{source}\n",
        parts.join(" ")
    );
    root.run("unpacking KVM's source", &script).map(drop)
}

fn missing(what: &str) -> RehearsalError {
    RehearsalError::Unexpected {
        package: "the set of kernel packages".to_owned(),
        what: what.to_owned(),
    }
}

/// Whether `modules` was built from the distribution's source by this version of the program.
pub(crate) fn are_current(modules: &Path) -> bool {
    fs::read_to_string(modules.join(STAMP)).is_ok_and(|stamp| stamp == fingerprint())
}

/// Builds them in `root`, which holds compiler, headers and source, and puts them into `modules`.
/// One build at a time; what another process has built meanwhile is not built again.
pub(crate) fn build_in(root: &Root, tree: Tree<'_>, modules: &Path) -> Result<(), RehearsalError> {
    let headers = headers(root)?;
    let _lock = lock(&root.inside("softtdx.lock"))?;
    if tree == Tree::Distribution && are_current(modules) {
        return Ok(());
    }
    let (source, work) = match tree {
        Tree::Distribution => (root.inside(SOURCE), "softtdx"),
        Tree::Own(source) => (source.to_owned(), "softtdx-own"),
    };
    let request = BuildRequest {
        source,
        headers,
        work: root.inside(work),
        work_inside: PathBuf::from("/").join(work),
        jobs: available_parallelism().unwrap_or(NonZero::<usize>::MIN),
    };
    let built = build(&request, root)?;
    fs::create_dir_all(modules).map_err(system("keeping KVM's modules"))?;
    for (built, name) in [built.kvm, built.kvm_amd].iter().zip(MODULES) {
        replace(built, &modules.join(name)).map_err(system(format!("keeping {name}")))?;
    }
    if tree == Tree::Distribution {
        fs::write(modules.join(STAMP), fingerprint()).map_err(system("keeping KVM's modules"))?;
    }
    Ok(())
}

/// Builds a module outside of the kernel's tree; kept while its files are the same.
pub(crate) fn build_outside(
    root: &Root,
    name: &str,
    files: &[(&str, &str)],
) -> Result<PathBuf, RehearsalError> {
    let headers = headers(root)?;
    let _lock = lock(&root.inside("softtdx.lock"))?;
    let work = root.inside(name);
    let module = work.join(format!("{name}.ko"));
    let same = |(file, text): &(&str, &str)| {
        fs::read_to_string(work.join(file)).is_ok_and(|there| there == *text)
    };
    if module.is_file() && files.iter().all(same) {
        return Ok(module);
    }
    let failed = || system(format!("laying {name} out"));
    let _ = fs::remove_dir_all(&work);
    fs::create_dir_all(&work).map_err(failed())?;
    for (file, text) in files {
        fs::write(work.join(file), text).map_err(failed())?;
    }
    let script = format!(
        "make -C {} M=/{name} {} KCFLAGS=-g0 modules\n",
        headers.display(),
        OUTSIDE_OF_TREE.join(" ")
    );
    root.run(&format!("building {name}"), &script)?;
    Ok(module)
}

/// The folder of the kernel's headers, as seen inside.
fn headers(root: &Root) -> Result<PathBuf, RehearsalError> {
    let flavour = root.entry("usr/src", "linux-headers-", "-amd64");
    let flavour = flavour.ok_or_else(|| missing("headers for amd64"))?;
    Ok(PathBuf::from("/usr/src").join(flavour))
}

/// Keeps other builds in the same place away until it is dropped.
pub(super) fn lock(file: &Path) -> Result<File, RehearsalError> {
    let lock = File::create(file).map_err(system("locking the build"))?;
    lock.lock().map_err(system("locking the build"))?;
    Ok(lock)
}

/// Replaces by rename: a running rehearsal keeps the old file.
fn replace(from: &Path, to: &Path) -> std::io::Result<()> {
    let new = to.with_extension("new");
    fs::copy(from, &new)?;
    fs::rename(new, to)
}

/// A folder with the modules of `all`, where those built of a developer's tree take the place of
/// KVM's.
pub(crate) fn beside(all: &Path, own: &Path) -> Result<(), RehearsalError> {
    let failed = || system("laying modules out");
    fs::create_dir_all(own).map_err(failed())?;
    for entry in fs::read_dir(all).map_err(failed())? {
        let entry = entry.map_err(failed())?;
        let name = entry.file_name();
        let is_own = MODULES.iter().any(|module| *module == name) || name == STAMP;
        let target = own.join(&name);
        if !is_own && !target.exists() {
            fs::hard_link(entry.path(), target).map_err(failed())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_root_without_headers_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let root = Root::unpack(folder.path().join("root"), []).unwrap();
        let error = build_in(&root, Tree::Distribution, folder.path()).unwrap_err();
        assert!(error.to_string().contains("headers for amd64"), "{error}");
    }

    #[test]
    fn modules_of_a_tree_of_ones_own_stand_beside_the_others() {
        let folder = tempfile::tempdir().unwrap();
        let (all, own) = (folder.path().join("all"), folder.path().join("own"));
        fs::create_dir(&all).unwrap();
        for name in ["kvm.ko", "kvm-amd.ko", "loop.ko", STAMP] {
            fs::write(all.join(name), name).unwrap();
        }
        beside(&all, &own).unwrap();
        let there: Vec<_> = fs::read_dir(&own)
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        assert_eq!(there, ["loop.ko"]);
        assert!(!are_current(&all));
    }
}
