//! Ends the guest, or a pushed agent alone, when the agent cannot continue, with the reason for the
//! lab and on the console.

use std::io::Write;
use std::panic::PanicHookInfo;

use nix::sys::reboot::{RebootMode, reboot};
use tdxlab_protocol::linux::{CONSOLE_MARK, LinuxReply};
use tdxlab_protocol::message::Text;

use crate::line;
use crate::role::{Role, role};

/// Installs a panic hook that reports before the guest ends.
pub(crate) fn arm() {
    std::panic::set_hook(Box::new(tell));
}

/// A line on the console.
pub(crate) fn say(what: &str) {
    // Without a console, a failure to write cannot be reported either.
    let _ = writeln!(std::io::stderr(), "{CONSOLE_MARK}{what}");
}

/// Reports the reason, and powers the guest off.
pub(crate) fn die(why: &str) -> ! {
    panic!("{why}")
}

fn tell(panic: &PanicHookInfo<'_>) {
    let (file, line) = panic
        .location()
        .map_or(("", 0), |place| (place.file(), place.line()));
    let payload = panic.payload();
    let owned = payload.downcast_ref::<String>().map(String::as_str);
    let message = owned.or_else(|| payload.downcast_ref::<&str>().copied());
    let message = message.unwrap_or("a panic without words");
    say(&format!("panicked at {file}:{line}: {message}"));
    line::last_words(&LinuxReply::Panic {
        file: text(file),
        line,
        message: text(message),
    });
    end();
}

/// Ends the guest, or the agent alone on a system that has a first process of its own.
fn end() -> ! {
    match role() {
        Role::Agent | Role::QemuGa | Role::Root => power_off(),
        Role::Pushed | Role::Shutdown | Role::Chmod | Role::None => std::process::exit(1),
    }
}

/// Ends the guest. Where the machine cannot be switched off, the kernel panics for want of a first
/// process.
pub(crate) fn power_off() -> ! {
    nix::unistd::sync();
    let _ = reboot(RebootMode::RB_POWER_OFF);
    std::process::exit(1)
}

/// As much of `what` as a message has room for.
pub(crate) fn text(what: &str) -> Text {
    let mut text = Text::new();
    for character in what.chars() {
        if text.push(character).is_err() {
            break;
        }
    }
    text
}
