//! The agent: `/init` of a Linux guest under test, and its only program.
//!
//! | module | what it does |
//! |---|---|
//! | [`boot`] | mounts, loads the modules, reaps |
//! | [`line`] | finds the line to the lab, and speaks on it |
//! | [`fatal`] | ends the guest where the agent cannot go on, and says why |
//! | [`serve`] | one request after the other |
//! | [`buffer`] | memory that the agent owns, filled and verified |
//! | [`memory`] | what a buffer is made of |
//! | [`pages`] | pages of the kernel's, through the lab's module: these can be converted |
//! | [`load`] | processes that use memory |
//! | [`witness`] | the kernel's own files |
//! | [`td`] | TDREPORT, quote, and whether this is a TD |
//! | [`kexec`] | starts the same kernel anew |
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

fn main() {
    fatal::arm();
    if std::process::id() != 1 {
        eprintln!("this is the first process of a guest under test, and of no other machine");
        std::process::exit(2);
    }
    boot::mount_all();
    let modules = boot::load_modules();
    let line = line::open().unwrap_or_else(|why| fatal::die(&format!("{why}{modules}")));
    serve::serve(line);
}
