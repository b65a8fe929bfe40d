//! Re-arms one-shot warnings: WARN_ON_ONCE, and KVM_BUG_ON, which is built on it.
//!
//! A warning that fired for one guest stays silent for the next, which then dies without a message.
//! Writing to `clear_warn_once` in debugfs re-arms all of them (`clear_warn_once_set()` in
//! kernel/panic.c, Linux 4.15). Before Linux 6.19 that left out WARN_ONCE with a message in
//! modules, whose state lies in the module's data.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::path::Path;

use crate::kmsg;
use tdxlab_journal::klog::{self, Kind};

/// The file, below the root of debugfs.
const FILE: &str = "clear_warn_once";

/// Most warnings that are named.
const NAMED: usize = 3;

/// Re-arms every one-shot warning.
///
/// # Errors
///
/// The file is missing or not writable; as text.
pub fn rearm(debugfs: &Path) -> Result<(), String> {
    let path = debugfs.join(FILE);
    let written = OpenOptions::new()
        .write(true)
        .open(&path)
        .and_then(|mut file| file.write_all(b"1\n"));
    written.map_err(|error| {
        let path = path.display();
        match error.kind() {
            io::ErrorKind::PermissionDenied => {
                format!("{path} may not be written: run as root, with lockdown=none")
            }
            io::ErrorKind::NotFound => {
                format!("no {path}: mount -t debugfs none {}", debugfs.display())
            }
            _ => format!("{path}: {error}"),
        }
    })
}

/// For the report: whether warnings fire again for each guest, and where not, which have fired.
pub fn described(debugfs: &Path, log: &Path) -> String {
    match rearm(debugfs) {
        Ok(()) => "fire again for each guest".to_owned(),
        Err(reason) => format!(
            "EACH SHOWS ONCE A BOOT, so that a second guest may die without a word ({reason}); {}",
            fired(log)
        ),
    }
}

/// The warnings that the kernel log has, oldest first.
fn fired(log: &Path) -> String {
    let is_warning =
        |line: &str| klog::complaint(line).is_some_and(|complaint| complaint.kind == Kind::Warn);
    match kmsg::since_boot(log, is_warning) {
        Err(error) => format!("which have fired is unknown: {}: {error}", log.display()),
        Ok(lines) if lines.is_empty() => "none has fired, as far as the log goes".to_owned(),
        Ok(lines) => {
            let more = match lines.len().saturating_sub(NAMED) {
                0 => String::new(),
                more => format!(", and {more} more"),
            };
            format!(
                "fired: {}{more}",
                lines[..lines.len().min(NAMED)].join("; ")
            )
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn warnings_are_rearmed_by_the_kernels_own_file() {
        let debugfs = tempfile::tempdir().unwrap();
        let file = debugfs.path().join(FILE);
        fs::write(&file, "").unwrap();
        rearm(debugfs.path()).unwrap();
        assert_eq!(fs::read_to_string(&file).unwrap(), "1\n");
        let told = described(debugfs.path(), Path::new("/nonexistent"));
        assert_eq!(told, "fire again for each guest");
    }

    /// A missing file is not created: that would look like success.
    #[test]
    fn where_they_are_not_the_report_says_which_have_fired() {
        let debugfs = tempfile::tempdir().unwrap();
        let log = debugfs.path().join("kmsg");
        let warning = "WARNING: arch/x86/kvm/vmx/tdx.c:1815 at tdx_sept_remove+0x1/0x2, CPU#3: q/9";
        fs::write(
            &log,
            format!("4,1,1,-;{warning}\n6,2,2,-;kvm: hello\n12,3,3,-;WARNING: x\n"),
        )
        .unwrap();
        let told = described(debugfs.path(), &log);
        assert!(
            told.contains("ONCE A BOOT") && told.contains("clear_warn_once"),
            "{told}"
        );
        assert!(told.ends_with(&format!("fired: {warning}")), "{told}");
        assert!(!debugfs.path().join(FILE).exists());
        fs::write(&log, "").unwrap();
        assert!(described(debugfs.path(), &log).contains("none has fired"));
        let told = described(debugfs.path(), Path::new("/nonexistent"));
        assert!(told.contains("unknown"), "{told}");
    }
}
