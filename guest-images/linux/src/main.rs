//! The agent of a Linux guest under test: `/init` and its only program, or pushed into a system that
//! runs.
//!
//! | module | what it does |
//! |---|---|
//! | [`role`] | what this process is: agent, or one of the next three |
//! | [`root`] | goes over to a root file system on a disk |
//! | [`qemu_ga`] | starts qemu-ga and no other program |
//! | [`tools`] | what qemu-ga starts where there is no other program |
//! | [`boot`] | mounts, loads the modules, reaps |
//! | [`line`] | finds and uses the line to the lab |
//! | [`fatal`] | ends the guest when the agent cannot continue, with the reason |
//! | [`serve`] | serves requests in sequence |
//! | [`buffer`] | memory owned by the agent, filled and verified |
//! | [`memory`] | the pages of a buffer |
//! | [`pages`] | kernel pages, through the lab's module, which can be converted |
//! | [`load`] | processes that use memory |
//! | [`witness`] | the kernel's own files |
//! | [`file`] | any other file, by its path |
//! | [`td`] | TDREPORT, quote, and whether this is a TD |
//! | [`kexec`] | boots the same kernel again |
//!
//! It needs no other program, library or file than the modules beside it.

mod boot;
mod buffer;
mod failure;
mod fatal;
mod file;
mod kexec;
mod line;
mod load;
mod memory;
mod pages;
mod qemu_ga;
mod reap;
mod role;
mod root;
mod serve;
mod td;
mod tools;
mod witness;

use role::{Role, role};
use tdxlab_protocol::linux::MODULES;

fn main() {
    fatal::arm();
    match role() {
        Role::Agent => {
            boot::mount_all();
            agent(&boot::load_modules(MODULES))
        }
        Role::Pushed => agent(""),
        Role::QemuGa => qemu_ga::serve(),
        Role::Root => root::switch(),
        Role::Shutdown => tools::shutdown(),
        Role::Chmod => std::process::exit(tools::chmod()),
        Role::None => {
            eprintln!("this is the agent of a guest under test, and of no other machine");
            std::process::exit(2);
        }
    }
}

/// The agent, with what could not be loaded before.
fn agent(missing: &str) -> ! {
    boot::survive();
    let line = line::open().unwrap_or_else(|why| fatal::die(&format!("{why}{missing}")));
    serve::serve(line)
}
