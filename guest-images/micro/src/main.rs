//! The micro guest, which exercises a host's private memory.
//!
//! One 64 KiB image that starts in real mode (TCG, KVM) or as a TD, reaches 64-bit mode, sends a
//! hello on its serial port and then serves the lab's requests: accept, touch, fill, verify,
//! convert, probe. Built by `guest-images/image`; boot and memory layout are described in
//! `guest-images/README.md`.
//!
//! | module | holds |
//! |---|---|
//! | [`boot`] | from the reset vector to [`start`] |
//! | [`vcpu`], [`smp`] | per-vCPU data; start of several vCPUs |
//! | [`trap`], [`fatal`] | exceptions; the end |
//! | [`td`], [`mailbox`] | TDCALL; its emulation without TDX |
//! | [`window`] | the memory under test |
//! | [`serve`], [`command`] | the conversation with the lab; its commands |
//! | [`console`] | text output of a TD |
//! | [`serial`], [`machine`], [`port`], [`cpu`], [`mem`], [`hob`] | the hardware, and the VMM's description of it |

#![no_std]
#![no_main]

mod boot;
mod command;
mod console;
mod cpu;
mod fatal;
mod hob;
mod machine;
mod mailbox;
mod mem;
mod port;
mod serial;
mod serve;
mod smp;
mod td;
mod trap;
mod vcpu;
mod window;

use tdxlab_protocol::layout::{TD_HOB_END, TD_HOB_START};
use tdxlab_protocol::message::{Hello, VERSION, VcpuId};

/// GPA width without a TD: that of the soft host's TDX module.
const GPA_WIDTH_WITHOUT_TD: u8 = 48;

/// Where every vCPU arrives in 64-bit mode. `hob` is the address of the TD_HOB and `gpa_width` the
/// GPA width in a TD; both are 0 elsewhere.
extern "sysv64" fn start(index: u32, hob: u32, gpa_width: u32) -> ! {
    vcpu::set_up(VcpuId(index as u16));
    if index != 0 {
        smp::wait_until_open();
        trap::load_table();
        smp::serve_as_other();
    }

    trap::build_table();
    trap::load_table();
    if gpa_width != 0 {
        td::set_is_td();
    }
    // First: where TDCALL raises #UD, even a TD's serial line is reached through the mailbox.
    mailbox::open();
    serial::set_up();
    console::set_up();
    match td::is_td() {
        true => start_td(hob, gpa_width),
        false => start_pc(),
    }
}

/// Continues the start in a TD.
fn start_td(hob: u32, gpa_width: u32) -> ! {
    console::say(format_args!("started as a TD, GPA width {gpa_width}"));
    assert!(
        u64::from(hob) == TD_HOB_START,
        "the VMM says that the TD_HOB is at {hob:#x}, but the image's metadata says {TD_HOB_START:#x}"
    );
    let bytes = (TD_HOB_END - TD_HOB_START) as usize;
    // SAFETY: the section is memory accepted at start, written by the VMM before.
    let hob = unsafe { core::slice::from_raw_parts(TD_HOB_START as *const u8, bytes) };
    let end_of_memory = match hob::end_of_memory(hob) {
        Ok(end) => end,
        Err(error) => panic!("{error}"),
    };
    console::say(format_args!("memory ends at {end_of_memory:#x}"));
    let info = td::info();
    console::say(format_args!(
        "vCPUs: {}; attributes: {:#x}",
        info.vcpus, info.attributes
    ));
    let hello = Hello {
        version: VERSION,
        td: true,
        vcpus: info.vcpus as u16,
        gpa_width: info.gpa_width,
        attributes: info.attributes,
        pending_ve_disabled: td::pending_ve_disabled(),
    };
    serve::serve(hello, Some(end_of_memory))
}

/// Continues the start in a machine that is not a TD.
fn start_pc() -> ! {
    // In this order: a disabled APIC keeps its lines masked, whatever is written.
    machine::set_up_apic();
    machine::set_up_pic();
    let hello = Hello {
        version: VERSION,
        td: false,
        vcpus: machine::vcpus(),
        gpa_width: GPA_WIDTH_WITHOUT_TD,
        attributes: 0,
        pending_ve_disabled: None,
    };
    serve::serve(hello, None)
}
