//! The image started as a TD is, on a machine without TDX: its TDCALLs raise #UD and reach the
//! minimal host, which emulates module and VMM. All of the guest's TD code runs but the
//! instruction.

use std::arch::global_asm;

use tdxlab_guest_image::IMAGE;
use tdxlab_protocol::addr::{Gpa, GpaRange, PageLevel};
use tdxlab_protocol::layout::{PML4, PRIVATE_WINDOW, SHARED_WINDOW, TD_HOB_END, TD_HOB_START};
use tdxlab_protocol::message::*;
use tdxlab_protocol::pattern::word;
use tdxlab_protocol::tdcall::{ATTRIBUTES_SEPT_VE_DISABLE, leaf, reg, vmcall};

use crate::host::{Answer, Ask, Lab, Module, Policy};
use crate::qemu::MEMORY_BYTES;
use crate::{generation, on};

const GPA_WIDTH_OFFSET: usize = 0xff0;
const ENTRY_OFFSET: usize = 0xff4;
const HOB_OFFSET: usize = 0x1000;

global_asm!(
    include_str!("td.s"),
    hob_offset = const HOB_OFFSET,
    hob = const TD_HOB_START,
    hob_bytes = const TD_HOB_END - TD_HOB_START,
    gpa_width_offset = const GPA_WIDTH_OFFSET,
    entry_offset = const ENTRY_OFFSET,
    options(att_syntax),
);

unsafe extern "C" {
    safe static td_start: u8;
    safe static td_end: u8;
}

/// 128 KiB: what puts vCPUs into a TD's state, then the image, started from there.
fn image(gpa_width: u8, hob: &[u8]) -> Vec<u8> {
    let length = (&raw const td_end).addr() - (&raw const td_start).addr();
    // SAFETY: these are the first byte and the end of the code in `td.s`.
    let code = unsafe { std::slice::from_raw_parts(&raw const td_start, length) };
    let mut image = vec![0; 0x1_0000];
    image[..length].copy_from_slice(code);
    // The target of the reset vector's jump in protected mode.
    let jump = i32::from_le_bytes(IMAGE[0xfff8..0xfffc].try_into().unwrap());
    let entry = 0xffff_fffc_u32.wrapping_add_signed(jump);
    image[GPA_WIDTH_OFFSET] = gpa_width;
    image[ENTRY_OFFSET..][..4].copy_from_slice(&entry.to_le_bytes());
    image[HOB_OFFSET..][..hob.len()].copy_from_slice(hob);
    image.extend_from_slice(IMAGE);
    // In real mode, the reset vector goes far to the code in front.
    image[0x1_fff0..0x1_fff5].copy_from_slice(&[0xea, 0, 0, 0, 0xe0]);
    image
}

/// A TD_HOB with this much memory.
fn hob(memory: u64) -> Vec<u8> {
    let mut bytes = vec![1, 0, 56, 0, 0, 0, 0, 0];
    bytes.resize(56, 0);
    bytes.extend([3, 0, 48, 0, 0, 0, 0, 0]);
    bytes.resize(56 + 24, 0);
    bytes.extend(7_u32.to_le_bytes());
    bytes.extend(7_u32.to_le_bytes());
    bytes.extend(0_u64.to_le_bytes());
    bytes.extend(memory.to_le_bytes());
    bytes.extend([0xff, 0xff, 8, 0, 0, 0, 0, 0]);
    bytes
}

fn start(vcpus: u16, module: Module, policy: Policy) -> Lab {
    start_with_hob(vcpus, module, &hob(MEMORY_BYTES as u64), policy)
}

fn start_with_hob(vcpus: u16, module: Module, hob: &[u8], policy: Policy) -> Lab {
    let image = image(module.gpa_width, hob);
    Lab::start_td(&image, vcpus, module, policy)
}

fn module(gpa_width: u8, attributes: u64, vcpus: u16) -> Module {
    Module {
        gpa_width,
        attributes,
        vcpus,
    }
}

/// Answers TDG.VM.RD of TD_CTLS with `value`, or not at all, and hands the rest on.
fn td_ctls(value: Option<u64>, mut rest: Policy) -> Policy {
    Box::new(move |memory, vcpu, ask| match ask {
        Ask::Tdcall(mut registers) if registers[reg::RAX] == leaf::VM_RD => {
            assert_eq!(registers[reg::RDX], 0x1110_0003_0000_0017);
            registers[reg::RAX] = if value.is_some() {
                0
            } else {
                0xc000_0c00_0000_0000
            };
            registers[reg::R8] = value.unwrap_or(0);
            Answer::Registers(registers)
        }
        ask => rest(memory, vcpu, ask),
    })
}

fn nothing_else() -> Policy {
    Box::new(|_, _, ask| panic!("{ask:x?}"))
}

#[test]
fn a_td_says_what_the_module_says_of_it() {
    for (gpa_width, attributes, ctls) in [
        (48, ATTRIBUTES_SEPT_VE_DISABLE, Some(1)),
        (52, 0, Some(0)),
        (48, 0, None),
    ] {
        let module = module(gpa_width, attributes, 1);
        let mut lab = start(1, module, td_ctls(ctls, nothing_else()));
        let expected = Hello {
            version: VERSION,
            td: true,
            vcpus: 1,
            gpa_width,
            attributes,
            pending_ve_disabled: ctls.map(|ctls| ctls == 1),
        };
        assert_eq!(lab.hello(), expected);
    }
}

#[test]
fn windows_of_a_td_lie_on_the_machine_and_the_shared_one_has_the_shared_bit() {
    let limit = Gpa::new(MEMORY_BYTES as u64);
    for gpa_width in [48, 52] {
        let mut lab = start(1, module(gpa_width, 0, 1), td_ctls(None, nothing_else()));
        lab.hello();
        lab.configure(Windows::Direct { limit });
        assert_eq!(lab.reply(), Reply::Ready { vcpus: 1 });

        let memory = lab.memory.as_ref().unwrap();
        let leaf = |window: u64, gigabyte: u64| {
            let table = memory.load(PML4 + (window >> 39 & 0x1ff) * 8);
            assert_eq!(table & 0xfff, 3);
            memory.load((table & !0xfff) + gigabyte * 8)
        };
        assert_eq!(leaf(PRIVATE_WINDOW, 0), 0x83);
        assert_eq!(leaf(SHARED_WINDOW, 0), 0x83 | 1 << (gpa_width - 1));
        // No memory is mapped beyond the limit, rounded up to 1G.
        assert_eq!((leaf(PRIVATE_WINDOW, 1), leaf(SHARED_WINDOW, 1)), (0, 0));

        let start = Gpa::new(128 << 20);
        let range = GpaRange::with_len(start, 4 << 12).unwrap();
        let fill = Command::Fill {
            range,
            generation: generation(6),
            side: Side::Private,
        };
        assert_eq!(lab.one(fill).runs.len(), 1);
        let memory = lab.memory.as_ref().unwrap();
        assert_eq!(memory.load(start.as_u64()), word(start, 0, generation(6)));
    }
}

#[test]
fn windows_that_a_td_cannot_have_are_refused() {
    let mut lab = start(1, module(48, 0, 1), td_ctls(None, nothing_else()));
    lab.hello();
    let end = MEMORY_BYTES as u64;
    lab.configure(Windows::Direct {
        limit: Gpa::new(end + 4096),
    });
    let beyond = GpaRange::with_len(Gpa::new(end), 4096).unwrap();
    let reason = Refusal::BadRange(beyond);
    assert_eq!(lab.reply(), Reply::Refused { reason });
    lab.configure(Windows::HostOwned);
    let reason = Refusal::NoHost;
    assert_eq!(lab.reply(), Reply::Refused { reason });
}

#[test]
fn all_vcpus_of_a_td_come_through_the_reset_vector() {
    const VCPUS: u16 = 4;
    let policy = td_ctls(
        None,
        Box::new(|_, _, ask| match ask {
            Ask::Tdcall(mut registers) if registers[reg::RAX] == leaf::MEM_PAGE_ACCEPT => {
                registers[reg::RAX] = registers[reg::RCX] >> 12 & 0xf;
                Answer::Registers(registers)
            }
            ask => panic!("{ask:x?}"),
        }),
    );
    let mut lab = start(VCPUS, module(48, 0, VCPUS), policy);
    assert_eq!(lab.hello().vcpus, VCPUS);
    let limit = Gpa::new(MEMORY_BYTES as u64);
    lab.configure(Windows::Direct { limit });
    assert_eq!(lab.reply(), Reply::Ready { vcpus: VCPUS });
    let start = |vcpu: u16| Gpa::new((64 << 20) + u64::from(vcpu) * 4096);
    let accept = |vcpu| Command::Accept {
        range: GpaRange::with_len(start(vcpu), 4096).unwrap(),
        size: AcceptSize::Exactly(PageLevel::Size4K),
    };
    let tasks: Vec<Task> = (0..VCPUS).map(|vcpu| on(vcpu, accept(vcpu))).collect();
    for (task, outcome) in lab.run(&tasks) {
        let expected = Run::Accept {
            start: start(task.vcpu.0),
            level: PageLevel::Size4K,
            count: 1,
            status: u64::from(task.vcpu.0),
        };
        assert_eq!(outcome.runs, [expected]);
    }
}

#[test]
fn the_second_serial_line_tells_in_words_how_far_a_td_came() {
    let module = module(48, ATTRIBUTES_SEPT_VE_DISABLE, 1);
    let mut lab = start(1, module, td_ctls(None, nothing_else()));
    lab.hello();
    let limit = Gpa::new(MEMORY_BYTES as u64);
    lab.configure(Windows::Direct { limit });
    assert_eq!(lab.reply(), Reply::Ready { vcpus: 1 });
    let expected = format!(
        "started as a TD, GPA width 48\n\
         memory ends at {MEMORY_BYTES:#x}\n\
         vCPUs: 1; attributes: {ATTRIBUTES_SEPT_VE_DISABLE:#x}\n\
         said hello\n\
         windows are mapped\n\
         all vCPUs are up\n"
    );
    assert_eq!(str::from_utf8(&lab.console).unwrap(), expected);
}

/// The panic of a TD that cannot continue, and its report to the VMM.
fn fatal(lab: &mut Lab) -> (Text, [u64; 16]) {
    let Reply::Panic { message, .. } = lab.reply() else {
        panic!("no panic");
    };
    let reported = loop {
        if let Some(registers) = lab.fatal_error {
            break registers;
        }
        lab.step();
    };
    (message, reported)
}

#[test]
fn a_td_that_panics_reports_it_to_the_vmm_as_well() {
    let mut lab = start_with_hob(1, module(48, 0, 1), &[0; 64], nothing_else());
    let (message, registers) = fatal(&mut lab);
    assert_eq!(message, "TD_HOB: the entry at 0x0 cannot be 0 bytes long");
    // And as text, whatever the state of the other line.
    let words = str::from_utf8(&lab.console).unwrap();
    let (first, last) = words.split_once('\n').unwrap();
    assert_eq!(first, "started as a TD, GPA width 48");
    assert!(last.starts_with("vCPU 0 panics at "), "{last}");
    assert!(last.ends_with(&format!(": {message}\n")), "{last}");
    assert_eq!(registers[reg::R11], vmcall::REPORT_FATAL_ERROR);
    // QEMU refuses codes with any of the low 16 bits set.
    assert_eq!(registers[reg::R12], 1 << 16);
    let text: Vec<u8> = [
        reg::R14,
        reg::R15,
        reg::RBX,
        reg::RDI,
        reg::RSI,
        reg::R8,
        reg::R9,
        reg::RDX,
    ]
    .into_iter()
    .inspect(|register| assert_ne!(registers[reg::RCX] & 1 << register, 0))
    .flat_map(|register| registers[register].to_le_bytes())
    .collect();
    assert!(text.starts_with(message.as_bytes()), "{text:?}");
    // Registers that must never be passed on.
    assert_eq!(registers[reg::RCX] & 0b11_0011, 0);
}

#[test]
fn a_gpa_width_that_cannot_be_is_fatal() {
    let mut lab = start(1, module(47, 0, 1), nothing_else());
    let (message, _) = fatal(&mut lab);
    assert_eq!(message, "TDG.VP.INFO: GPA width 47 is neither 48 nor 52");
}
