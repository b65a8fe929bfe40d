//! The agent: `/init` of a Linux guest under test, and its only program.
//!
//! | module | what it does |
//! |---|---|
//! | [`boot`] | mounts, loads the modules, reaps |
//! | [`line`] | finds and uses the line to the lab |
//! | [`fatal`] | ends the guest when the agent cannot continue, with the reason |
//! | [`serve`] | serves requests in sequence |
//! | [`buffer`] | memory owned by the agent, filled and verified |
//! | [`memory`] | the pages of a buffer |
//! | [`pages`] | kernel pages, through the lab's module, which can be converted |
//! | [`load`] | processes that use memory |
//! | [`witness`] | the kernel's own files |
//! | [`td`] | TDREPORT, quote, and whether this is a TD |
//! | [`kexec`] | boots the same kernel again |
//!
//! It needs no other program, library or file than the modules beside it.

mod boot;
mod buffer;
mod failure;
mod fatal;
mod kexec;
mod line;
mod load;
mod memory;
mod pages;
mod reap;
mod serve;
mod td;
mod witness;

use tdxlab_protocol::linux::MODULES;

fn main() {
    fatal::arm();
    if std::process::id() != 1 {
        eprintln!("this is the first process of a guest under test, and of no other machine");
        std::process::exit(2);
    }
    boot::mount_all();
    let modules = boot::load_modules(MODULES);
    let line = line::open().unwrap_or_else(|why| fatal::die(&format!("{why}{modules}")));
    serve::serve(line);
}
