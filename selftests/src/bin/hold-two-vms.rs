//! `hold-two-vms`: makes a VM, keeps a duplicate of its file only, and makes a second VM under the
//! number that the first had. The kernel names the folder in debugfs by that number, so the second
//! has none, and the first one's looks like the second's.
//!
//! Prints `held` and the number on stderr, or why it cannot make a VM, and then exits with 69.

use std::os::fd::{AsFd, AsRawFd};
use std::process::ExitCode;
use std::time::Duration;

use kvm_ioctls::{Kvm, VmFd};

/// `EX_UNAVAILABLE`.
const UNAVAILABLE: u8 = 69;

fn main() -> ExitCode {
    match held() {
        Ok((number, _vms)) => {
            eprintln!("held {number}");
            std::thread::sleep(Duration::from_secs(600));
            ExitCode::SUCCESS
        }
        Err(why) => {
            eprintln!("none: {why}");
            ExitCode::from(UNAVAILABLE)
        }
    }
}

/// Two VMs, of which the second has this number, which was the first one's.
fn held() -> Result<(i32, impl Sized), String> {
    let vm = |kvm: &Kvm| -> Result<VmFd, String> {
        kvm.create_vm()
            .map_err(|error| format!("KVM_CREATE_VM: {error}"))
    };
    let kvm = Kvm::new().map_err(|error| format!("/dev/kvm: {error}"))?;
    let first = vm(&kvm)?;
    let number = first.as_raw_fd();
    // SAFETY: the number is that of an open file as long as `first` is.
    let borrowed = unsafe { std::os::fd::BorrowedFd::borrow_raw(number) };
    let duplicate = borrowed
        .as_fd()
        .try_clone_to_owned()
        .map_err(|error| format!("dup: {error}"))?;
    drop(first);
    let second = vm(&kvm)?;
    match second.as_raw_fd() {
        taken if taken == number => Ok((number, (duplicate, second))),
        other => Err(format!("the second VM is {other}, not {number}")),
    }
}
