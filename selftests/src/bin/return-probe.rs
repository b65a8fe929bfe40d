//! Probes the return of a function of this kernel's KVM with the lab's own code: it must fire with
//! the returned value, and be removed afterwards. For a real kernel, as root, with kvm.
//!
//! Exits with 0 on success, and with 69 and the reason if this kernel cannot be probed.

use std::error::Error;
use std::fs;
use std::path::Path;
use std::process::ExitCode;

use kvm_ioctls::Kvm;
use tdxlab::kernel::instance::Instance;
use tdxlab::kernel::returned::{Returned, Returns};
use tdxlab::kernel::tracefs;

/// What KVM_CHECK_EXTENSION calls in every KVM.
const FUNCTION: &str = "kvm_vm_ioctl_check_extension";

/// KVM_CAP_MCE, whose answer is a number, and given by that function, not before it is called.
const CAPABILITY: u64 = 31;

/// Number of calls.
const TIMES: usize = 3;

fn main() -> ExitCode {
    let root = Path::new(tracefs::ROOT);
    let mut instance = match Instance::new(root) {
        Ok(instance) => instance,
        Err(reason) => return cannot(&reason),
    };
    let returns = match instance.probe_return(FUNCTION) {
        Ok(returns) => returns,
        Err(reason) => return cannot(&reason),
    };
    match fires(&returns) {
        Ok(value) => println!("fired {TIMES} times with {value:#x}"),
        Err(error) => return wrong(&error.to_string()),
    }
    let folder = instance.path();
    let probes = || fs::read_to_string(root.join("kprobe_events")).unwrap_or_default();
    if !probes().contains(FUNCTION) {
        return wrong("kprobe_events does not list it while it is there");
    }
    drop(instance);
    if folder.exists() || probes().contains(FUNCTION) {
        return wrong("it is still there");
    }
    println!("gone");
    ExitCode::SUCCESS
}

/// The value it has fired with, each time, in this thread.
fn fires(returns: &Returns) -> Result<u64, Box<dyn Error>> {
    let kvm = Kvm::new()?;
    let mut answer = 0;
    for _ in 0..TIMES {
        answer = kvm.check_extension_raw(CAPABILITY);
    }
    let value = u64::try_from(answer)?;
    let wanted = Returned {
        thread: std::process::id(),
        value,
        count: TIMES as u64,
    };
    let counted = returns.read()?;
    if value == 0 || !counted.contains(&wanted) {
        return Err(format!("{wanted:?} is not in {counted:?}").into());
    }
    Ok(value)
}

fn cannot(reason: &str) -> ExitCode {
    println!("cannot be probed: {reason}");
    ExitCode::from(69)
}

fn wrong(what: &str) -> ExitCode {
    println!("wrong: {what}");
    ExitCode::FAILURE
}
