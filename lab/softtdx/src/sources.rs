//! The kernel side, embedded.

/// Files of `kernel/`, by name.
pub(crate) const FILES: &[(&str, &str)] = &[
    ("softtdx.h", include_str!("../kernel/softtdx.h")),
    ("bugs.h", include_str!("../kernel/bugs.h")),
    ("bugs.c", include_str!("../kernel/bugs.c")),
    ("lies.h", include_str!("../kernel/lies.h")),
    ("lies.c", include_str!("../kernel/lies.c")),
    ("pool.c", include_str!("../kernel/pool.c")),
    ("split.c", include_str!("../kernel/split.c")),
    ("tdp_mmu.inc.c", include_str!("../kernel/tdp_mmu.inc.c")),
    ("gmem.inc.c", include_str!("../kernel/gmem.inc.c")),
    ("module.h", include_str!("../kernel/module.h")),
    ("sept.c", include_str!("../kernel/sept.c")),
    ("seamcall.c", include_str!("../kernel/seamcall.c")),
    ("tdcall.c", include_str!("../kernel/tdcall.c")),
    ("manage.c", include_str!("../kernel/manage.c")),
    ("kvm_tdx.h", include_str!("../kernel/kvm_tdx.h")),
    ("kvm_tdx.c", include_str!("../kernel/kvm_tdx.c")),
    ("vcpu.c", include_str!("../kernel/vcpu.c")),
    ("guest.c", include_str!("../kernel/guest.c")),
    ("host.c", include_str!("../kernel/host.c")),
    ("debugfs.c", include_str!("../kernel/debugfs.c")),
    ("vectors.c", include_str!("../kernel/vectors.c")),
];

#[cfg(test)]
mod tests {
    use super::*;

    /// A file that is not embedded is not built.
    #[test]
    fn every_file_of_the_folder_is_embedded() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/kernel");
        for entry in std::fs::read_dir(folder).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            if name.ends_with(".c") || name.ends_with(".h") {
                assert!(FILES.iter().any(|(known, _)| *known == name), "{name}");
            }
        }
    }

    #[test]
    fn every_file_says_its_licence_first() {
        for (name, text) in FILES {
            let first = text.lines().next().unwrap();
            assert!(
                first.contains("SPDX-License-Identifier: GPL-2.0-only"),
                "{name}"
            );
        }
    }
}
