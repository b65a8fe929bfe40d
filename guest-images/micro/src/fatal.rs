//! The end of the guest: panics and fatal exceptions reach the host as a message.
//!
//! Both switch to a separate stack, because the one in use may be small or exhausted. Only the
//! first vCPU to fail reports; others that fail stop.

use core::fmt::{self, Write};
use core::panic::PanicInfo;

use tdxlab_protocol::message::{Reply, Text};

use crate::trap::Frame;
use crate::vcpu::this;
use crate::{console, cpu, serial, td};

unsafe extern "sysv64" {
    /// In `trap.s`.
    fn on_panic_stack(argument: *const (), function: *const ()) -> !;
}

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    // SAFETY: `report_panic` takes a panic's information, which stays on the stack left behind.
    unsafe { on_panic_stack((&raw const *info).cast(), report_panic as *const ()) }
}

/// Ends the guest because of this exception.
pub(crate) fn raise(frame: &Frame) -> ! {
    // SAFETY: `exception` takes a frame, which stays on the stack left behind.
    unsafe { on_panic_stack((&raw const *frame).cast(), exception as *const ()) }
}

extern "sysv64" fn report_panic(info: &PanicInfo<'_>) -> ! {
    match info.location() {
        Some(location) => report(location.file(), location.line(), &info.message()),
        None => report("", 0, &info.message()),
    }
}

/// Reports a fatal exception; on the panic stack.
pub(crate) extern "sysv64" fn exception(frame: &Frame) -> ! {
    report(file!(), line!(), frame)
}

fn report(file: &str, line: u32, message: &dyn fmt::Display) -> ! {
    let mut text = Cut(Text::new());
    // Text that does not fit is cut, which is no error.
    let _ = write!(text, "{message}");
    // As text first: no other vCPU holds that line.
    console::say(format_args!(
        "vCPU {} panics at {file}:{line}: {message}",
        this().id().0
    ));
    serial::send_at_any_cost(&Reply::Panic {
        vcpu: this().id(),
        file: last_of(file),
        line,
        message: text.0.clone(),
    });
    if td::is_td() {
        td::report_fatal_error(text.0.as_bytes());
    }
    halt()
}

/// Stops this vCPU for good.
pub(crate) extern "sysv64" fn halt() -> ! {
    if td::is_td() {
        loop {
            td::halt();
        }
    }
    cpu::halt()
}

/// The end of a path that is too long, since it is more specific than the beginning.
fn last_of(path: &str) -> Text {
    let surplus = path.len().saturating_sub(Text::new().capacity());
    let start = (surplus..path.len()).find(|&at| path.is_char_boundary(at));
    start
        .and_then(|start| Text::try_from(&path[start..]).ok())
        .unwrap_or_default()
}

/// Takes as much as fits.
struct Cut(Text);

impl Write for Cut {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for character in text.chars() {
            self.0.push(character).map_err(|_| fmt::Error)?;
        }
        Ok(())
    }
}
