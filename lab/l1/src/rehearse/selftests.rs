//! KVM's own selftests for private memory, built from the source that the modules are built from.
//!
//! They make no TD: their VMs are of the type that KVM has for tests without hardware
//! (`KVM_X86_SW_PROTECTED_VM`). Attributes, guest_memfd and prefaulting are the same code.

use std::fs;
use std::num::NonZero;
use std::path::PathBuf;
use std::thread::available_parallelism;

use super::error::{RehearsalError, system};
use super::modules::{SOURCE, lock};
use super::root::Root;

/// Those that make, convert, punch or prefault private memory, below
/// `tools/testing/selftests/kvm`. Left out is `set_memory_region_test`, which does neither: it moves
/// slots for 20 s.
const TESTS: [&str; 4] = [
    "x86/private_mem_conversions_test",
    "x86/private_mem_kvm_exits_test",
    "guest_memfd_test",
    "pre_fault_memory_test",
];

/// Folder in the root of the built programs.
const BUILT: &str = "selftests";

/// Builds them in `root`, once; their folder.
pub(super) fn build_in(
    root: &Root,
    progress: &mut dyn FnMut(&str),
) -> Result<PathBuf, RehearsalError> {
    let folder = root.inside(BUILT);
    let _lock = lock(&root.inside("selftests.lock"))?;
    if folder.is_dir() {
        return Ok(folder);
    }
    progress("building KVM's selftests");
    let jobs = available_parallelism().unwrap_or(NonZero::<usize>::MIN);
    root.run("building KVM's selftests", &script(jobs))?;
    // Whole or not there.
    fs::rename(root.inside("selftests.new"), &folder).map_err(system("keeping KVM's selftests"))?;
    Ok(folder)
}

/// Static programs: they run where the C library is another. What is left out (PCI devices, control
/// groups) is of other tests, and takes a library that these do without.
fn script(jobs: NonZero<usize>) -> String {
    let tests = TESTS
        .map(|test| format!("/selftests.work/{test}"))
        .join(" ");
    format!(
        "compiler=$(ls /usr/bin/x86_64-linux-gnu-gcc-[0-9]* | head -n 1)\n\
         rm -rf /selftests.work /selftests.new\n\
         mkdir /selftests.work /selftests.new\n\
         cd /{SOURCE}\n\
         make -j{jobs} ARCH=x86 HOSTCC=$compiler headers\n\
         make -j{jobs} -C tools/testing/selftests/kvm ARCH=x86 CC=$compiler \\\n  \
         OUTPUT=/selftests.work LIBVFIO_O= LIBCGROUP_O= LDLIBS= \\\n  \
         LDFLAGS='-static -pthread -no-pie' {tests}\n\
         mv {tests} /selftests.new\n\
         rm -rf /selftests.work\n"
    )
}
