//! The KVM modules of a distribution kernel, built once more with software-protected VMs.
//!
//! `CONFIG_KVM_SW_PROTECTED_VM` and the `CONFIG_KVM_GENERIC_MEMORY_ATTRIBUTES` that it selects are
//! looked at in `arch/x86/kvm`, `virt/kvm` and KVM's own headers, nowhere else. So the two
//! modules, built with them, fit the distribution's kernel as it is.

use std::fs;
use std::path::Path;

use super::error::{RehearsalError, system};
use super::root::Root;

/// The options that are off in the distribution's kernel and on in its modules built here.
pub(crate) const OPTIONS: [&str; 2] = [
    "CONFIG_KVM_SW_PROTECTED_VM",
    "CONFIG_KVM_GENERIC_MEMORY_ATTRIBUTES",
];

/// The modules, as their files are called.
pub(crate) const MODULES: [&str; 2] = ["kvm.ko", "kvm-amd.ko"];

/// Builds them in `root`, which holds compiler, headers and the packed source, and copies them to
/// `target`.
pub(crate) fn build(root: &Root, target: &Path) -> Result<(), RehearsalError> {
    let missing = |what: &str| RehearsalError::Unexpected {
        package: "the set of kernel packages".to_owned(),
        what: what.to_owned(),
    };
    let common = root.entry("usr/src", "linux-headers-", "-common");
    let common = common.ok_or_else(|| missing("common headers"))?;
    let flavour = root.entry("usr/src", "linux-headers-", "-amd64");
    let flavour = flavour.ok_or_else(|| missing("headers for amd64"))?;
    let source = root.entry("usr/src", "linux-source-", ".tar.xz");
    let source = source.ok_or_else(|| missing("source"))?;
    // Where a package's script chooses between several of a kind.
    root.link("mawk", "usr/bin/awk")?;
    root.run(
        "building KVM's modules",
        &script(&common, &flavour, &source),
    )?;
    fs::create_dir_all(target).map_err(system("keeping KVM's modules"))?;
    for module in MODULES {
        let built = root.inside(&format!("usr/src/{common}/arch/x86/kvm/{module}"));
        fs::copy(built, target.join(module)).map_err(system(format!("keeping {module}")))?;
    }
    Ok(())
}

fn script(common: &str, flavour: &str, source: &str) -> String {
    let tree = source.trim_end_matches(".tar.xz");
    let settings = OPTIONS.map(|option| format!("{option}=y")).join(" ");
    let defines = OPTIONS.map(|option| format!("-D{option}=1")).join(" ");
    format!(
        "cd /usr/src/{common}\n\
         tar -xJf ../{source} --strip-components=1 {tree}/arch/x86/kvm {tree}/virt\n\
         exec make -C /usr/src/{flavour} M=/usr/src/{common}/arch/x86/kvm -j$(nproc) \\\n  \
         {settings} CONFIG_KVM_INTEL= CONFIG_MODULE_SIG_ALL= CONFIG_DEBUG_INFO_BTF_MODULES= \\\n  \
         KCFLAGS='{defines} -g0' modules\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_script_says_both_to_make_and_to_the_compiler() {
        let script = script(
            "linux-headers-7.3-common",
            "linux-headers-7.3-amd64",
            "linux-source-7.3.tar.xz",
        );
        assert!(
            script.contains(" linux-source-7.3/arch/x86/kvm "),
            "{script}"
        );
        for option in OPTIONS {
            assert!(script.contains(&format!("{option}=y")), "{script}");
            assert!(script.contains(&format!("-D{option}=1")), "{script}");
        }
    }

    #[test]
    fn a_root_without_headers_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let root = Root::unpack(folder.path().join("root"), []).unwrap();
        let error = build(&root, folder.path()).unwrap_err();
        assert!(error.to_string().contains("common headers"), "{error}");
    }
}
