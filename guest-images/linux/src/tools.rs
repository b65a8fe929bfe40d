//! The two programs that qemu-ga starts on a system without others.

use std::fs::{Permissions, set_permissions};
use std::os::unix::fs::PermissionsExt;

use crate::fatal::power_off;

/// `shutdown ...`: switches off.
pub(crate) fn shutdown() -> ! {
    power_off()
}

/// `chmod MODE FILE`, with an octal mode. The exit code.
pub(crate) fn chmod() -> i32 {
    let mut arguments = std::env::args().skip(1);
    let mode = arguments.next().unwrap_or_default();
    let file = arguments.next().unwrap_or_default();
    let Ok(mode) = u32::from_str_radix(&mode, 8) else {
        eprintln!("chmod: {mode} is no octal mode");
        return 1;
    };
    match set_permissions(&file, Permissions::from_mode(mode)) {
        Ok(()) => 0,
        Err(error) => {
            eprintln!("chmod: {file}: {error}");
            1
        }
    }
}
