//! `tdxlab kselftest`: a directory for the kernel's tools/testing/selftests.
//!
//! Rules: Documentation/dev-tools/kselftest.rst, tools/testing/selftests/lib.mk and
//! kselftest/runner.sh of Linux. A test is a program; 0 is a pass, 4 a skip.

use std::collections::BTreeSet;
use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use clap::Args;
use tdxlab_scenario as scenario;

use super::error::CliError;
use super::{exit, output};

/// Writes a directory that the kernel's own `make -C tools/testing/selftests TARGETS=tdxlab run_tests`
/// and `run_kselftest.sh` run: one test for each topic of the default set, with this program and the
/// scenarios in it.
#[derive(Args, Debug)]
pub(super) struct Kselftest {
    /// The new directory, such as linux/tools/testing/selftests/tdxlab
    #[arg(value_name = "DIR")]
    folder: PathBuf,
}

/// What every test calls. Code 69 says that this machine has no such host.
const RUN_TOPIC: &str = r#"#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Runs the scenarios of a topic on the host TDXLAB_HOST, or else on the one that is named here:
# ./run-topic TOPIC HOST
topic=$1
host=${TDXLAB_HOST:-$2}
shift 2
./tdxlab run --quiet --ktap --host "$host" --out "${TDXLAB_OUT:-reports}" "$@" "scenarios/$topic"
code=$?
if [ "$code" -eq 69 ]; then
    echo "1..0 # SKIP host $host is not usable on this machine"
    exit 4
fi
exit "$code"
"#;

/// Merged into the kernel's configuration by `make kselftest-merge`.
const CONFIG: &str = "CONFIG_DEBUG_FS=y
CONFIG_FTRACE=y
CONFIG_INTEL_TDX_HOST=y
CONFIG_KPROBES=y
CONFIG_KPROBE_EVENTS=y
CONFIG_KVM=y
CONFIG_KVM_INTEL=y
CONFIG_KVM_INTEL_TDX=y
CONFIG_TRANSPARENT_HUGEPAGE=y
";

/// Timeout of a test in seconds. The runner ends hung guests itself.
const SETTINGS: &str = "timeout=3600\n";

impl Kselftest {
    pub(super) fn execute(self) -> Result<u8, CliError> {
        let folder = &self.folder;
        let failed = |source| CliError::System {
            doing: format!("writing {}", folder.display()),
            source,
        };
        // The directory may exist if it is empty; `rename` replaces only that.
        if fs::read_dir(folder).is_ok_and(|mut entries| entries.next().is_some()) {
            return Err(CliError::usage(
                format!("{} is not empty", folder.display()),
                "remove it, or name a directory that does not exist yet",
            ));
        }
        let parent = match folder.parent() {
            Some(parent) if parent != Path::new("") => parent,
            _ => Path::new("."),
        };
        // Whole or not at all.
        let draft = tempfile::Builder::new()
            .prefix(".tdxlab-")
            .tempdir_in(parent)
            .map_err(failed)?;
        let topics = write(draft.path()).map_err(failed)?;
        fs::rename(draft.path(), folder).map_err(failed)?;
        // It has moved away.
        let _ = draft.keep();
        output::say(format!(
            "{}: {} tests: {}",
            folder.display(),
            topics.len(),
            topics.into_iter().collect::<Vec<_>>().join(", ")
        ));
        Ok(exit::PASSED)
    }
}

fn write(folder: &Path) -> io::Result<BTreeSet<String>> {
    fs::set_permissions(folder, Permissions::from_mode(0o755))?;
    let mut topics = BTreeSet::new();
    for (path, text) in scenario::embedded_files() {
        if let Some(Some(topic)) = path.parent().map(Path::file_name) {
            topics.insert(topic.to_string_lossy().into_owned());
        }
        let file = folder.join(path);
        fs::create_dir_all(file.parent().unwrap_or(folder))?;
        fs::write(file, text)?;
    }
    let mut programs = String::new();
    for topic in &topics {
        // Only these are of plain VMs.
        let host = if topic == "kvm" { "kvm" } else { "tdx" };
        let text = format!(
            "#!/bin/sh\n# SPDX-License-Identifier: Apache-2.0\nexec ./run-topic {topic} {host} \"$@\"\n"
        );
        executable(&folder.join(format!("{topic}.sh")), &text)?;
        programs += &format!(" {topic}.sh");
    }
    executable(&folder.join("run-topic"), RUN_TOPIC)?;
    fs::copy(std::env::current_exe()?, folder.join("tdxlab"))?;
    fs::write(folder.join("config"), CONFIG)?;
    fs::write(folder.join("settings"), SETTINGS)?;
    fs::write(folder.join(".gitignore"), "/reports/\n/tdxlab\n")?;
    let makefile = format!(
        "# SPDX-License-Identifier: Apache-2.0\n\
         # Written by `tdxlab kselftest`. TDXLAB_HOST=sim runs it where there is no TDX.\n\
         TEST_PROGS :={programs}\n\
         TEST_FILES := run-topic tdxlab scenarios\n\
         EXTRA_CLEAN := reports\n\
         include ../lib.mk\n"
    );
    fs::write(folder.join("Makefile"), makefile)?;
    Ok(topics)
}

fn executable(path: &Path, text: &str) -> io::Result<()> {
    fs::write(path, text)?;
    fs::set_permissions(path, Permissions::from_mode(0o755))
}
