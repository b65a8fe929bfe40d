//! Builds the two modules: lays the build folder out, and runs make against a kernel's headers.

use std::num::NonZero;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::error::{BuildError, Complaints, system};
use crate::lay_out::lay_out;

/// Options that are off in distributions' kernels, and used by KVM's modules alone.
pub const OPTIONS: [&str; 2] = [
    "CONFIG_KVM_SW_PROTECTED_VM",
    "CONFIG_KVM_GENERIC_MEMORY_ATTRIBUTES",
];

/// What shall be built.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BuildRequest {
    /// A kernel's source, or KVM's parts of one.
    pub source: PathBuf,
    /// The build folder, or the headers package, of a kernel of that version; as the shell sees it.
    pub headers: PathBuf,
    /// Where the build goes; kept, so that another build is quick.
    pub work: PathBuf,
    /// The same, as the shell sees it.
    pub work_inside: PathBuf,
    /// Compilers at a time.
    pub jobs: NonZero<usize>,
}

/// The modules that were built.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Modules {
    /// `kvm.ko`.
    pub kvm: PathBuf,
    /// `kvm-amd.ko`.
    pub kvm_amd: PathBuf,
}

/// Runs make: on this machine, or in a separate root with the compiler.
pub trait Shell {
    /// Runs a script with `sh -e`. `Err` holds its output if it fails.
    ///
    /// # Errors
    ///
    /// It cannot be started.
    fn run(&self, script: &str) -> Result<Result<(), String>, std::io::Error>;
}

/// This machine's shell.
#[derive(Clone, Copy, Debug)]
pub struct ThisMachine;

impl Shell for ThisMachine {
    fn run(&self, script: &str) -> Result<Result<(), String>, std::io::Error> {
        let output = Command::new("/bin/sh")
            .args(["-e", "-c", script])
            .env("LC_ALL", "C")
            .stdin(Stdio::null())
            .output()?;
        if output.status.success() {
            return Ok(Ok(()));
        }
        let said = [output.stdout, output.stderr].concat();
        Ok(Err(String::from_utf8_lossy(&said).into_owned()))
    }
}

/// Builds the modules.
///
/// # Errors
///
/// As of [`lay_out`]; the compiler's errors, verbatim.
pub fn build(request: &BuildRequest, shell: &dyn Shell) -> Result<Modules, BuildError> {
    lay_out(&request.source, &request.work)?;
    let said = shell
        .run(&script(request))
        .map_err(system("starting make"))?;
    if let Err(output) = said {
        return Err(BuildError::Compiler {
            lines: Complaints::of(&output),
        });
    }
    let built = |name: &str| -> Result<PathBuf, BuildError> {
        let path = request.work.join("arch/x86/kvm").join(name);
        path.is_file()
            .then_some(path)
            .ok_or_else(|| BuildError::Compiler {
                lines: Complaints(vec![format!("make has made no {name}")]),
            })
    };
    Ok(Modules {
        kvm: built("kvm.ko")?,
        kvm_amd: built("kvm-amd.ko")?,
    })
}

/// Settings of kbuild for modules that are built outside of the kernel's tree: unsigned, and without
/// BTF, for which vmlinux would be needed.
pub const OUTSIDE_OF_TREE: [&str; 2] = ["CONFIG_MODULE_SIG_ALL=", "CONFIG_DEBUG_INFO_BTF_MODULES="];

fn script(request: &BuildRequest) -> String {
    let settings = OPTIONS.map(|option| format!("{option}=y")).join(" ");
    let defines = OPTIONS.map(|option| format!("-D{option}=1")).join(" ");
    let kvm = request.work_inside.join("arch/x86/kvm");
    let outside = OUTSIDE_OF_TREE.join(" ");
    format!(
        "exec make -C {} M={} -j{} \\\n  \
         {settings} CONFIG_KVM_INTEL= {outside} \\\n  \
         KCFLAGS='{defines} -g0' modules 2>&1\n",
        quoted(&request.headers),
        quoted(&kvm),
        request.jobs,
    )
}

/// A path as a word of the shell.
fn quoted(path: &Path) -> String {
    format!("'{}'", path.to_string_lossy().replace('\'', "'\\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request() -> BuildRequest {
        BuildRequest {
            source: "/src".into(),
            headers: "/usr/src/headers".into(),
            work: "/tmp/x".into(),
            work_inside: "/it's".into(),
            jobs: NonZero::new(2).unwrap(),
        }
    }

    #[test]
    fn options_are_said_both_to_make_and_to_the_compiler() {
        let script = script(&request());
        for option in OPTIONS {
            assert!(script.contains(&format!("{option}=y")), "{script}");
            assert!(script.contains(&format!("-D{option}=1")), "{script}");
        }
        assert!(
            script.contains("M='/it'\\''s/arch/x86/kvm' -j2"),
            "{script}"
        );
    }

    #[test]
    fn this_machines_shell_says_what_failed() {
        assert_eq!(ThisMachine.run("true").unwrap(), Ok(()));
        let said = ThisMachine.run("echo a; echo b >&2; false").unwrap();
        assert_eq!(said, Err("a\nb\n".to_owned()));
    }
}
